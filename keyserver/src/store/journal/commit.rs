//! Writing under the fence, and settling what became of a write whose answer is lost.

use super::super::StoreError;
use super::super::backend::{Backend, CommitError, Op};
use super::super::head::{Garbage, Head};
use super::super::seal::{Kind, Sealer};
use super::{At, CHANGES, COMMIT, HEAD, Journal, TERM};

/// Attempts to make room for values whose names are taken. One is enough if nobody else writes.
const CLEARINGS: u32 = 3;

impl<B: Backend> Journal<B> {
    /// Commits `ops`, the last of which is a write; settles a lost answer by what stands there afterwards.
    pub(super) fn commit(&mut self, at: &At, ops: &[Op]) -> Result<(), StoreError> {
        let evidence = ops.iter().rev().find_map(|op| match op {
            Op::Create { name, value } | Op::Replace { name, value, .. } => Some((name.clone(), value.clone())),
            Op::Check { .. } | Op::Delete { .. } => None,
        });
        let mut clearings = 0;
        for attempt in 1.. {
            let conflict = match self.backend.commit(ops) {
                Ok(()) => return Ok(()),
                Err(error @ CommitError::Refused(_)) => return Err(self.io(&error)),
                Err(CommitError::Unknown(why)) => {
                    if !self.backend.pause(attempt) {
                        return Err(StoreError::Unsettled { place: self.backend.place(), why });
                    }
                    false
                }
                Err(CommitError::Conflict) => true,
            };
            // Every sealed value has a salt of its own, so nobody else can have written the same.
            if let Some((name, value)) = &evidence
                && self.read(name)?.is_some_and(|held| held.value == *value)
            {
                return Ok(());
            }
            if conflict {
                self.still_ours(at)?;
                clearings += 1;
                if clearings > CLEARINGS {
                    return Err(self.damaged("an unused name"));
                }
                self.remove(at, made_by(ops))?;
            }
        }
        Ok(())
    }

    /// Whether this is still the key server that reigns.
    fn still_ours(&mut self, at: &At) -> Result<(), StoreError> {
        let term = self.read(TERM)?.map(|held| held.version);
        let head = self.read(HEAD)?.map(|held| held.version);
        match (term, head) == (Some(at.term), Some(at.version)) {
            true => Ok(()),
            false => Err(StoreError::Deposed(self.backend.place())),
        }
    }

    /// Removes values that nothing leads to. Some may be gone already, by an attempt whose answer was lost.
    fn remove(&mut self, at: &At, mut names: Vec<String>) -> Result<(), StoreError> {
        for _ in 0..CLEARINGS {
            let mut left = Vec::new();
            for some in names.chunks(CHANGES) {
                let deletes = some.iter().map(|name| Op::Delete { name: name.clone() });
                let ops: Vec<Op> = [check(TERM, at.term), check(HEAD, at.version)].into_iter().chain(deletes).collect();
                match self.backend.commit(&ops) {
                    Ok(()) => {}
                    Err(CommitError::Conflict | CommitError::Unknown(_)) => left.extend_from_slice(some),
                    Err(error @ CommitError::Refused(_)) => return Err(self.io(&error)),
                }
            }
            names.clear();
            for name in left {
                if self.read(&name)?.is_some() {
                    names.push(name);
                }
            }
        }
        Ok(())
    }

    /// Commits `creates` and then, together with the last of them, `next` as the head.
    pub(super) fn write(
        &mut self,
        at: At,
        creates: Vec<Op>,
        next: Head,
        sealer: Option<Sealer>,
    ) -> Result<(), StoreError> {
        let mut ops = vec![check(TERM, at.term)];
        let mut octets = 0;
        for create in creates {
            octets += create.len();
            if octets > COMMIT || ops.len() > CHANGES {
                self.commit(&at, &ops)?;
                ops.truncate(1);
                octets = create.len();
            }
            ops.push(create);
        }
        let value = next.seal(sealer.as_ref().unwrap_or(&at.sealer), &self.journal, self.entropy.as_mut());
        let value = value.ok_or_else(|| self.cipher())?;
        ops.push(Op::Replace { name: HEAD.into(), value, version: at.version });
        self.commit(&at, &ops)?;
        self.key.written();
        let At { version, term, reigns, .. } = at;
        let is_clean = next.garbage == Garbage::default();
        let sealer = sealer.unwrap_or(at.sealer);
        self.adopt(At { head: next, version: version + 1, term, sealer, reigns, is_clean })
    }

    /// Removes what the last compaction has left.
    pub(super) fn clean(&mut self, at: &At) -> Result<(), StoreError> {
        let Garbage { generation, pieces, records } = at.head.garbage;
        let pieces = (0..pieces).map(|number| self.key.name(Kind::Piece as u8, generation, number));
        let records = (records.0..records.1).map(|number| self.record_name(number));
        let names = pieces.chain(records).collect();
        self.remove(at, names)
    }
}

fn made_by(ops: &[Op]) -> Vec<String> {
    let made = |op: &Op| match op {
        Op::Create { name, .. } => Some(name.clone()),
        _ => None,
    };
    ops.iter().filter_map(made).collect()
}

fn check(name: &str, version: u64) -> Op {
    Op::Check { name: name.into(), version }
}
