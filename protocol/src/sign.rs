//! Signatures by suite: Ed25519 (RFC 8032) or RSA-3072 with PKCS #1 v1.5 and SHA-256 (RFC 8017 §8.2), by aws-lc-rs; and
//! behind the cargo feature `paper` RSA-512 with MD5, which is worth nothing.
//!
//! RSA signs as in PKCS #1 v1.5 and not as in PSS, because that needs no randomness: the same change gives the same octets
//! again, wherever it is carried out.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ED25519, Ed25519KeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey,
};
use thiserror::Error;

use crate::Suite;

/// Octets of an Ed25519 signature: of all suites but `rsa`, and of site certificates.
pub const SIGNATURE: usize = 64;
/// Octets of an RSA-3072 signature.
pub const RSA_SIGNATURE: usize = 384;
/// Octets of a public RSA key (RFC 8017 `RSAPublicKey`, DER) at the most: one of 3,072 bits takes 398.
pub const MAX_RSA_PUBLIC: usize = 512;

/// A signature is not the key's over these octets, or a key is not a key. Whoever sent the octets is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The signature does not verify under any of the keys that are trusted for the suite.
    #[error("the signature does not verify under a trusted key")]
    Invalid,
    /// Octets that are no key of the kind that they should be.
    #[error("not a signing key of this kind")]
    Key,
    /// The configuration has no key for the suite.
    #[error("there is no key that signs for suite `{0}`")]
    Missing(Suite),
}

impl Suite {
    /// Octets of a signature of a block or beacon.
    pub fn signature_len(self) -> usize {
        match self {
            Self::Aes256 | Self::Aes128 => SIGNATURE,
            Self::Rsa => RSA_SIGNATURE,
            #[cfg(feature = "paper")]
            Self::Paper => crate::paper::SIGNATURE,
        }
    }
}

/// Signs rekey messages, beacons and site certificates: with Ed25519, and with RSA if it has such a key. Clones share the keys.
#[derive(Clone)]
pub struct SigningKey {
    ed25519: Arc<Ed25519KeyPair>,
    rsa: Option<Arc<RsaKeyPair>>,
    #[cfg(feature = "paper")]
    paper: Option<Arc<crate::paper::SigningKey>>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.public())
    }
}

impl SigningKey {
    /// From the 32-octet seed of RFC 8032.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, SignatureError> {
        let ed25519 = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| SignatureError::Key)?;
        Ok(Self {
            ed25519: Arc::new(ed25519),
            rsa: None,
            #[cfg(feature = "paper")]
            paper: None,
        })
    }

    /// Signs for suite `rsa` too, with a key of 3,072 bits in PKCS #8 (DER).
    pub fn with_rsa(mut self, pkcs8: &[u8]) -> Result<Self, SignatureError> {
        let rsa = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| SignatureError::Key)?;
        if rsa.public_modulus_len() != RSA_SIGNATURE {
            return Err(SignatureError::Key);
        }
        self.rsa = Some(Arc::new(rsa));
        Ok(self)
    }

    /// Signs for suite `paper` too.
    #[cfg(feature = "paper")]
    #[must_use]
    pub fn with_paper(mut self, key: crate::paper::SigningKey) -> Self {
        self.paper = Some(Arc::new(key));
        self
    }

    /// The Ed25519 key that verifies.
    pub fn public(&self) -> VerifyingKey {
        let mut out = [0; 32];
        out.copy_from_slice(self.ed25519.public_key().as_ref());
        VerifyingKey::Ed25519(out)
    }

    /// All keys that verify, for a site certificate.
    pub fn all_public(&self) -> Vec<VerifyingKey> {
        let rsa = self.rsa.iter().map(|rsa| VerifyingKey::Rsa3072(rsa.public_key().as_ref().into()));
        let keys = [self.public()].into_iter().chain(rsa);
        #[cfg(feature = "paper")]
        let keys = keys.chain(self.paper.iter().map(|key| VerifyingKey::PaperRsa512(key.public().into())));
        keys.collect()
    }

    /// Whether there is a key for this suite.
    pub fn signs(&self, suite: Suite) -> bool {
        match suite {
            Suite::Aes256 | Suite::Aes128 => true,
            Suite::Rsa => self.rsa.is_some(),
            #[cfg(feature = "paper")]
            Suite::Paper => self.paper.is_some(),
        }
    }

    /// The signature of a group's suite over `message`.
    ///
    /// Errors: [`SignatureError::Missing`].
    pub fn sign(&self, suite: Suite, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let missing = SignatureError::Missing(suite);
        match suite {
            Suite::Aes256 | Suite::Aes128 => Ok(self.sign_ed25519(message).to_vec()),
            Suite::Rsa => {
                let mut out = vec![0; RSA_SIGNATURE];
                let key = self.rsa.as_ref().ok_or(missing)?;
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut out).map_err(|_| missing)?;
                Ok(out)
            }
            #[cfg(feature = "paper")]
            Suite::Paper => self.paper.as_ref().and_then(|key| key.sign(message)).ok_or(missing),
        }
    }

    /// 64 octets over `message`.
    pub fn sign_ed25519(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let mut out = [0; SIGNATURE];
        out.copy_from_slice(self.ed25519.sign(message).as_ref());
        out
    }
}

/// A public key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum VerifyingKey {
    /// Of Ed25519: of all suites but `rsa`.
    Ed25519([u8; 32]),
    /// Of RSA with 3,072 bits: `RSAPublicKey` (RFC 8017), DER.
    Rsa3072(Box<[u8]>),
    /// Of suite `paper`; verifies nothing that counts.
    #[cfg(feature = "paper")]
    PaperRsa512(Box<[u8]>),
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {} {}", self.kind(), hex::encode(self.octets()))
    }
}

impl VerifyingKey {
    /// Whether its signatures are worth nothing: of suite `paper`, for loopback addresses only.
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Ed25519(_) | Self::Rsa3072(_) => false,
            #[cfg(feature = "paper")]
            Self::PaperRsa512(_) => true,
        }
    }

    /// Number of its kind in a site certificate.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Ed25519(_) => 1,
            Self::Rsa3072(_) => 2,
            #[cfg(feature = "paper")]
            Self::PaperRsa512(_) => 3,
        }
    }

    /// Its octets, as in a site certificate.
    pub fn octets(&self) -> &[u8] {
        match self {
            Self::Ed25519(key) => key,
            Self::Rsa3072(key) => key,
            #[cfg(feature = "paper")]
            Self::PaperRsa512(key) => key,
        }
    }

    /// From a site certificate. `None`: not a key of this kind, or of a kind that is not known here.
    pub fn from_octets(kind: u8, octets: &[u8]) -> Option<Self> {
        match kind {
            1 => octets.try_into().ok().map(Self::Ed25519),
            2 => (!octets.is_empty() && octets.len() <= MAX_RSA_PUBLIC).then(|| Self::Rsa3072(octets.into())),
            #[cfg(feature = "paper")]
            3 => (octets.len() <= MAX_RSA_PUBLIC).then(|| Self::PaperRsa512(octets.into())),
            _ => None,
        }
    }

    /// `Ok` if `signature` is this key's over `message`, as the suite wants it.
    pub fn verify(&self, suite: Suite, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let valid = match (self, suite) {
            (Self::Ed25519(key), Suite::Aes256 | Suite::Aes128) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
            // A longer or shorter modulus makes signatures of another length.
            (Self::Rsa3072(key), Suite::Rsa) if signature.len() == RSA_SIGNATURE => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(message, signature).is_ok()
            }
            #[cfg(feature = "paper")]
            (Self::PaperRsa512(key), Suite::Paper) => crate::paper::verify(key, message, signature),
            _ => false,
        };
        if valid { Ok(()) } else { Err(SignatureError::Invalid) }
    }
}

/// `Ok` if one of `keys` made `signature`, tried in order: more than one is trusted while a key is rolled.
pub fn verify_any(keys: &[VerifyingKey], suite: Suite, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    keys.iter().find_map(|key| key.verify(suite, message, signature).ok()).ok_or(SignatureError::Invalid)
}
