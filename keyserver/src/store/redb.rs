//! The embedded store: one file, crate `redb`, every value sealed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use protocol::Entropy;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};

use super::seal::{FORMAT, Kind, Link, Sealer, link};
use super::{Loaded, Store, StoreError};

/// `format`, `id`, `check` (proves the key) and `head` (says where the journal ends).
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// By number, rising for ever.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// At most one, by the number of the first record after it.
const SNAPSHOTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshots");

const CHECK: &[u8] = b"keystone store";
const REFUSED: &str = "the cipher refuses";
/// Where a chain without a snapshot begins.
const START: Link = [0; 32];

/// Where the journal begins and ends. It is stored, sealed, with every write: a chain alone would not miss its last
/// records, nor a snapshot without records.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    /// Link of the snapshot, or [`START`].
    from: Link,
    /// Of the next record.
    number: u64,
    /// Of the last record, or `from`.
    last: Link,
}

impl Head {
    const NEW: Self = Self { from: START, number: 0, last: START };

    fn encode(&self) -> Vec<u8> {
        [self.from.as_slice(), &self.number.to_be_bytes(), &self.last].concat()
    }

    fn decode(octets: &[u8]) -> Option<Self> {
        let (from, rest) = octets.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        Some(Self { from: *from, number: u64::from_be_bytes(*number), last: rest.try_into().ok()? })
    }
}

/// A store in one file of mode 0600.
pub struct RedbStore {
    path: PathBuf,
    database: Database,
    sealer: Sealer,
    entropy: Box<dyn Entropy>,
    /// Known after [`Store::load`].
    head: Option<Head>,
}

impl RedbStore {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// See [`StoreError`]; the file is untouched.
    pub fn open(path: &Path, key: &[u8; 32], entropy: Box<dyn Entropy>) -> Result<Self, StoreError> {
        let io = |why: &dyn std::fmt::Display| StoreError::Io { path: path.to_owned(), why: why.to_string() };
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
            return Err(StoreError::Mode { path: path.to_owned(), mode });
        }
        let structure = || StoreError::Damaged { path: path.to_owned(), what: "the structure".into() };
        let opened = contained(|| {
            let mut database = Database::builder().create_file(file)?;
            database.check_integrity().map(|whole| whole.then_some(database))
        });
        let database = opened.ok_or_else(structure)?.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
            other => io(&other),
        })?;
        let database = database.ok_or_else(structure)?;
        // The name must be as durable as the file, whoever made it.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io(&error))?;
        let mut store =
            Self { path: path.to_owned(), database, sealer: Sealer::new(key, [0; 16]), entropy, head: None };
        store.identify(key)?;
        Ok(store)
    }

    /// Reads the store's identity and proves the key; a new store is given one.
    fn identify(&mut self, key: &[u8; 32]) -> Result<(), StoreError> {
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        let transaction = self.database.begin_write().map_err(|error| self.io(&error))?;
        {
            let mut meta = transaction.open_table(META).map_err(|error| self.io(&error))?;
            let records = transaction.open_table(RECORDS).map_err(|error| self.io(&error))?;
            let snapshots = transaction.open_table(SNAPSHOTS).map_err(|error| self.io(&error))?;
            let read = |name: &str| meta.get(name).map(|value| value.map(|value| value.value().to_vec()));
            let format = read("format").map_err(|error| self.io(&error))?;
            if let Some(format) = format {
                let found = format.try_into().map(u32::from_be_bytes).unwrap_or(0);
                if found != FORMAT {
                    return Err(StoreError::Format { path: self.path.clone(), found, expected: FORMAT });
                }
                let stored = read("id").map_err(|error| self.io(&error))?.unwrap_or_default();
                id = stored.try_into().map_err(|_| self.damaged("the identity"))?;
                let check = read("check").map_err(|error| self.io(&error))?.unwrap_or_default();
                self.sealer = Sealer::new(key, id);
                let opened = self.sealer.open(Kind::Check, 0, &START, &check);
                if opened.is_none_or(|opened| opened.as_slice() != CHECK) {
                    return Err(StoreError::WrongKey(self.path.clone()));
                }
                return Ok(());
            }
            let lengths = [meta.len(), records.len(), snapshots.len()];
            for length in lengths {
                if length.map_err(|error| self.io(&error))? > 0 {
                    return Err(self.damaged("the format"));
                }
            }
            self.sealer = Sealer::new(key, id);
            let check = self.sealer.seal(Kind::Check, 0, &START, CHECK, self.entropy.as_mut());
            let head = seal_head(&Head::NEW, &self.sealer, self.entropy.as_mut());
            let (Some(check), Some(head)) = (check, head) else { return Err(self.io(&REFUSED)) };
            let format = FORMAT.to_be_bytes();
            for (name, value) in [("format", format.as_slice()), ("id", &id), ("check", &check), ("head", &head)] {
                meta.insert(name, value).map_err(|error| self.io(&error))?;
            }
        }
        transaction.commit().map_err(|error| self.io(&error))
    }

    fn io(&self, why: &dyn std::fmt::Display) -> StoreError {
        StoreError::Io { path: self.path.clone(), why: why.to_string() }
    }

    fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what: what.into() }
    }

    /// Runs one write transaction; all of it or nothing is durable afterwards.
    fn write(
        &mut self,
        work: impl FnOnce(&WriteTransaction, &Sealer, &mut dyn Entropy, Head) -> Result<Head, String>,
    ) -> Result<(), StoreError> {
        let head = match self.head {
            Some(head) => head,
            None => self.read()?.1,
        };
        let transaction = self.database.begin_write().map_err(|error| self.io(&error))?;
        let entropy = self.entropy.as_mut();
        let next = work(&transaction, &self.sealer, entropy, head).and_then(|next| {
            let sealed = seal_head(&next, &self.sealer, entropy).ok_or(REFUSED)?;
            let mut meta = transaction.open_table(META).map_err(|error| error.to_string())?;
            meta.insert("head", sealed.as_slice()).map_err(|error| error.to_string())?;
            Ok(next)
        });
        let next = next.map_err(|why| self.io(&why))?;
        transaction.commit().map_err(|error| self.io(&error))?;
        self.head = Some(next);
        Ok(())
    }

    fn read(&self) -> Result<(Loaded, Head), StoreError> {
        let transaction = self.database.begin_read().map_err(|error| self.io(&error))?;
        let meta = transaction.open_table(META).map_err(|error| self.io(&error))?;
        let snapshots = transaction.open_table(SNAPSHOTS).map_err(|error| self.io(&error))?;
        let records = transaction.open_table(RECORDS).map_err(|error| self.io(&error))?;
        let sealed = meta.get("head").map_err(|error| self.io(&error))?;
        let expected = sealed
            .and_then(|sealed| self.sealer.open(Kind::Head, 0, &START, sealed.value()))
            .and_then(|head| Head::decode(&head))
            .ok_or_else(|| self.damaged("the head"))?;
        let mut loaded = Loaded::default();
        let mut head = Head::NEW;
        if let Some((at, sealed)) = snapshots.last().map_err(|error| self.io(&error))? {
            let plain = self.sealer.open(Kind::Snapshot, at.value(), &START, sealed.value());
            loaded.snapshot = Some(plain.ok_or_else(|| self.damaged("the snapshot"))?);
            let link = link(sealed.value());
            head = Head { from: link, number: at.value(), last: link };
        }
        if head.from != expected.from {
            return Err(self.damaged("the snapshot"));
        }
        for entry in records.iter().map_err(|error| self.io(&error))? {
            let (at, sealed) = entry.map_err(|error| self.io(&error))?;
            let plain = match at.value() == head.number {
                true => self.sealer.open(Kind::Record, head.number, &head.last, sealed.value()),
                false => None,
            };
            loaded.records.push(plain.ok_or_else(|| self.damaged(format!("record {}", head.number)))?);
            head = Head { number: head.number + 1, last: link(sealed.value()), ..head };
        }
        match head == expected {
            true => Ok((loaded, head)),
            false => Err(self.damaged(format!("record {}", head.number.min(expected.number)))),
        }
    }
}

/// `redb` asserts what it reads; on a damaged file that is an error, not the end of the process. `None` after a panic.
fn contained<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

fn seal_head(head: &Head, sealer: &Sealer, entropy: &mut dyn Entropy) -> Option<Vec<u8>> {
    sealer.seal(Kind::Head, 0, &START, &head.encode(), entropy)
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let (loaded, head) = self.read()?;
        self.head = Some(head);
        Ok(loaded)
    }

    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError> {
        self.write(|transaction, sealer, entropy, mut head| {
            let mut table = transaction.open_table(RECORDS).map_err(|error| error.to_string())?;
            for record in records {
                let sealed = sealer.seal(Kind::Record, head.number, &head.last, record, entropy).ok_or(REFUSED)?;
                table.insert(head.number, sealed.as_slice()).map_err(|error| error.to_string())?;
                head = Head { number: head.number + 1, last: link(&sealed), ..head };
            }
            Ok(head)
        })
    }

    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        self.write(|transaction, sealer, entropy, Head { number, .. }| {
            let mut snapshots = transaction.open_table(SNAPSHOTS).map_err(|error| error.to_string())?;
            let mut records = transaction.open_table(RECORDS).map_err(|error| error.to_string())?;
            snapshots.retain(|_, _| false).map_err(|error| error.to_string())?;
            records.retain(|_, _| false).map_err(|error| error.to_string())?;
            let sealed = sealer.seal(Kind::Snapshot, number, &START, snapshot, entropy).ok_or(REFUSED)?;
            snapshots.insert(number, sealed.as_slice()).map_err(|error| error.to_string())?;
            let link = link(&sealed);
            Ok(Head { from: link, number, last: link })
        })
    }
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedbStore({})", self.path.display())
    }
}

#[cfg(test)]
mod tests;
