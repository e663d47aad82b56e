//! What a journal needs of the engine below it: named values that change several at once, under a condition.

use thiserror::Error;

/// A value and how often it was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The value.
    pub value: Vec<u8>,
    /// 0 when it was made, one more with every [`Op::Replace`].
    pub version: u64,
}

/// One change, or one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The value has this version.
    Check {
        /// Its name.
        name: String,
        /// Its version.
        version: u64,
    },
    /// The value is new.
    Create {
        /// Its name: letters, digits and `-`.
        name: String,
        /// The value, below 1 MiB.
        value: Vec<u8>,
    },
    /// The value has this version and is replaced.
    Replace {
        /// Its name.
        name: String,
        /// The new value, below 1 MiB.
        value: Vec<u8>,
        /// The version before.
        version: u64,
    },
    /// The value is there and is removed.
    Delete {
        /// Its name.
        name: String,
    },
}

impl Op {
    /// Octets of its value.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Create { value, .. } | Self::Replace { value, .. } => value.len(),
            Self::Check { .. } | Self::Delete { .. } => 0,
        }
    }
}

/// Why a commit was not answered with success.
#[derive(Debug, Error)]
pub enum CommitError {
    /// A condition does not hold. Nothing was changed.
    #[error("a condition does not hold")]
    Conflict,
    /// The answer is lost: all of it was done, or will be yet, or nothing.
    #[error("no answer: {0}")]
    Unknown(String),
    /// Nothing was changed and it is no use to try again: the disk, the file system or the access rights say no.
    #[error("refused: {0}")]
    Refused(String),
}

/// An engine that keeps named values.
pub trait Backend: Send {
    /// Where it is, for messages to an operator.
    fn place(&self) -> String;

    /// The value of this name as all writers see it, `None` if there is none.
    ///
    /// # Errors
    /// [`CommitError::Unknown`] or [`CommitError::Refused`].
    fn read(&mut self, name: &str) -> Result<Option<Held>, CommitError>;

    /// Carries out all of these in their order, or none; durable when it returns.
    ///
    /// # Errors
    /// See [`CommitError`].
    fn commit(&mut self, ops: &[Op]) -> Result<(), CommitError>;

    /// Waits before the next attempt after [`CommitError::Unknown`], the `attempt`-th from 1; `false` gives up.
    fn pause(&mut self, attempt: u32) -> bool;
}
