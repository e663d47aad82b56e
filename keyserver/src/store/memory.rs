//! A store in memory, for simulations: it survives the core that wrote to it.

use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::{Loaded, Store, StoreError};

#[derive(Default)]
struct Held {
    snapshot: Option<Vec<u8>>,
    records: Vec<Vec<u8>>,
    writes_until_failure: Option<usize>,
}

/// Clones are the same store.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Held>>);

impl MemoryStore {
    /// The write after `writes` more fails, and so do all after it.
    pub fn fail_after(&self, writes: usize) {
        self.with(|held| held.writes_until_failure = Some(writes));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Held) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Held {
    fn write(&mut self) -> Result<(), StoreError> {
        match &mut self.writes_until_failure {
            None => Ok(()),
            Some(0) => Err(StoreError::Injected),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(self.with(|held| Loaded {
            snapshot: held.snapshot.clone().map(Zeroizing::new),
            records: held.records.iter().cloned().map(Zeroizing::new).collect(),
        }))
    }

    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError> {
        self.with(|held| {
            held.write()?;
            held.records.extend(records.iter().map(|record| record.to_vec()));
            Ok(())
        })
    }

    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        self.with(|held| {
            held.write()?;
            held.snapshot = Some(snapshot.to_vec());
            held.records.clear();
            Ok(())
        })
    }
}
