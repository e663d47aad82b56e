//! The embedded store: one file, crate `redb`. What is in it is sealed by the journal above it.

use std::fs::{File, OpenOptions};
use std::ops::Bound;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::StoreError;
use super::backend::{Backend, CommitError, Held, Op};

/// By name: version (8 octets), value.
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");

/// A file of mode 0600 that one process has at a time.
pub struct RedbBackend {
    place: String,
    database: Database,
}

impl RedbBackend {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// See [`StoreError`]; the file is untouched.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        let io = |why: &dyn std::fmt::Display| io(&place, why);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| io(&error))?;
        let mode = file.metadata().map_err(|error| io(&error))?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(StoreError::Mode { place, mode });
        }
        // The name must be as durable as the file, whoever made it.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io(&error))?;
        let disk = FileBackend::new(file).map_err(|error| io(&error))?;
        Self::build(place, disk)
    }

    /// Opens the store on anything that behaves like a file: a disk that a test can tear.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn on(disk: impl StorageBackend) -> Result<Self, StoreError> {
        Self::build("a disk".into(), disk)
    }

    fn build(place: String, disk: impl StorageBackend) -> Result<Self, StoreError> {
        discard_unborn(&disk).map_err(|error| io(&place, &error))?;
        let structure = || StoreError::Damaged { place: place.clone(), what: "the structure".into() };
        let whole = contained(|| {
            let mut database = Database::builder().create_with_backend(disk)?;
            database.check_integrity().map(|whole| whole.then_some(database))
        });
        let database = whole
            .ok_or_else(structure)?
            .map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(place.clone()),
                other => io(&place, &other),
            })?
            .ok_or_else(structure)?;
        Ok(Self { place, database })
    }

    fn carry_out(&self, ops: &[Op]) -> Result<(), CommitError> {
        let transaction = self.database.begin_write().map_err(|error| refused(&error))?;
        {
            let mut table = transaction.open_table(VALUES).map_err(|error| refused(&error))?;
            for op in ops {
                let (name, version) = match op {
                    Op::Check { name, version } | Op::Replace { name, version, .. } => (name, Some(*version)),
                    Op::Create { name, .. } | Op::Delete { name } => (name, None),
                };
                let held = table.get(name.as_str()).map_err(|error| refused(&error))?;
                let held = held.map(|held| split(held.value()).map(|(version, _)| version)).transpose()?;
                let holds = match op {
                    Op::Create { .. } => held.is_none(),
                    Op::Delete { .. } => held.is_some(),
                    Op::Check { .. } | Op::Replace { .. } => held == version,
                };
                if !holds {
                    return Err(CommitError::Conflict);
                }
                let changed = match op {
                    Op::Check { .. } => Ok(None),
                    Op::Create { name, value } => table.insert(name.as_str(), join(0, value).as_slice()),
                    Op::Replace { name, value, version } => {
                        table.insert(name.as_str(), join(version + 1, value).as_slice())
                    }
                    Op::Delete { name } => table.remove(name.as_str()),
                };
                changed.map_err(|error| refused(&error))?;
            }
        }
        transaction.commit().map_err(|error| refused(&error))
    }
}

fn io(place: &str, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Io { place: place.into(), why: why.to_string() }
}

/// Octets that `redb` writes before the file has its name, and octets of that name.
const HEADER: usize = 4_096;
const NAME: usize = 9;
/// A file that was only made is a little longer than 1 MiB; a longer one is not worth the look.
const UNBORN: usize = 4 * 1024 * 1024;

/// A crash while the file was made leaves a header without the name by which `redb` knows its files, and `redb` would refuse
/// it for ever. The name is on disk before anything is stored, so in such a file nothing ever was: it may begin again.
fn discard_unborn(disk: &impl StorageBackend) -> std::io::Result<()> {
    let length = usize::try_from(disk.len()?).unwrap_or(usize::MAX);
    let mut octets = vec![0; length.min(NAME)];
    disk.read(0, &mut octets)?;
    let whole = (Bound::Unbounded, Bound::Unbounded);
    let named = octets.iter().any(|octet| *octet != 0);
    // A disk without locks is nobody else's; whoever has this one may be making it right now.
    if named || length == 0 || length > UNBORN || matches!(disk.try_lock_range(whole.0, whole.1), Ok(false)) {
        return Ok(());
    }
    octets.resize(length, 0);
    let done = disk.read(0, &mut octets).and_then(|()| {
        let named = octets.iter().take(NAME).any(|octet| *octet != 0);
        let stored = octets.iter().skip(HEADER).any(|octet| *octet != 0);
        if named || stored { Ok(()) } else { disk.set_len(0) }
    });
    drop(disk.unlock_range(whole.0, whole.1));
    done
}

/// After a failed write or sync nobody knows what the disk holds: there is no second attempt.
fn refused(why: &dyn std::fmt::Display) -> CommitError {
    CommitError::Refused(why.to_string())
}

fn join(version: u64, value: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes(), value].concat()
}

fn split(stored: &[u8]) -> Result<(u64, &[u8]), CommitError> {
    let parts = stored.split_first_chunk().map(|(version, value)| (u64::from_be_bytes(*version), value));
    parts.ok_or_else(|| CommitError::Refused("a value without a version".into()))
}

/// `redb` asserts what it reads; on a damaged file that is an error, not the end of the process. `None` after a panic.
fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

impl Backend for RedbBackend {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn read(&mut self, name: &str) -> Result<Option<Held>, CommitError> {
        let transaction = self.database.begin_read().map_err(|error| refused(&error))?;
        let table = match transaction.open_table(VALUES) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(refused(&error)),
        };
        let stored = table.get(name).map_err(|error| refused(&error))?;
        let held =
            stored.map(|stored| split(stored.value()).map(|(version, value)| Held { value: value.to_vec(), version }));
        held.transpose()
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), CommitError> {
        self.carry_out(ops)
    }

    fn pause(&mut self, _: u32) -> bool {
        false
    }
}

impl std::fmt::Debug for RedbBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedbBackend({})", self.place)
    }
}

#[cfg(test)]
mod tests;
