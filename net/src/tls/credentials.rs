//! What one daemon proves itself with and whom it trusts, checked when it is loaded.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::identity::Identity;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use serde::Deserialize;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::crl::{self, Crl, CrlError};
use crate::identity::{CertificateIdentityError, from_certificate};
use crate::secret_file::{self, SecretFileError};

/// Where the credentials of a daemon are: a table of its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialFiles {
    /// PEM file with this daemon's certificate first, then those between it and a root.
    pub certificate: PathBuf,
    /// PEM file, mode 0600, with the private key of that certificate (PKCS#8, SEC1 or PKCS#1).
    pub key: PathBuf,
    /// PEM file with the certificates of the authorities that peers must be under.
    pub roots: PathBuf,
    /// PEM files with lists of revoked certificates, of every authority that a client's certificate is under; at most 64.
    /// Default: none, and nothing is looked up.
    #[serde(default)]
    pub crls: Vec<PathBuf>,
}

/// Lists of revoked certificates in a configuration.
const MAX_CRLS: usize = 64;

impl CredentialFiles {
    /// Relative paths are meant from `folder`.
    #[must_use]
    pub fn within(&self, folder: &Path) -> Self {
        Self {
            certificate: folder.join(&self.certificate),
            key: folder.join(&self.key),
            roots: folder.join(&self.roots),
            crls: self.crls.iter().map(|path| folder.join(path)).collect(),
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key, &self.roots].into_iter().chain(&self.crls).cloned().collect()
    }
}

/// Days before its end from which a certificate is a warning: time to get another in any organisation.
pub(crate) const ENDS_SOON: u64 = 14;

/// Certificate chain, private key, own identity and trusted roots. Clones share them.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) crls: Arc<Vec<Crl>>,
    identity: Identity,
    /// When the certificate ends, in seconds since 1970.
    ends: u64,
}

/// Why credentials are refused. Whoever keeps the files is to blame.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// A certificate file cannot be read or is not PEM.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// A file without a certificate.
    #[error("{}: holds no certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The key file is refused.
    #[error(transparent)]
    KeyFile(#[from] SecretFileError),
    /// The key file holds no private key, or of a kind that is not known.
    #[error("{}: holds no usable private key in PEM", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The key is not that of the certificate.
    #[error("{} is not the key of the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        certificate: PathBuf,
    },
    /// The certificate is not valid now.
    #[error("{}: the certificate is valid from {not_before} to {not_after}, now is {now}", path.display())]
    Validity {
        /// The file.
        path: PathBuf,
        /// First moment.
        not_before: String,
        /// Last moment.
        not_after: String,
        /// The moment of the check.
        now: String,
    },
    /// The certificate names nobody, or more than one.
    #[error("{}: {source}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CertificateIdentityError,
    },
    /// A list of revoked certificates is refused.
    #[error("{0}")]
    Crl(Box<CrlError>),
    /// There are too many such lists.
    #[error("{0} files of revocation lists, at most {MAX_CRLS} are possible")]
    Crls(usize),
    /// What is read again has another identity than before.
    #[error("{}: is for `{found}`, this daemon runs as `{expected}`", path.display())]
    Renamed {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: Identity,
        /// Since the start.
        expected: Identity,
    },
    /// A root that is no certificate of an authority.
    #[error("{}: {source}", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

impl Credentials {
    /// Reads and checks the three files: the key is private and the certificate's, the certificate is valid today and
    /// has exactly one identity.
    ///
    /// # Errors
    /// See [`CredentialsError`]; every one names its file.
    pub fn load(files: &CredentialFiles) -> Result<Self, CredentialsError> {
        Self::read(files, &[])
    }

    /// Reads and checks the files again: of the same identity, with no older lists of revoked certificates.
    ///
    /// # Errors
    /// See [`CredentialsError`]; these stay what they are.
    pub fn reload(&self, files: &CredentialFiles) -> Result<Self, CredentialsError> {
        let fresh = Self::read(files, &self.crls)?;
        if fresh.identity != self.identity {
            let path = files.certificate.clone();
            return Err(CredentialsError::Renamed { path, found: fresh.identity, expected: self.identity.clone() });
        }
        Ok(fresh)
    }

    fn read(files: &CredentialFiles, crls: &[Crl]) -> Result<Self, CredentialsError> {
        if files.crls.len() > MAX_CRLS {
            return Err(CredentialsError::Crls(files.crls.len()));
        }
        let chain = load_chain(&files.certificate)?;
        let (identity, ends) = check(&chain, &files.certificate)?;
        let key = load_key(&files.key)?;
        let certified = CertifiedKey::from_der(chain, key, &super::provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                CredentialsError::Mismatch { key: files.key.clone(), certificate: files.certificate.clone() }
            }
            _ => CredentialsError::Key { path: files.key.clone() },
        })?;
        let roots = load_roots(&files.roots)?;
        let crls =
            crl::load(&files.crls, &files.roots, crls).map_err(|error| CredentialsError::Crl(Box::new(error)))?;
        Ok(Self { certified: Arc::new(certified), roots, crls: Arc::new(crls), identity, ends })
    }

    /// The lists of revoked certificates that are in force.
    pub fn crls(&self) -> &[Crl] {
        &self.crls
    }

    /// Who this daemon is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// For how many days the certificate is still good.
    pub fn days_left(&self) -> u64 {
        self.ends.saturating_sub(UnixTime::now().as_secs()) / 86_400
    }

    /// Says in the log for how many days the certificate is still good, and which revocation lists are old.
    pub fn remind(&self) {
        let (now, days) = (UnixTime::now().as_secs(), self.days_left());
        match days < ENDS_SOON {
            true => tracing::warn!(identity = %self.identity, days, "THE CERTIFICATE ENDS SOON: renew it"),
            false => tracing::info!(identity = %self.identity, days, "certificate is good"),
        }
        for crl in self.crls.iter().filter(|crl| crl.is_old(now)) {
            tracing::warn!(file = %crl.path.display(), "old revocation list: the next one is due; it stays in force");
        }
    }
}

/// The certificates of a PEM file, in order, at least one.
///
/// # Errors
/// The file cannot be read, is not PEM, or holds none.
pub fn load_chain(path: impl AsRef<Path>) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let path = path.as_ref();
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| CredentialsError::Pem { path: path.to_owned(), source })?;
    match chain.is_empty() {
        true => Err(CredentialsError::Empty { path: path.to_owned() }),
        false => Ok(chain),
    }
}

/// The first private key of a PEM file that only its owner may use.
///
/// # Errors
/// Others may use the file, or it holds no private key.
pub fn load_key(path: impl AsRef<Path>) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let path = path.as_ref();
    let content = secret_file::read_private(path)?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|_| CredentialsError::Key { path: path.to_owned() })
}

/// The authorities of a PEM file, at least one.
///
/// # Errors
/// The file cannot be read, is not PEM, holds none, or one that is malformed.
pub fn load_roots(path: impl AsRef<Path>) -> Result<Arc<RootCertStore>, CredentialsError> {
    let path = path.as_ref();
    let mut roots = RootCertStore::empty();
    for root in load_chain(path)? {
        roots.add(root).map_err(|source| CredentialsError::Root { path: path.to_owned(), source })?;
    }
    Ok(Arc::new(roots))
}

/// The identity and the end of a chain's first certificate, if that is valid now.
fn check(chain: &[CertificateDer<'static>], path: &Path) -> Result<(Identity, u64), CredentialsError> {
    let identity_error = |source| CredentialsError::Identity { path: path.to_owned(), source };
    let leaf = chain.first().ok_or_else(|| CredentialsError::Empty { path: path.to_owned() })?;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|_| identity_error(CertificateIdentityError::Malformed))?;
    let validity = parsed.validity();
    let now = i64::try_from(UnixTime::now().as_secs())
        .ok()
        .and_then(|s| x509_parser::time::ASN1Time::from_timestamp(s).ok())
        .ok_or_else(|| identity_error(CertificateIdentityError::Malformed))?;
    if !validity.is_valid_at(now) {
        return Err(CredentialsError::Validity {
            path: path.to_owned(),
            not_before: validity.not_before.to_string(),
            not_after: validity.not_after.to_string(),
            now: now.to_string(),
        });
    }
    let identity = from_certificate(leaf).map_err(identity_error)?;
    Ok((identity, u64::try_from(validity.not_after.timestamp()).unwrap_or(0)))
}
