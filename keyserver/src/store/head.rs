//! Where the journal begins and ends. It is replaced with every write: a chain alone would not miss its last records,
//! nor a snapshot without records.

use protocol::Entropy;

use super::seal::{FORMAT, Kind, Link, START, Sealer};

/// Values that a compaction has left and that are still to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Garbage {
    pub(super) generation: u64,
    pub(super) pieces: u64,
    pub(super) records: (u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the key that seals it; +1 with every compaction.
    pub(super) generation: u64,
    /// Pieces of the snapshot; 0 if there is none yet.
    pub(super) pieces: u64,
    /// Link of the last piece, or [`START`].
    pub(super) from: Link,
    /// Number of the first record after the snapshot.
    pub(super) first: u64,
    /// Of the next record. It never falls.
    pub(super) number: u64,
    /// Link of the last record, or `from`.
    pub(super) last: Link,
    pub(super) garbage: Garbage,
}

/// What stands in clear before the sealed head: it tells which key opens it.
pub(super) struct Label {
    pub(super) format: u32,
    pub(super) journal: [u8; 16],
    pub(super) generation: u64,
    pub(super) check: [u8; 16],
}

impl Label {
    const LEN: usize = 4 + 16 + 8 + 16;

    /// The label and the sealed head behind it.
    pub(super) fn split(value: &[u8]) -> Option<(Self, &[u8])> {
        let (format, rest) = value.split_first_chunk()?;
        let (journal, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (check, rest) = rest.split_first_chunk()?;
        let label = Self {
            format: u32::from_be_bytes(*format),
            journal: *journal,
            generation: u64::from_be_bytes(*generation),
            check: *check,
        };
        Some((label, rest))
    }
}

impl Head {
    pub(super) const NEW: Self = Self {
        generation: 0,
        pieces: 0,
        from: START,
        first: 0,
        number: 0,
        last: START,
        garbage: Garbage { generation: 0, pieces: 0, records: (0, 0) },
    };

    /// The labelled and sealed value; `None` only if the cipher refuses.
    pub(super) fn seal(&self, sealer: &Sealer, journal: &[u8; 16], entropy: &mut dyn Entropy) -> Option<Vec<u8>> {
        let Self { generation, pieces, from, first, number, last, garbage } = self;
        let counts = |of: &[u64]| of.iter().flat_map(|count| count.to_be_bytes()).collect::<Vec<u8>>();
        let garbage = counts(&[garbage.generation, garbage.pieces, garbage.records.0, garbage.records.1]);
        let plain = [&counts(&[*pieces, *first, *number]), from.as_slice(), last, &garbage].concat();
        let sealed = sealer.seal(Kind::Head, 0, &START, &plain, entropy)?;
        let mut out = Vec::with_capacity(Label::LEN + sealed.len());
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(journal);
        out.extend_from_slice(&generation.to_be_bytes());
        out.extend_from_slice(&sealer.check());
        out.extend_from_slice(&sealed);
        Some(out)
    }

    /// Opens what follows the label; `None` if it is damaged.
    pub(super) fn open(sealed: &[u8], generation: u64, sealer: &Sealer) -> Option<Self> {
        let plain = sealer.open(Kind::Head, 0, &START, sealed)?;
        let mut rest = plain.as_slice();
        let mut take = |octets: usize| {
            let (taken, after) = rest.split_at_checked(octets)?;
            rest = after;
            Some(taken)
        };
        let mut counts = [0; 3];
        for count in &mut counts {
            *count = u64::from_be_bytes(take(8)?.try_into().ok()?);
        }
        let [pieces, first, number] = counts;
        let (from, last) = (take(32)?.try_into().ok()?, take(32)?.try_into().ok()?);
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = u64::from_be_bytes(take(8)?.try_into().ok()?);
        }
        let garbage = Garbage { generation: counts[0], pieces: counts[1], records: (counts[2], counts[3]) };
        rest.is_empty().then_some(Self { generation, pieces, from, first, number, last, garbage })
    }
}
