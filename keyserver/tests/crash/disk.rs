//! A disk that remembers every operation, so that any moment of its life can be made again, whole or torn.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// What a device writes whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// One operation, on the store's file or in the site key's folder.
#[derive(Debug)]
pub(crate) enum Step {
    Write { offset: usize, octets: Vec<u8> },
    Resize(usize),
    Sync,
    Put { name: String, content: Vec<u8>, durable: bool },
    Rename { from: String, to: String },
    SyncFolder,
}

pub(crate) type Log = Arc<Mutex<Vec<Step>>>;

enum Undo {
    Octets(usize, Vec<u8>),
    Length(usize),
    Cut(Vec<u8>),
}

/// The octets of a file, and the way back to what they were.
#[derive(Default)]
pub(crate) struct Platter {
    pub(crate) octets: Vec<u8>,
    undo: Vec<Undo>,
}

impl Platter {
    pub(crate) fn write(&mut self, offset: usize, octets: &[u8]) {
        let end = offset + octets.len();
        if end > self.octets.len() {
            self.resize(end);
        }
        let place = &mut self.octets[offset..end];
        self.undo.push(Undo::Octets(offset, place.to_vec()));
        place.copy_from_slice(octets);
    }

    pub(crate) fn resize(&mut self, length: usize) {
        if length < self.octets.len() {
            self.undo.push(Undo::Cut(self.octets.split_off(length)));
        } else {
            self.undo.push(Undo::Length(self.octets.len()));
            self.octets.resize(length, 0);
        }
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Write { offset, octets } => self.write(*offset, octets),
            Step::Resize(length) => self.resize(*length),
            _ => {}
        }
    }

    /// What is there now is the beginning.
    pub(crate) fn settle(&mut self) {
        self.undo.clear();
    }

    /// Back to the beginning.
    pub(crate) fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Octets(offset, octets) => self.octets[offset..offset + octets.len()].copy_from_slice(&octets),
                Undo::Length(length) => self.octets.truncate(length),
                Undo::Cut(tail) => self.octets.extend_from_slice(&tail),
            }
        }
    }
}

/// Calls that change something, on the disk or in the site key's folder, and which of them fail.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) calls: usize,
    pub(crate) refuse: Option<Range<usize>>,
    /// Whether the first that was refused was a sync of the disk.
    pub(crate) sync_refused: bool,
}

/// One process's way to a platter. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    pub(crate) platter: Arc<Mutex<Platter>>,
    pub(crate) log: Option<Log>,
    pub(crate) faults: Arc<Mutex<Faults>>,
    pub(crate) dead: Arc<AtomicBool>,
}

impl Disk {
    pub(crate) fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }

    /// The process that has it does nothing more; the next one goes on with what is there.
    pub(crate) fn kill(self) -> Self {
        self.dead.store(true, Ordering::SeqCst);
        Self { dead: Arc::default(), ..self }
    }

    /// One call of the process, which it may refuse.
    pub(crate) fn call(&self, step: impl FnOnce() -> Step) -> io::Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("this process is dead"));
        }
        let step = step();
        let mut faults = self.faults.lock().unwrap();
        let call = faults.calls;
        faults.calls += 1;
        if faults.refuse.as_ref().is_some_and(|refused| refused.contains(&call)) {
            faults.sync_refused |=
                faults.refuse.as_ref().is_some_and(|refused| refused.start == call) && matches!(step, Step::Sync);
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.platter().apply(&step);
        if let Some(log) = &self.log {
            self.platter().settle();
            log.lock().unwrap().push(step);
        }
        Ok(())
    }
}

fn size(octets: u64) -> usize {
    usize::try_from(octets).unwrap()
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.platter().octets.len()).unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter();
        let octets = platter.octets.get(size(offset)..).and_then(|octets| octets.get(..out.len()));
        out.copy_from_slice(octets.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.call(|| Step::Resize(size(length)))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(|| Step::Sync)
    }

    fn write(&self, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.call(|| Step::Write { offset: size(offset), octets: octets.to_vec() })
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}
