//! The key server: key graphs, access, rekey messages
