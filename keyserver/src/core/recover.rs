//! When the store has lost something: what is stopped, and how it goes on.
//!
//! Members are witnesses: each remembers the highest term and epoch that it has seen signed. A key server whose own past is
//! behind a signed witness stops that group, because going on would give numbers a second time. An operator lets it go on,
//! far beyond everything that anybody can have seen.

use protocol::request::{Denial, Outcome};
use protocol::{Beacon, GroupId, MemberId};
use zeroize::Zeroizing;

use super::codec::Record;
use super::restore::RestoreError;
use super::transaction::Intent;
use super::{Core, Event, Group};

/// Terms and epochs that a recovery leaves out. What was lost is what came after a backup or a copy: at a change every
/// second this is twelve days.
pub const LEAP: u64 = 1 << 20;

/// Where a recovered key server goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Every later term is above this.
    pub term: u64,
    /// By group: name, its epoch so far, and the first epoch that it may have from now on.
    pub groups: Vec<(String, u64, u64)>,
}

impl Core {
    /// Fixes a higher term and, for every group, an epoch [`LEAP`] beyond the highest known. `seen`: what the operator knows
    /// beyond that, as (term, epoch) of any group. The records have to be written before anything else.
    ///
    /// # Errors
    /// [`RestoreError::Terms`]: there are no numbers left; nothing was changed.
    pub fn recover(&mut self, seen: (u64, u64)) -> Result<(Recovery, Zeroizing<Vec<u8>>), RestoreError> {
        let leap = |from: u64| from.checked_add(LEAP).ok_or(RestoreError::Terms);
        let stopped = |group: &Group| group.stopped.unwrap_or_default();
        let term = self.groups.values().map(|group| stopped(group).0).fold(self.term.max(seen.0), u64::max);
        let term = leap(term)?;
        let mut epochs = Vec::with_capacity(self.groups.len());
        let mut groups = Vec::with_capacity(self.groups.len());
        for group in self.groups.values() {
            let known = group.epoch().max(group.floor).max(stopped(group).1).max(seen.1);
            epochs.push((group.id(), leap(known)?));
            groups.push((group.config.name.clone(), group.epoch(), leap(known)?));
        }
        let record = Record::Recovered { term, epochs };
        Ok((Recovery { term, groups }, record.encode()))
    }

    /// The record that marks a store as restored from a backup: nothing is issued before it is recovered.
    pub fn restored_record() -> Zeroizing<Vec<u8>> {
        Record::Restored.encode()
    }

    /// A member shows a beacon. If it is signed and further than this key server knows, the group is to be stopped.
    pub(super) fn witness(&mut self, name: &str, witness: MemberId, beacon: &[u8]) -> Outcome {
        let group = self.group_id(name).and_then(|id| self.groups.get(&id));
        let Some(group) = group.filter(|group| group.contains(witness)) else {
            return self.deny(name, witness, Denial::NotMember);
        };
        let known = (self.term, group.epoch());
        let shown = Beacon::decode(beacon).ok().map(|beacon| beacon.context).filter(|shown| shown.group == group.id());
        let seen = shown.map(|shown| (shown.term, shown.epoch)).filter(|seen| seen.0 > known.0 || seen.1 > known.1);
        // What others have shown already need not be written again.
        let shown_before = group.stopped.unwrap_or_default();
        if seen.is_some_and(|seen| seen.0 <= shown_before.0 && seen.1 <= shown_before.1) {
            return Outcome::Noted;
        }
        let id = group.id();
        let keys = [self.config.signing.all_public(), self.config.others.clone()].concat();
        match seen.filter(|_| Beacon::verify(beacon, &keys).is_ok()) {
            Some(seen) if self.intend(Intent::Stop { group: id, seen, witness }).is_ok() => Outcome::Noted,
            // It may have been overtaken since it asked; it shows nothing.
            _ => Outcome::Denied(Denial::Unavailable),
        }
    }

    pub(super) fn recovered(&mut self, term: u64, epochs: &[(GroupId, u64)]) {
        self.term = self.term.max(term);
        self.must_recover = false;
        for (id, epoch) in epochs {
            if let Some(group) = self.groups.get_mut(id) {
                (group.floor, group.stopped) = (group.floor.max(*epoch), None);
            }
        }
    }

    /// A member has shown that this group was further than this key server knows.
    pub(super) fn stop_group(&mut self, id: GroupId, seen: (u64, u64), witness: MemberId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.stopped = Some(group.stopped.map_or(seen, |before| (before.0.max(seen.0), before.1.max(seen.1))));
        let known = (self.term, group.epoch());
        self.event(Event::Stopped { group: id, witness, seen, known });
    }
}
