//! Ed25519 (RFC 8032) by aws-lc-rs.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use thiserror::Error;

/// Octets of a signature.
pub const SIGNATURE: usize = 64;

/// A signature is not the key's over these octets, or the key is not a key. Whoever sent the octets is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The signature does not verify under any of the keys that are trusted.
    #[error("the signature does not verify under a trusted key")]
    Invalid,
    /// 32 octets that are no Ed25519 seed.
    #[error("not an Ed25519 seed")]
    Key,
}

/// Signs rekey messages, beacons and site certificates.
pub struct SigningKey(Ed25519KeyPair);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey(public {})", hex::encode(self.public().0))
    }
}

impl SigningKey {
    /// From the 32-octet seed of RFC 8032.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SignatureError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| SignatureError::Key)
    }

    /// The key that verifies.
    pub fn public(&self) -> VerifyingKey {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.public_key().as_ref());
        VerifyingKey(out)
    }

    /// 64 octets over `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let mut out = [0; SIGNATURE];
        out.copy_from_slice(self.0.sign(message).as_ref());
        out
    }
}

/// A public key, 32 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifyingKey(pub [u8; 32]);

impl VerifyingKey {
    /// `Ok` if `signature` is this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).map_err(|_| SignatureError::Invalid)
    }
}

/// `Ok` with the key that made `signature`, tried in order: more than one is trusted while a key is rolled.
pub fn verify_any(keys: &[VerifyingKey], message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    keys.iter().find_map(|key| key.verify(message, signature).ok()).ok_or(SignatureError::Invalid)
}
