//! The key schedule: HKDF-Expand (RFC 5869, SHA-256) from a secret to one key per purpose.
//!
//! ```text
//!              seed --fresh--> node secret
//!                                |-- wrap(kek, target)  one-time AES-256-CBC key and IV
//!  node secret (node, version) --|-- advance            the same k-node's next secret
//!                                |-- derive             its parent's secret
//!                   root only:   |-- commit             public check value in the rekey message
//!                                `-- data               the data processor's key
//! ```
//!
//! Every expansion is bound to (suite, group, incarnation, term, epoch) and to the names of the secrets it
//! goes from and to, so no key serves two purposes, two epochs or two reigns.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use keygraph::{KeyRef, NodeId};
use zeroize::Zeroize;

use crate::header::{Commitment, Incarnation};
use crate::secret::{DataKey, NodeSecret, Seed};
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

/// A key and IV that encrypt exactly one secret.
pub(crate) struct WrapKey {
    pub(crate) key: [u8; 32],
    pub(crate) iv: [u8; 16],
}

impl Drop for WrapKey {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
    }
}

impl EpochContext {
    /// A fresh secret for `node`, from the change's seed.
    pub fn fresh(&self, seed: &Seed, node: NodeId) -> NodeSecret {
        NodeSecret::new(self.expand(seed.expose(), b"fresh", &node.0.to_be_bytes()))
    }

    /// The one-time key that wraps `target` under `kek`.
    pub(crate) fn wrap(&self, secret: &NodeSecret, kek: KeyRef, target: KeyRef) -> WrapKey {
        let mut out: [u8; 48] = self.expand(secret.expose(), b"wrap", &[name(kek), name(target)].concat());
        let mut wrap = WrapKey { key: [0; 32], iv: [0; 16] };
        wrap.key.copy_from_slice(&out[..32]);
        wrap.iv.copy_from_slice(&out[32..]);
        out.zeroize();
        wrap
    }

    /// The next secret of the same k-node or leaf; one-way.
    pub fn advance(&self, secret: &NodeSecret, from: KeyRef) -> NodeSecret {
        NodeSecret::new(self.expand(secret.expose(), b"advance", &name(from)))
    }

    /// The secret of `parent`, from a child's secret; one-way.
    pub fn derive(&self, secret: &NodeSecret, child: KeyRef, parent: NodeId) -> NodeSecret {
        let names = [name(child).as_slice(), &parent.0.to_be_bytes()].concat();
        NodeSecret::new(self.expand(secret.expose(), b"derive", &names))
    }

    /// Public check value of the root secret.
    pub fn commit(&self, root: &NodeSecret) -> Commitment {
        Commitment(self.expand(root.expose(), b"commit", &[]))
    }

    /// The data processor's key.
    pub fn data(&self, root: &NodeSecret) -> DataKey {
        DataKey::new(self.expand(root.expose(), b"data", &[]))
    }

    fn expand<const N: usize>(&self, secret: &[u8; 32], label: &[u8], names: &[u8]) -> [u8; N] {
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

/// HKDF-Expand with `info` = `"keystone/1 "`, label, 0, parts. `N` is at most 255 · 32.
pub fn expand<const N: usize>(secret: &[u8; 32], label: &[u8], parts: &[&[u8]]) -> [u8; N] {
    let mut info = Vec::with_capacity(96);
    info.extend_from_slice(b"keystone/1 ");
    info.extend_from_slice(label);
    info.push(0);
    parts.iter().for_each(|part| info.extend_from_slice(part));
    let mut out = [0; N];
    let info = [info.as_slice()];
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
