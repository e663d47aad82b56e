//! Stores in memory, for simulations: they survive the core that wrote to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::backend::{Backend, CommitError, Held, Op};
use super::{Followed, Loaded, Store, StoreError};

#[derive(Default)]
struct Shared {
    snapshot: Option<Vec<u8>>,
    records: Vec<Vec<u8>>,
    reigns: u64,
    writes_until_failure: Option<usize>,
}

/// The simplest store: plain, and nothing ever fails unless it is told to. Clones are the same store, each with a
/// memory of its own of what it has seen.
#[derive(Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
    /// The reign that this clone has begun; before the first of all, anybody may write.
    reign: u64,
    /// Records of the snapshot and after it that this clone has read.
    read: usize,
}

impl MemoryStore {
    /// The write after `writes` more fails, and so do all after it.
    pub fn fail_after(&self, writes: usize) {
        lock(&self.shared).writes_until_failure = Some(writes);
    }

    fn write(&mut self, work: impl FnOnce(&mut Shared)) -> Result<(), StoreError> {
        self.reigns()?;
        let mut shared = lock(&self.shared);
        match &mut shared.writes_until_failure {
            None => {}
            Some(0) => return Err(StoreError::Injected),
            Some(left) => *left -= 1,
        }
        work(&mut shared);
        self.read = shared.records.len();
        Ok(())
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let shared = lock(&self.shared);
        self.read = shared.records.len();
        Ok(Loaded {
            snapshot: shared.snapshot.clone().map(Zeroizing::new),
            records: shared.records.iter().cloned().map(Zeroizing::new).collect(),
        })
    }

    fn follow(&mut self) -> Result<Followed, StoreError> {
        let shared = lock(&self.shared);
        let new = shared.records.get(self.read..).map(|new| new.iter().cloned().map(Zeroizing::new).collect());
        match new {
            Some(new) => {
                self.read = shared.records.len();
                Ok(Followed::Records(new))
            }
            None => {
                drop(shared);
                self.load().map(Followed::Anew)
            }
        }
    }

    fn fence(&mut self) -> Result<(), StoreError> {
        let mut shared = lock(&self.shared);
        shared.reigns += 1;
        self.reign = shared.reigns;
        Ok(())
    }

    fn reigns(&mut self) -> Result<(), StoreError> {
        match self.reign == lock(&self.shared).reigns {
            true => Ok(()),
            false => Err(StoreError::Deposed("memory".into())),
        }
    }

    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError> {
        self.write(|shared| shared.records.extend(records.iter().map(|record| record.to_vec())))
    }

    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        self.write(|shared| {
            shared.snapshot = Some(snapshot.to_vec());
            shared.records.clear();
        })
    }
}

/// What goes wrong at a call of a [`MemoryBackend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call never arrives.
    Before,
    /// It is carried out and its answer is lost.
    After,
}

#[derive(Default)]
struct Values {
    values: BTreeMap<String, Held>,
    /// Everything that was ever written, as an engine's own logs keep it.
    written: Vec<(String, Vec<u8>)>,
    calls: u64,
    fault: Option<(u64, Fault)>,
    /// Calls are refused from this one on: the process that makes them is dead.
    dead_at: Option<u64>,
}

/// A backend in memory. Clones are the same place.
#[derive(Clone, Default)]
pub struct MemoryBackend(Arc<Mutex<Values>>);

impl MemoryBackend {
    /// The `call`-th commit from now, counted from 0, meets this fault.
    pub fn fail(&self, call: u64, fault: Fault) {
        let mut values = lock(&self.0);
        values.fault = Some((values.calls + call, fault));
    }

    /// The `call`-th commit from now meets this fault and its writer does nothing more, until [`MemoryBackend::revive`].
    pub fn die(&self, call: u64, fault: Fault) {
        self.fail(call, fault);
        let mut values = lock(&self.0);
        values.dead_at = Some(values.calls + call + 1);
    }

    /// Faults are over.
    pub fn revive(&self) {
        let mut values = lock(&self.0);
        (values.fault, values.dead_at) = (None, None);
    }

    /// Commits that were asked for.
    pub fn calls(&self) -> u64 {
        lock(&self.0).calls
    }

    /// Everything that was ever written: name and value.
    pub fn written(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.0).written.clone()
    }

    /// Names and values as they are.
    pub fn values(&self) -> BTreeMap<String, Held> {
        lock(&self.0).values.clone()
    }

    /// Puts all values back to an earlier state.
    pub fn roll_back(&self, values: BTreeMap<String, Held>) {
        lock(&self.0).values = values;
    }
}

impl Values {
    fn dead(&self) -> bool {
        self.dead_at.is_some_and(|at| self.calls >= at)
    }

    fn carry_out(&mut self, ops: &[Op]) -> Result<(), CommitError> {
        // No name stands in one commit twice, so all conditions can be looked at before the first change.
        let version = |name: &String| self.values.get(name).map(|held| held.version);
        let holds = |op: &Op| match op {
            Op::Check { name, version: wanted } | Op::Replace { name, version: wanted, .. } => {
                version(name) == Some(*wanted)
            }
            Op::Create { name, .. } => version(name).is_none(),
            Op::Delete { name } => version(name).is_some(),
        };
        if !ops.iter().all(holds) {
            return Err(CommitError::Conflict);
        }
        for op in ops {
            match op {
                Op::Check { .. } => {}
                Op::Create { name, value } => {
                    self.values.insert(name.clone(), Held { value: value.clone(), version: 0 });
                }
                Op::Replace { name, value, version } => {
                    self.values.insert(name.clone(), Held { value: value.clone(), version: version + 1 });
                }
                Op::Delete { name } => drop(self.values.remove(name)),
            }
        }
        self.written.extend(ops.iter().filter_map(|op| match op {
            Op::Create { name, value } | Op::Replace { name, value, .. } => Some((name.clone(), value.clone())),
            Op::Check { .. } | Op::Delete { .. } => None,
        }));
        Ok(())
    }
}

impl Backend for MemoryBackend {
    fn place(&self) -> String {
        "memory".into()
    }

    fn read(&mut self, name: &str) -> Result<Option<Held>, CommitError> {
        let values = lock(&self.0);
        match values.dead() {
            true => Err(CommitError::Refused("dead".into())),
            false => Ok(values.values.get(name).cloned()),
        }
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), CommitError> {
        let mut values = lock(&self.0);
        if values.dead() {
            return Err(CommitError::Refused("dead".into()));
        }
        let fault = values.fault.filter(|(call, _)| *call == values.calls).map(|(_, fault)| fault);
        values.calls += 1;
        match fault {
            Some(Fault::Before) => Err(CommitError::Unknown("lost".into())),
            Some(Fault::After) => {
                drop(values.carry_out(ops));
                Err(CommitError::Unknown("lost".into()))
            }
            None => values.carry_out(ops),
        }
    }

    fn pause(&mut self, attempt: u32) -> bool {
        attempt < 8
    }
}
