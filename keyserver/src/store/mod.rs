//! Where the key server's journal lives: a snapshot and the records after it.
//!
//! A replicated store will be another implementation of [`Store`].

mod memory;
mod redb;
mod seal;

use std::path::PathBuf;

use thiserror::Error;
use zeroize::Zeroizing;

pub use self::memory::MemoryStore;
pub use self::redb::RedbStore;

/// What a store holds.
#[derive(Default)]
pub struct Loaded {
    /// The newest snapshot, if one was written.
    pub snapshot: Option<Zeroizing<Vec<u8>>>,
    /// The records after it, in their order.
    pub records: Vec<Zeroizing<Vec<u8>>>,
}

/// A durable journal. Whoever appends stops for good when an append fails.
pub trait Store: Send {
    /// Everything that was stored.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Appends all records or none; they are durable when this returns.
    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError>;

    /// Replaces snapshot and records by this snapshot, whole or not at all; durable when this returns.
    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError>;
}

/// Why a store cannot be used. What it holds is untouched.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("the store {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Others than its owner can read it.
    #[error("the store {} can be read by others (mode {mode:04o}); it must be 0600", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It was written by another version.
    #[error("the store {} has format {found}, this version reads format {expected}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format in it.
        found: u32,
        /// The format that is known.
        expected: u32,
    },
    /// The key does not open it.
    #[error("the store {} is sealed under another key", .0.display())]
    WrongKey(PathBuf),
    /// Something in it was altered, lost or put elsewhere.
    #[error("{what} of the store {} is damaged or missing", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: String,
    },
    /// The disk or the file system refuses.
    #[error("the store {}: {why}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        why: String,
    },
    /// A failure that a test asked for.
    #[error("a failure was injected")]
    Injected,
}
