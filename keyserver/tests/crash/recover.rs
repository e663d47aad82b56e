//! Every moment at which the disk could have stopped: what is there then, and what a key server makes of it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use keyserver::store::{Backend, CommitError, Held, Journal, Op, RedbBackend, SiteKey, Store, StoreError};

use crate::SECRET;
use crate::common::Counter;
use crate::disk::{Disk, Platter, SECTOR, Step};
use crate::folder::{Folder, KEY, MARK, place, put, unsynced};
use crate::trace::{Dice, Notes};

/// How many of each kind of crash are looked at: one in so many.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    /// A write torn after a sector, or before.
    pub(crate) torn: usize,
    /// One write since the last sync lost.
    pub(crate) lost: usize,
    /// Only the latest write since the last sync kept.
    pub(crate) latest: usize,
    /// What the folder of the site key may hold after a mark or a sync of the disk.
    pub(crate) keys: usize,
}

/// What was counted, and what went wrong in words.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) points: usize,
    pub(crate) recoveries: usize,
    pub(crate) keys: usize,
    pub(crate) complaints: Vec<String>,
}

impl Report {
    fn add(mut self, other: Self) -> Self {
        self.points += other.points;
        self.recoveries += other.recoveries;
        self.keys += other.keys;
        self.complaints.extend(other.complaints);
        self
    }
}

/// All crashes of a trace, on so many threads.
pub(crate) fn all(log: &[Step], notes: &Notes, key: &[u8], share: Share, seed: u64, threads: usize) -> Report {
    std::thread::scope(|scope| {
        let part = log.len().div_ceil(threads);
        let work = |number: usize| {
            move || {
                let seed = seed ^ u64::try_from(number).unwrap();
                let mut worker = Worker::new(log, notes, key, share, seed);
                (0..=log.len()).for_each(|at| worker.moment(at, at / part == number));
                worker.report
            }
        };
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(work(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(Report::default(), Report::add)
    })
}

struct Worker<'a> {
    log: &'a [Step],
    notes: &'a Notes,
    share: Share,
    dice: Dice,
    /// As it was when it was synced.
    platter: Arc<Mutex<Platter>>,
    /// Writes since.
    pending: Vec<usize>,
    folder: Folder,
    path: tempfile::TempDir,
    /// States that were found last with everything written so far, and with nothing since the last sync.
    written: Option<usize>,
    synced: Option<usize>,
    report: Report,
}

/// Opens what is on a platter, under the key of the beginning, which leads to all later ones.
fn open(disk: &Disk) -> Result<Journal<RedbBackend>, StoreError> {
    Journal::open(RedbBackend::on(disk.clone())?, SiteKey::in_memory(&SECRET), Box::new(Counter(5)))
}

/// The state that a disk holds, looked for from `near` on.
pub(crate) fn recover(disk: &Disk, notes: &Notes, near: usize) -> Result<usize, String> {
    let loaded = open(disk).and_then(|mut journal| journal.load()).map_err(|error| error.to_string())?;
    let mut indices = (near..notes.states.len()).chain(0..near);
    let found = indices.find(|index| notes.states[*index].content.holds(&loaded));
    found.ok_or_else(|| "a content that never was".into())
}

/// What is stored next on a disk is there, after all that was.
pub(crate) fn go_on(disk: &Disk) -> Result<(), StoreError> {
    let mut journal = open(disk)?;
    let before = journal.load()?.records;
    journal.fence()?;
    journal.append(&[b"goes on"])?;
    drop(journal);
    let after = open(disk)?.load()?.records;
    let (last, all) = after.split_last().unwrap();
    assert!(last.as_slice() == b"goes on" && *all == before);
    Ok(())
}

impl<'a> Worker<'a> {
    fn new(log: &'a [Step], notes: &'a Notes, key: &[u8], share: Share, seed: u64) -> Self {
        Self {
            log,
            notes,
            share,
            dice: Dice(seed),
            platter: Arc::default(),
            pending: Vec::new(),
            folder: Folder::with_key(key),
            path: place(),
            written: None,
            synced: None,
            report: Report::default(),
        }
    }

    /// The crash after the first `at` operations, if it is ours to look at; then the next operation.
    fn moment(&mut self, at: usize, ours: bool) {
        if ours {
            self.crash(at);
        }
        let Some(step) = self.log.get(at) else { return };
        self.folder.apply(step);
        match step {
            Step::Write { .. } | Step::Resize(_) => {
                self.pending.push(at);
                self.written = None;
            }
            Step::Sync => {
                let mut platter = self.platter.lock().unwrap();
                self.pending.drain(..).for_each(|at| platter.apply(&self.log[at]));
                platter.settle();
                self.synced = None;
            }
            Step::Put { .. } | Step::Rename { .. } | Step::SyncFolder => {}
        }
    }

    fn crash(&mut self, at: usize) {
        let pending = self.pending.clone();
        self.report.points += 2;
        self.written = match self.written {
            Some(state) => self.judge(at, "all written", Ok(state)),
            None => self.try_this(at, "all written", true, |platter, log| {
                pending.iter().for_each(|at| platter.apply(&log[*at]));
            }),
        };
        self.synced = match self.synced {
            Some(state) => self.judge(at, "nothing since the sync", Ok(state)),
            None => self.try_this(at, "nothing since the sync", true, |_, _| {}),
        };
        match at.checked_sub(1).map(|last| &self.log[last]) {
            Some(Step::Write { offset, octets }) => {
                let before = &pending[..pending.len() - 1];
                // Sectors lie where the disk has them.
                let cuts = (1..octets.len()).filter(|cut| (offset + cut).is_multiple_of(SECTOR));
                for (cut, head) in cuts.flat_map(|cut| [(cut, true), (cut, false)]) {
                    self.sample(at, self.share.torn, "torn", |platter, log| {
                        before.iter().for_each(|at| platter.apply(&log[*at]));
                        match head {
                            true => platter.write(*offset, &octets[..cut]),
                            false => platter.write(offset + cut, &octets[cut..]),
                        }
                    });
                }
                for lost in before {
                    self.sample(at, self.share.lost, "one write lost", |platter, log| {
                        pending.iter().filter(|at| *at != lost).for_each(|at| platter.apply(&log[*at]));
                    });
                }
                if !before.is_empty() {
                    self.sample(at, self.share.latest, "only the latest write", |platter, log| {
                        platter.apply(&log[at - 1]);
                    });
                }
            }
            // Marks are many and sampled, keys are few.
            Some(Step::Put { name, .. } | Step::Rename { from: name, .. }) => self.keys(at, !name.starts_with(MARK)),
            Some(Step::SyncFolder) => self.keys(at, true),
            Some(Step::Sync) => self.keys(at, false),
            Some(Step::Resize(_)) | None => {}
        }
    }

    fn sample(&mut self, at: usize, one_in: usize, how: &str, make: impl FnOnce(&mut Platter, &[Step])) {
        if self.dice.below(one_in) == 0 {
            self.report.points += 1;
            let goes_on = self.dice.below(8) == 0;
            self.try_this(at, how, goes_on, make);
        }
    }

    fn try_this(
        &mut self,
        at: usize,
        how: &str,
        goes_on: bool,
        make: impl FnOnce(&mut Platter, &[Step]),
    ) -> Option<usize> {
        make(&mut self.platter.lock().unwrap(), self.log);
        let disk = Disk { platter: self.platter.clone(), ..Disk::default() };
        self.report.recoveries += 1;
        let mut found = recover(&disk, self.notes, self.acknowledged(at));
        if goes_on {
            found = found.and_then(|state| go_on(&disk).map(|()| state).map_err(|error| error.to_string()));
        }
        self.platter.lock().unwrap().roll_back();
        self.judge(at, how, found)
    }

    /// The newest state that somebody may have heard of.
    fn acknowledged(&self, at: usize) -> usize {
        self.notes.states.partition_point(|state| state.at <= at) - 1
    }

    /// What was acknowledged is there; what was under way is whole or absent.
    fn judge(&mut self, at: usize, how: &str, found: Result<usize, String>) -> Option<usize> {
        let acknowledged = self.acknowledged(at);
        let wrong = match &found {
            Ok(state) if (acknowledged..=acknowledged + 1).contains(state) => return found.ok(),
            Ok(state) => format!("state {state}"),
            Err(error) => error.clone(),
        };
        let complaint = format!("{how}, crash after {at} operations: {wrong}, and {acknowledged} was acknowledged");
        self.report.complaints.push(complaint);
        None
    }

    /// Whatever the folder of the key may hold opens together with whatever the store's file may hold, and no name in it
    /// leads to the key before the last compaction that was acknowledged.
    fn keys(&mut self, at: usize, always: bool) {
        let generation = self.notes.states[self.acknowledged(at)].generation;
        for content in self.folder.all() {
            let of = content.get(..16).and_then(|digits| std::str::from_utf8(digits).ok());
            if content.len() == 145 && of.is_some_and(|of| u64::from_str_radix(of, 16).is_ok_and(|of| of < generation))
            {
                self.report.complaints.push(format!("crash after {at} operations: an old site key is still there"));
            }
        }
        if !always && self.dice.below(self.share.keys) > 0 {
            return;
        }
        let mut kept = vec![Vec::new()];
        if !self.pending.is_empty() {
            kept.push(self.pending.clone());
        }
        for kept in kept {
            let mut platter = self.platter.lock().unwrap();
            kept.iter().for_each(|at| platter.apply(&self.log[*at]));
            drop(platter);
            let disk = Disk { platter: self.platter.clone(), ..Disk::default() };
            let opened = RedbBackend::on(disk).map(|backend| Shared(Arc::new(Mutex::new(backend))));
            let combinations = opened.map_err(|error| error.to_string()).and_then(|backend| self.each_key(&backend));
            self.platter.lock().unwrap().roll_back();
            if let Err(error) = combinations {
                self.report.complaints.push(format!("crash after {at} operations, the site key: {error}"));
            }
        }
    }

    fn each_key(&mut self, backend: &Shared) -> Result<(), String> {
        let path = self.path.path();
        let write = |name: &str, content: Option<&[u8]>| put(&path.join(name), content);
        for new in [format!("{KEY}.new"), format!("{MARK}.new")] {
            write(&new, self.folder.variants(&new).pop().flatten().as_deref());
        }
        for key in self.folder.variants(KEY) {
            for mark in self.folder.variants(MARK) {
                write(KEY, key.as_deref());
                write(MARK, mark.as_deref());
                self.report.keys += 1;
                open_with(&path.join(KEY), backend.clone()).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

pub(crate) fn open_with(path: &Path, backend: impl Backend) -> Result<(), Box<dyn std::error::Error>> {
    let key = SiteKey::open_with(path, Box::new(unsynced))?;
    Journal::open(backend, key, Box::new(Counter(6)))?;
    Ok(())
}

/// One opened file for many journals.
#[derive(Clone)]
struct Shared(Arc<Mutex<RedbBackend>>);

impl Backend for Shared {
    fn place(&self) -> String {
        self.0.lock().unwrap().place()
    }

    fn read(&mut self, name: &str) -> Result<Option<Held>, CommitError> {
        self.0.lock().unwrap().read(name)
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), CommitError> {
        self.0.lock().unwrap().commit(ops)
    }

    fn pause(&mut self, _: u32) -> bool {
        false
    }
}
