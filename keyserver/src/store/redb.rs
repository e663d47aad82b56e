//! The embedded store: one file, crate `redb`, every value sealed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use protocol::Entropy;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::seal::{Kind, Link, Sealer, link};
use super::{Loaded, Store, StoreError};

/// Of the tables and of the sealing.
const FORMAT: u32 = 1;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// By number, rising for ever.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// At most one, by the number of the first record after it.
const SNAPSHOTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("snapshots");

const CHECK: &[u8] = b"keystone store";
/// Where a chain without a snapshot begins.
const START: Link = [0; 32];

/// A store in one file of mode 0600.
pub struct RedbStore {
    path: PathBuf,
    database: Database,
    sealer: Sealer,
    entropy: Box<dyn Entropy>,
    /// Number and link of the next record; known after [`Store::load`].
    next: Option<(u64, Link)>,
}

impl RedbStore {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// See [`StoreError`]; the file is untouched.
    pub fn open(path: &Path, key: &[u8; 32], entropy: Box<dyn Entropy>) -> Result<Self, StoreError> {
        let io = |why: &dyn std::fmt::Display| StoreError::Io { path: path.to_owned(), why: why.to_string() };
        let new = !path.exists();
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
        let database = Database::builder().create_file(file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
            other => io(&other),
        })?;
        if new {
            // The name must be as durable as the file.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| io(&error))?;
        }
        let mut store =
            Self { path: path.to_owned(), database, sealer: Sealer::new(key, [0; 16]), entropy, next: None };
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
            transaction.open_table(RECORDS).map_err(|error| self.io(&error))?;
            transaction.open_table(SNAPSHOTS).map_err(|error| self.io(&error))?;
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
            self.sealer = Sealer::new(key, id);
            let check = self.sealer.seal(Kind::Check, 0, &START, CHECK, self.entropy.as_mut());
            let check = check.ok_or_else(|| self.damaged("the cipher"))?;
            for (name, value) in [("format", FORMAT.to_be_bytes().as_slice()), ("id", &id), ("check", &check)] {
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
        work: impl FnOnce(&WriteTransaction, &Sealer, &mut dyn Entropy, u64, Link) -> Result<(u64, Link), String>,
    ) -> Result<(), StoreError> {
        let (number, before) = match self.next {
            Some(next) => next,
            None => {
                self.load()?;
                self.next.unwrap_or((0, START))
            }
        };
        let transaction = self.database.begin_write().map_err(|error| self.io(&error))?;
        let next =
            work(&transaction, &self.sealer, self.entropy.as_mut(), number, before).map_err(|why| self.io(&why))?;
        transaction.commit().map_err(|error| self.io(&error))?;
        self.next = Some(next);
        Ok(())
    }
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let transaction = self.database.begin_read().map_err(|error| self.io(&error))?;
        let snapshots = transaction.open_table(SNAPSHOTS).map_err(|error| self.io(&error))?;
        let records = transaction.open_table(RECORDS).map_err(|error| self.io(&error))?;
        let mut loaded = Loaded::default();
        let (mut number, mut before) = (0, START);
        if let Some((at, sealed)) = snapshots.last().map_err(|error| self.io(&error))? {
            number = at.value();
            let plain = self.sealer.open(Kind::Snapshot, number, &START, sealed.value());
            loaded.snapshot = Some(plain.ok_or_else(|| self.damaged("the snapshot"))?);
            before = link(sealed.value());
        }
        for entry in records.iter().map_err(|error| self.io(&error))? {
            let (at, sealed) = entry.map_err(|error| self.io(&error))?;
            let plain = match at.value() == number {
                true => self.sealer.open(Kind::Record, number, &before, sealed.value()),
                false => None,
            };
            loaded.records.push(plain.ok_or_else(|| self.damaged(format!("record {number}")))?);
            before = link(sealed.value());
            number += 1;
        }
        self.next = Some((number, before));
        Ok(loaded)
    }

    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError> {
        self.write(|transaction, sealer, entropy, mut number, mut before| {
            let mut table = transaction.open_table(RECORDS).map_err(|error| error.to_string())?;
            for record in records {
                let sealed = sealer.seal(Kind::Record, number, &before, record, entropy).ok_or("the cipher refuses")?;
                table.insert(number, sealed.as_slice()).map_err(|error| error.to_string())?;
                before = link(&sealed);
                number += 1;
            }
            Ok((number, before))
        })
    }

    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        self.write(|transaction, sealer, entropy, number, _| {
            let mut snapshots = transaction.open_table(SNAPSHOTS).map_err(|error| error.to_string())?;
            let mut records = transaction.open_table(RECORDS).map_err(|error| error.to_string())?;
            snapshots.retain(|_, _| false).map_err(|error| error.to_string())?;
            records.retain(|_, _| false).map_err(|error| error.to_string())?;
            let sealed = sealer.seal(Kind::Snapshot, number, &START, snapshot, entropy).ok_or("the cipher refuses")?;
            snapshots.insert(number, sealed.as_slice()).map_err(|error| error.to_string())?;
            Ok((number, link(&sealed)))
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
