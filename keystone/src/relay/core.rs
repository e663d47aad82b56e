//! What a relay passes on: units and beacons that the key server signed, each once.
//!
//! It holds no key of a group, so it cannot check tags. The cheapest checks come first: form, whether it is old, whether it has
//! passed already, digests; then the signature, of which only so many are looked at. Nothing is remembered that was not
//! verified.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use protocol::unit::{Kind, Unit, kind};
use protocol::{Beacon, Budget, GroupId, VerifyingKey};
use serde::Serialize;

use super::group::{BlockId, Group};

/// Groups remembered, some 500 octets each: what a key server has at the most.
const MAX_GROUPS: usize = 10_000;
/// Blocks remembered, some 300 octets each: what the default ceiling of a key server sends in a minute and a half. What is
/// forgotten never passes again.
const MAX_BLOCKS: usize = 1 << 16;

/// Why a datagram was not passed on. Nothing was changed but a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Neither a unit nor a beacon.
    Malformed,
    /// Of an earlier reign or epoch than members still take, or forgotten meanwhile.
    Old,
    /// It has passed.
    Duplicate,
    /// Not signed by the key server.
    Forged,
    /// Its signature was not looked at: too many were.
    Unchecked,
    /// Of one group more than are remembered.
    Crowded,
}

/// Datagrams since the start, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counters {
    /// Passed on.
    pub(super) passed: u64,
    pub(super) malformed: u64,
    pub(super) old: u64,
    pub(super) duplicate: u64,
    pub(super) forged: u64,
    pub(super) unchecked: u64,
    pub(super) crowded: u64,
    /// Signatures looked at.
    pub(super) signatures: u64,
}

/// Signature checks. Whoever sent what was verified lately has a ration apart from everybody else's, so that strangers cannot
/// use it up.
pub(super) struct Rations {
    known: Budget,
    others: Budget,
}

impl Rations {
    /// Of one group. At its default rate a key server begins less than 700 blocks a second; saved up are those of the longest
    /// message. Others need no more than to become known.
    pub(super) fn of_group() -> Self {
        Self { known: Budget::new(2_000, 2_048), others: Budget::new(100, 128) }
    }

    /// Of all groups, those included of which nothing is known: at 50 us each, a quarter of a core and a twentieth.
    fn of_all() -> Self {
        Self { known: Budget::new(5_000, 5_000), others: Budget::new(1_000, 1_000) }
    }

    fn spend(&mut self, now: Duration, is_known: bool) -> bool {
        if is_known { self.known.spend(now) } else { self.others.spend(now) }
    }
}

/// The state and rules of a relay.
pub(super) struct Core {
    keys: Vec<VerifyingKey>,
    groups: BTreeMap<GroupId, Group>,
    /// Of all blocks remembered, oldest first.
    order: VecDeque<(GroupId, BlockId)>,
    /// Blocks remembered at the most.
    most: usize,
    rations: Rations,
    counters: Counters,
}

impl Core {
    /// Passes on what one of `keys` has signed.
    pub(super) fn new(keys: Vec<VerifyingKey>) -> Self {
        Self::with_blocks(keys, MAX_BLOCKS)
    }

    /// The same with another memory.
    pub(super) fn with_blocks(keys: Vec<VerifyingKey>, most: usize) -> Self {
        Self {
            keys,
            groups: BTreeMap::new(),
            order: VecDeque::new(),
            most,
            rations: Rations::of_all(),
            counters: Counters::default(),
        }
    }

    /// Passes on what one of these has signed, from now on.
    pub(super) fn trust(&mut self, keys: Vec<VerifyingKey>) {
        self.keys = keys;
    }

    /// Whether this datagram is to be passed on. `now` is since an arbitrary start.
    pub(super) fn handle(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) -> Result<(), Cause> {
        let verdict = match kind(datagram) {
            Ok(Kind::Unit) => self.unit(now, from, datagram),
            Ok(Kind::Beacon) => self.beacon(now, from, datagram),
            Err(_) => Err(Cause::Malformed),
        };
        let counters = &mut self.counters;
        *match verdict {
            Ok(()) => &mut counters.passed,
            Err(Cause::Malformed) => &mut counters.malformed,
            Err(Cause::Old) => &mut counters.old,
            Err(Cause::Duplicate) => &mut counters.duplicate,
            Err(Cause::Forged) => &mut counters.forged,
            Err(Cause::Unchecked) => &mut counters.unchecked,
            Err(Cause::Crowded) => &mut counters.crowded,
        } += 1;
        verdict
    }

    /// What was counted.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// Groups and blocks remembered.
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.groups.len(), self.order.len())
    }

    fn unit(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) -> Result<(), Cause> {
        let unit = Unit::decode(datagram).map_err(|_| Cause::Malformed)?;
        let (id, place) = (unit.header.epoch.group, BlockId::of(&unit.header));
        if let Some(group) = self.groups.get_mut(&id) {
            group.accepts(&unit.header.epoch.context())?;
            if let Some(block) = group.blocks.get_mut(&place) {
                return block.pass(&unit);
            }
            group.may_be_new(&place)?;
        }
        self.may_check(now, from, id)?;
        let signed = unit.check(&self.keys).map_err(|_| Cause::Forged)?;
        let group = self.enter(id, from)?;
        group.raise(&unit.header.epoch.context());
        group.add(place, &unit, signed);
        self.order.push_back((id, place));
        if self.order.len() > self.most
            && let Some((id, place)) = self.order.pop_front()
            && let Some(group) = self.groups.get_mut(&id)
        {
            group.forget(place);
        }
        Ok(())
    }

    fn beacon(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) -> Result<(), Cause> {
        let beacon = Beacon::decode(datagram).map_err(|_| Cause::Malformed)?;
        let id = beacon.context.group;
        if let Some(group) = self.groups.get(&id) {
            group.accepts(&beacon.context)?;
            group.is_next(&beacon)?;
        }
        self.may_check(now, from, id)?;
        Beacon::verify(datagram, &self.keys).map_err(|_| Cause::Forged)?;
        let group = self.enter(id, from)?;
        group.raise(&beacon.context);
        group.counter = beacon.counter;
        Ok(())
    }

    /// Whether a signature may be looked at: if the ration of its group, and that of all, has one left.
    fn may_check(&mut self, now: Duration, from: SocketAddr, group: GroupId) -> Result<(), Cause> {
        let group = self.groups.get_mut(&group);
        let is_known = group.as_ref().is_some_and(|group| group.sources.contains(&from));
        let may = group.is_none_or(|group| group.rations.spend(now, is_known)) && self.rations.spend(now, is_known);
        if !may {
            return Err(Cause::Unchecked);
        }
        self.counters.signatures += 1;
        Ok(())
    }

    /// The group of something verified.
    fn enter(&mut self, id: GroupId, from: SocketAddr) -> Result<&mut Group, Cause> {
        if !self.groups.contains_key(&id) && self.groups.len() >= MAX_GROUPS {
            return Err(Cause::Crowded);
        }
        let group = self.groups.entry(id).or_insert_with(Group::new);
        group.trust(from);
        Ok(group)
    }
}
