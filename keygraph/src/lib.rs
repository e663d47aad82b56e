//! Key graphs: which keys a change of members makes new, and who learns them how.
//!
//! Everything here is symbolic. A [`KeyRef`] *names* a secret; no cipher, octet, clock or random number appears.
//! A [`Tree`] answers a list of [`Change`]s with a [`Staged`] value that holds the new tree's difference and a
//! [`Plan`]: which k-nodes get a new secret, where each comes from, and under which keys it is wrapped. Whoever
//! executes the plan persists it first and merges it afterwards:
//!
//! ```
//! use keygraph::{Change, Degree, MemberId, Strategy, Tree};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut tree = Tree::filled(Degree::new(3)?, Strategy::Group, 1, (1..=9).map(MemberId))?;
//! let staged = tree.stage(&[Change::Leave(MemberId(9))], 2)?;
//! assert_eq!(staged.plan().wraps(), 5);
//! tree.merge(staged)?;
//! assert_eq!(tree.len(), 8);
//! # Ok(())
//! # }
//! ```
//!
//! The tree is the one of the marking algorithm for batch rekeying (Zhang, Lam, Lee, Yang): k-nodes and u-nodes are numbered
//! breadth-first over the full tree, and every u-node's id lies in `(nk, d*nk + d]`, where nk is the largest k-node
//! id and d the degree, so a member finds its new leaf id from nk alone ([`ids::find_leaf`]).
//!
//! Whether a plan gives a key to somebody without a right to it is computed by the attacker in [`closure`].

pub mod closure;
pub mod cores;
pub mod ids;

mod complete;
mod error;
mod gaps;
mod index;
mod marking;
mod pages;
mod parts;
mod plan;
mod planner;
mod snapshot;
mod tree;
mod types;
mod wrapped;

pub use complete::{CompleteGraph, MAX_COMPLETE};
pub use error::{ChangeError, DegreeError, SnapshotError, StaleStage, UnknownStrategy};
pub use pages::Pages;
pub use parts::MAX_PARTS;
pub use plan::{Change, Compaction, LeafAdvance, Move, Numbers, Part, Plan, Source, Update, Wrap, Wraps};
pub use snapshot::Slot;
pub use tree::{Staged, Tree};
pub use types::{Degree, KeyRef, MemberId, NodeId, Strategy, Version};
pub use wrapped::Wrapped;
