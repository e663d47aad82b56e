//! The identity in a certificate: its one URI; and what names the certificate itself.

use aws_lc_rs::digest::{SHA256, digest};
use protocol::identity::{Identity, IdentityError};
use protocol::{Authentication, Credential};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why a certificate names nobody. Whoever issued or presents it is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateIdentityError {
    /// Not one X.509 certificate.
    #[error("malformed certificate")]
    Malformed,
    /// Not exactly one URI among the subject's alternative names.
    #[error("the certificate has {count} URI names, expected exactly 1")]
    Count {
        /// URI names that it has.
        count: usize,
    },
    /// The URI is not an identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The identity of a certificate: exactly one URI subject alternative name (RFC 5280, section 4.2.1.6) in canonical
/// spelling. Names of other kinds mean nothing here and are ignored. Says nothing about who signed the certificate.
///
/// # Errors
/// See [`CertificateIdentityError`].
pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Identity, CertificateIdentityError> {
    identity(&parse(certificate)?)
}

/// Both: whose certificate it is, and what names it.
///
/// # Errors
/// See [`CertificateIdentityError`].
pub fn identity_and_credential(
    certificate: &CertificateDer<'_>,
) -> Result<(Identity, Credential), CertificateIdentityError> {
    let certificate = parse(certificate)?;
    Ok((identity(&certificate)?, name(&certificate)?))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateIdentityError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateIdentityError::Malformed),
    }
}

fn identity(certificate: &X509Certificate<'_>) -> Result<Identity, CertificateIdentityError> {
    // An error here also covers an extension that stands there twice.
    let names = certificate.subject_alternative_name().map_err(|_| CertificateIdentityError::Malformed)?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It could have been a second URI.
            GeneralName::Invalid(..) => return Err(CertificateIdentityError::Malformed),
            _ => {}
        }
    }
    match uris.as_slice() {
        [uri] => Ok(Identity::parse(uri)?),
        uris => Err(CertificateIdentityError::Count { count: uris.len() }),
    }
}

/// Longest serial number in octets: RFC 5280, section 4.1.2.2, allows 20; some authorities need a sign octet more.
const MAX_SERIAL: usize = 32;

/// What names a certificate, and when it ends (`notAfter`; at once if that is before 1970).
///
/// # Errors
/// [`CertificateIdentityError::Malformed`].
pub fn credential(certificate: &CertificateDer<'_>) -> Result<Credential, CertificateIdentityError> {
    name(&parse(certificate)?)
}

fn name(certificate: &X509Certificate<'_>) -> Result<Credential, CertificateIdentityError> {
    if certificate.raw_serial().len() > MAX_SERIAL {
        return Err(CertificateIdentityError::Malformed);
    }
    let issuer = digest(&SHA256, certificate.issuer().as_raw());
    let name = [issuer.as_ref(), certificate.raw_serial()].concat();
    let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Credential { kind: Authentication::Certificate, ends, name })
}
