//! How a rekey message is cut into blocks.

use thiserror::Error;

use crate::{MAX_BLOCK_DATA, MAX_BLOCK_UNITS, MAX_MESSAGE, RepairScheme, SchemeError, UNIT};

/// The size of a block: `s` units of message, 1 to 16, and `r` repair units, `s + r` at most 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockShape {
    s: u8,
    r: u8,
}

impl BlockShape {
    /// Refuses `s` or `s + r` out of range.
    pub fn new(s: u8, r: u8) -> Result<Self, ShapeError> {
        let data = usize::from(s);
        if data == 0 || data > MAX_BLOCK_DATA || data + usize::from(r) > MAX_BLOCK_UNITS {
            return Err(ShapeError { s, r });
        }
        Ok(Self { s, r })
    }

    /// Units of message.
    pub fn s(self) -> u8 {
        self.s
    }

    /// Repair units.
    pub fn r(self) -> u8 {
        self.r
    }

    /// Units and repair units together.
    pub fn total(self) -> u8 {
        self.s + self.r
    }
}

/// A block that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "block has {s} units and {r} repair units, \
     expected 1 to {MAX_BLOCK_DATA} units and at most {MAX_BLOCK_UNITS} of both"
)]
pub struct ShapeError {
    s: u8,
    r: u8,
}

/// How one rekey message is cut: its units in their order, the first `s` of them in block 0, the next
/// in block 1, and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    message_len: usize,
    blocks: Vec<BlockShape>,
}

impl Layout {
    /// Cuts a message of `message_len` octets into as few blocks as `scheme` allows, for members who need all of them.
    ///
    /// The sizes of any two blocks differ by one unit at most, larger ones first. More blocks than
    /// the fewest (of at most 16 units) are made only where `s + r` would pass 32.
    ///
    /// Errors: an empty or too long message, a scheme out of range, or a target that not even blocks
    /// of one unit meet.
    pub fn new(message_len: usize, scheme: &RepairScheme) -> Result<Self, LayoutError> {
        Self::for_needs(message_len, scheme, u16::MAX)
    }

    /// As [`Layout::new`], for members who need at most `blocks_needed` blocks each, which makes a target cheaper.
    pub fn for_needs(message_len: usize, scheme: &RepairScheme, blocks_needed: u16) -> Result<Self, LayoutError> {
        scheme.check()?;
        let units = count_units(message_len)?;
        let shapes = |blocks| even_blocks(units, blocks, |s| scheme.shape(s, needed(blocks_needed, blocks)));
        let blocks = (units.div_ceil(MAX_BLOCK_DATA)..=units)
            .find_map(shapes)
            .ok_or(LayoutError::OutOfReach { scheme: *scheme, units })?;
        Ok(Self { message_len, blocks })
    }

    /// A layout of the given blocks, which must hold exactly the units of a message of
    /// `message_len` octets.
    pub fn with_blocks(message_len: usize, blocks: Vec<BlockShape>) -> Result<Self, LayoutError> {
        let expected = count_units(message_len)?;
        let got = blocks.iter().map(|shape| usize::from(shape.s)).sum();
        if got != expected {
            return Err(LayoutError::Units { expected, got });
        }
        Ok(Self { message_len, blocks })
    }

    /// Octets of the message, 1 to [`MAX_MESSAGE`].
    pub fn message_len(&self) -> usize {
        self.message_len
    }

    /// The blocks in order, at most 2,048.
    pub fn blocks(&self) -> &[BlockShape] {
        &self.blocks
    }

    /// Number of blocks, as unit headers carry it.
    pub fn block_count(&self) -> u16 {
        // Never the fallback: every block has a unit, and the longest message has 2,048.
        u16::try_from(self.blocks.len()).unwrap_or(u16::MAX)
    }

    /// Units and repair units of all blocks.
    pub fn total_units(&self) -> usize {
        self.blocks.iter().map(|shape| usize::from(shape.total())).sum()
    }

    /// Every (block, index) once, in the order to send them: index 0 of all blocks, then index 1 of
    /// all, and so on, so that a burst of losses is spread over the blocks. [`Schedule`](crate::Schedule) says when.
    pub fn send_order(&self) -> impl Iterator<Item = (u16, u8)> + '_ {
        let longest = self.blocks.iter().map(|shape| shape.total()).max().unwrap_or(0);
        (0..longest).flat_map(move |index| {
            (0..)
                .zip(&self.blocks)
                .filter(move |(_, shape)| index < shape.total())
                .map(move |(block, _)| (block, index))
        })
    }
}

/// Units that a message of `message_len` octets fills, the last one perhaps in part.
pub(crate) fn count_units(message_len: usize) -> Result<usize, LayoutError> {
    match message_len {
        0 => Err(LayoutError::Empty),
        1..=MAX_MESSAGE => Ok(message_len.div_ceil(UNIT)),
        _ => Err(LayoutError::TooLong(message_len)),
    }
}

/// Nobody needs more blocks than there are.
pub(crate) fn needed(blocks_needed: u16, blocks: usize) -> u16 {
    u16::try_from(blocks).map_or(blocks_needed, |blocks| blocks_needed.min(blocks))
}

/// `units` in so many blocks, larger ones first, each of the shape that `shape` has for its size; `None` if that has none.
pub(crate) fn even_blocks(
    units: usize,
    blocks: usize,
    shape: impl Fn(u8) -> Option<BlockShape>,
) -> Option<Vec<BlockShape>> {
    let (size, larger) = (units / blocks, units % blocks);
    let shape = |s: usize| shape(u8::try_from(s).ok()?);
    let mut shapes = Vec::with_capacity(blocks);
    if larger > 0 {
        shapes.resize(larger, shape(size + 1)?);
    }
    shapes.resize(blocks, shape(size)?);
    Some(shapes)
}

/// Why a message cannot be laid out.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum LayoutError {
    /// The message has no octets.
    #[error("rekey message is empty")]
    Empty,
    /// The message is too long.
    #[error("rekey message has {0} octets, expected at most {MAX_MESSAGE}")]
    TooLong(usize),
    /// The blocks do not hold the message.
    #[error("blocks hold {got} units, expected the {expected} of the rekey message")]
    Units {
        /// Units of the message.
        expected: usize,
        /// Units in the blocks.
        got: usize,
    },
    /// The scheme's numbers are out of range.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    /// No block size meets the scheme.
    #[error(
        "repair scheme {scheme} is out of reach for a rekey message of {units} units: \
         even one unit and 31 repair units miss too often"
    )]
    OutOfReach {
        /// The scheme.
        scheme: RepairScheme,
        /// Units of the message.
        units: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(layout: &Layout) -> Vec<(u8, u8)> {
        layout.blocks().iter().map(|shape| (shape.s(), shape.r())).collect()
    }

    #[test]
    fn blocks_are_even_and_as_few_as_can_be() {
        let layout = |len| sizes(&Layout::new(len, &RepairScheme::Rs1).unwrap());
        assert_eq!(layout(1), [(1, 2)]);
        assert_eq!(layout(512), [(1, 2)]);
        assert_eq!(layout(513), [(2, 3)]);
        assert_eq!(layout(16 * UNIT), [(16, 8)]);
        assert_eq!(layout(16 * UNIT + 1), [(9, 6), (8, 5)]);
        assert_eq!(layout(40 * UNIT), [(14, 7), (13, 7), (13, 7)]);
        assert_eq!(layout(MAX_MESSAGE), [(16, 8); 128]);
    }

    #[test]
    fn a_demanding_target_makes_smaller_blocks() {
        let demanding = RepairScheme::Target { loss: 0.3, miss: 0.001 };
        let layout = Layout::new(16 * UNIT, &demanding).unwrap();
        assert!(demanding.shape(16, 1).is_none());
        assert_eq!(layout.block_count(), 2);
        assert!(layout.blocks().iter().all(|shape| shape.s() == 8));
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused() {
        let rs1 = RepairScheme::Rs1;
        assert_eq!(Layout::new(0, &rs1), Err(LayoutError::Empty));
        assert_eq!(Layout::new(MAX_MESSAGE + 1, &rs1), Err(LayoutError::TooLong(MAX_MESSAGE + 1)));
        let unchecked = RepairScheme::Target { loss: 0.6, miss: 0.1 };
        assert_eq!(Layout::new(1, &unchecked), Err(LayoutError::Scheme(SchemeError::Loss(0.6))));
        let scheme = RepairScheme::Target { loss: 0.5, miss: 1e-9 };
        assert!(Layout::new(UNIT, &scheme).is_ok());
        assert_eq!(Layout::new(MAX_MESSAGE, &scheme), Err(LayoutError::OutOfReach { scheme, units: 2048 }));
        let blocks = vec![BlockShape::new(2, 0).unwrap()];
        assert_eq!(Layout::with_blocks(UNIT, blocks), Err(LayoutError::Units { expected: 1, got: 2 }));
    }

    #[test]
    fn shapes_have_limits() {
        assert!(BlockShape::new(16, 16).is_ok() && BlockShape::new(1, 31).is_ok() && BlockShape::new(1, 0).is_ok());
        for (s, r) in [(0, 0), (0, 4), (17, 0), (16, 17), (1, 32), (255, 255)] {
            assert_eq!(BlockShape::new(s, r), Err(ShapeError { s, r }));
        }
    }

    #[test]
    fn send_order_interleaves_and_names_every_unit_once() {
        let layout = Layout::new(17 * UNIT, &RepairScheme::Rs1).unwrap();
        let order: Vec<(u16, u8)> = layout.send_order().collect();
        assert_eq!(order[..5], [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]);
        assert_eq!(order[25..], [(1, 12), (0, 13), (0, 14)]);
        let once: std::collections::BTreeSet<_> = order.iter().collect();
        assert_eq!((once.len(), order.len()), (layout.total_units(), layout.total_units()));
    }
}
