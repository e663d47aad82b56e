//! Forward error correction: a rekey message to units and repair units, and back.
//!
//! A rekey message is cut into units of [`UNIT`] octets. The units are grouped into blocks, and each
//! block of `s` units gets `r` repair units, so that any `s` of its `s + r` units rebuild it (Keystone
//! paper §4.1). The way out is [`Layout::new`] then [`encode()`]; the way back is [`Reassembly::insert`]
//! for each unit received.
//!
//! **Only verified units may enter.** An erasure code repairs loss, never falsehood: one forged unit
//! spoils its whole block, and nothing here can tell. The caller checks the signature over every
//! unit first, so that what this crate refuses is the fault of the key server that signed it.
//!
//! How many repair units, and when each unit is sent ([`Schedule`]), follows from a [`RepairScheme`] or from what members
//! lose ([`Controller`]). [`Channel`] and [`Link`] are the networks to try it on.
//!
//! The crate is pure: no input or output, no clock, no randomness but [`SplitMix64`] from a seed.

mod adaptive;
mod assembly;
mod channel;
mod codec;
mod encode;
mod layout;
mod link;
mod loss;
mod random;
mod reassembly;
mod scheme;
mod spacing;

pub use adaptive::{Controller, MAX_BURST, MAX_LOSS, Plan, Report, SAMPLE};
pub use assembly::{Assembly, AssemblyError, Progress, Unit};
pub use channel::{Channel, Reception};
pub use codec::{CodeError, Coder, ReedSolomon};
pub use encode::{Block, EncodeError, encode, encode_block};
pub use layout::{BlockShape, Layout, LayoutError, ShapeError};
pub use link::{Faults, Link, LinkCounters};
pub use loss::{TwoState, at_most_one_in_1000, miss_probability};
pub use random::SplitMix64;
pub use reassembly::{MAX_COMPLETED, Reassembly};
pub use scheme::{RepairScheme, SchemeError};
pub use spacing::{MAX_LENGTHENING, Schedule};

/// Octets of rekey message in a unit (Keystone paper §4.1).
pub const UNIT: usize = 512;

/// Units of message in a block, at most.
pub const MAX_BLOCK_DATA: usize = 16;

/// Units and repair units of a block together, at most: the digest tree over more would need a
/// sixth digest in every unit.
pub const MAX_BLOCK_UNITS: usize = 32;

/// Octets of a rekey message, at most. A receiver sets aside this much for each message in progress;
/// it carries over 20,000 wraps of 32 octets, and a change needs some hundreds at the most.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What a unit or repair unit carries.
pub type Payload = [u8; UNIT];
