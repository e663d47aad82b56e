//! The primitives that a plan names, counted, and done bare: libraries called directly, on nothing in particular.

use std::hint::black_box;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::Ed25519KeyPair;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit};
use fec::{BlockShape, Coder, Payload, ReedSolomon, UNIT};
use keygraph::{Plan, Source};
use protocol::unit::{BlockHeader, DIGEST, PAYLOAD};

use crate::Failure;

/// Octets of HKDF `info` by kind, as the key schedule makes it: 11 of protocol name, the label, a zero, 37 of
/// context, the names.
const FRESH_INFO: usize = 11 + 5 + 1 + 37 + 4;
const ADVANCE_INFO: usize = 11 + 7 + 1 + 37 + 12;
const DERIVE_INFO: usize = 11 + 6 + 1 + 37 + 16;
const COMMIT_INFO: usize = 11 + 6 + 1 + 37;
const WRAP_INFO: usize = 11 + 4 + 1 + 37 + 24;
/// Octets of a leaf of the digest tree, of an inner place, and of what is signed.
const LEAF: usize = 1 + BlockHeader::LEN + 1 + PAYLOAD;
const INNER: usize = 1 + 2 * DIGEST;
/// Octets of a datagram that are tagged, without the digest path: magic and version, header, index, signature, payload.
const DATAGRAM: usize = 4 + BlockHeader::LEN + 1 + 64 + PAYLOAD;
const SIGNED: usize = 17 + BlockHeader::LEN + DIGEST;

/// How many of each. The commitment, one HKDF expansion, comes with every plan and is not counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// HKDF expansions of 32 octets for fresh k-nodes and leaves,
    pub(crate) fresh: usize,
    /// for the next secret of a k-node or of a leaf that was a wrapping key,
    pub(crate) advanced: usize,
    /// and for a parent's secret.
    pub(crate) derived: usize,
    /// HKDF expansions of 48 octets to a one-time key and IV, each with AES-256-CBC over 32 octets.
    pub(crate) wraps: usize,
    /// For each block: Reed-Solomon, SHA-256 over its units and the digest tree, one Ed25519 signature, and HMAC-SHA-256 over
    /// each datagram.
    pub(crate) blocks: Vec<BlockShape>,
}

impl Counts {
    pub(crate) fn of(plan: &Plan, blocks: Vec<BlockShape>) -> Self {
        let mut counts = Self { fresh: plan.joined.len(), advanced: plan.advanced.len(), derived: 0, wraps: 0, blocks };
        for update in &plan.updates {
            match update.source {
                Source::Fresh => counts.fresh += 1,
                Source::Advance { .. } => counts.advanced += 1,
                Source::Derive { .. } => counts.derived += 1,
            }
            counts.wraps += update.wraps.len();
        }
        counts
    }
}

/// SHA-256 runs of a block's digest tree: leaves and inner places. A block of one unit is a single leaf; any other
/// tree is filled up to a power of two, because every path of a block has the same length on the wire.
fn digests(shape: BlockShape) -> (usize, usize) {
    let leaves = if shape.s() == 1 { 1 } else { usize::from(shape.total()) };
    (leaves, leaves.next_power_of_two() - 1)
}

/// What the primitives need, made once.
pub(crate) struct Primitives {
    secret: [u8; 32],
    units: Vec<Payload>,
    signing: Ed25519KeyPair,
    tag: hmac::Key,
    coder: ReedSolomon,
}

impl Primitives {
    pub(crate) fn new() -> Result<Self, Failure> {
        let signing = Ed25519KeyPair::from_seed_unchecked(&[2; 32])?;
        Ok(Self {
            secret: [9; 32],
            units: vec![[5; UNIT]; fec::MAX_BLOCK_DATA],
            signing,
            tag: hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]),
            coder: ReedSolomon::new(),
        })
    }

    /// Does all that is counted, of suite `aes256`.
    pub(crate) fn run(&mut self, counts: &Counts) -> Result<(), Failure> {
        self.keys(counts.fresh, counts.advanced, counts.derived, counts.wraps)?;
        self.blocks(&counts.blocks)
    }

    /// So many secrets of each kind, the commitment, and so many wraps.
    pub(crate) fn keys(&self, fresh: usize, advanced: usize, derived: usize, wraps: usize) -> Result<(), Failure> {
        for _ in 0..fresh {
            black_box(self.expand::<32>(&[0; FRESH_INFO])?);
        }
        for _ in 0..advanced {
            black_box(self.expand::<32>(&[0; ADVANCE_INFO])?);
        }
        for _ in 0..derived {
            black_box(self.expand::<32>(&[0; DERIVE_INFO])?);
        }
        black_box(self.expand::<32>(&[0; COMMIT_INFO])?);
        for _ in 0..wraps {
            let one_time = self.expand::<48>(&[0; WRAP_INFO])?;
            let (key, iv) = one_time.split_at(32);
            let mut cipher = cbc::Encryptor::<aes::Aes256>::new_from_slices(key, iv)?;
            for _ in 0..2 {
                let mut block = black_box(aes::Block::default());
                cipher.encrypt_block(&mut block);
                black_box(block);
            }
        }
        Ok(())
    }

    /// Repair units, digest tree and signature of each block.
    pub(crate) fn blocks(&mut self, shapes: &[BlockShape]) -> Result<(), Failure> {
        for shape in shapes {
            black_box(self.coder.repair(*shape, &self.units[..usize::from(shape.s())])?);
            let (leaves, inner) = digests(*shape);
            for _ in 0..leaves {
                black_box(digest(&SHA256, &[0; LEAF]));
            }
            for _ in 0..inner {
                black_box(digest(&SHA256, &[0; INNER]));
            }
            black_box(self.signing.sign(&[0; SIGNED]));
            let path = if shape.s() == 1 { 0 } else { leaves.next_power_of_two().ilog2() };
            let datagram = vec![0; DATAGRAM + DIGEST * usize::try_from(path)?];
            for _ in 0..shape.total() {
                black_box(hmac::sign(&self.tag, &datagram));
            }
        }
        Ok(())
    }

    fn expand<const N: usize>(&self, info: &[u8]) -> Result<[u8; N], Unspecified> {
        let mut out = [0; N];
        Prk::new_less_safe(HKDF_SHA256, &self.secret).expand(&[info], Length(N))?.fill(&mut out)?;
        Ok(out)
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use keygraph::{Change, Degree, MemberId, Strategy, Tree};

    use super::*;

    fn counts(strategy: Strategy, degree: u8, members: u32, change: Change) -> Counts {
        let tree = Tree::filled(Degree::new(degree).unwrap(), strategy, 1, (1..=members).map(MemberId)).unwrap();
        Counts::of(tree.stage(&[change], 2).unwrap().plan(), Vec::new())
    }

    #[test]
    fn primitives_of_small_plans() {
        let of = |fresh, advanced, derived, wraps| Counts { fresh, advanced, derived, wraps, blocks: Vec::new() };
        // Three k-nodes: the lowest fresh, two derived, each wrapped for one child; the leaf beside is advanced.
        assert_eq!(counts(Strategy::Chain, 2, 8, Change::Leave(MemberId(8))), of(1, 1, 2, 3));
        // Two fresh k-nodes, for the three leaves that are left and for four k-nodes.
        assert_eq!(counts(Strategy::Group, 4, 16, Change::Leave(MemberId(16))), of(2, 3, 0, 7));
        // A split: the joiner's leaf and the new k-node fresh, wrapped for the leaf that moved down; three k-nodes
        // and that leaf advanced.
        assert_eq!(counts(Strategy::Chain, 2, 8, Change::Join(MemberId(9))), of(2, 4, 0, 1));
        // The same at degree 4: two k-nodes wrapped under their own old secret, the new one for the leaf.
        assert_eq!(counts(Strategy::Group, 4, 16, Change::Join(MemberId(17))), of(4, 1, 0, 3));
    }

    #[test]
    fn digests_of_small_blocks() {
        let of = |s, r| digests(BlockShape::new(s, r).unwrap());
        assert_eq!((of(1, 2), of(2, 3), of(4, 4), of(16, 16)), ((1, 0), (5, 7), (8, 7), (32, 31)));
    }
}
