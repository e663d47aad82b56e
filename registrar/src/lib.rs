//! The registrar: authenticates clients for a key server
