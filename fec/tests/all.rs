//! One executable of all files beside it, since each would be linked with everything once more; `NAME::` chooses one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod adaptive;
mod bad_input;
mod channel;
mod common;
mod link;
mod loss;
mod properties;
mod reassembly;
mod round_trip;
mod tables;
