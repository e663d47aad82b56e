//! What this client proves itself with: a certificate or a token.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use net::ConfigError;
use net::reload::{Reloaded, Reloads};
use net::secret_file::read_private;
use net::tls::{CredentialFiles, Credentials, TlsError, anonymous_client_config, client_config, load_roots};
use protocol::identity::Identity;
use protocol::registration::{ALPN_CLIENT, FromClient, MAX_TOKEN, Offer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use crate::config::FileConfig;

/// What they are called where readings are counted.
const CREDENTIALS: &str = "TLS credentials";

/// The credential, with the files that it comes from. They are read anew for each registration; clones share what was read
/// last.
#[derive(Debug, Clone)]
pub(crate) enum Credential {
    Certificate { files: CredentialFiles, last: Arc<Mutex<Credentials>>, identity: Identity },
    Token { file: PathBuf, roots: PathBuf, last: Arc<Mutex<Arc<RootCertStore>>>, identity: Identity },
}

impl Credential {
    /// From the configuration, with every file that it names.
    pub(crate) fn check(config: &FileConfig, folder: &Path) -> Result<Self, ConfigError> {
        let roots = folder.join(&config.trust_roots);
        match (&config.certificate, &config.private_key, &config.token_file, &config.identity) {
            (Some(certificate), Some(key), None, None) => {
                let (certificate, key) = (folder.join(certificate), folder.join(key));
                let files = CredentialFiles { certificate, key, roots, crls: Vec::new() };
                let read = Credentials::load(&files);
                let read = read.map_err(|why| ConfigError::invalid("certificate, private_key, trust_roots", why))?;
                let identity = read.identity().clone();
                Ok(Self::Certificate { files, last: Arc::new(Mutex::new(read)), identity })
            }
            (None, None, Some(file), Some(identity)) => {
                let identity = Identity::parse(identity).map_err(|why| ConfigError::invalid("identity", why))?;
                let last = load_roots(&roots).map_err(|why| ConfigError::invalid("trust_roots", why))?;
                let file = folder.join(file);
                token(&file).map_err(|why| ConfigError::invalid("token_file", why))?;
                Ok(Self::Token { file, roots, last: Arc::new(Mutex::new(last)), identity })
            }
            _ => {
                let why = "a client has `certificate` and `private_key`, or `token_file` and `identity`";
                Err(ConfigError::invalid("certificate, private_key, token_file, identity", why))
            }
        }
    }

    /// Who this client is.
    pub(crate) fn identity(&self) -> &Identity {
        let (Self::Certificate { identity, .. } | Self::Token { identity, .. }) = self;
        identity
    }

    /// Says when there is another: its files have changed and are good, or SIGHUP came. Says once a day for how long a
    /// certificate is still good.
    pub(crate) fn follow(&self, reloads: &Reloads) -> std::io::Result<Reloaded<()>> {
        let (credential, kept) = (self.clone(), self.clone());
        let (files, what) = match self {
            Self::Certificate { files, .. } => (vec![files.certificate.clone(), files.key.clone()], CREDENTIALS),
            Self::Token { file, .. } => (vec![file.clone()], "token"),
        };
        let remind = move |(): &()| {
            if let Self::Certificate { last, .. } = &kept {
                last.lock().unwrap_or_else(PoisonError::into_inner).remind();
            }
        };
        let load = move |(): &()| match &credential {
            Self::Certificate { .. } => credential.read_again(),
            Self::Token { file, .. } => token(file).map(drop),
        };
        reloads.follow(what, (), files, load, remind)
    }

    /// Reads the roots again when they change. That is no reason to register again: all of a site's members would come at once.
    pub(crate) fn follow_roots(&self, reloads: &Reloads) -> std::io::Result<Reloaded<()>> {
        let (Self::Certificate { files: CredentialFiles { roots, .. }, .. } | Self::Token { roots, .. }) = self;
        let credential = self.clone();
        reloads.follow("trust roots", (), vec![roots.clone()], move |()| credential.read_again(), |()| {})
    }

    /// Reads certificate, key and roots again; what is bad leaves the last good ones in force.
    fn read_again(&self) -> Result<(), String> {
        match self {
            Self::Certificate { files, last, .. } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                *last = last.reload(files).map_err(|error| error.to_string())?;
            }
            Self::Token { roots, last, .. } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                *last = load_roots(roots).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// TLS to this registrar, and what this client says there first, with these offers. Files that are bad, or gone, are in the log and
    /// counted: a certificate that was good before serves on.
    ///
    /// # Errors
    /// There is no token, or TLS cannot be set up.
    pub(crate) fn begin(
        &self,
        registrar: &Identity,
        key_server: &str,
        offers: Vec<Offer>,
        reloads: &Reloads,
    ) -> Result<(Arc<ClientConfig>, FromClient), TlsError> {
        let (registrar, key_server) = (registrar.clone(), key_server.to_owned());
        if let Err(error) = self.read_again() {
            reloads.refused(CREDENTIALS, &error);
        }
        match self {
            Self::Certificate { last, .. } => {
                let last = last.lock().unwrap_or_else(PoisonError::into_inner);
                Ok((client_config(&last, registrar, ALPN_CLIENT)?, FromClient::Register { key_server, offers }))
            }
            Self::Token { file, last, identity, .. } => {
                let token = token(file).map_err(TlsError::Credential)?;
                let last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let message = FromClient::RegisterWithToken { key_server, identity: identity.clone(), token, offers };
                Ok((anonymous_client_config(&last, registrar, ALPN_CLIENT)?, message))
            }
        }
    }
}

fn token(file: &Path) -> Result<Zeroizing<String>, String> {
    let content = read_private(file).map_err(|error| error.to_string())?;
    let text = str::from_utf8(content.trim_ascii()).map_err(|_| format!("{}: not text", file.display()))?;
    match text.len() {
        1..=MAX_TOKEN => Ok(Zeroizing::new(text.to_owned())),
        octets => Err(format!("{}: {octets} octets, expected 1 to {MAX_TOKEN}", file.display())),
    }
}
