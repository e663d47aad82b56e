//! `store` and `[zookeeper]`: where the journal is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use net::config::{ConfigError, in_range};
use serde::Deserialize;
use zk::{AddressError, Ensemble, Options, Role, TlsFiles};

/// `store`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum StoreConfig {
    /// A path: one file, made when it is missing.
    File(PathBuf),
    /// `zookeeper://h1:2181,h2:2181,h3:2181/keystone`
    ZooKeeper(Ensemble),
}

impl TryFrom<String> for StoreConfig {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        match Ensemble::is_meant(&text) {
            true => text.parse().map(Self::ZooKeeper),
            false => Ok(Self::File(text.into())),
        }
    }
}

/// `[zookeeper]`: how the key server shows itself to ZooKeeper. A digest, or a certificate, or both; what it makes belongs to
/// them alone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZooKeeperConfig {
    /// Milliseconds that a session outlives a key server that is silent, 1,000 to 60,000; default 10,000. The servers hold it
    /// to 2 to 20 of their ticks. Answers that take longer than two fifths of it count as lost.
    #[serde(default = "session_timeout_ms")]
    pub session_timeout_ms: u64,
    /// File of mode 0600 with `user:password`, the same for all key servers of the site. Default none. Without TLS it crosses
    /// the network in the clear.
    #[serde(default)]
    pub digest: Option<PathBuf>,
    /// PEM file with the authorities of ZooKeeper's certificates: TLS. Default none, in the clear.
    #[serde(default)]
    pub roots: Option<PathBuf>,
    /// PEM file with the certificate to show, and those between it and a root. Default none.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file of mode 0600 with its private key. Default none.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Subjects of the certificates of the site's other key servers, as ZooKeeper writes them (`CN=ks2,O=example`); at most 4.
    /// Not needed where all have the same digest. Default none.
    #[serde(default)]
    pub owners: Vec<String>,
}

fn session_timeout_ms() -> u64 {
    10_000
}

impl ZooKeeperConfig {
    /// How a session is opened; all files are checked. Relative paths start from `folder`.
    fn options(&self, ensemble: Ensemble, role: Role, folder: &Path) -> Result<Options, ConfigError> {
        let millis = in_range("zookeeper.session_timeout_ms", self.session_timeout_ms, 1_000..=60_000)?;
        let tls = TlsFiles::of(folder, self.roots.as_ref(), self.certificate.as_ref(), self.key.as_ref());
        let options = Options {
            ensemble,
            role,
            session_timeout: Duration::from_millis(millis),
            tls: tls.map_err(|error| ConfigError::invalid("zookeeper", error))?,
            digest: self.digest.as_ref().map(|path| folder.join(path)),
            owners: self.owners.clone(),
        };
        options.check().map_err(|error| ConfigError::invalid("zookeeper", error))?;
        Ok(options)
    }
}

/// `[publish]`: where rekey messages and the wrapped key tree are published.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishConfig {
    /// `zookeeper://h1:2181,h2:2181,h3:2181/keys`: not the root of the journal, nor above or below it. Everybody may read what is
    /// there. How the key server shows itself there is in `[zookeeper]`. Required.
    pub ensemble: String,
}

impl PublishConfig {
    /// How it is opened.
    pub(super) fn check(
        &self,
        store: &StoreConfig,
        zookeeper: Option<&ZooKeeperConfig>,
        folder: &Path,
    ) -> Result<Options, ConfigError> {
        let invalid = |why: &dyn std::fmt::Display| ConfigError::invalid("publish.ensemble", why);
        let ensemble: Ensemble = self.ensemble.parse().map_err(|error: AddressError| invalid(&error))?;
        if let StoreConfig::ZooKeeper(journal) = store {
            let (ours, theirs) = (format!("{}/", ensemble.root()), format!("{}/", journal.root()));
            let same = ensemble.hosts().iter().any(|host| journal.hosts().contains(host));
            if same && (ours.starts_with(&theirs) || theirs.starts_with(&ours)) {
                return Err(invalid(&"it is the root of `store`, or above or below it: expected one of its own"));
            }
        }
        let missing = "the table is missing, with a `digest`, or `roots`, `certificate` and `key`";
        let zookeeper = zookeeper.ok_or_else(|| ConfigError::invalid("zookeeper", missing))?;
        zookeeper.options(ensemble, Role::Publisher, folder)
    }
}

/// Where the journal is, checked.
#[derive(Debug, Clone)]
pub enum Place {
    /// In one file.
    File(PathBuf),
    /// In an ensemble.
    ZooKeeper(Options),
}

impl Place {
    /// Checks both, and with ZooKeeper that the key of the journal is there. Relative paths start from `folder`.
    pub(super) fn check(
        store: &StoreConfig,
        zookeeper: Option<&ZooKeeperConfig>,
        publishes: bool,
        key: &Path,
        folder: &Path,
    ) -> Result<Self, ConfigError> {
        let (ensemble, config) = match (store, zookeeper) {
            (StoreConfig::File(path), None) => return Ok(Self::File(folder.join(path))),
            (StoreConfig::File(path), Some(_)) if publishes => return Ok(Self::File(folder.join(path))),
            (StoreConfig::File(_), Some(_)) => {
                let why = "`store` is a file, expected `zookeeper://host:port/path`; and there is no `[publish]`";
                return Err(ConfigError::invalid("zookeeper", why));
            }
            (StoreConfig::ZooKeeper(_), None) => {
                let why = "`store` is in ZooKeeper: the table is missing, with a `digest`, or `roots`, `certificate` and `key`";
                return Err(ConfigError::invalid("zookeeper", why));
            }
            (StoreConfig::ZooKeeper(ensemble), Some(config)) => (ensemble.clone(), config),
        };
        let options = config.options(ensemble, Role::Keeper, folder)?;
        if !key.exists() {
            let why = format!(
                "{} is missing: a journal in ZooKeeper is opened by one key, made once for the site (`keystone pki init` \
                 makes `site.store-key`) and copied to each of its key servers",
                key.display()
            );
            return Err(ConfigError::invalid("store_key", why));
        }
        Ok(Self::ZooKeeper(options))
    }
}
