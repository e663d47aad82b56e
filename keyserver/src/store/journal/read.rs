//! Reading: the head first, then what it leads to.

use zeroize::Zeroizing;

use super::super::backend::{Backend, CommitError, Held};
use super::super::head::{Head, Label};
use super::super::seal::{FORMAT, Kind, Link, START, Sealer, link};
use super::super::{Loaded, StoreError};
use super::{At, HEAD, Journal, MORE, PIECE, TERM};

type Records = Vec<Zeroizing<Vec<u8>>>;

impl<B: Backend> Journal<B> {
    pub(super) fn read(&mut self, name: &str) -> Result<Option<Held>, StoreError> {
        for attempt in 1.. {
            match self.backend.read(name) {
                Ok(held) => return Ok(held),
                Err(CommitError::Unknown(_)) if self.backend.pause(attempt) => {}
                Err(error) => return Err(self.io(&error)),
            }
        }
        Ok(None)
    }

    pub(super) fn read_head(&mut self) -> Result<At, StoreError> {
        let term = self.read(TERM)?.ok_or_else(|| self.damaged("the term"))?.version;
        let held = self.read(HEAD)?.ok_or_else(|| self.damaged("the head"))?;
        let (label, sealed) = Label::split(&held.value).ok_or_else(|| self.damaged("the head"))?;
        if label.format != FORMAT {
            return Err(StoreError::Format { place: self.backend.place(), found: label.format, expected: FORMAT });
        }
        self.journal = label.journal;
        if label.generation < self.key.generation() {
            let found = Head { generation: label.generation, ..Head::NEW };
            return Err(self.rolled_back(&found));
        }
        let sealer = self.sealer(label.generation)?;
        if sealer.check() != label.check {
            return Err(StoreError::WrongKey(self.backend.place()));
        }
        let head = Head::open(sealed, label.generation, &sealer).ok_or_else(|| self.damaged("the head"))?;
        let mark = self.key.mark();
        let forked = head.number == mark.number && mark.number > head.first && head.last != mark.last;
        if head.number < mark.number || forked {
            return Err(self.rolled_back(&head));
        }
        Ok(At { head, version: held.version, term, sealer, reigns: false, is_clean: false })
    }

    /// The snapshot and the records after it.
    pub(super) fn read_all(&mut self, at: &At) -> Result<Loaded, StoreError> {
        match self.read_undamaged(at)? {
            (loaded, None) => Ok(loaded),
            (_, Some(number)) => Err(self.damaged_record(at, number)),
        }
    }

    /// The snapshot and the records after it, up to the first that is damaged; its number.
    pub(super) fn read_undamaged(&mut self, at: &At) -> Result<(Loaded, Option<u64>), StoreError> {
        let head = &at.head;
        let mut before = START;
        let mut snapshot = Zeroizing::new(Vec::with_capacity(usize::try_from(head.pieces).unwrap_or(0) * PIECE));
        for number in 0..head.pieces {
            let name = self.key.name(Kind::Piece as u8, head.generation, number);
            let plain = self.open_value(&at.sealer, Kind::Piece, number, &name, &mut before)?;
            snapshot.extend_from_slice(plain.ok_or_else(|| self.damaged("the snapshot"))?.as_slice());
        }
        if before != head.from {
            return Err(self.damaged("the snapshot"));
        }
        let (records, damaged) = self.read_up_to(at, head.first, head.from)?;
        Ok((Loaded { snapshot: (head.pieces > 0).then_some(snapshot), records }, damaged))
    }

    /// The records from this number on.
    pub(super) fn read_records(&mut self, at: &At, from: u64, before: Link) -> Result<Records, StoreError> {
        match self.read_up_to(at, from, before)? {
            (records, None) => Ok(records),
            (_, Some(number)) => Err(self.damaged_record(at, number)),
        }
    }

    /// The records from this number on up to the first that is damaged; its number.
    fn read_up_to(&mut self, at: &At, from: u64, before: Link) -> Result<(Records, Option<u64>), StoreError> {
        let mut records = Records::new();
        let mut parts: Option<Zeroizing<Vec<u8>>> = None;
        let mut before = before;
        for number in from..at.head.number {
            let name = self.record_name(number);
            let plain = self.open_value(&at.sealer, Kind::Record, number, &name, &mut before)?;
            let Some((flag, part)) = plain.as_ref().and_then(|plain| plain.split_first()) else {
                return Ok((records, Some(number)));
            };
            let mut whole = parts.take().unwrap_or_else(|| Zeroizing::new(Vec::with_capacity(part.len())));
            whole.extend_from_slice(part);
            match *flag {
                MORE => parts = Some(whole),
                _ => records.push(whole),
            }
        }
        if before == at.head.last && parts.is_none() {
            return Ok((records, None));
        }
        // The last one is another than the head names.
        if parts.is_none() {
            records.pop();
        }
        Ok((records, Some(at.head.number.saturating_sub(1).max(from))))
    }

    pub(super) fn damaged_record(&self, at: &At, number: u64) -> StoreError {
        let after = at.head.number.saturating_sub(number + 1);
        StoreError::DamagedRecord { place: self.backend.place(), number, after }
    }

    /// Opens one value of a chain; `None` if it is missing or damaged.
    fn open_value(
        &mut self,
        sealer: &Sealer,
        kind: Kind,
        number: u64,
        name: &str,
        before: &mut Link,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Some(held) = self.read(name)? else { return Ok(None) };
        let plain = sealer.open(kind, number, before, &held.value);
        *before = link(&held.value);
        Ok(plain)
    }

    /// Reads with `work` what a head leads to, again if the head changed meanwhile.
    pub(super) fn consistently<T>(
        &mut self,
        work: impl Fn(&mut Self, &At) -> Result<T, StoreError>,
    ) -> Result<(At, T), StoreError> {
        loop {
            let at = self.read_head()?;
            match work(self, &at) {
                Ok(done) => return Ok((at, done)),
                Err(error @ (StoreError::Damaged { .. } | StoreError::DamagedRecord { .. })) => {
                    if self.read_head()?.version == at.version {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
