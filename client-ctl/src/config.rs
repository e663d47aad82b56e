//! The configuration file. All of it, and every file that it names, is checked before anything is bound or connected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use net::ConfigError;
use net::config::in_range;
use net::multicast::{Impairment, Interface, MAX_SOURCES, ReceiveOptions};
use net::reload::Reloads;
use protocol::identity::Identity;
use protocol::{Entropy, MAX_NAME, VerifyingKey};
use serde::Deserialize;
use zk::{AddressError, Options, Role, TlsFiles};

use crate::core::{self, Carrier, Carriers, MAX_GROUPS};
use crate::credential::Credential;
use crate::trust::Trust;

/// Registrars in a configuration: each is tried for up to 10 s, and a minute is the longest that a try may take.
const MAX_REGISTRARS: usize = 6;
/// Standbys in a configuration: each gets its share of the 9 s that a request may take.
const MAX_STANDBYS: usize = 4;
/// User ids in a configuration.
const MAX_UIDS: usize = 64;
/// Longest path of a Unix socket in octets, with its final zero (`sockaddr_un`).
const MAX_SOCKET_PATH: usize = 108;

/// The file as written. Relative paths are meant from the file's folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Name of the key server, 1 to 64 octets, as its site certificate has it. Required.
    pub key_server: String,
    /// Where the key server takes requests: `host:port`. Required.
    pub key_server_address: String,
    /// Where other key servers of the same name take requests, which stand by for it or take over from it: `host:port`, at most
    /// 4. Default: none.
    #[serde(default)]
    pub standby_addresses: Vec<String>,
    /// Registrars, tried in this order, 1 to 6. Required.
    pub registrars: Vec<RegistrarConfig>,
    /// The site's public key (Ed25519), 64 hexadecimal digits: the root of all trust in rekey messages. Or a file with one or, while
    /// it is rolled, two such lines, read again when it changes. Required.
    pub site_key: String,
    /// File with the site certificate of the key server, in hexadecimal digits; read again when it changes, and taken if it begins
    /// later than the one in force. Required.
    pub site_certificate: PathBuf,
    /// PEM file with this client's certificate and those between it and a root. Required, or else `token_file`.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file, mode 0600, with the private key of that certificate. Required with it.
    #[serde(default)]
    pub private_key: Option<PathBuf>,
    /// File, mode 0600, with a signed token (JWT), for a client without a certificate. Read anew for each registration, and each
    /// needs another token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The identity in that token. Required with it.
    #[serde(default)]
    pub identity: Option<String>,
    /// How this client and the key server make the individual key: `sealed` (default), so that no registrar learns it, or
    /// `exported` from the connection to the registrar, who knows it then.
    #[serde(default)]
    pub individual_key: KeyMaking,
    /// PEM file with the certificates of the authorities that registrars must be under. Required.
    pub trust_roots: PathBuf,
    /// Groups to join at the start, 0 to 64 names of 1 to 64 octets. Default: none.
    #[serde(default)]
    pub groups: Vec<String>,
    /// How rekey messages come: by `multicast` (default), or, where there is none, over `tcp` from the key server, which serves
    /// 512 such members, or from `zookeeper`, where the key server publishes them.
    #[serde(default)]
    pub carrier: Carrier,
    /// Groups with another carrier than that, at most 64: `carriers = { news = "tcp" }`. Default: none.
    #[serde(default)]
    pub carriers: BTreeMap<String, Carrier>,
    /// For carrier `zookeeper`. Required there.
    #[serde(default)]
    pub zookeeper: Option<ZooKeeperConfig>,
    /// The interface that multicast comes in by, by name or by an address of it (IPv4 or IPv6). Default: `0.0.0.0`, the
    /// system's choice.
    #[serde(default)]
    pub interface: Interface,
    /// Addresses that the key server's multicast comes from, at most 10, of the groups' family (source-specific multicast).
    /// Default: none, which means from anywhere.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
    /// Path of the Unix socket that feeds data processors, at most 107 octets; mode 0660. Required.
    pub socket: PathBuf,
    /// User ids, besides this process's own and root, that may use the socket, at most 64. Default: none.
    #[serde(default)]
    pub allow_uids: Vec<u32>,
    /// What SIGTERM means for memberships: `leave` ends them, `stay` keeps them for the next start. Default: `leave`.
    #[serde(default)]
    pub on_stop: OnStop,
    /// For demonstrations and tests only. Default: nothing dangerous.
    #[serde(default)]
    pub danger: Danger,
}

/// One registrar.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrarConfig {
    /// Where it takes registrations: `host:port`. Required.
    pub address: String,
    /// The identity in its certificate, byte for byte. Required.
    pub identity: String,
}

/// `[zookeeper]`: where groups are published.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZooKeeperConfig {
    /// `zookeeper://h1:2181,h2:2181,h3:2181/keys`, as in the key server's `[publish]`. Required.
    pub ensemble: String,
    /// Milliseconds that a session outlives a silent connection, 1,000 to 60,000; default 10,000.
    #[serde(default = "session_timeout_ms")]
    pub session_timeout_ms: u64,
    /// PEM file with the authorities of ZooKeeper's certificates: TLS. Default none, in the clear: what is read is public and
    /// signed.
    #[serde(default)]
    pub roots: Option<PathBuf>,
    /// PEM file with the certificate to show, where ZooKeeper wants one, and those between it and a root. Default none.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file of mode 0600 with its private key. Default none.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

fn session_timeout_ms() -> u64 {
    10_000
}

impl ZooKeeperConfig {
    fn check(&self, folder: &Path) -> Result<Options, ConfigError> {
        let invalid = |why: &dyn std::fmt::Display| ConfigError::invalid("zookeeper", why);
        let ensemble = self.ensemble.parse().map_err(|error: AddressError| invalid(&error))?;
        let tls = TlsFiles::of(folder, self.roots.as_ref(), self.certificate.as_ref(), self.key.as_ref());
        let tls = tls.map_err(|error| invalid(&error))?;
        let millis = in_range("zookeeper.session_timeout_ms", self.session_timeout_ms, 1_000..=60_000)?;
        let session_timeout = Duration::from_millis(millis);
        let options = Options { ensemble, role: Role::Reader, session_timeout, tls, digest: None, owners: Vec::new() };
        options.check().map_err(|error| invalid(&error))?;
        Ok(options)
    }
}

/// How the individual key is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyMaking {
    /// By a key agreement with the key server, through the registrar.
    #[default]
    Sealed,
    /// By the TLS exporter of the connection to the registrar.
    Exported,
}

/// What happens to memberships when the daemon is told to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    /// They end, if the key server can be asked within 2 s.
    #[default]
    Leave,
    /// They go on; the next start joins again as the same client.
    Stay,
}

/// For demonstrations and tests only.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Danger {
    /// Share of rekey datagrams to drop at random on receipt, in per cent, 0 to 90. Default: 0.
    #[serde(default)]
    pub receive_loss_percent: u8,
    /// Mean length of bursts of these losses in milliseconds, 0 (each on its own) to 1,000. Default: 0.
    #[serde(default)]
    pub receive_burst_ms: u32,
    /// Seed of that chance: the same one drops the same positions in the sequence. Default: 0.
    #[serde(default)]
    pub seed: u64,
}

/// The registrar that is asked first. It is a random one, so that many clients with one configuration spread over all.
#[derive(Debug)]
pub(crate) struct InLine {
    /// Which.
    pub(crate) at: AtomicUsize,
    /// It has told this client when to come again: its turn is there.
    pub(crate) is_told: AtomicBool,
}

/// A configuration that was checked, with the files that it names.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses of the key servers.
    pub(crate) key_servers: Vec<String>,
    /// The one that answered last; clones of the settings share it.
    pub(crate) preferred: Arc<AtomicUsize>,
    pub(crate) registrars: Vec<(String, Identity)>,
    /// Which of them is asked first; clones of the settings share it.
    pub(crate) line: Arc<InLine>,
    pub(crate) trust: Trust,
    pub(crate) credential: Credential,
    /// What became of these files whenever they were read again.
    pub(crate) reloads: Reloads,
    pub(crate) individual_key: KeyMaking,
    pub(crate) groups: Vec<String>,
    pub(crate) carriers: Carriers,
    /// Where groups are published.
    pub(crate) published: Option<Options>,
    pub(crate) multicast: ReceiveOptions,
    pub(crate) socket: PathBuf,
    pub(crate) allow_uids: BTreeSet<u32>,
    pub(crate) on_stop: OnStop,
    pub(crate) impairment: Impairment,
}

impl Settings {
    /// What the core is told.
    pub fn core(&self) -> core::Config {
        core::Config { groups: self.groups.clone(), signing: self.signing(), carriers: self.carriers.clone() }
    }

    /// What the core is told of the site certificate in force.
    pub(crate) fn trusted(&self) -> core::Input<'static> {
        core::Input::Trusted { signing: self.signing(), begins: self.trust.get().certificate.not_before }
    }

    /// Keys that may sign rekey messages and beacons.
    fn signing(&self) -> Vec<VerifyingKey> {
        // A key of suite `paper` counts on the loopback interface and nowhere else.
        let counts = |key: &&VerifyingKey| !key.is_broken() || self.multicast.interface.is_loopback();
        self.trust.get().certificate.signing.iter().filter(counts).cloned().collect()
    }
}

impl FileConfig {
    /// Reads a file and checks it and every file that it names.
    ///
    /// # Errors
    /// Whatever is wrong first, with its key.
    pub fn load(path: &Path) -> Result<Settings, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        net::config::load::<Self>(path)?.check(folder)
    }

    /// Checks; relative paths are meant from `folder`.
    ///
    /// # Errors
    /// Whatever is wrong first, with its key.
    pub fn check(self, folder: &Path) -> Result<Settings, ConfigError> {
        name("key_server", &self.key_server)?;
        address("key_server_address", &self.key_server_address)?;
        count("standby_addresses", self.standby_addresses.len(), 0, MAX_STANDBYS)?;
        self.standby_addresses.iter().try_for_each(|standby| address("standby_addresses", standby))?;
        count("registrars", self.registrars.len(), 1, MAX_REGISTRARS)?;
        let registrars = self.registrars.iter().enumerate().map(|(i, registrar)| {
            address(&format!("registrars[{i}].address"), &registrar.address)?;
            let identity = Identity::parse(&registrar.identity)
                .map_err(|why| ConfigError::invalid(format!("registrars[{i}].identity"), why))?;
            Ok((registrar.address.clone(), identity))
        });
        let registrars = registrars.collect::<Result<Vec<_>, ConfigError>>()?;
        count("groups", self.groups.len(), 0, MAX_GROUPS)?;
        let mut seen = BTreeSet::new();
        for group in &self.groups {
            name("groups", group)?;
            if !seen.insert(group) {
                return Err(ConfigError::invalid("groups", format!("`{group}` stands there twice")));
            }
        }
        count("carriers", self.carriers.len(), 0, MAX_GROUPS)?;
        self.carriers.keys().try_for_each(|group| name("carriers", group))?;
        count("sources", self.sources.len(), 0, MAX_SOURCES)?;
        if let Some(source) = self.sources.iter().find(|source| source.is_multicast() || source.is_unspecified()) {
            return Err(ConfigError::invalid("sources", format!("`{source}` is not the address of a sender")));
        }
        count("allow_uids", self.allow_uids.len(), 0, MAX_UIDS)?;
        let loss = in_range("danger.receive_loss_percent", self.danger.receive_loss_percent, 0..=90)?;
        let burst_ms = in_range("danger.receive_burst_ms", self.danger.receive_burst_ms, 0..=1_000)?;
        let socket = folder.join(&self.socket);
        if socket.as_os_str().len() >= MAX_SOCKET_PATH {
            let why = format!("{} has {} octets, at most 107 are possible", socket.display(), socket.as_os_str().len());
            return Err(ConfigError::invalid("socket", why));
        }
        if !socket.parent().is_some_and(|parent| parent.as_os_str().is_empty() || parent.is_dir()) {
            return Err(ConfigError::invalid("socket", format!("{}: its folder does not exist", socket.display())));
        }
        let published = self.zookeeper.as_ref().map(|zookeeper| zookeeper.check(folder)).transpose()?;
        let is_read = [self.carrier].iter().chain(self.carriers.values()).any(|carrier| *carrier == Carrier::Zookeeper);
        if is_read && published.is_none() {
            return Err(ConfigError::invalid("zookeeper", "carrier `zookeeper` needs this table, with its `ensemble`"));
        }
        let trust = Trust::check(&self, folder)?;
        let credential = Credential::check(&self, folder)?;
        Ok(Settings {
            key_servers: [vec![self.key_server_address], self.standby_addresses].concat(),
            preferred: Arc::default(),
            line: Arc::new(InLine { at: AtomicUsize::new(any(registrars.len())), is_told: AtomicBool::new(false) }),
            registrars,
            trust,
            credential,
            reloads: Reloads::default(),
            individual_key: self.individual_key,
            groups: self.groups,
            carriers: Carriers { others: self.carrier, named: self.carriers },
            published,
            multicast: ReceiveOptions { interface: self.interface, sources: self.sources },
            socket,
            allow_uids: self.allow_uids.into_iter().collect(),
            on_stop: self.on_stop,
            impairment: Impairment { loss: f64::from(loss) / 100.0, burst_ms, seed: self.danger.seed },
        })
    }
}

fn name(key: &str, text: &str) -> Result<(), ConfigError> {
    if text.is_empty() || text.len() > MAX_NAME {
        let why = format!("`{text}` has {} octets, expected 1 to {MAX_NAME}", text.len());
        return Err(ConfigError::invalid(key, why));
    }
    Ok(())
}

fn address(key: &str, text: &str) -> Result<(), ConfigError> {
    let is_address = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    if !is_address {
        return Err(ConfigError::invalid(key, format!("`{text}` is not `host:port`")));
    }
    Ok(())
}

/// One of so many, at random.
fn any(registrars: usize) -> usize {
    let bound = u64::try_from(registrars).unwrap_or(1).max(1);
    usize::try_from(net::OsEntropy.below(bound)).unwrap_or(0)
}

fn count(key: &str, have: usize, least: usize, most: usize) -> Result<(), ConfigError> {
    in_range(format!("number of {key}"), have, least..=most).map(|_| ())
}

#[cfg(test)]
pub(crate) mod tests;
