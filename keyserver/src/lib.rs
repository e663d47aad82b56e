//! The key server: holds the key graph of each group, decides access, makes and sends rekey messages.
//!
//! [`core`] is pure: it is handed time, randomness, octets and completed writes. `shell` owns the clock, the
//! sockets and the store. A change to a group is staged, persisted, merged, and only then acknowledged and sent.

pub mod config;
pub mod core;
pub mod store;

mod shell;

pub use net::Args;
pub use shell::{RunError, main, recover, restore, run};
