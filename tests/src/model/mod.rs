//! Two key servers over one store, and two members, searched whole.
//!
//! The key servers are `keyserver::core::Core` over `Journal`, the members are `client_ctl::core::Core`, the engine is
//! `MemoryBackend`: nothing is written anew for the model but the order of things. Every call of the engine that changes
//! something, every pause before a second attempt, every request, reply and bundle of datagrams is a step, and the search
//! takes them in every order. A commit may be held back: its writer hears nothing, and it lands at any later time or never.
//! A key server that sleeps is one whose steps are not taken yet.
//!
//! A key server (a member) is a function of what has happened to it. So it is carried out once for each history, and the
//! state of the whole is a few numbers: equal ones are visited once. An operation on the store that ended well is the same
//! whichever way its answer came; that is asserted whenever it is used.

mod engine;
mod facts;
mod member;
mod search;
mod server;
mod setup;
mod tries;

pub use search::{Report, search};

const GROUP: &str = "news";

/// A fault put in: a state that breaks a promise must be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The engine does not look at the fence.
    NoFence,
    /// The engine does not look at the head's version, nor whether a record's name is taken.
    HeadUnconditional,
    /// Both.
    NoConditions,
    /// A journal takes a lost answer for a success.
    LostIsDone,
    /// A key server takes a write that was never settled for one that was not done, and writes it once more.
    LostIsRetried,
}

/// How often each thing may happen in one course of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Budget {
    /// Commits whose answer is lost and that land later or never.
    pub held: u8,
    /// Looks of each key server at what the other has committed.
    pub follows: [u8; 2],
    /// Take-overs by each key server. The first one has taken over once already.
    pub take_overs: [u8; 2],
    /// Beacons of each key server beyond those of changes.
    pub beacons: [u8; 2],
    /// Times that each member asks, beyond the join that the second one has on its way.
    pub asks: [u8; 2],
    /// Requests that a member gives up.
    pub unanswered: u8,
}
