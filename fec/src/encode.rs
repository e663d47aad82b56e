//! A rekey message to units and repair units.

use thiserror::Error;

use crate::{BlockShape, CodeError, Coder, Layout, Payload, UNIT};

/// A block ready to be signed and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// How many of `units` are the message's, and how many repair units.
    pub shape: BlockShape,
    /// The `s` units of message, then the `r` repair units; the place of each is its index.
    pub units: Vec<Payload>,
}

/// Cuts `message` into the blocks of `layout` and adds their repair units. The last unit of the message is
/// filled up with zeros.
///
/// Errors: a message of another length than the layout's, or a coder that refuses.
pub fn encode(message: &[u8], layout: &Layout, coder: &impl Coder) -> Result<Vec<Block>, EncodeError> {
    (0..layout.block_count()).map(|block| encode_block(message, layout, block, coder)).collect()
}

/// One block of those that [`encode`] makes, for callers who share the work out.
///
/// Errors: those of [`encode`], or no such block.
pub fn encode_block(message: &[u8], layout: &Layout, block: u16, coder: &impl Coder) -> Result<Block, EncodeError> {
    if message.len() != layout.message_len() {
        return Err(EncodeError::Length { expected: layout.message_len(), got: message.len() });
    }
    let (before, rest) = layout.blocks().split_at_checked(block.into()).ok_or(EncodeError::NoBlock(block))?;
    let shape = *rest.first().ok_or(EncodeError::NoBlock(block))?;
    let first: usize = before.iter().map(|shape| usize::from(shape.s())).sum();
    let pieces = message[first * UNIT..].chunks(UNIT).take(shape.s().into());
    let mut units: Vec<Payload> = pieces
        .map(|piece| {
            let mut unit = [0; UNIT];
            unit[..piece.len()].copy_from_slice(piece);
            unit
        })
        .collect();
    units.extend(coder.repair(shape, &units)?);
    Ok(Block { shape, units })
}

/// Why a message cannot be encoded.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum EncodeError {
    /// The layout was made for another message.
    #[error("rekey message has {got} octets, expected the {expected} of its layout")]
    Length {
        /// Octets that the layout is for.
        expected: usize,
        /// Octets of the message.
        got: usize,
    },
    /// The layout has fewer blocks.
    #[error("the layout has no block {0}")]
    NoBlock(u16),
    /// The coder refused.
    #[error(transparent)]
    Code(#[from] CodeError),
}
