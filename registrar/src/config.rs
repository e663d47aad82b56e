//! The registrar's configuration file.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use hyper::Uri;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use net::config::{ConfigError, in_range, load};
use net::tls::{CredentialFiles, Credentials};
use protocol::identity::{Identity, IdentityPattern};
use serde::Deserialize;
use tokio_rustls::rustls::ClientConfig;

use crate::authentication::{KeySet, MAX_OCTETS, Rules};
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
    /// Unix socket, mode 0660, that answers `GET /v1/status`. Default: none.
    #[serde(default)]
    pub status_socket: Option<PathBuf>,
    /// Takes clients without certificates too, by signed token. Default: it does not.
    #[serde(default)]
    pub token: Option<TokenConfig>,
}

/// `[token]`: what a token (JWT) must be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The issuer's public keys (JWK set): a file, or an `https://` address that is asked every five minutes. Required.
    pub keys: String,
    /// PEM file with the authorities that the server of that address must be under. Required for an address.
    #[serde(default)]
    pub roots: Option<PathBuf>,
    /// What stands in `iss`. Required.
    pub issuer: String,
    /// What stands in `aud`: this registrar, or the site. Required.
    pub audience: String,
    /// Algorithms, of `ES256`, `ES384`, `EdDSA`, `RS256`, `RS384`, `RS512`, `PS256`, `PS384`, `PS512`. Required, not empty.
    pub algorithms: Vec<String>,
    /// The claim that holds the identity. Default: `sub`.
    #[serde(default = "sub")]
    pub identity_claim: String,
    /// By how many seconds the issuer's clock may differ, 0 to 300. Default: 30.
    #[serde(default = "leeway")]
    pub leeway_s: u64,
}

fn sub() -> String {
    "sub".into()
}
fn leeway() -> u64 {
    30
}

/// Where token keys come from, checked.
#[derive(Debug)]
pub enum TokenKeys {
    /// A file, read again when it changes, and what it holds.
    File(PathBuf, KeySet),
    /// An HTTPS address, and how its server is verified: under the roots in a file, read again for each fetch.
    Address(Uri, PathBuf, Arc<ClientConfig>),
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
    /// What tokens must be, and the keys that they are signed with.
    pub token: Option<(Rules, TokenKeys)>,
}

impl Checked {
    /// Reads and checks the file and all files that it names. Nothing is bound.
    ///
    /// # Errors
    /// The first flaw, with its file, line or key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut file: FileConfig = load(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        file.tls = file.tls.within(folder);
        file.status_socket = file.status_socket.map(|path| folder.join(path));
        in_range("clients: number of entries", file.clients.len(), 1..=10_000)?;
        in_range("standby_addresses: number of entries", file.standby_addresses.len(), 0..=4)?;
        let clients = (file.clients.iter())
            .map(|text| IdentityPattern::parse(text).map_err(|e| ConfigError::invalid("clients", e)))
            .collect::<Result<_, _>>()?;
        let key_server =
            Identity::parse(&file.key_server_identity).map_err(|e| ConfigError::invalid("key_server_identity", e))?;
        let credentials = Credentials::load(&file.tls).map_err(|e| ConfigError::invalid("tls", e))?;
        let core = core::Config { identity: credentials.identity().clone(), clients };
        let token = file.token.as_ref().map(|token| token.check(folder)).transpose()?;
        Ok(Self { core, file, key_server, credentials, token })
    }
}

impl TokenConfig {
    fn check(&self, folder: &Path) -> Result<(Rules, TokenKeys), ConfigError> {
        for (key, text) in
            [("issuer", &self.issuer), ("audience", &self.audience), ("identity_claim", &self.identity_claim)]
        {
            in_range(format!("token.{key}: length"), text.len(), 1..=255)?;
        }
        in_range("token.leeway_s", self.leeway_s, 0..=300)?;
        in_range("token.algorithms: number of entries", self.algorithms.len(), 1..=9)?;
        let algorithms = (self.algorithms.iter())
            .map(|name| {
                // `none` has no name there at all.
                let known = Algorithm::from_str(name).ok().filter(|known| known.family() != AlgorithmFamily::Hmac);
                known.ok_or_else(|| ConfigError::invalid("token.algorithms", format!("`{name}` is not possible")))
            })
            .collect::<Result<_, _>>()?;
        let rules = Rules {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            algorithms,
            identity_claim: self.identity_claim.clone(),
            leeway: self.leeway_s,
        };
        let keys = match (self.keys.starts_with("https://"), &self.roots) {
            (true, Some(roots)) => {
                let address = self.keys.parse().map_err(|e| ConfigError::invalid("token.keys", e))?;
                let roots = folder.join(roots);
                let tls = net::tls::web_client_config(&roots);
                let tls = tls.map_err(|e| ConfigError::invalid("token.roots", e))?;
                TokenKeys::Address(address, roots, tls)
            }
            (true, None) => return Err(ConfigError::invalid("token.roots", "an address needs them")),
            (false, _) if self.keys.contains("://") => {
                return Err(ConfigError::invalid("token.keys", "neither a file nor an `https://` address"));
            }
            (false, _) => {
                let path = folder.join(&self.keys);
                let set = read_keys(&path).map_err(|why| ConfigError::invalid("token.keys", why))?;
                TokenKeys::File(path, set)
            }
        };
        Ok((rules, keys))
    }
}

/// The key set of a file.
pub(crate) fn read_keys(path: &Path) -> Result<KeySet, String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let mut octets = Vec::new();
    let most = u64::try_from(MAX_OCTETS).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut octets)).map_err(|error| named(&error))?;
    KeySet::parse(&octets).map_err(|error| named(&error))
}
