//! One executable of all files beside it, since each would be linked with everything once more; `NAME::` chooses one.

mod clocks;
mod decoder;
mod forgery;
mod fuzz;
mod invariants;
mod lies;
mod published;
mod two_servers;
