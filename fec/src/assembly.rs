//! Units and repair units back to one rekey message.

use std::collections::BTreeMap;
use std::mem;

use thiserror::Error;

use crate::layout::count_units;
use crate::{BlockShape, CodeError, Coder, LayoutError, MAX_BLOCK_DATA, Payload, ShapeError, UNIT};

/// A unit or repair unit as received, verified, with what its header says of its place.
#[derive(Debug, Clone, Copy)]
pub struct Unit<'a> {
    /// Number of the block in the message, from 0.
    pub block: u16,
    /// Number of the unit in the block: 0 to `s - 1` the message's, from `s` the repair units.
    pub index: u8,
    /// Units of message in the block.
    pub s: u8,
    /// Repair units of the block.
    pub r: u8,
    /// The octets.
    pub payload: &'a Payload,
}

/// What a unit has brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It was new, and more are needed.
    Incomplete,
    /// It was here already, or its block or message is complete without it. It has been ignored.
    Duplicate,
    /// Its message is older than what is kept track of. It has been ignored. (Only [`crate::Reassembly`] says so.)
    Stale,
    /// The message is whole.
    Complete {
        /// The rekey message.
        message: Vec<u8>,
        /// Units of message that had not arrived when their blocks were complete, and were made
        /// from repair units; not 0 means that the message was recovered by repair units.
        recovered: usize,
    },
}

/// One rekey message in the making. Only verified units may be given to it.
///
/// It holds at most as many units as the message has, so `message_len` rounded up to units, at most
/// [`MAX_MESSAGE`](crate::MAX_MESSAGE), and twice that for a moment when the message is put together.
#[derive(Debug)]
pub struct Assembly {
    message_len: usize,
    blocks: Vec<Option<Slot>>,
    incomplete: usize,
    recovered: usize,
    /// Units held.
    held: usize,
}

impl Assembly {
    /// A message of `message_len` octets in `blocks` blocks, of which nothing has arrived. The sizes
    /// of its blocks are learnt from the first unit of each.
    ///
    /// Errors: a length that no message has, or a number of blocks that cannot hold that length.
    pub fn new(message_len: usize, blocks: u16) -> Result<Self, AssemblyError> {
        let units = count_units(message_len)?;
        let count = usize::from(blocks);
        if !(count..=count * MAX_BLOCK_DATA).contains(&units) {
            return Err(AssemblyError::Blocks { blocks, units });
        }
        let slots = (0..count).map(|_| None).collect();
        Ok(Self { message_len, blocks: slots, incomplete: count, recovered: 0, held: 0 })
    }

    /// Octets of the message.
    pub fn message_len(&self) -> usize {
        self.message_len
    }

    /// Octets of units that it holds.
    pub fn octets(&self) -> usize {
        self.held * UNIT
    }

    /// Takes in a verified unit. On an error nothing has changed, and the signer of the unit is to blame.
    pub fn insert(&mut self, unit: Unit<'_>, coder: &impl Coder) -> Result<Progress, AssemblyError> {
        if self.incomplete == 0 {
            return Ok(Progress::Duplicate);
        }
        let shape = self.check(unit)?;
        let padding = self.padding(unit.block);
        let place = &mut self.blocks[usize::from(unit.block)];
        let mut slot = place.take().unwrap_or_else(|| Slot::new(shape));
        let before = slot.units.len();
        let outcome = slot.insert(unit, padding, coder);
        self.held = self.held + slot.units.len() - before;
        if !slot.units.is_empty() {
            *place = Some(slot);
        }
        match outcome? {
            Outcome::Known => Ok(Progress::Duplicate),
            Outcome::Taken => Ok(Progress::Incomplete),
            Outcome::BlockComplete { recovered } => {
                self.incomplete -= 1;
                self.recovered += recovered;
                Ok(if self.incomplete == 0 { self.finish() } else { Progress::Incomplete })
            }
        }
    }

    /// Everything that can be said of a unit from its header and the headers before it.
    fn check(&self, unit: Unit<'_>) -> Result<BlockShape, AssemblyError> {
        let Unit { block, index, s, r, .. } = unit;
        let blocks = self.blocks.len();
        let known = self.blocks.get(usize::from(block)).ok_or(AssemblyError::Block { block, blocks })?;
        let shape = BlockShape::new(s, r)?;
        if index >= shape.total() {
            return Err(AssemblyError::Index { block, index, total: shape.total() });
        }
        match known {
            Some(slot) if slot.shape == shape => Ok(shape),
            Some(slot) => Err(AssemblyError::Shape { block, expected: slot.shape, got: shape }),
            None => self.check_sum(block, shape),
        }
    }

    /// Whether the sizes known so far, this new one, and 1 to 16 for each unknown block can still
    /// sum up to the units of the message. With the last block known the sum is exact.
    fn check_sum(&self, block: u16, shape: BlockShape) -> Result<BlockShape, AssemblyError> {
        let units = self.message_len.div_ceil(UNIT);
        let known = || self.blocks.iter().flatten();
        let sum = known().map(|slot| usize::from(slot.shape.s())).sum::<usize>() + usize::from(shape.s());
        let unknown = self.blocks.len() - known().count() - 1;
        if !(sum + unknown..=sum + unknown * MAX_BLOCK_DATA).contains(&units) {
            return Err(AssemblyError::Sum { block, s: shape.s(), units });
        }
        Ok(shape)
    }

    /// Octets after the message's end, in the last unit of this block.
    fn padding(&self, block: u16) -> usize {
        let last = usize::from(block) + 1 == self.blocks.len();
        if last { self.message_len.next_multiple_of(UNIT) - self.message_len } else { 0 }
    }

    fn finish(&mut self) -> Progress {
        let mut message = Vec::with_capacity(self.message_len.next_multiple_of(UNIT));
        for slot in mem::take(&mut self.blocks).into_iter().flatten() {
            for unit in slot.units.values() {
                message.extend_from_slice(&**unit);
            }
        }
        message.truncate(self.message_len);
        Progress::Complete { message, recovered: self.recovered }
    }
}

/// One block in the making: any units while it is incomplete, then exactly those of the message.
#[derive(Debug)]
struct Slot {
    shape: BlockShape,
    units: BTreeMap<u8, Box<Payload>>,
}

enum Outcome {
    Known,
    Taken,
    BlockComplete { recovered: usize },
}

impl Slot {
    fn new(shape: BlockShape) -> Self {
        Self { shape, units: BTreeMap::new() }
    }

    /// On an error nothing has changed.
    fn insert(&mut self, unit: Unit<'_>, padding: usize, coder: &impl Coder) -> Result<Outcome, AssemblyError> {
        let s = usize::from(self.shape.s());
        if self.units.len() == s || self.units.contains_key(&unit.index) {
            return Ok(Outcome::Known);
        }
        self.units.insert(unit.index, Box::new(*unit.payload));
        if self.units.len() < s {
            return Ok(Outcome::Taken);
        }
        let missing = self.decode(unit.block, padding, coder).inspect_err(|_| {
            self.units.remove(&unit.index);
        })?;
        let recovered = missing.len();
        self.units.retain(|index, _| *index < self.shape.s());
        self.units.extend(missing.into_iter().map(|(index, payload)| (index, Box::new(payload))));
        Ok(Outcome::BlockComplete { recovered })
    }

    /// The units of message that have not arrived, once the end of the message has been checked.
    fn decode(&self, block: u16, padding: usize, coder: &impl Coder) -> Result<Vec<(u8, Payload)>, AssemblyError> {
        let missing = coder.missing(self.shape, &self.units)?;
        let last = self.shape.s() - 1;
        let recovered = missing.iter().find(|(index, _)| *index == last).map(|(_, payload)| payload);
        let arrived = self.units.get(&last).map(|payload| &**payload);
        match recovered.or(arrived) {
            Some(unit) if unit[UNIT - padding..].iter().all(|octet| *octet == 0) => Ok(missing),
            _ => Err(AssemblyError::Padding { block, padding }),
        }
    }
}

/// Why a unit, or the first unit of a message, is refused. The unit was verified, so its signer is to blame;
/// nothing has changed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum AssemblyError {
    /// No message has this length.
    #[error(transparent)]
    Length(#[from] LayoutError),
    /// The number of blocks cannot hold the message.
    #[error("rekey message of {units} units is said to have {blocks} blocks of 1 to {MAX_BLOCK_DATA} units")]
    Blocks {
        /// Blocks announced.
        blocks: u16,
        /// Units of the message.
        units: usize,
    },
    /// The unit says something else about its message than the first unit did.
    #[error(
        "unit says that its rekey message has {len} octets in {blocks} blocks, \
         expected {expected_len} octets in {expected_blocks} blocks as said before"
    )]
    Message {
        /// Octets announced by the first unit.
        expected_len: usize,
        /// Blocks announced by the first unit.
        expected_blocks: u16,
        /// Octets announced by this unit.
        len: usize,
        /// Blocks announced by this unit.
        blocks: u16,
    },
    /// The message has no such block.
    #[error("unit is of block {block}, expected below {blocks}")]
    Block {
        /// The unit's block.
        block: u16,
        /// Blocks of the message.
        blocks: usize,
    },
    /// No block has this shape.
    #[error(transparent)]
    BadShape(#[from] ShapeError),
    /// The unit says something else about its block than the first unit did.
    #[error(
        "unit says that block {block} has {}+{} units, expected {}+{} as said before",
        got.s(), got.r(), expected.s(), expected.r()
    )]
    Shape {
        /// The unit's block.
        block: u16,
        /// Shape announced by the block's first unit.
        expected: BlockShape,
        /// Shape announced by this unit.
        got: BlockShape,
    },
    /// The block has no such unit.
    #[error("unit of block {block} has index {index}, expected below {total}")]
    Index {
        /// The unit's block.
        block: u16,
        /// The unit's index.
        index: u8,
        /// Units and repair units of the block.
        total: u8,
    },
    /// The sizes of the blocks cannot sum up to the message.
    #[error("block {block} of {s} units, with the other blocks, does not make a rekey message of {units} units")]
    Sum {
        /// The unit's block.
        block: u16,
        /// Units of message in it.
        s: u8,
        /// Units of the message.
        units: usize,
    },
    /// The message is followed by something.
    #[error("the {padding} octets after the rekey message's end, in block {block}, are not zero")]
    Padding {
        /// The last block.
        block: u16,
        /// Octets that should be zero.
        padding: usize,
    },
    /// The coder refused.
    #[error(transparent)]
    Code(#[from] CodeError),
}
