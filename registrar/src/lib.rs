//! The registrar: authenticates clients, so that the key server never does a certificate handshake with a client.
//!
//! [`core`] is pure; `shell` owns the clock and the sockets.

pub mod authentication;
pub mod config;
pub mod core;

mod shell;

pub use net::Args;
pub use shell::{RunError, main, run};
