//! Signed tokens (JWT) for trying out registrars that take them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use protocol::identity::Identity;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{PkiError, random};

/// What stands in `iss` of the tokens.
const ISSUER: &str = "keystone-pki";
/// What stands in `aud`.
const AUDIENCE: &str = "keystone";
/// What names the key.
const KEY_ID: &str = "development";

/// Signs tokens with ES256.
pub struct TokenIssuer(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenIssuer(***)")
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    jti: String,
    iat: u64,
    exp: u64,
}

impl TokenIssuer {
    /// One with a new key.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn generate() -> Result<Self, PkiError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| PkiError::Key)?;
        let key = key.to_pkcs8v1().map_err(|_| PkiError::Key)?;
        Ok(Self(Zeroizing::new(key.as_ref().to_vec())))
    }

    /// The one whose key is in `token.key` of a folder.
    ///
    /// # Errors
    /// The file cannot be read or is not one.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        let path = folder.join("token.key");
        let io = |source| PkiError::Io { path: path.clone(), source };
        let text = Zeroizing::new(std::fs::read_to_string(&path).map_err(io)?);
        let key = hex::decode(text.trim()).map_err(|_| PkiError::NoKey(path.clone()))?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// The private key, PKCS #8.
    pub(super) fn key(&self) -> &[u8] {
        &self.0
    }

    /// The public key as a JWK set.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn key_set(&self) -> Result<String, PkiError> {
        let mut jwk = Jwk::from_encoding_key(&EncodingKey::from_ec_der(&self.0), Algorithm::ES256)?;
        jwk.common.key_id = Some(KEY_ID.into());
        serde_json::to_string(&JwkSet { keys: vec![jwk] })
            .map(|text| text + "\n")
            .map_err(|error| PkiError::Token(error.into()))
    }

    /// A token for `identity`, from now on and for `life`, good for one registration.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn sign(&self, identity: &Identity, life: Duration) -> Result<String, PkiError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let jti = hex::encode(&random()?[..16]);
        let (iat, exp) = (now.as_secs(), now.saturating_add(life).as_secs());
        self.sign_claims(&Claims { iss: ISSUER, aud: AUDIENCE, sub: identity.as_str(), jti, iat, exp })
    }

    /// A token with any claims, for tests of refusals.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn sign_claims(&self, claims: &impl Serialize) -> Result<String, PkiError> {
        let header = Header { kid: Some(KEY_ID.into()), ..Header::new(Algorithm::ES256) };
        Ok(encode(&header, claims, &EncodingKey::from_ec_der(&self.0))?)
    }
}
