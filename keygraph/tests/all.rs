//! One executable of all files beside it, since each would be linked with everything once more; `NAME::` chooses one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod chain;
mod common;
mod compaction;
mod exhaustive;
mod marking;
mod model;
mod mutants;
mod paper;
mod refusals;
mod secrecy;
mod snapshots;
mod strategies;
mod wrapped;
