//! The site certificate: which keys a key server signs and speaks Noise with, certified by the site's own key.
//!
//! A member trusts its configuration for the site's public key and nothing else: a registrar cannot tell it
//! another key server. Several keys of each kind may stand in one certificate, so that both can be rolled.

use thiserror::Error;

use crate::codec::{DecodeError, Reader, Write};
use crate::sign::{MAX_RSA_PUBLIC, SIGNATURE, SigningKey, VerifyingKey};
use crate::{MAX_NAME, Suite, WIRE_VERSION};

const MAGIC: &[u8; 4] = b"KSSC";
/// Keys of one kind in a certificate: of five key servers that stand by for each other, the present ones and the next.
pub(crate) const MAX_KEYS: usize = 10;
/// Octets of a site certificate at the most.
pub const MAX_LEN: usize =
    4 + 1 + 2 + MAX_NAME + 16 + 2 + MAX_KEYS * (1 + 2 + MAX_RSA_PUBLIC) + 2 + MAX_KEYS * 32 + SIGNATURE;

/// Certifies a key server's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteCertificate {
    /// Name of the key server, at most 64 octets.
    pub key_server: String,
    /// Seconds since 1970 from which it holds.
    pub not_before: u64,
    /// Seconds since 1970 until which it holds.
    pub not_after: u64,
    /// Keys that may sign rekey messages and beacons.
    pub signing: Vec<VerifyingKey>,
    /// Static Noise keys (X25519), the present one first.
    pub noise: Vec<[u8; 32]>,
}

/// Why a site certificate is not accepted. The file or its maker is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SiteError {
    /// Not a site certificate.
    #[error("malformed site certificate: {0}")]
    Malformed(#[from] DecodeError),
    /// Not signed by this site's key.
    #[error("the site certificate is not signed by this site's key")]
    Signature,
    /// Out of its time.
    #[error("the site certificate holds from {not_before} to {not_after} (seconds since 1970), now is {now}")]
    Expired {
        /// First second.
        not_before: u64,
        /// Last second.
        not_after: u64,
        /// The time of the check.
        now: u64,
    },
}

impl SiteCertificate {
    /// Encodes and signs.
    pub fn sign(&self, site: &SigningKey) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(WIRE_VERSION);
        out.put_text(&self.key_server);
        out.extend_from_slice(&self.not_before.to_be_bytes());
        out.extend_from_slice(&self.not_after.to_be_bytes());
        out.put_count(self.signing.len());
        for key in &self.signing {
            out.push(key.kind());
            out.put_octets(key.octets());
        }
        out.put_count(self.noise.len());
        self.noise.iter().for_each(|key| out.extend_from_slice(key));
        let signature = site.sign_ed25519(&out);
        out.extend_from_slice(&signature);
        out
    }

    /// Verifies the site's signature and the time, then decodes.
    pub fn open(octets: &[u8], site: &VerifyingKey, now_unix_s: u64) -> Result<Self, SiteError> {
        let signed = octets.len().checked_sub(SIGNATURE).ok_or(DecodeError::Truncated {
            what: "site certificate",
            need: SIGNATURE,
            have: octets.len(),
        })?;
        let (body, signature) = octets.split_at(signed);
        site.verify(Suite::Aes256, body, signature).map_err(|_| SiteError::Signature)?;
        let certificate = Self::decode(body)?;
        let Self { not_before, not_after, .. } = certificate;
        if !(not_before..=not_after).contains(&now_unix_s) {
            return Err(SiteError::Expired { not_before, not_after, now: now_unix_s });
        }
        Ok(certificate)
    }

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(body);
        if r.array::<4>("magic")? != *MAGIC {
            return Err(DecodeError::Text { what: "site certificate magic" });
        }
        let version = r.u8("version")?;
        if version != WIRE_VERSION {
            return Err(DecodeError::Value { what: "version", value: version.into() });
        }
        let key_server = r.text(MAX_NAME, "key server name")?.to_owned();
        let (not_before, not_after) = (r.u64("not before")?, r.u64("not after")?);
        let signing = (0..r.count(MAX_KEYS, "signing keys")?)
            .map(|_| {
                let kind = r.u8("kind of signing key")?;
                let octets = r.octets(MAX_RSA_PUBLIC, "signing key")?;
                Ok(VerifyingKey::from_octets(kind, octets))
            })
            // A key of a kind that is not known here signs nothing that could be verified here.
            .filter_map(Result::transpose)
            .collect::<Result<Vec<_>, DecodeError>>()?;
        let noise =
            (0..r.count(MAX_KEYS, "noise keys")?).map(|_| r.array("noise key")).collect::<Result<Vec<_>, _>>()?;
        r.end("site certificate")?;
        if signing.is_empty() || noise.is_empty() {
            return Err(DecodeError::Value { what: "number of keys", value: 0 });
        }
        Ok(Self { key_server, not_before, not_after, signing, noise })
    }
}
