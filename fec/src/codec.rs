//! The erasure coder behind a trait, and its implementation over GF(2^8).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use reed_solomon_erasure::{Error as RsError, galois_8};
use thiserror::Error;

use crate::{BlockShape, Payload, UNIT};

/// Codecs kept at once. Each remembers up to 254 inverted matrices, some 150 KiB; there are 345
/// shapes, and a server with one scheme uses few of them, so this is plenty and stays below 5 MiB.
const MAX_CODECS: usize = 32;

/// Makes repair units, and the units of message that are missing. One serves many threads.
pub trait Coder: Sync {
    /// The `r` repair units of a block, from its `s` units of message in order.
    ///
    /// Errors: `original` has not `s` units.
    fn repair(&self, shape: BlockShape, original: &[Payload]) -> Result<Vec<Payload>, CodeError>;

    /// The units of message that are not among `units`, each with its index, in order. `units` are those
    /// that arrived, by index: 0 to `s - 1` the message's, from `s` the repair units.
    ///
    /// Errors: fewer than `s` units, or an index of `s + r` or above.
    fn missing(&self, shape: BlockShape, units: &BTreeMap<u8, Box<Payload>>) -> Result<Vec<(u8, Payload)>, CodeError>;
}

/// Systematic Reed-Solomon code over GF(2^8) with the polynomial 0x11D. The coefficients are the rows of
/// the Vandermonde matrix `V[i][c] = i^c` times the inverse of its top `s` rows; they are part of
/// the format (other coders' parity differs). A block of one unit is repeated.
#[derive(Default)]
pub struct ReedSolomon {
    codecs: Mutex<BTreeMap<BlockShape, Arc<galois_8::ReedSolomon>>>,
}

impl ReedSolomon {
    /// A coder that has made no codec yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn codec(&self, shape: BlockShape) -> Result<Arc<galois_8::ReedSolomon>, CodeError> {
        // Whole entries only go in and out, so a panic elsewhere leaves nothing half done.
        let mut codecs = self.codecs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(codec) = codecs.get(&shape) {
            return Ok(Arc::clone(codec));
        }
        if codecs.len() >= MAX_CODECS {
            codecs.clear();
        }
        let codec = galois_8::ReedSolomon::new(shape.s().into(), shape.r().into()).map_err(CodeError::Library)?;
        let codec = Arc::new(codec);
        codecs.insert(shape, Arc::clone(&codec));
        Ok(codec)
    }
}

impl Coder for ReedSolomon {
    fn repair(&self, shape: BlockShape, original: &[Payload]) -> Result<Vec<Payload>, CodeError> {
        let (s, r) = (usize::from(shape.s()), usize::from(shape.r()));
        if original.len() != s {
            return Err(CodeError::Units { expected: s, got: original.len() });
        }
        let mut repair = vec![[0; UNIT]; r];
        match (original, r) {
            (_, 0) => {}
            ([unit], _) => repair.fill(*unit),
            _ => self.codec(shape)?.encode_sep(original, &mut repair).map_err(CodeError::Library)?,
        }
        Ok(repair)
    }

    fn missing(&self, shape: BlockShape, units: &BTreeMap<u8, Box<Payload>>) -> Result<Vec<(u8, Payload)>, CodeError> {
        if units.len() < usize::from(shape.s()) {
            return Err(CodeError::Units { expected: shape.s().into(), got: units.len() });
        }
        if let Some((&index, _)) = units.range(shape.total()..).next() {
            return Err(CodeError::Index { index, total: shape.total() });
        }
        let missing: Vec<u8> = (0..shape.s()).filter(|index| !units.contains_key(index)).collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        if let (1, Some((_, copy))) = (shape.s(), units.first_key_value()) {
            return Ok(vec![(0, **copy)]);
        }
        let mut shards: Vec<(Payload, bool)> = (0..shape.total())
            .map(|index| units.get(&index).map_or(([0; UNIT], false), |unit| (**unit, true)))
            .collect();
        self.codec(shape)?.reconstruct_data(&mut shards).map_err(CodeError::Library)?;
        Ok(missing.into_iter().map(|index| (index, shards[usize::from(index)].0)).collect())
    }
}

/// Why a coder refuses.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CodeError {
    /// Not as many units as the code needs.
    #[error("coder got {got} units, expected {expected}")]
    Units {
        /// Units needed.
        expected: usize,
        /// Units given.
        got: usize,
    },
    /// A unit that the block does not have.
    #[error("coder got unit {index} of a block of {total}")]
    Index {
        /// The unit's index.
        index: u8,
        /// Units and repair units of the block.
        total: u8,
    },
    /// The Reed-Solomon library refused; with a valid shape this is a fault of this crate.
    #[error("Reed-Solomon coder: {0}")]
    Library(RsError),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row of repair unit `j`: what it becomes when the units of message are the unit vectors.
    fn rows(s: u8, r: u8) -> Vec<Vec<u8>> {
        let unit_vector = |i: u8| {
            let mut unit = [0; UNIT];
            unit[usize::from(i)] = 1;
            unit
        };
        let original: Vec<Payload> = (0..s).map(unit_vector).collect();
        let repair = ReedSolomon::new().repair(BlockShape::new(s, r).unwrap(), &original).unwrap();
        repair.iter().map(|unit| unit[..usize::from(s)].to_vec()).collect()
    }

    #[test]
    fn coefficients_are_those_of_the_format() {
        assert_eq!(rows(1, 3), [[1], [1], [1]]);
        assert_eq!(rows(2, 3), [[3, 2], [2, 3], [5, 4]]);
        assert_eq!(rows(3, 4), [[1, 1, 1], [0x0f, 8, 6], [0x0e, 9, 6], [0x0e, 8, 7]]);
        let four =
            [[0x1b, 0x1c, 0x12, 0x14], [0x1c, 0x1b, 0x14, 0x12], [0x12, 0x14, 0x1b, 0x1c], [0x14, 0x12, 0x1c, 0x1b]];
        assert_eq!(rows(4, 4), four);
        assert_eq!(rows(5, 4)[0], [7, 7, 6, 6, 1]);
    }

    #[test]
    fn wrong_numbers_of_units_are_refused() {
        let coder = ReedSolomon::new();
        let shape = BlockShape::new(2, 1).unwrap();
        assert_eq!(coder.repair(shape, &[[0; UNIT]]), Err(CodeError::Units { expected: 2, got: 1 }));
        let mut units = BTreeMap::from([(2, Box::new([0; UNIT]))]);
        assert_eq!(coder.missing(shape, &units), Err(CodeError::Units { expected: 2, got: 1 }));
        units.insert(3, Box::new([0; UNIT]));
        assert_eq!(coder.missing(shape, &units), Err(CodeError::Index { index: 3, total: 3 }));
    }

    #[test]
    fn the_cache_is_bounded() {
        let coder = ReedSolomon::new();
        for s in 2..=16 {
            for r in 1..=32 - s {
                coder.repair(BlockShape::new(s, r).unwrap(), &vec![[0; UNIT]; s.into()]).unwrap();
                assert!(coder.codecs.lock().unwrap().len() <= MAX_CODECS);
            }
        }
    }
}
