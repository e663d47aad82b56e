//! One executable of all files beside it, since each would be linked with everything once more; `NAME::` chooses one.

mod common;
mod examples;
mod messages;
mod octets;
mod pages;
mod rekey;
mod units;
mod vectors;
