//! The keys that tokens are signed with: a JWK set (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use thiserror::Error;

/// Longest set in octets: 64 of the longest keys with their certificates.
pub(crate) const MAX_OCTETS: usize = 262_144;
/// Keys in a set: some issuers and their rollovers.
const MAX_KEYS: usize = 64;

/// Why a set is refused. The issuer, or whoever keeps the file, is to blame.
#[derive(Debug, Error)]
pub enum KeysError {
    /// Too long.
    #[error("{0} octets, at most {MAX_OCTETS} are possible")]
    Long(usize),
    /// Not a set.
    #[error("not a set of JSON web keys: {0}")]
    Form(#[from] serde_json::Error),
    /// None or too many.
    #[error("{0} keys that can verify tokens, expected 1 to {MAX_KEYS}")]
    Count(usize),
}

/// Keys that can verify tokens.
#[derive(Debug, Default)]
pub struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl KeySet {
    /// Reads a set. Keys that are secret, broken or for another use are left out.
    ///
    /// # Errors
    /// It is none, or no key is left.
    pub fn parse(octets: &[u8]) -> Result<Self, KeysError> {
        if octets.len() > MAX_OCTETS {
            return Err(KeysError::Long(octets.len()));
        }
        let set: JwkSet = serde_json::from_slice(octets)?;
        let keys: Vec<Key> = set.keys.iter().filter_map(Key::new).collect();
        match keys.len() {
            1..=MAX_KEYS => Ok(Self(keys)),
            count => Err(KeysError::Count(count)),
        }
    }

    /// The key of this name, or the only one if there is no name, if it is one for this algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let key = match id {
            Some(_) => self.0.iter().find(|key| key.id.as_deref() == id),
            None => self.0.first().filter(|_| self.0.len() == 1),
        };
        key.filter(|key| key.algorithms.contains(&algorithm)).map(|key| &key.key)
    }
}

impl Key {
    fn new(jwk: &Jwk) -> Option<Self> {
        // The kind of key says which algorithms it can be for, never the token: nobody passes a public key off as a secret.
        let possible: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            _ => return None,
        };
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let only = match jwk.common.key_algorithm {
            Some(algorithm) => Some(Algorithm::try_from(algorithm).ok()?),
            None => None,
        };
        let algorithms: Vec<_> =
            possible.iter().copied().filter(|algorithm| only.is_none_or(|only| only == *algorithm)).collect();
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| !algorithms.is_empty())?;
        Some(Self { id: jwk.common.key_id.clone(), algorithms, key })
    }
}
