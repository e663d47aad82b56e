//! A development PKI in one command
