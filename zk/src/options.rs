//! How a session is opened: as whom, with whom, and how long it outlives its connection.
//!
//! Secrets are read from their files whenever a session is opened and not kept here, so that a renewed certificate or digest
//! counts from the next session on. The client library keeps copies of its own as long as its session lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use net::secret_file::{self, SecretFileError};
use net::tls::{CredentialsError, load_chain, load_key, load_roots};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ConfigBuilder, WantsVerifier};
use thiserror::Error;
use zeroize::Zeroizing;
use zookeeper_client::{Acl, AuthId, Permission, TlsOptions};

use crate::Ensemble;

/// Key servers of one site that hold the same znodes by certificates of their own.
const MAX_OWNERS: usize = 4;
/// Octets of all owners together: each change in a transaction names them.
const MAX_OWNERS_LEN: usize = 256;

/// Files for TLS, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that the servers' certificates must be under.
    pub roots: PathBuf,
    /// Our certificate, first, with those between it and a root; and the file of mode 0600 with its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// What it makes is for its owners alone, and so must the root be.
    #[default]
    Keeper,
    /// What it makes is for its owners to write and for everybody to read.
    Publisher,
    /// It reads what a publisher has made, and need not say who it is. Its reads may lag: they do not ask the leader.
    Reader,
}

/// How a session is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub ensemble: Ensemble,
    /// What for.
    pub role: Role,
    /// How long the session, and what hangs on it, outlives a silent client. The servers hold it within bounds of their own
    /// (2 to 20 of their ticks).
    pub session_timeout: Duration,
    /// TLS 1.2 or 1.3, with the hosts' names checked; `None` is in the clear.
    pub tls: Option<TlsFiles>,
    /// File of mode 0600 with `user:password`, for ZooKeeper's digest scheme. Without TLS the password is sent in the clear.
    pub digest: Option<PathBuf>,
    /// Subjects of further certificates that own what this session makes, as ZooKeeper writes them (`CN=ks2,O=example`).
    pub owners: Vec<String>,
}

/// Why options are refused. Whoever keeps the configuration and its files is to blame.
#[derive(Debug, Error)]
pub enum OptionsError {
    /// Nothing to own znodes with.
    #[error("neither a digest nor a certificate: znodes would belong to everybody")]
    Nobody,
    /// The digest's file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// It holds something else.
    #[error("{}: expected one line `user:password`, both not empty", .0.display())]
    Digest(PathBuf),
    /// A file for TLS.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A file for TLS that is no text.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// TLS refuses what the files hold.
    #[error("{}: {why}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Half of what shows who we are.
    #[error("`certificate` and `key` belong together")]
    Half,
    /// A certificate without TLS.
    #[error("a `certificate` is shown with `roots` only")]
    NoRoots,
    /// Too many or too long.
    #[error(
        "{count} owners of {octets} octets, expected at most {MAX_OWNERS} of {MAX_OWNERS_LEN} together, none empty"
    )]
    Owners {
        /// How many.
        count: usize,
        /// Of all together.
        octets: usize,
    },
}

impl TlsFiles {
    /// These files as a configuration names them, relative to `folder`; `None` is in the clear.
    ///
    /// # Errors
    /// [`OptionsError::Half`], [`OptionsError::NoRoots`].
    pub fn of(
        folder: &Path,
        roots: Option<&PathBuf>,
        certificate: Option<&PathBuf>,
        key: Option<&PathBuf>,
    ) -> Result<Option<Self>, OptionsError> {
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((folder.join(certificate), folder.join(key))),
            _ => return Err(OptionsError::Half),
        };
        match roots {
            Some(roots) => Ok(Some(Self { roots: folder.join(roots), identity })),
            None if identity.is_some() => Err(OptionsError::NoRoots),
            None => Ok(None),
        }
    }
}

impl Options {
    /// Checks all files. Nothing is sent.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn check(&self) -> Result<(), OptionsError> {
        let is_nobody = self.digest.is_none() && self.tls.as_ref().is_none_or(|tls| tls.identity.is_none());
        if is_nobody && self.role != Role::Reader {
            return Err(OptionsError::Nobody);
        }
        let (count, octets) = (self.owners.len(), self.owners.iter().map(String::len).sum());
        if count > MAX_OWNERS || octets > MAX_OWNERS_LEN || self.owners.iter().any(String::is_empty) {
            return Err(OptionsError::Owners { count, octets });
        }
        self.read_digest()?;
        self.client_config()?;
        self.tls().map(drop)
    }

    /// What everything that we make is given: all rights to its creator and the other owners, nothing to anybody else but the
    /// reading of what is published.
    pub(crate) fn acl(&self) -> Vec<Acl> {
        let creator = Acl::new(Permission::ALL, AuthId::authed());
        let others = self.owners.iter().map(|owner| Acl::new(Permission::ALL, AuthId::new("x509", owner)));
        let readers = (self.role == Role::Publisher).then(|| Acl::new(Permission::READ, AuthId::anyone()));
        std::iter::once(creator).chain(others).chain(readers).collect()
    }

    /// `user:password`.
    pub(crate) fn read_digest(&self) -> Result<Option<Zeroizing<Vec<u8>>>, OptionsError> {
        let Some(path) = &self.digest else { return Ok(None) };
        let content = secret_file::read_private(path)?;
        let line = content.trim_ascii();
        let colon = line.iter().position(|octet| *octet == b':');
        let whole = colon.is_some_and(|at| at > 0 && at + 1 < line.len());
        match whole && line.iter().all(u8::is_ascii_graphic) {
            true => Ok(Some(Zeroizing::new(line.to_vec()))),
            false => Err(OptionsError::Digest(path.clone())),
        }
    }

    /// The files, as the library takes them.
    pub(crate) fn tls(&self) -> Result<Option<TlsOptions>, OptionsError> {
        let Some(TlsFiles { roots, identity }) = &self.tls else { return Ok(None) };
        let wrong =
            |path: &Path, why: &dyn std::fmt::Display| OptionsError::Tls { path: path.into(), why: why.to_string() };
        let options = TlsOptions::new().with_pem_ca(&read(roots)?).map_err(|why| wrong(roots, &why))?;
        let Some((certificate, key)) = identity else { return Ok(Some(options)) };
        let secret = secret_file::read_private(key)?;
        let secret = std::str::from_utf8(&secret).map_err(|why| wrong(key, &why))?;
        let options = options.with_pem_identity(&read(certificate)?, secret).map_err(|why| wrong(key, &why))?;
        Ok(Some(options))
    }

    /// The same for a handshake of our own, which says more precisely what is wrong.
    pub(crate) fn client_config(&self) -> Result<Option<Arc<ClientConfig>>, OptionsError> {
        let Some(TlsFiles { roots, identity }) = &self.tls else { return Ok(None) };
        let config = builder(roots)?.with_root_certificates(load_roots(roots)?);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = load_chain(certificate)?;
                let wrong = |why: rustls::Error| OptionsError::Tls { path: key.clone(), why: why.to_string() };
                config.with_client_auth_cert(chain, load_key(key)?).map_err(wrong)?
            }
        };
        Ok(Some(Arc::new(config)))
    }
}

fn builder(roots: &Path) -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, OptionsError> {
    // ZooKeeper up to 3.9 offers TLS 1.2 unless it is told otherwise.
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| OptionsError::Tls { path: roots.into(), why: why.to_string() })
}

fn read(path: &Path) -> Result<String, OptionsError> {
    std::fs::read_to_string(path).map_err(|source| OptionsError::Read { path: path.into(), source })
}
