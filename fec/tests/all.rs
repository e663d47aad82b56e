//! One executable of all files beside it, since each would be linked with everything once more; `NAME::` chooses one.

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
