//! Sealing at rest: AES-256-GCM under a one-time key, chained so that nothing can be left out or moved.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use protocol::Entropy;
use protocol::schedule::expand;
use zeroize::Zeroizing;

/// Of the journal's values and of the sealing.
pub(super) const FORMAT: u32 = 3;

/// Octets of randomness that make each seal's key its own, even if a number is used again after a restore.
const SALT: usize = 16;

/// What a sealed value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Record = 1,
    Piece = 2,
    Head = 3,
    Backup = 4,
    Presence = 5,
}

/// Hash of the sealed value before; binds each to its place.
pub(super) type Link = [u8; 32];

/// Where a chain begins.
pub(super) const START: Link = [0; 32];

/// Seals one generation of one journal.
pub(super) struct Sealer {
    key: Zeroizing<[u8; 32]>,
    journal: [u8; 16],
    generation: u64,
}

impl Sealer {
    pub(super) fn new(key: Zeroizing<[u8; 32]>, journal: [u8; 16], generation: u64) -> Self {
        Self { key, journal, generation }
    }

    /// Tells a wrong key from a damaged value.
    pub(super) fn check(&self) -> [u8; 16] {
        expand(&self.key, b"store check", &[&self.journal])
    }

    /// Seals `plain`; `None` only if the cipher refuses, which no length that fits memory makes it do.
    pub(super) fn seal(
        &self,
        kind: Kind,
        number: u64,
        before: &Link,
        plain: &[u8],
        entropy: &mut dyn Entropy,
    ) -> Option<Vec<u8>> {
        let mut salt = [0; SALT];
        entropy.fill(&mut salt);
        let key = self.one_time(kind, number, &salt)?;
        // Encrypted where it stands, in a vector that never moves, so that no plaintext is left behind.
        let mut sealed = Vec::with_capacity(SALT + plain.len() + MAX_TAG_LEN);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(plain);
        let aad = Aad::from(self.place(kind, number, before));
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let tag = key.seal_in_place_separate_tag(nonce, aad, &mut sealed[SALT..]).ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed)
    }

    /// Opens what [`Sealer::seal`] made for the same place.
    pub(super) fn open(&self, kind: Kind, number: u64, before: &Link, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (salt, body) = sealed.split_first_chunk::<SALT>()?;
        let key = self.one_time(kind, number, salt)?;
        let mut plain = Zeroizing::new(body.to_vec());
        let aad = Aad::from(self.place(kind, number, before));
        let length = key.open_in_place(Nonce::assume_unique_for_key([0; NONCE_LEN]), aad, &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }

    fn one_time(&self, kind: Kind, number: u64, salt: &[u8; SALT]) -> Option<LessSafeKey> {
        let parts: [&[u8]; 4] = [&self.journal, &[kind as u8], &number.to_be_bytes(), salt];
        let key = Zeroizing::new(expand::<32>(&self.key, b"store", &parts));
        UnboundKey::new(&AES_256_GCM, key.as_slice()).ok().map(LessSafeKey::new)
    }

    fn place(&self, kind: Kind, number: u64, before: &Link) -> Vec<u8> {
        let (generation, number) = (self.generation.to_be_bytes(), number.to_be_bytes());
        [&FORMAT.to_be_bytes(), self.journal.as_slice(), &generation, &[kind as u8], &number, before].concat()
    }
}

pub(super) fn link(sealed: &[u8]) -> Link {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, sealed).as_ref());
    out
}
