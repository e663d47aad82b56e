//! The key schedule: HKDF-Expand (RFC 5869, SHA-256) from a secret to one key per purpose.
//!
//! ```text
//!              seed --fresh--> node secret
//!                                |-- wrap(kek, target)  one-time AES-CBC key and IV
//!  node secret (node, version) --|-- advance            the same k-node's next secret
//!                                |-- derive             its parent's secret
//!                   leaf only:   |-- leaf               the same leaf's next secret
//!                                |-- check              public check value in pages
//!                   root only:   |-- commit             public check value in the rekey message
//!                                |-- tag                first check of what members receive
//!                                `-- data               the data processor's key
//! ```
//!
//! A secret has 32 octets, under `aes128` 16; it stands in 32 octets then, filled with zeros, which HMAC does with a
//! short key as well. Check values and data keys have 32 octets in all suites.
//!
//! Every expansion is bound to (suite, group, incarnation, term, epoch) and to the names of the secrets it
//! goes from and to, so no key serves two purposes, two epochs or two reigns. Two are not: the steps of a leaf's secret, which
//! form one chain for the whole membership, and the wraps in [pages](crate::pages), which outlive reigns and are bound to the
//! versions of both secrets.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use keygraph::{KeyRef, NodeId};
use zeroize::Zeroizing;

use crate::header::{Commitment, Incarnation};
use crate::secret::{DataKey, NodeSecret, Seed};
use crate::tag::TagKey;
use crate::{GroupId, Suite};

/// What all keys of an epoch are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochContext {
    /// The group's suite.
    pub suite: Suite,
    /// The group.
    pub group: GroupId,
    /// Name of the reign.
    pub incarnation: Incarnation,
    /// Number of the reign.
    pub term: u64,
    /// Number of the key.
    pub epoch: u64,
}

impl Suite {
    /// Octets of a secret, and of a wrap, which adds nothing.
    pub fn secret_len(self) -> usize {
        match self {
            Self::Aes256 | Self::Rsa => 32,
            Self::Aes128 => 16,
            #[cfg(feature = "paper")]
            Self::Paper => crate::paper::SECRET,
        }
    }
}

impl EpochContext {
    /// A fresh secret for `node`, from the change's seed.
    pub fn fresh(&self, seed: &Seed, node: NodeId) -> NodeSecret {
        self.secret(seed.expose(), b"fresh", &node.0.to_be_bytes())
    }

    /// The one-time key that wraps `target` under `kek`, and its IV: the key as long as a secret, then 16 octets.
    pub(crate) fn wrap(&self, secret: &NodeSecret, kek: KeyRef, target: KeyRef) -> Zeroizing<[u8; 48]> {
        let mut names = [0; 24];
        names[..12].copy_from_slice(&name(kek));
        names[12..].copy_from_slice(&name(target));
        let mut out = Zeroizing::new([0; 48]);
        match self.suite {
            Suite::Aes256 | Suite::Rsa => *out = self.expand::<48>(secret.expose(), b"wrap", &names),
            Suite::Aes128 => {
                out[..32].copy_from_slice(Zeroizing::new(self.expand::<32>(secret.expose(), b"wrap", &names)).as_ref());
            }
            #[cfg(feature = "paper")]
            Suite::Paper => out[..16].copy_from_slice(&self.expand::<16>(secret.expose(), b"wrap", &names)),
        }
        out
    }

    /// What is bound to no reign: the steps of leaf secrets, and wraps in pages of a secret that `epoch` made.
    pub(crate) fn lasting(suite: Suite, group: GroupId, epoch: u64) -> Self {
        Self { suite, group, incarnation: Incarnation([0; 16]), term: 0, epoch }
    }

    /// The next secret of the same leaf; one-way. Every step is the same, so that a member who has missed some takes them
    /// later, whatever they were made for.
    pub fn advance_leaf(&self, secret: &NodeSecret) -> NodeSecret {
        Self::lasting(self.suite, self.group, 0).secret(secret.expose(), b"leaf", &[])
    }

    /// Public check value of a leaf's secret under its present name: the member that holds it, or an earlier one, finds it.
    pub(crate) fn check_leaf(&self, secret: &NodeSecret, leaf: KeyRef) -> [u8; 8] {
        Self::lasting(self.suite, self.group, 0).expand(secret.expose(), b"check", &name(leaf))
    }

    /// The next secret of the same k-node; one-way.
    pub fn advance(&self, secret: &NodeSecret, from: KeyRef) -> NodeSecret {
        self.secret(secret.expose(), b"advance", &name(from))
    }

    /// The secret of `parent`, from that of a k-node below; one-way.
    pub fn derive(&self, secret: &NodeSecret, from: KeyRef, parent: NodeId) -> NodeSecret {
        let mut names = [0; 16];
        names[..12].copy_from_slice(&name(from));
        names[12..].copy_from_slice(&parent.0.to_be_bytes());
        self.secret(secret.expose(), b"derive", &names)
    }

    fn secret(&self, from: &[u8; 32], label: &[u8], names: &[u8]) -> NodeSecret {
        let mut octets: Zeroizing<[u8; 32]> = Zeroizing::new(self.expand(from, label, names));
        octets[self.suite.secret_len()..].fill(0);
        NodeSecret::new(*octets)
    }

    /// Public check value of the root secret.
    pub fn commit(&self, root: &NodeSecret) -> Commitment {
        Commitment(self.expand(root.expose(), b"commit", &[]))
    }

    /// What those who hold this epoch's group key check units of the next epoch, and beacons of this one, by.
    pub fn tag(&self, root: &NodeSecret) -> TagKey {
        TagKey::new(&Zeroizing::new(self.expand(root.expose(), b"tag", &[])))
    }

    /// The data processor's key.
    pub fn data(&self, root: &NodeSecret) -> DataKey {
        DataKey::new(self.expand(root.expose(), b"data", &[]))
    }

    fn expand<const N: usize>(&self, secret: &[u8; 32], label: &[u8], names: &[u8]) -> [u8; N] {
        #[cfg(feature = "paper")]
        if self.suite == Suite::Paper {
            let mut out = [0; N];
            crate::paper::expand(secret, &[b"keystone/1 ", label, &[0], &self.octets(), names], &mut out);
            return out;
        }
        expand(secret, label, &[&self.octets(), names])
    }

    /// 37 octets: suite, group, incarnation, term, epoch.
    fn octets(&self) -> [u8; 37] {
        let mut out = [0; 37];
        out[0] = self.suite as u8;
        out[1..5].copy_from_slice(&self.group.0.to_be_bytes());
        out[5..21].copy_from_slice(&self.incarnation.0);
        out[21..29].copy_from_slice(&self.term.to_be_bytes());
        out[29..37].copy_from_slice(&self.epoch.to_be_bytes());
        out
    }
}

/// HKDF-Expand with `info` = `"keystone/1 "`, label, 0, parts (five at the most). `N` is at most 255 · 32.
pub fn expand<const N: usize>(secret: &[u8; 32], label: &[u8], parts: &[&[u8]]) -> [u8; N] {
    let mut info: [&[u8]; 8] = [b"keystone/1 ", label, &[0], &[], &[], &[], &[], &[]];
    info[3..3 + parts.len()].copy_from_slice(parts);
    let mut out = [0; N];
    let filled = Prk::new_less_safe(HKDF_SHA256, secret).expand(&info, Length(N)).and_then(|okm| okm.fill(&mut out));
    // HKDF fails only for outputs beyond 8,160 octets, which no caller asks for; a key of zeros must never result.
    assert!(filled.is_ok(), "HKDF-Expand refused {N} octets");
    out
}

fn name(key: KeyRef) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&key.node.0.to_be_bytes());
    out[4..].copy_from_slice(&key.version.to_be_bytes());
    out
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
