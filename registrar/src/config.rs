//! The registrar's configuration file.

use std::net::SocketAddr;
use std::path::Path;

use net::config::{ConfigError, in_range, load};
use net::tls::{CredentialFiles, Credentials};
use protocol::identity::{Identity, IdentityPattern};
use serde::Deserialize;

use crate::core;

/// The file, key by key. Relative paths start from the folder of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Address and port for clients (TCP, TLS). Required.
    pub listen: SocketAddr,
    /// Address and port of the key server's door for registrars. Required.
    pub key_server_address: SocketAddr,
    /// The same of other key servers of the same identity, which stand by for it or take over from it, at most 4. Default:
    /// none.
    #[serde(default)]
    pub standby_addresses: Vec<SocketAddr>,
    /// Identity in the key server's certificate. Required.
    pub key_server_identity: String,
    /// Clients that this registrar serves: identities, or `spiffe://domain/path/*`. Required, not empty.
    pub clients: Vec<String>,
    /// Certificate, key and roots. Required.
    pub tls: CredentialFiles,
}

/// Everything that the registrar needs, checked.
#[derive(Debug)]
pub struct Checked {
    /// For the core.
    pub core: core::Config,
    /// The file, with absolute paths.
    pub file: FileConfig,
    /// The key server's identity.
    pub key_server: Identity,
    /// Certificate, key and roots.
    pub credentials: Credentials,
}

impl Checked {
    /// Reads and checks the file and all files that it names. Nothing is bound.
    ///
    /// # Errors
    /// The first flaw, with its file, line or key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut file: FileConfig = load(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for path in [&mut file.tls.certificate, &mut file.tls.key, &mut file.tls.roots] {
            *path = folder.join(&*path);
        }
        in_range("clients: number of entries", file.clients.len(), 1..=10_000)?;
        in_range("standby_addresses: number of entries", file.standby_addresses.len(), 0..=4)?;
        let clients = (file.clients.iter())
            .map(|text| IdentityPattern::parse(text).map_err(|e| ConfigError::invalid("clients", e)))
            .collect::<Result<_, _>>()?;
        let key_server =
            Identity::parse(&file.key_server_identity).map_err(|e| ConfigError::invalid("key_server_identity", e))?;
        let credentials = Credentials::load(&file.tls).map_err(|e| ConfigError::invalid("tls", e))?;
        let core = core::Config { identity: credentials.identity().clone(), clients };
        Ok(Self { core, file, key_server, credentials })
    }
}
