//! Where things are published: names below one root, and the units of an epoch.

use super::Digest;
use crate::GroupId;
use crate::codec::{DecodeError, Reader, Write};
use crate::unit::MAX_DATAGRAM;

/// Epochs that are kept. A member that has missed more reads the pages.
pub const KEPT_EPOCHS: u64 = 64;
/// Folders of pages: named by the first hexadecimal digit of what is in them.
pub const FOLDERS: u8 = 16;
/// Octets of one piece of an epoch at the most: half of what ZooKeeper takes in one transaction.
pub const MAX_PIECE: usize = 512 << 10;
/// Octets before a unit, and before all of them.
const LENGTH: usize = 2;

/// The newest beacon.
pub fn now_name(group: GroupId) -> String {
    format!("{group}/now")
}

/// The head of the pages.
pub fn head_name(group: GroupId) -> String {
    format!("{group}/pages")
}

/// A page or index: in one of [`FOLDERS`], so that none has more names than a listing can carry.
pub fn page_name(group: GroupId, digest: &Digest) -> String {
    format!("{group}/p/{:x}/{digest}", digest.0[0] >> 4)
}

/// A piece of an epoch's units, from 0.
pub fn epoch_name(group: GroupId, epoch: u64, piece: u16) -> String {
    match piece {
        0 => format!("{group}/e/{epoch}"),
        piece => format!("{group}/e/{epoch}.{piece}"),
    }
}

/// An epoch's units in pieces: in each the number of pieces, then the units, each behind its length.
pub fn epoch_pieces(units: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut pieces = vec![vec![0; LENGTH]];
    for unit in units {
        if pieces.last().is_some_and(|piece| piece.len() + LENGTH + unit.len() > MAX_PIECE) {
            pieces.push(vec![0; LENGTH]);
        }
        if let Some(piece) = pieces.last_mut() {
            piece.put_octets(unit);
        }
    }
    let count = u16::try_from(pieces.len()).unwrap_or(u16::MAX).to_be_bytes();
    pieces.iter_mut().for_each(|piece| piece[..LENGTH].copy_from_slice(&count));
    pieces
}

/// One piece of an epoch's units. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units<'a> {
    /// Pieces of the epoch, at least one.
    pub pieces: u16,
    /// Those of this piece.
    pub units: Vec<&'a [u8]>,
}

impl<'a> Units<'a> {
    /// Reads one piece.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(octets: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(octets);
        let pieces = r.u16("pieces")?;
        if pieces == 0 || octets.len() > MAX_PIECE {
            return Err(DecodeError::Value { what: "pieces", value: pieces.into() });
        }
        let mut units = Vec::new();
        while r.left() > 0 {
            units.push(r.octets(MAX_DATAGRAM, "unit")?);
        }
        Ok(Self { pieces, units })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_out_as_they_went_in() {
        for count in [0usize, 1, 700, 2_000] {
            let units: Vec<Vec<u8>> = (0..count).map(|at| vec![u8::try_from(at % 251).unwrap(); 740]).collect();
            let pieces = epoch_pieces(&units);
            assert!(pieces.iter().all(|piece| piece.len() <= MAX_PIECE));
            let read: Vec<Units<'_>> = pieces.iter().map(|piece| Units::decode(piece).unwrap()).collect();
            assert!(read.iter().all(|piece| usize::from(piece.pieces) == pieces.len()));
            assert!(read.iter().flat_map(|piece| &piece.units).map(|unit| unit.to_vec()).eq(units));
            assert!(Units::decode(&pieces[0][..1]).is_err());
            assert!(count == 0 || Units::decode(&pieces[0][..pieces[0].len() - 1]).is_err());
        }
        assert!(Units::decode(&[0, 0]).is_err() && Units::decode(&[]).is_err());
    }
}
