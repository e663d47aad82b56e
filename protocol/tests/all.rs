//! One executable of all files beside it, since each would be linked with everything once more; `NAME::` chooses one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
mod examples;
mod messages;
mod octets;
mod pages;
mod rekey;
mod units;
mod vectors;
