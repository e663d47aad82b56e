//! The journal: a snapshot in pieces and a chain of small records after it, sealed, over any [`Backend`].
//!
//! ```text
//! term    random; its version is the fence: whoever begins a reign replaces it, and every other write checks it
//! head    label, sealed: generation, where the snapshot and the records begin and end
//! PIECE   of the snapshot, sealed under the generation's key, chained
//! RECORD  or a part of one, sealed under the generation's key, chained from the snapshot's last piece
//! ```
//!
//! A compaction writes the snapshot under the ratchet's next key and every key server forgets the last one: the engine's
//! own logs keep what was ever written, and nothing opens it any more.

mod commit;
mod read;

use protocol::Entropy;
use zeroize::Zeroizing;

use super::backend::{Backend, CommitError, Op};
use super::head::{Garbage, Head};
use super::seal::{Kind, START, Sealer, link};
use super::site_key::{Mark, SiteKey};
use super::{Followed, Loaded, Store, StoreError};

/// Name of the fence.
pub(crate) const TERM: &str = "term";
const HEAD: &str = "head";

/// Octets of plaintext in one value: ZooKeeper takes no value of 1 MiB, and no commit of more than that.
const PIECE: usize = if cfg!(test) { 8 * 1024 } else { 512 * 1024 };
/// Octets of values in one commit.
const COMMIT: usize = PIECE + PIECE / 2;
/// Changes in one commit: enough that a clean-up of thousands of records takes few, and far below 1 MiB of names.
const CHANGES: usize = 512;

const MORE: u8 = 1;
const WHOLE: u8 = 0;

/// What was read or committed last.
struct At {
    head: Head,
    version: u64,
    term: u64,
    sealer: Sealer,
    /// Whether this journal has begun the reign that the fence stands for.
    reigns: bool,
    /// Whether the garbage that the head names is gone.
    is_clean: bool,
}

/// A journal over a backend. Several may be open over one place; the last that has begun a reign is the only one that
/// writes.
pub struct Journal<B> {
    backend: B,
    journal: [u8; 16],
    key: SiteKey,
    entropy: Box<dyn Entropy>,
    at: Option<At>,
}

impl<B: Backend> Journal<B> {
    /// Opens the journal, or makes an empty one.
    ///
    /// # Errors
    /// See [`StoreError`]; what it holds is untouched.
    pub fn open(backend: B, key: SiteKey, entropy: Box<dyn Entropy>) -> Result<Self, StoreError> {
        let mut journal = Self { backend, journal: [0; 16], key, entropy, at: None };
        for attempt in 1.. {
            if journal.read(HEAD)?.is_some() {
                break;
            }
            journal.create(attempt)?;
        }
        let at = journal.read_head()?;
        journal.adopt(at)?;
        Ok(journal)
    }

    fn create(&mut self, attempt: u32) -> Result<(), StoreError> {
        if self.key.mark() != Mark::default() {
            return Err(self.rolled_back(&Head::NEW));
        }
        self.entropy.fill(&mut self.journal);
        let generation = self.key.generation();
        let head = Head { generation, ..Head::NEW };
        let sealer = self.sealer(generation)?;
        let value = head.seal(&sealer, &self.journal, self.entropy.as_mut()).ok_or_else(|| self.cipher())?;
        let ops = [Op::Create { name: TERM.into(), value: Vec::new() }, Op::Create { name: HEAD.into(), value }];
        match self.backend.commit(&ops) {
            // Another key server may have been faster; what stands there now is read next.
            Ok(()) | Err(CommitError::Conflict) => Ok(()),
            Err(CommitError::Unknown(_)) if self.backend.pause(attempt) => Ok(()),
            Err(error) => Err(self.io(&error)),
        }
    }

    /// What was read is where this key server goes on from.
    fn adopt(&mut self, at: At) -> Result<(), StoreError> {
        let Head { generation, number, last, .. } = at.head;
        self.key.advance(generation).map_err(|error| self.io(&error))?;
        self.key.note(Mark { number, last }, false).map_err(|error| self.io(&error))?;
        self.at = Some(at);
        Ok(())
    }

    /// The same for what was read again: a reign goes on if nobody has begun another.
    fn adopt_anew(&mut self, at: At) -> Result<(), StoreError> {
        let reigns = self.at.as_ref().is_some_and(|before| before.reigns && before.term == at.term);
        self.adopt(At { reigns, ..at })
    }

    /// What this key server goes on from; after a write that failed there is nothing until it has read again.
    fn at(&mut self) -> Result<At, StoreError> {
        self.at.take().ok_or_else(|| StoreError::Stopped(self.backend.place()))
    }

    /// The same, for a write: this journal reigns, and what the last compaction left is gone.
    fn cleaned(&mut self) -> Result<At, StoreError> {
        let mut at = self.at()?;
        if !at.reigns {
            return Err(StoreError::Stopped(self.backend.place()));
        }
        if !at.is_clean {
            self.clean(&at)?;
            at.is_clean = true;
        }
        Ok(at)
    }

    fn record_name(&self, number: u64) -> String {
        self.key.name(Kind::Record as u8, 0, number)
    }

    fn sealer(&self, generation: u64) -> Result<Sealer, StoreError> {
        let key = self.key.of(generation).ok_or_else(|| self.damaged("the generation"))?;
        Ok(Sealer::new(key, self.journal, generation))
    }

    fn io(&self, why: &dyn std::fmt::Display) -> StoreError {
        StoreError::Io { place: self.backend.place(), why: why.to_string() }
    }

    fn cipher(&self) -> StoreError {
        self.io(&"the cipher refuses")
    }

    fn damaged(&self, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { place: self.backend.place(), what: what.into() }
    }

    fn rolled_back(&self, found: &Head) -> StoreError {
        let mark = self.key.mark();
        StoreError::RolledBack {
            place: self.backend.place(),
            found: (found.generation, found.number),
            known: (self.key.generation(), mark.number),
        }
    }
}

impl<B: Backend> Store for Journal<B> {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let (at, loaded) = self.consistently(Self::read_all)?;
        self.adopt_anew(at)?;
        Ok(loaded)
    }

    fn follow(&mut self) -> Result<Followed, StoreError> {
        let known = self.at.as_ref().map(|at| at.head).ok_or_else(|| StoreError::Stopped(self.backend.place()))?;
        let (at, followed) = self.consistently(|journal, at| {
            let head = &at.head;
            let same = head.generation == known.generation;
            if same && head.number < known.number {
                return Err(journal.rolled_back(head));
            }
            // A compaction since then is only another beginning of the same chain for whoever has applied all before it.
            let before = match (same, known.number == head.first) {
                (true, _) => known.last,
                (false, true) => head.from,
                (false, false) => return journal.read_all(at).map(Followed::Anew),
            };
            journal.read_records(at, known.number, before).map(Followed::Records)
        })?;
        self.adopt_anew(at)?;
        Ok(followed)
    }

    fn fence(&mut self) -> Result<(), StoreError> {
        let at = self.at()?;
        // Evidence of whose fence it is, should the answer be lost.
        let mut value = vec![0; 16];
        self.entropy.fill(&mut value);
        match self.commit(&at, &[Op::Replace { name: TERM.into(), value, version: at.term }]) {
            Ok(()) => self.adopt(At { term: at.term + 1, reigns: true, ..at }),
            Err(error) => {
                // Whoever was too late goes on following from where it stands; it never reigned.
                self.at = matches!(error, StoreError::Deposed(_)).then_some(At { reigns: false, ..at });
                Err(error)
            }
        }
    }

    fn reigns(&mut self) -> Result<(), StoreError> {
        let term = self.read(TERM)?.map(|held| held.version);
        match self.at.as_ref().is_some_and(|at| at.reigns && term == Some(at.term)) {
            true => Ok(()),
            false => Err(StoreError::Deposed(self.backend.place())),
        }
    }

    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError> {
        let at = self.cleaned()?;
        let mut next = Head { garbage: Garbage::default(), ..at.head };
        let mut creates = Vec::with_capacity(records.len());
        for record in records {
            let parts = record.chunks(PIECE).count().max(1);
            for (index, part) in record.chunks(PIECE).chain(record.is_empty().then_some(&[][..])).enumerate() {
                let mut plain = Zeroizing::new(Vec::with_capacity(part.len() + 1));
                plain.push(if index + 1 < parts { MORE } else { WHOLE });
                plain.extend_from_slice(part);
                let sealed = at.sealer.seal(Kind::Record, next.number, &next.last, &plain, self.entropy.as_mut());
                let value = sealed.ok_or_else(|| self.cipher())?;
                next.last = link(&value);
                creates.push(Op::Create { name: self.record_name(next.number), value });
                next.number += 1;
            }
        }
        self.write(at, creates, next, None)
    }

    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        self.compact(snapshot, 0)
    }

    fn salvage(&mut self) -> Result<(Loaded, u64), StoreError> {
        let (at, (loaded, damaged)) = self.consistently(|journal, at| {
            let read = journal.read_undamaged(at)?;
            match read.1 {
                // What a compaction has removed meanwhile is not damaged.
                Some(number) if journal.read_head()?.version != at.version => Err(journal.damaged_record(at, number)),
                _ => Ok(read),
            }
        })?;
        let lost = damaged.map_or(0, |number| at.head.number - number);
        self.adopt_anew(at)?;
        Ok((loaded, lost))
    }

    fn begin_anew(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        // A number that no record ever has: nobody stands right before the first after it.
        self.compact(snapshot, 1)
    }
}

impl<B: Backend> Journal<B> {
    /// Replaces everything by this snapshot, and leaves out so many numbers of records.
    fn compact(&mut self, snapshot: &[u8], skipped: u64) -> Result<(), StoreError> {
        let at = self.cleaned()?;
        let old = at.head;
        let number = old.number + skipped;
        let generation = old.generation + 1;
        let sealer = self.sealer(generation)?;
        let mut from = START;
        let mut creates = Vec::new();
        for (part, number) in snapshot.chunks(PIECE).chain(snapshot.is_empty().then_some(&[][..])).zip(0..) {
            let sealed = sealer.seal(Kind::Piece, number, &from, part, self.entropy.as_mut());
            let value = sealed.ok_or_else(|| self.cipher())?;
            from = link(&value);
            creates.push(Op::Create { name: self.key.name(Kind::Piece as u8, generation, number), value });
        }
        let pieces = u64::try_from(creates.len()).unwrap_or(u64::MAX);
        let garbage = Garbage { generation: old.generation, pieces: old.pieces, records: (old.first, old.number) };
        let next = Head { generation, pieces, from, first: number, number, last: from, garbage };
        self.write(at, creates, next, Some(sealer))?;
        let at = self.cleaned()?;
        self.at = Some(at);
        Ok(())
    }
}

impl<B: Backend> std::fmt::Debug for Journal<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({})", self.backend.place())
    }
}

#[cfg(test)]
pub(crate) mod attacker;
#[cfg(test)]
mod tests;
