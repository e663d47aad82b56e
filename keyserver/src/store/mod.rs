//! Where the key server's journal lives: a snapshot and the records after it.
//!
//! [`Journal`] seals and chains; a [`Backend`] below it keeps the values: one file ([`RedbBackend`]), an ensemble
//! ([`ZooKeeperBackend`]), memory ([`MemoryBackend`]).

mod backend;
mod backup;
mod head;
mod journal;
mod memory;
mod presence;
mod redb;
mod seal;
mod site_key;
mod zookeeper;

use thiserror::Error;
use zeroize::Zeroizing;

pub use self::backend::{Backend, CommitError, Held, Op};
pub use self::backup::{BackupError, read_backup, write_backup};
pub use self::journal::Journal;
pub(crate) use self::journal::TERM;
#[cfg(test)]
pub(crate) use self::journal::attacker;
pub use self::memory::{Fault, MemoryBackend, MemoryStore};
pub(crate) use self::presence::Badge;
pub use self::redb::RedbBackend;
pub use self::site_key::{FileStep, SiteKey, TakeStep};
pub use self::zookeeper::{Stopping, ZooKeeperBackend};

/// What a store holds.
#[derive(Default)]
pub struct Loaded {
    /// The newest snapshot, if one was written.
    pub snapshot: Option<Zeroizing<Vec<u8>>>,
    /// The records after it, in their order.
    pub records: Vec<Zeroizing<Vec<u8>>>,
}

/// What others have written since.
pub enum Followed {
    /// These records.
    Records(Vec<Zeroizing<Vec<u8>>>),
    /// More than is still there record by record: this is all of it.
    Anew(Loaded),
}

/// A durable journal. Whoever writes stops for good when a write fails.
pub trait Store: Send {
    /// Everything that was stored.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// What was stored since the last `load` or `follow`: a standby's way to stay current.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn follow(&mut self) -> Result<Followed, StoreError>;

    /// Begins a reign: from now on nobody who began one before can write. What they had written is read by `follow`, and
    /// only then this one may write.
    ///
    /// # Errors
    /// [`StoreError::Deposed`] if somebody else began a reign since the last `load` or `follow`.
    fn fence(&mut self) -> Result<(), StoreError>;

    /// Whether the reign that this store has begun is still the last one.
    ///
    /// # Errors
    /// [`StoreError::Deposed`] if it is not.
    fn reigns(&mut self) -> Result<(), StoreError>;

    /// Appends all records or none; they are durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Deposed`] if another reign has begun: none was appended and none ever will be.
    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError>;

    /// Replaces snapshot and records by this snapshot, whole or not at all; durable when this returns.
    ///
    /// # Errors
    /// As [`Store::append`].
    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError>;

    /// As [`Store::load`], up to the first damaged record. How many are left out, it among them.
    ///
    /// # Errors
    /// As [`Store::load`].
    fn salvage(&mut self) -> Result<(Loaded, u64), StoreError> {
        self.load().map(|loaded| (loaded, 0))
    }

    /// As [`Store::snapshot`], with another past: whoever has followed up to now has to read all of it anew.
    ///
    /// # Errors
    /// As [`Store::append`].
    fn begin_anew(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        self.snapshot(snapshot)
    }
}

/// What to call a Keystone that has written a version which is not the known one.
pub(crate) fn age(found: u32, known: u32) -> &'static str {
    if found > known { "a newer" } else { "an older" }
}

/// Why a store cannot be used. What it holds is untouched, except where it says otherwise.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("the store {0} is in use by another process")]
    InUse(String),
    /// Others than its owner can read it.
    #[error("the store {place} can be read by others (mode {mode:04o}); it must be 0600")]
    Mode {
        /// The file.
        place: String,
        /// Its mode.
        mode: u32,
    },
    /// It was written by another version.
    #[error(
        "the store {place} was written by {} Keystone: format {found}, and this one knows format {expected}; nothing was \
         changed",
        age(*found, *expected)
    )]
    Format {
        /// Where it is.
        place: String,
        /// The format in it.
        found: u32,
        /// The format that is known.
        expected: u32,
    },
    /// The key does not open it.
    #[error("the store {0} is sealed under another site key")]
    WrongKey(String),
    /// A record was altered, lost or put elsewhere.
    #[error(
        "record {number} of the store {place} is damaged or missing; what was stored before it is whole, it and the {after} \
         after it are lost: `keystone recover --damaged` goes on without them, and a newer backup has more"
    )]
    DamagedRecord {
        /// Where it is.
        place: String,
        /// Its number.
        number: u64,
        /// How many there are after it.
        after: u64,
    },
    /// Something else in it was, and nothing can be read without it.
    #[error(
        "{what} of the store {place} is damaged or missing; nothing in it can be read without that, but a backup can be \
         restored (`keystone restore`) to a new store"
    )]
    Damaged {
        /// Where it is.
        place: String,
        /// Which part.
        what: String,
    },
    /// It holds less than this key server has already seen in it.
    #[error(
        "the store {place} has gone back: it is at generation {}, record {}, and this key server has seen generation {}, \
         record {}; was it restored from a backup? `keystone recover` goes on from it",
        found.0, found.1, known.0, known.1
    )]
    RolledBack {
        /// Where it is.
        place: String,
        /// Generation and record number in it.
        found: (u64, u64),
        /// The same, as seen before.
        known: (u64, u64),
    },
    /// Another key server reigns.
    #[error("another key server writes to the store {0} now; nothing more is written by this one")]
    Deposed(String),
    /// A write failed before, or no reign was begun: the store has to be read again first.
    #[error("nothing is written to the store {0} before it was read again and a reign was begun")]
    Stopped(String),
    /// Nobody can say whether the last write took place; asking again after a restart can.
    #[error("the store {place} does not answer, and whether the last write took place is unknown: {why}")]
    Unsettled {
        /// Where it is.
        place: String,
        /// What it said last.
        why: String,
    },
    /// The disk, the file system or the engine refuses.
    #[error("the store {place}: {why}")]
    Io {
        /// Where it is.
        place: String,
        /// What it says.
        why: String,
    },
    /// A failure that a test asked for.
    #[error("a failure was injected")]
    Injected,
}
