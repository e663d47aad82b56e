//! One executable of all files beside it, since each would be linked with everything once more; `NAME::` chooses one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod batches;
mod common;
mod compaction;
mod core;
mod delivery;
mod endings;
mod matrix;
mod policy;
mod recover;
mod registrars;
mod scale;
mod sealed;
mod standby;
mod subscribers;
mod versions;
