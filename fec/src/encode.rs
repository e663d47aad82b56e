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
pub fn encode(message: &[u8], layout: &Layout, coder: &mut impl Coder) -> Result<Vec<Block>, EncodeError> {
    if message.len() != layout.message_len() {
        return Err(EncodeError::Length { expected: layout.message_len(), got: message.len() });
    }
    let mut pieces = message.chunks(UNIT).map(|piece| {
        let mut unit = [0; UNIT];
        unit[..piece.len()].copy_from_slice(piece);
        unit
    });
    let encode_block = |&shape: &BlockShape| {
        let mut units: Vec<Payload> = pieces.by_ref().take(shape.s().into()).collect();
        units.extend(coder.repair(shape, &units)?);
        Ok(Block { shape, units })
    };
    layout.blocks().iter().map(encode_block).collect()
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
    /// The coder refused.
    #[error(transparent)]
    Code(#[from] CodeError),
}
