//! Lists of revoked certificates (CRLs, RFC 5280): files of the operator, checked whole before they count.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use thiserror::Error;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::tls::{CredentialsError, load_chain};

/// Lists in one file: more than a site has authorities.
const MAX_LISTS: usize = 64;

/// Why lists are refused. Whoever keeps the files is to blame; the lists in force stay.
#[derive(Debug, Error)]
pub enum CrlError {
    /// The file cannot be read or is not PEM.
    #[error("{}: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// A list in it is damaged, or there is none, or too many.
    #[error("{}: {why}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The authorities cannot be read.
    #[error(transparent)]
    Roots(#[from] CredentialsError),
}

/// One list whose signature is an authority's.
#[derive(Debug, Clone)]
pub struct Crl {
    /// The file that it comes from.
    pub path: PathBuf,
    /// The list itself.
    pub der: CertificateRevocationListDer<'static>,
    /// SHA-256 of its issuer's name in DER.
    pub issuer: [u8; 32],
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// When the next one should have come, if it says so.
    pub next: Option<u64>,
    /// Names of the revoked certificates, as in [`Credential`](protocol::Credential).
    pub revoked: Vec<Vec<u8>>,
}

impl Crl {
    /// Whether a newer one should be here by now. It stays in force: to forget whom it names would let them in.
    pub fn is_old(&self, now: u64) -> bool {
        self.next.is_some_and(|next| next < now)
    }
}

/// Reads the lists of PEM files. Each must be signed by an authority of `roots`, made in the past, and not be older than the one
/// of the same issuer that is in force (`before`), so that nobody brings back a list from before a revocation. One whose
/// successor is due is named in the log and counts.
///
/// # Errors
/// See [`CrlError`]; every one names its file.
pub fn load(files: &[PathBuf], roots: &Path, before: &[Crl]) -> Result<Vec<Crl>, CrlError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let authorities = load_chain(roots)?;
    let now = UnixTime::now().as_secs();
    let mut lists = Vec::new();
    for path in files {
        let bad = |why: String| CrlError::Bad { path: path.clone(), why };
        let found = CertificateRevocationListDer::pem_file_iter(path)
            .and_then(|all| all.take(MAX_LISTS + 1).collect::<Result<Vec<_>, _>>())
            .map_err(|source| CrlError::Pem { path: path.clone(), source })?;
        if found.is_empty() || found.len() > MAX_LISTS {
            return Err(bad(format!("holds {} revocation lists, expected 1 to {MAX_LISTS}", found.len())));
        }
        for der in found {
            let list = check(path, der, &authorities, now).map_err(bad)?;
            if let Some(newer) = before.iter().find(|crl| crl.issuer == list.issuer && crl.made > list.made) {
                let why = format!(
                    "made {} s before the list in force, from {}",
                    newer.made - list.made,
                    newer.path.display()
                );
                return Err(bad(why));
            }
            if list.is_old(now) {
                tracing::warn!(file = %path.display(), "old revocation list: the next one is due; it stays in force");
            }
            lists.push(list);
        }
    }
    Ok(lists)
}

fn check(
    path: &Path,
    der: CertificateRevocationListDer<'static>,
    authorities: &[CertificateDer<'static>],
    now: u64,
) -> Result<Crl, String> {
    let (rest, parsed) =
        CertificateRevocationList::from_der(&der).map_err(|_| "damaged: not a revocation list".to_owned())?;
    if !rest.is_empty() {
        return Err("damaged: octets follow the list".into());
    }
    let is_signed = authorities.iter().any(|authority| {
        X509Certificate::from_der(authority).is_ok_and(|(_, authority)| {
            authority.subject().as_raw() == parsed.issuer().as_raw()
                && parsed.verify_signature(authority.public_key()).is_ok()
        })
    });
    if !is_signed {
        return Err("not signed by an authority among the roots, or damaged".into());
    }
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let made = seconds(parsed.last_update());
    if made > now {
        return Err("made in the future".into());
    }
    let mut issuer = [0; 32];
    issuer.copy_from_slice(digest(&SHA256, parsed.issuer().as_raw()).as_ref());
    let revoked = parsed.iter_revoked_certificates().map(|one| [&issuer[..], one.raw_serial()].concat()).collect();
    let next = parsed.next_update().map(seconds);
    Ok(Crl { path: path.to_owned(), issuer, made, next, revoked, der })
}
