//! An authority and what it signs.

use std::time::Duration;

use protocol::identity::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use zeroize::Zeroizing;

use super::{PkiError, validity};

/// An authority that certifies identities.
pub struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its private key, both PEM.
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS#8).
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leaf(***)")
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(***)")
    }
}

impl Authority {
    /// A new one, which holds for `days`.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn new(name: &str, days: u32) -> Result<Self, PkiError> {
        let mut params = params(&validity(days));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its certificate, PEM: the root that others are configured with.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for `identity`, for `days` from now.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn issue(&self, identity: &Identity, days: u32) -> Result<Leaf, PkiError> {
        self.issue_uris(&[identity.as_str()], &validity(days))
    }

    /// A certificate with any URI SANs and validity (seconds since 1970), for tests of refusals.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn issue_uris(&self, uris: &[&str], (begin, end): &(u64, u64)) -> Result<Leaf, PkiError> {
        let mut params = params(&(*begin, *end));
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Leaf { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }

    /// A list of revoked certificates (CRL), PEM, with the serial numbers of these, from its first to its last moment (seconds
    /// since 1970).
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn revoke(&self, serials: &[&[u8]], (begin, end): (u64, u64)) -> Result<String, PkiError> {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: epoch + Duration::from_secs(begin),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: epoch + Duration::from_secs(begin),
            next_update: epoch + Duration::from_secs(end),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

fn params((begin, end): &(u64, u64)) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(*begin);
    params.not_after = epoch + Duration::from_secs(*end);
    params
}
