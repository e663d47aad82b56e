//! What the daemons share of the network: TLS, Noise, framing, multicast sockets, limits on strangers,
//! configuration, logs, shutdown and exit codes.
//!
//! A daemon is a library that takes `(configuration, Shutdown)` and a thin binary:
//!
//! ```text
//! config::load -> check -> logs::init -> Shutdown::on_signals -> listeners
//! TCP accept -> admission::Admission::next -> tls::accept | noise::read_preamble + noise::accept -> frames
//! ```
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this crate is shell: its purpose are sockets and the clock that certificates are checked against"
)]

pub mod admission;
mod args;
pub mod config;
pub mod crl;
pub mod entropy;
pub mod exit;
pub mod frame;
pub mod identity;
pub mod line;
mod listen;
pub mod local;
pub mod logs;
pub mod multicast;
pub mod noise;
pub mod reload;
pub mod secret_file;
pub mod seldom;
pub mod shutdown;
pub mod site;
pub mod tcp;
pub mod tls;

pub use args::Args;
pub use config::ConfigError;
pub use entropy::OsEntropy;
pub use exit::Exit;
pub use listen::listen;
pub use shutdown::Shutdown;
