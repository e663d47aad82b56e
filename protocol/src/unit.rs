//! Units on the wire: one signature for each block over a digest tree of its units, so that every unit is
//! verified alone and before the decoder (Wong and Lam, "Digital Signatures for Flows and Multicasts", 1998).
//!
//! ```text
//! "KS" ver 1 | block header (83) | index | signature (64) | path (16 each) | payload (512) | tag (8)
//! ```

use std::collections::{BTreeMap, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;

use crate::codec::{DecodeError, Reader};
use crate::header::EpochHeader;
use crate::sign::{RSA_SIGNATURE, SignatureError, SigningKey, VerifyingKey, verify_any};
use crate::tag::{TAG, TagKey};
use crate::{Suite, WIRE_VERSION};

/// Octets of rekey message, or of repair, in a unit (Keystone §4.1).
pub const PAYLOAD: usize = 512;
/// Octets of a digest in the tree: 128 bits, because only second preimages help an attacker.
pub const DIGEST: usize = 16;
/// Units of a block, repair units included: five digests of path.
pub const MAX_BLOCK_UNITS: u8 = 32;
/// Largest datagram: what IPv6 carries everywhere, less its headers.
pub const MAX_DATAGRAM: usize = 1232;

const MAGIC: [u8; 2] = *b"KS";
const TYPE_UNIT: u8 = 1;
pub(crate) const TYPE_BEACON: u8 = 2;
/// No datagram: the head of a group's pages.
pub(crate) const TYPE_PAGES: u8 = 3;
const PREFIX: usize = 4;

const _: () = assert!(PREFIX + BlockHeader::LEN + 1 + RSA_SIGNATURE + 5 * DIGEST + PAYLOAD + TAG <= MAX_DATAGRAM);

/// What all units of a block share, apart from the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockHeader {
    /// The epoch.
    pub epoch: EpochHeader,
    /// Index of the message among the epoch's.
    pub message: u16,
    /// Messages of the epoch.
    pub messages: u16,
    /// Octets of the message, before padding.
    pub message_len: u32,
    /// Blocks of the message.
    pub blocks: u16,
    /// Index of the block.
    pub block: u16,
    /// Units of message in the block, 1 to 16.
    pub s: u8,
    /// Repair units in the block; for a block of one unit, how often it is repeated.
    pub r: u8,
}

impl BlockHeader {
    /// Octets on the wire.
    pub const LEN: usize = EpochHeader::LEN + 2 + 2 + 4 + 2 + 2 + 1 + 1;

    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        out.extend_from_slice(&self.message.to_be_bytes());
        out.extend_from_slice(&self.messages.to_be_bytes());
        out.extend_from_slice(&self.message_len.to_be_bytes());
        out.extend_from_slice(&self.blocks.to_be_bytes());
        out.extend_from_slice(&self.block.to_be_bytes());
        out.push(self.s);
        out.push(self.r);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header = Self {
            epoch: EpochHeader::decode(r)?,
            message: r.u16("message index")?,
            messages: r.u16("messages")?,
            message_len: r.u32("message length")?,
            blocks: r.u16("blocks")?,
            block: r.u16("block index")?,
            s: r.u8("units of message")?,
            r: r.u8("repair units")?,
        };
        header.check().map(|()| header)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let refuse = |what, value| Err(DecodeError::Value { what, value });
        if self.message >= self.messages {
            return refuse("message index", self.message.into());
        }
        if self.block >= self.blocks {
            return refuse("block index", self.block.into());
        }
        if self.message_len == 0 {
            return refuse("message length", 0);
        }
        if !(1..=16).contains(&self.s) {
            return refuse("units of message", self.s.into());
        }
        if u16::from(self.s) + u16::from(self.r) > MAX_BLOCK_UNITS.into() {
            return refuse("repair units", self.r.into());
        }
        Ok(())
    }

    /// Leaves of the digest tree: a block of one unit has one, however often it is repeated.
    fn leaves(&self) -> u8 {
        if self.s == 1 { 1 } else { self.s + self.r }
    }

    fn depth(&self) -> usize {
        usize::from(self.leaves()).next_power_of_two().trailing_zeros() as usize
    }

    fn leaf(&self, index: u8, payload: &[u8]) -> [u8; DIGEST] {
        let mut input = Vec::with_capacity(2 + Self::LEN + PAYLOAD);
        input.push(0);
        self.encode(&mut input);
        input.push(index);
        input.extend_from_slice(payload);
        short(self.epoch.suite, &input)
    }

    fn signed(&self, root: &[u8; DIGEST]) -> Vec<u8> {
        let mut out = b"keystone/1 block\0".to_vec();
        self.encode(&mut out);
        out.extend_from_slice(root);
        out
    }
}

fn short(suite: Suite, input: &[u8]) -> [u8; DIGEST] {
    #[cfg(feature = "paper")]
    if suite == Suite::Paper {
        return crate::paper::digest(input);
    }
    // All others use SHA-256.
    let _ = suite;
    let mut out = [0; DIGEST];
    out.copy_from_slice(&digest(&SHA256, input).as_ref()[..DIGEST]);
    out
}

fn inner(suite: Suite, left: &[u8; DIGEST], right: &[u8; DIGEST]) -> [u8; DIGEST] {
    short(suite, &[[1].as_slice(), left, right].concat())
}

/// Signs a block and returns its datagrams in the order of their index, `s + r` of them; those of a block of one
/// unit are copies with a number. `tag` is of the epoch before.
///
/// Errors: a header or payloads that do not fit together; no key for the suite. The caller is to blame.
pub fn sign_block(
    header: &BlockHeader,
    payloads: &[[u8; PAYLOAD]],
    key: &SigningKey,
    tag: &TagKey,
) -> Result<Vec<Vec<u8>>, SignBlockError> {
    header.check()?;
    let expected = usize::from(header.s) + usize::from(header.r);
    if payloads.len() != expected {
        return Err(DecodeError::Limit { what: "payloads", have: payloads.len(), limit: expected }.into());
    }
    let leaves = usize::from(header.leaves());
    let mut levels = vec![vec![[0; DIGEST]; leaves.next_power_of_two()]];
    for ((leaf, payload), index) in levels[0].iter_mut().zip(&payloads[..leaves]).zip(0u8..) {
        *leaf = header.leaf(index, payload);
    }
    while let Some(below) = levels.last().filter(|level| level.len() > 1) {
        let above = below.chunks_exact(2).map(|pair| inner(header.epoch.suite, &pair[0], &pair[1])).collect();
        levels.push(above);
    }
    let root = levels[levels.len() - 1][0];
    let signature = key.sign(header.epoch.suite, &header.signed(&root))?;
    let datagram = |index: u8| {
        let mut out = Vec::with_capacity(MAX_DATAGRAM);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[WIRE_VERSION, TYPE_UNIT]);
        header.encode(&mut out);
        out.push(index);
        out.extend_from_slice(&signature);
        let (mut at, payload) = if leaves == 1 { (0, 0) } else { (usize::from(index), usize::from(index)) };
        for level in &levels[..levels.len() - 1] {
            out.extend_from_slice(&level[at ^ 1]);
            at /= 2;
        }
        out.extend_from_slice(&payloads[payload]);
        tag.append(&mut out);
        out
    };
    Ok((0..header.s + header.r).map(datagram).collect())
}

/// Why a block was not signed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignBlockError {
    /// Header and payloads do not fit together.
    #[error(transparent)]
    Form(#[from] DecodeError),
    /// There is no key for the group's suite.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// What a datagram claims to be, told from its first four octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A unit of a rekey message.
    Unit,
    /// A beacon.
    Beacon,
}

/// The cheapest check of all, for traffic that is not ours.
pub fn kind(datagram: &[u8]) -> Result<Kind, DecodeError> {
    let mut r = Reader::new(datagram);
    if r.array::<2>("magic")? != MAGIC {
        return Err(DecodeError::Text { what: "magic" });
    }
    let version = r.u8("version")?;
    if version != WIRE_VERSION {
        return Err(DecodeError::Value { what: "version", value: version.into() });
    }
    match r.u8("type")? {
        TYPE_UNIT => Ok(Kind::Unit),
        TYPE_BEACON => Ok(Kind::Beacon),
        other => Err(DecodeError::Value { what: "type", value: other.into() }),
    }
}

/// The first four octets of a datagram of type `kind`.
pub(crate) fn prefix(kind: u8) -> [u8; PREFIX] {
    [MAGIC[0], MAGIC[1], WIRE_VERSION, kind]
}

/// A unit that was received and is not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit<'a> {
    /// What it says of its block.
    pub header: BlockHeader,
    /// Its index in the block; of a block of one unit, the number of the copy.
    pub index: u8,
    signature: &'a [u8],
    path: &'a [u8],
    payload: &'a [u8; PAYLOAD],
}

impl<'a> Unit<'a> {
    /// Reads a datagram of [`Kind::Unit`]. Its length must be exactly right.
    pub fn decode(datagram: &'a [u8]) -> Result<Self, DecodeError> {
        if kind(datagram)? != Kind::Unit {
            return Err(DecodeError::Value { what: "type", value: TYPE_BEACON.into() });
        }
        let mut r = Reader::new(&datagram[PREFIX..]);
        let header = BlockHeader::decode(&mut r)?;
        let index = r.u8("index")?;
        if index >= header.s + header.r {
            return Err(DecodeError::Value { what: "index", value: index.into() });
        }
        let signature = r.take(header.epoch.suite.signature_len(), "signature")?;
        let path = r.take(header.depth() * DIGEST, "digest path")?;
        let payload = r.take(PAYLOAD, "payload")?;
        // The tag is checked by whoever has its key, over the whole datagram.
        r.take(TAG, "tag")?;
        r.end("unit")?;
        let payload = payload.try_into().map_err(|_| DecodeError::Text { what: "payload" })?;
        Ok(Self { header, index, signature, path, payload })
    }

    /// Whether it is a repair unit or a later copy: on a way that loses nothing nobody needs it.
    pub fn is_spare(&self) -> bool {
        self.index >= self.header.s
    }

    /// Looks at the signature.
    ///
    /// Errors: no trusted key signed the block. The sender is to blame.
    pub fn check(&self, keys: &[VerifyingKey]) -> Result<Signed, SignatureError> {
        let root = self.root();
        verify_any(keys, self.header.epoch.suite, &self.header.signed(&root), self.signature)?;
        Ok(Signed { root, signature: short(self.header.epoch.suite, self.signature) })
    }

    /// Whether it belongs to this block, which must have its header. What is passed on must carry the block's signature too, or
    /// the next one could not verify it.
    pub fn is_of(&self, block: &Signed) -> bool {
        self.root() == block.root && short(self.header.epoch.suite, self.signature) == block.signature
    }

    /// The root of the digest tree that this unit's path leads to.
    fn root(&self) -> [u8; DIGEST] {
        let suite = self.header.epoch.suite;
        // Copies are one leaf.
        let leaf = if self.header.s == 1 { 0 } else { self.index };
        let mut at = usize::from(leaf);
        let mut digest = self.header.leaf(leaf, self.payload);
        let (siblings, _) = self.path.as_chunks::<DIGEST>();
        for sibling in siblings {
            digest = if at % 2 == 0 { inner(suite, &digest, sibling) } else { inner(suite, sibling, &digest) };
            at /= 2;
        }
        digest
    }
}

/// What identifies a block that a trusted key has signed, 32 octets; its header is known apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    root: [u8; DIGEST],
    /// Digest of the signature.
    signature: [u8; DIGEST],
}

/// A unit whose block is signed by a trusted key and which belongs to that block. Only these reach the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedUnit<'a> {
    /// Its block.
    pub header: BlockHeader,
    /// Its index.
    pub index: u8,
    /// 512 octets of message or repair.
    pub payload: &'a [u8; PAYLOAD],
}

/// Why a unit was dropped. The sender is to blame; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UnitError {
    /// No trusted key signed the block.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The block is known, and this unit does not belong to it.
    #[error("the unit does not belong to the block that was signed")]
    Foreign,
    /// The block is not known, and the caller spends no signature check on it.
    #[error("the unit's signature was not looked at")]
    Unchecked,
}

/// Verifies units. It remembers the roots of recent blocks, so that only the first unit of a block costs a
/// signature check and the others a handful of hashes.
#[derive(Debug)]
pub struct UnitVerifier {
    keys: Vec<VerifyingKey>,
    known: BTreeMap<BlockHeader, [u8; DIGEST]>,
    /// Of what is known, oldest first. Only signed blocks enter, so a flood of others evicts nothing.
    order: VecDeque<BlockHeader>,
}

/// Blocks remembered, some 200 octets each. The units of a message come interleaved, and the longest one has at most so many
/// blocks.
const KNOWN_BLOCKS: usize = 2_048;

impl UnitVerifier {
    /// Trusts `keys`.
    pub fn new(keys: Vec<VerifyingKey>) -> Self {
        Self { keys, known: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Whether this header belongs to a block that was signed, and is remembered.
    pub fn knows(&self, header: &BlockHeader) -> bool {
        self.known.contains_key(header)
    }

    /// Trusts `keys`, and no others, from now on. What was verified stays so.
    pub fn trust(&mut self, keys: Vec<VerifyingKey>) {
        self.keys = keys;
    }

    /// The trusted keys.
    pub fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    /// Verifies one unit alone. What is known is checked first; `may_check` is asked before a signature is looked at, and
    /// counts it.
    pub fn verify<'a>(
        &mut self,
        unit: &Unit<'a>,
        may_check: impl FnOnce() -> bool,
    ) -> Result<VerifiedUnit<'a>, UnitError> {
        match self.known.get(&unit.header) {
            Some(known) if *known == unit.root() => {}
            Some(_) => return Err(UnitError::Foreign),
            None if !may_check() => return Err(UnitError::Unchecked),
            None => {
                let Signed { root, .. } = unit.check(&self.keys)?;
                if self.order.len() == KNOWN_BLOCKS
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.known.remove(&oldest);
                }
                self.order.push_back(unit.header);
                self.known.insert(unit.header, root);
            }
        }
        Ok(VerifiedUnit { header: unit.header, index: unit.index, payload: unit.payload })
    }
}
