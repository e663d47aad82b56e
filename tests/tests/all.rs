//! One executable of all files beside it, since each would be linked with everything once more; `NAME::` chooses one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod clocks;
mod decoder;
mod forgery;
mod fuzz;
mod invariants;
mod lies;
mod published;
mod two_servers;
