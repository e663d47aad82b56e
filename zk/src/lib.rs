//! Apache ZooKeeper, as much of it as Keystone needs: a session that renews itself, reads that see what all writers see,
//! conditional transactions, a latch and a watch. It knows nothing of what is stored.
//!
//! Safety rests on the conditions of [`Session::multi`] alone. Sessions, latches and watches are for liveness: they say
//! when it is worth to look again.
#![allow(clippy::disallowed_types, reason = "a shell: it owns sockets")]

mod diagnosis;
mod ensemble;
mod error;
mod latch;
mod options;
mod session;

pub use ensemble::{AddressError, Ensemble, Host};
pub use error::Error;
pub use latch::{Latch, Taken};
pub use options::{Options, OptionsError, Role, TlsFiles};
pub use session::{Held, Op, Session, Watch};
