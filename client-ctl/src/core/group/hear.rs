//! What comes by multicast: units and beacons, and what follows from them.

use std::time::Duration;

use protocol::Beacon;
use protocol::unit::{Unit, UnitError};

use super::super::fence::Conflict;
use super::super::member::{Broken, Taken, Unusable};
use super::super::output::{Event, How, Status};
use super::super::requests::Ask;
use super::{Env, Group, Want};

impl Group {
    /// An unverified unit of this group, and the datagram that it came in. The cheapest checks come first: epoch, tag, whether
    /// its block is known, digests; then the signature. Whether anything may have changed but counters.
    pub(in super::super) fn unit(&mut self, env: &mut Env<'_>, unit: &Unit<'_>, datagram: &[u8]) -> bool {
        let Some(member) = &mut self.member else {
            return false;
        };
        self.counters.units_received += 1;
        let header = unit.header.epoch;
        let over = self.ending.as_ref().is_some_and(|ending| header.epoch >= ending.epoch);
        let (term, epoch) = member.at();
        if over || header.term < term || header.epoch <= epoch || self.fence.is_past(header.term) {
            self.counters.units_old += 1;
            // Late, and still a unit that was not lost.
            if env.verifier.knows(&unit.header) {
                self.tally.note(env.now, &unit.header, unit.index);
            }
            return false;
        }
        let tagged = member.is_tagged(header.previous, datagram);
        if tagged == Some(false) {
            self.counters.units_bad_tag += 1;
            return false;
        }
        let budget = if tagged.is_some() { &mut self.budgets.tagged } else { &mut self.budgets.untagged };
        let unit = match env.verifier.verify(unit, || budget.spend(env.now)) {
            Ok(unit) => unit,
            Err(UnitError::Unchecked) => {
                self.counters.units_unchecked += 1;
                return false;
            }
            Err(UnitError::Foreign | UnitError::Signature(_)) => {
                self.counters.units_bad_signature += 1;
                return false;
            }
        };
        self.tally.note(env.now, &unit.header, unit.index);
        if let Err(conflict) = self.fence.same_reign(&header.context()) {
            self.conflict(env, conflict);
            return true;
        }
        match member.take(&unit) {
            Err(Unusable::Conflict(conflict)) => {
                self.conflict(env, conflict);
                return true;
            }
            Err(_) => {
                self.counters.units_malformed += 1;
                env.event(Event::Dropped { cause: "a signed unit that cannot be used" });
                self.fence.raise(&header.context());
                self.need(env, "a signed unit that makes no sense");
                return true;
            }
            Ok(Taken::Nothing { is_new }) => {
                self.counters.units_duplicate += u64::from(!is_new);
                self.fence.raise(&header.context());
            }
            Ok(Taken::Whole { recovered }) => {
                self.fence.raise(&header.context());
                self.counters.messages += 1;
                self.counters.messages_recovered += u64::from(recovered);
                self.catch_up(env);
            }
        }
        if self.member.as_ref().is_some_and(|member| header.epoch > member.context.epoch + 1) {
            self.need(env, "a rekey message is missing");
        }
        true
    }

    /// An unverified beacon of this group. Whether anything may have changed but counters.
    pub(in super::super) fn beacon(&mut self, env: &mut Env<'_>, beacon: &Beacon, datagram: &[u8]) -> bool {
        let Some(member) = &mut self.member else {
            return false;
        };
        if self.fence.is_replay(beacon) {
            self.counters.beacon_replays += 1;
            return false;
        }
        let tagged = member.is_tagged(beacon.header_hash, datagram);
        if tagged == Some(false) {
            self.counters.beacons_bad_tag += 1;
            return false;
        }
        let budget = if tagged.is_some() { &mut self.budgets.tagged } else { &mut self.budgets.beacons };
        if !budget.spend(env.now) {
            self.counters.beacons_unchecked += 1;
            return false;
        }
        if Beacon::verify(datagram, env.verifier.keys()).is_err() {
            self.counters.beacons_bad_signature += 1;
            return false;
        }
        let at = (beacon.context.term, beacon.context.epoch);
        let checked = self
            .fence
            .same_reign(&beacon.context)
            .and_then(|()| member.agrees(beacon))
            .and_then(|()| self.fence.same_claim(at, &beacon.commitment, &beacon.header_hash));
        if let Err(conflict) = checked {
            self.conflict(env, conflict);
            return true;
        }
        self.counters.beacons += 1;
        self.fence.raise_by(beacon, datagram);
        let hold_ms = member.hold_ms();
        member.hear(env.now, beacon);
        self.changed |= member.hold_ms() != hold_ms;
        if at > member.at() {
            self.need(env, "the beacon is ahead");
        } else {
            self.settle();
        }
        true
    }

    /// Applies whatever continues the installed epoch.
    pub(super) fn catch_up(&mut self, env: &mut Env<'_>) {
        while let Some(member) = &mut self.member
            && let Some(step) = member.step(env.now, &self.fence)
        {
            let (term, epoch) = member.at();
            match step {
                Ok(recovered) => {
                    let (group, how) = (self.name.clone(), How::Multicast);
                    env.event(Event::Installed { group, term, epoch, recovered, how });
                    self.changed = true;
                    if let Some(ending) = &self.ending {
                        member.keys.retire(env.now, ending.at);
                    }
                }
                Err(Broken::Conflict(conflict)) => {
                    self.conflict(env, conflict);
                    self.need(env, "the chain of epochs is broken");
                }
                Err(Broken::Elsewhere) => self.need(env, "a new reign goes on from another epoch"),
                Err(Broken::Apply(error)) => {
                    self.counters.messages_unusable += 1;
                    env.event(Event::Unusable { group: self.name.clone(), why: error.to_string() });
                    self.need(env, "the rekey message gives no way to the next key");
                }
            }
        }
        self.settle();
    }

    /// If nothing newer is known than what is installed, nothing is needed.
    pub(super) fn settle(&mut self) {
        let Some(member) = &self.member else { return };
        if member.at() < self.fence.seen() || self.ending.is_some() || self.asking.is_some() {
            return;
        }
        self.want.take_if(|want| want.ask == Ask::Resync);
        if self.want.is_none() {
            self.attempt = 0;
        }
        self.set(if self.status == Status::Stale { Status::Member } else { self.status }, "");
    }

    /// Something is missing: after a random wait, chosen once, it is asked for.
    pub(in super::super) fn need(&mut self, env: &mut Env<'_>, why: &'static str) {
        let Some(member) = &self.member else { return };
        if self.want.is_some() || self.asking.is_some() || self.ending.is_some() {
            return;
        }
        let wait_ms = env.entropy.below(u64::from(member.resync_wait_ms) + 1);
        let at = env.now + Duration::from_millis(wait_ms);
        self.want = Some(Want { ask: Ask::Resync, at, again: false });
        self.detail = why.to_owned();
        env.event(Event::Waiting { group: self.name.clone(), wait_ms, why });
    }

    fn conflict(&mut self, env: &mut Env<'_>, what: Conflict) {
        self.counters.conflicts += 1;
        env.event(Event::Conflict { group: self.name.clone(), what });
    }
}
