//! What a relay remembers of one group: the newest reign and epoch, and which units have passed.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use protocol::unit::{BlockHeader, Signed, Unit};
use protocol::{Beacon, EpochContext, Incarnation};

use super::core::{Cause, Rations};

/// Epochs behind the newest that still pass: as many as a member keeps messages of, because a gap before them is not filled.
const WINDOW: u64 = 16;
/// Senders remembered as good: the key server, and relays on several ways from it.
const MAX_SOURCES: usize = 4;

/// A block's place in the order of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockId {
    term: u64,
    epoch: u64,
    message: u16,
    block: u16,
}

impl BlockId {
    pub(super) fn of(header: &BlockHeader) -> Self {
        let BlockHeader { epoch, message, block, .. } = header;
        Self { term: epoch.term, epoch: epoch.epoch, message: *message, block: *block }
    }
}

/// A block whose signature was verified.
pub(super) struct Block {
    header: BlockHeader,
    signed: Signed,
    /// Which units have passed, as bits by index.
    passed: u32,
}

impl Block {
    /// A unit of this block passes once.
    pub(super) fn pass(&mut self, unit: &Unit<'_>) -> Result<(), Cause> {
        let bit = bit(unit);
        if self.passed & bit != 0 {
            return Err(Cause::Duplicate);
        }
        if unit.header != self.header || !unit.is_of(&self.signed) {
            return Err(Cause::Forged);
        }
        self.passed |= bit;
        Ok(())
    }
}

/// Indexes are below 32.
fn bit(unit: &Unit<'_>) -> u32 {
    1u32.checked_shl(unit.index.into()).unwrap_or(0)
}

pub(super) struct Group {
    /// The newest reign.
    reign: Option<(u64, Incarnation)>,
    /// Its newest epoch.
    epoch: u64,
    /// Counter of its newest beacon.
    pub(super) counter: u64,
    pub(super) blocks: BTreeMap<BlockId, Block>,
    /// Blocks up to here are forgotten, unless they are remembered above.
    floor: Option<BlockId>,
    /// Who sent what was verified last, newest last.
    pub(super) sources: VecDeque<SocketAddr>,
    pub(super) rations: Rations,
}

impl Group {
    pub(super) fn new() -> Self {
        Self {
            reign: None,
            epoch: 0,
            counter: 0,
            blocks: BTreeMap::new(),
            floor: None,
            sources: VecDeque::new(),
            rations: Rations::of_group(),
        }
    }

    /// Whether members could still want something of this epoch. One term has one incarnation.
    pub(super) fn accepts(&self, context: &EpochContext) -> Result<(), Cause> {
        let is_old = self.reign.is_some_and(|(term, incarnation)| {
            let same = context.term == term;
            context.term < term
                || same && (context.incarnation != incarnation || context.epoch.saturating_add(WINDOW) < self.epoch)
        });
        if is_old { Err(Cause::Old) } else { Ok(()) }
    }

    /// Whether a beacon is newer than all before it.
    pub(super) fn is_next(&self, beacon: &Beacon) -> Result<(), Cause> {
        match self.reign {
            Some((term, _)) if term == beacon.context.term && beacon.counter == self.counter => Err(Cause::Duplicate),
            Some((term, _)) if term == beacon.context.term && beacon.counter < self.counter => Err(Cause::Old),
            _ => Ok(()),
        }
    }

    /// Whether a block that is not remembered can be new.
    pub(super) fn may_be_new(&self, place: &BlockId) -> Result<(), Cause> {
        if self.floor.is_some_and(|floor| *place <= floor) { Err(Cause::Old) } else { Ok(()) }
    }

    /// Something of this epoch was verified.
    pub(super) fn raise(&mut self, context: &EpochContext) {
        if self.reign.is_none_or(|(term, _)| term < context.term) {
            self.reign = Some((context.term, context.incarnation));
            (self.epoch, self.counter) = (context.epoch, 0);
        }
        self.epoch = self.epoch.max(context.epoch);
    }

    pub(super) fn add(&mut self, place: BlockId, unit: &Unit<'_>, signed: Signed) {
        self.blocks.insert(place, Block { header: unit.header, signed, passed: bit(unit) });
    }

    /// A block makes room for newer ones; what is left of it does not pass any more.
    pub(super) fn forget(&mut self, place: BlockId) {
        self.blocks.remove(&place);
        self.floor = self.floor.max(Some(place));
    }

    pub(super) fn trust(&mut self, source: SocketAddr) {
        self.sources.retain(|known| *known != source);
        if self.sources.len() >= MAX_SOURCES {
            self.sources.pop_front();
        }
        self.sources.push_back(source);
    }
}
