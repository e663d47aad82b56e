//! The key server's configuration file, and everything about it that can be wrong.

mod group;
pub mod keys;
pub mod policy;
mod rule;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use net::config::{ConfigError, in_range, load};
use net::multicast::{self, Interface, MAX_DSCP, SendOptions};
use net::secret_file;
use net::tls::{CredentialFiles, Credentials};
use protocol::identity::{Identity, IdentityPattern};
use protocol::{Authentication, MAX_NAME, Ration, SigningKey};
use serde::Deserialize;

pub use self::store::{Place, PublishConfig, StoreConfig, ZooKeeperConfig};
use crate::core;
pub use group::{GraphConfig, GroupFileConfig};
use keys::{KeyFiles, Keys};
use policy::PolicySource;
pub use rule::RuleFileConfig;

/// The file, key by key. Relative paths start from the folder of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// Name of this key server, 1 to 64 octets, as in its site certificate. Required.
    pub name: String,
    /// Address and port for requests of clients (TCP, Noise). Required.
    pub listen_requests: SocketAddr,
    /// Address and port for registrars (TCP, TLS). Required.
    pub listen_registrars: SocketAddr,
    /// The interface for multicast, by name or by an address of it (IPv4 or IPv6); `0.0.0.0` is the system's choice.
    /// Required.
    pub interface: Interface,
    /// Hops that multicast may travel: 1 (default, this link) to 255.
    #[serde(default = "ttl")]
    pub ttl: u8,
    /// Bits that multicasts may take per second, what goes to relays counted in, 64,000 to 100,000,000,000; default 12,000,000,
    /// some 2,000 units. More fills slow links.
    #[serde(default = "bits_per_second")]
    pub bits_per_second: u64,
    /// Re-synchronizations served per second at the most, 1 to 1,000,000; default 4,000, about what one core can do.
    /// Members beyond are told when to come back.
    #[serde(default = "resyncs_per_second")]
    pub resyncs_per_second: u32,
    /// Registrations that one client may have at once, 1 to 1,000; default 20. Each costs a handshake, a write, and a rekey of its groups, and
    /// needs to be when it starts or has another credential. One that registers too often is told when to come again.
    #[serde(default = "register_burst")]
    pub register_burst: u32,
    /// Seconds in which it earns another, 0 (no limit) to 3,600; default 10.
    #[serde(default = "register_each_s")]
    pub register_each_s: u64,
    /// Differentiated services code point of multicast, 0 (default) to 63.
    #[serde(default)]
    pub dscp: u8,
    /// Relays that everything multicast is sent to as well, each `address:port` (UDP), at most 64. Default none.
    #[serde(default)]
    pub relays: Vec<SocketAddr>,
    /// The store: one file, made when it is missing, or `zookeeper://h1:2181,h2:2181,h3:2181/keystone`. Required.
    pub store: StoreConfig,
    /// File of mode 0600 with the key that seals the store, this key server's own copy; made together with a store in a file. It is
    /// replaced now and then, and locked by a file beside it. Required.
    pub store_key: PathBuf,
    /// For a store in ZooKeeper, and for `[publish]`. Required there.
    #[serde(default)]
    pub zookeeper: Option<ZooKeeperConfig>,
    /// Where groups with `publish = true` are published. Default: nowhere.
    #[serde(default)]
    pub publish: Option<PublishConfig>,
    /// Hours after which the store is compacted at the latest, 1 to 720; default 24. Only a compaction turns the site key's
    /// ratchet: whoever steals store and key can open what was stored since the last one.
    #[serde(default = "compact_every_hours")]
    pub compact_every_hours: u32,
    /// File of mode 0600 with the key that seals backups, 64 hexadecimal digits; keep a copy where the backups are not.
    /// Default: none, and no backups.
    #[serde(default)]
    pub backup_key: Option<PathBuf>,
    /// File of mode 0600 with the static Noise key: 64 hexadecimal digits; or, while it is rolled, up to three of them, one in a line:
    /// clients come under each. Read again when it changes. Required.
    pub noise_key: PathBuf,
    /// File of mode 0600 with the Ed25519 seed that signs rekey messages, 64 hexadecimal digits; of up to three lines the first signs.
    /// Read again when it changes. Required.
    pub signing_key: PathBuf,
    /// File of mode 0600 with an RSA-3072 key (PKCS #8, hexadecimal), for groups of suite `rsa`. Default none.
    #[serde(default)]
    pub signing_key_rsa: Option<PathBuf>,
    /// File of mode 0600 with an RSA-512 key (PKCS #8, hexadecimal), for groups of suite `paper`. Default none.
    #[cfg(feature = "paper")]
    #[serde(default)]
    pub signing_key_paper: Option<PathBuf>,
    /// File with the site certificate of this key server, in hexadecimal digits, read again when it changes. With it and `site_key` it
    /// uses no key that members do not know, and believes what other key servers of the site have signed, when a member shows it.
    /// Default: none; it believes only what it has signed itself.
    #[serde(default)]
    pub site_certificate: Option<PathBuf>,
    /// The site's public key, 64 hexadecimal digits; or a file with one or, while it is rolled, two such lines.
    #[serde(default)]
    pub site_key: Option<String>,
    /// Unix socket for the operator's commands. Required.
    pub admin_socket: PathBuf,
    /// User ids that may give commands, besides the server's own and root. Default none.
    #[serde(default)]
    pub admin_uids: Vec<u32>,
    /// Certificate, key and roots for the link with registrars. Required.
    pub tls: CredentialFiles,
    /// The registrars; at least one.
    pub registrar: Vec<RegistrarConfig>,
    /// File with the policy: the groups and who may be in them, as `[[group]]` tables. It is read again when it changes. Required
    /// if those do not stand here.
    #[serde(default)]
    pub policy: Option<PathBuf>,
    /// The groups, if there is no `policy`.
    #[serde(default)]
    pub group: Vec<GroupFileConfig>,
}

/// `[[registrar]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrarConfig {
    /// Identity in its certificate. Required.
    pub identity: String,
    /// For each kind of authentication, `certificate` or `token`, the identities that it may register by it: exact, or
    /// `spiffe://domain/path/*`. Required, not empty.
    pub may_register: BTreeMap<String, Vec<String>>,
    /// Whether it may register sealed only, so that it learns no individual key: clients with `individual_key = "exported"` are
    /// refused. Default false.
    #[serde(default)]
    pub sealed_only: bool,
}

fn ttl() -> u8 {
    1
}
fn bits_per_second() -> u64 {
    12_000_000
}
fn register_burst() -> u32 {
    20
}
fn register_each_s() -> u64 {
    10
}
fn resyncs_per_second() -> u32 {
    4_000
}
fn compact_every_hours() -> u32 {
    24
}

/// Each relay takes its share of the ceiling, and a relay can serve further ones: with more than some tens, those should.
const MAX_RELAYS: usize = 64;

/// Everything that the key server needs, checked.
#[derive(Debug)]
pub struct Checked {
    /// For the core.
    pub core: core::Config,
    /// The file; its paths start from its folder.
    pub file: FileConfig,
    /// Where the journal is.
    pub store: Place,
    /// Where groups are published.
    pub publish: Option<zk::Options>,
    /// For the link with registrars.
    pub credentials: Credentials,
    /// What it signs with and speaks Noise with.
    pub keys: Keys,
    /// Where those are read again.
    pub key_files: KeyFiles,
    /// Where the policy is read again.
    pub policy: PolicySource,
}

impl Checked {
    /// Reads and checks the file and all files that it names. Nothing is bound or written.
    ///
    /// # Errors
    /// The first flaw, with its file, line or key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut file: FileConfig = load(path)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        for path in [&mut file.store_key, &mut file.noise_key, &mut file.signing_key, &mut file.admin_socket] {
            *path = folder.join(&*path);
        }
        file.tls = file.tls.within(&folder);
        if let Some(path) = &mut file.backup_key {
            *path = folder.join(&*path);
            secret_file::read(&*path).map_err(|e| ConfigError::invalid("backup_key", e))?;
        }
        let store =
            Place::check(&file.store, file.zookeeper.as_ref(), file.publish.is_some(), &file.store_key, &folder)?;
        let publish = file.publish.as_ref().map(|publish| publish.check(&file.store, file.zookeeper.as_ref(), &folder));
        let publish = publish.transpose()?;
        let credentials = Credentials::load(&file.tls).map_err(|e| ConfigError::invalid("tls", e))?;
        let key_files = KeyFiles::of(&file, &folder)?;
        let keys = key_files.load()?;
        let others = keys.site.as_ref().map(|site| site.certificate.signing.clone()).unwrap_or_default();
        let policy = match &file.policy {
            Some(path) if file.group.is_empty() => (folder.join(path), false),
            Some(_) => {
                return Err(ConfigError::invalid("policy", "`[[group]]` tables stand there or here, not in both"));
            }
            None => (path.to_owned(), true),
        };
        let (path, is_own) = policy;
        let policy = PolicySource { path, is_own, loopback: file.is_loopback(), publishes: publish.is_some() };
        let core = core::Config { others, ..file.core(keys.signing.clone(), policy.read()?)? };
        Ok(Self { core, file, store, publish, credentials, keys, key_files, policy })
    }
}

impl FileConfig {
    /// How multicast leaves.
    pub fn multicast(&self) -> SendOptions {
        SendOptions { interface: self.interface.clone(), ttl: self.ttl, dscp: self.dscp }
    }

    /// Whether nothing leaves this machine.
    fn is_loopback(&self) -> bool {
        self.listen_requests.ip().is_loopback()
            && self.listen_registrars.ip().is_loopback()
            && self.interface.is_loopback()
            && self.relays.iter().all(|relay| relay.ip().is_loopback())
    }

    fn core(&self, signing: SigningKey, groups: Vec<core::GroupConfig>) -> Result<core::Config, ConfigError> {
        name("name", &self.name)?;
        in_range("ttl", self.ttl, 1..=255)?;
        in_range("dscp", self.dscp, 0..=MAX_DSCP)?;
        in_range("number of [[registrar]] tables", self.registrar.len(), 1..=1_000)?;
        let registrars = (self.registrar.iter())
            .map(|registrar| {
                let identity =
                    Identity::parse(&registrar.identity).map_err(|e| ConfigError::invalid("registrar.identity", e))?;
                in_range(
                    "registrar.may_register: number of kinds",
                    registrar.may_register.len(),
                    1..=Authentication::ALL.len(),
                )?;
                Ok((identity, prefixes(&registrar.may_register)?))
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        let sealed_only = self.registrar.iter().zip(&registrars).filter(|(file, _)| file.sealed_only);
        let sealed_only = sealed_only.map(|(_, (identity, _))| identity.clone()).collect();
        unique("registrar.identity", self.registrar.iter().map(|registrar| &registrar.identity))?;
        in_range("number of relays", self.relays.len(), 0..=MAX_RELAYS)?;
        unique("relays", self.relays.iter())?;
        for relay in &self.relays {
            multicast::host(*relay).map_err(|why| ConfigError::invalid("relays", why))?;
        }
        // Each datagram leaves once by multicast, and once to each relay.
        let copies = 1 + u64::try_from(self.relays.len()).unwrap_or(u64::MAX - 1);
        policy::check_suites(&groups, |suite| signing.signs(suite))?;
        Ok(core::Config {
            name: self.name.clone(),
            registrars,
            sealed_only,
            groups,
            bits_per_second: in_range("bits_per_second", self.bits_per_second, 64_000..=100_000_000_000)? / copies,
            resyncs_per_second: in_range("resyncs_per_second", self.resyncs_per_second, 1..=1_000_000)?,
            registrations: Ration {
                burst: in_range("register_burst", self.register_burst, 1..=1_000)?,
                each: Duration::from_secs(in_range("register_each_s", self.register_each_s, 0..=3_600)?),
            },
            records_per_snapshot: core::RECORDS_PER_SNAPSHOT,
            compact_every: Duration::from_secs(3_600)
                * in_range("compact_every_hours", self.compact_every_hours, 1..=720)?,
            signing,
            others: Vec::new(),
        })
    }
}

fn name(key: &str, name: &str) -> Result<(), ConfigError> {
    in_range(format!("{key}: length"), name.len(), 1..=MAX_NAME)?;
    match name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        true => Ok(()),
        false => Err(ConfigError::invalid(key, "only letters, digits, `.`, `_`, `-`")),
    }
}

fn patterns(key: &str, texts: &[String]) -> Result<Vec<IdentityPattern>, ConfigError> {
    in_range(format!("{key}: number of entries"), texts.len(), 1..=10_000)?;
    let parse = |text: &String| IdentityPattern::parse(text).map_err(|e| ConfigError::invalid(key, e));
    texts.iter().map(parse).collect()
}

/// Whom a registrar may register by which kind of authentication.
fn prefixes(table: &BTreeMap<String, Vec<String>>) -> Result<core::Prefixes, ConfigError> {
    let mut all = Vec::new();
    for (name, texts) in table {
        let key = format!("registrar.may_register.{name}");
        let kind =
            Authentication::named(name).ok_or_else(|| ConfigError::invalid(&key, "no such kind of authentication"))?;
        all.extend(patterns(&key, texts)?.into_iter().map(|pattern| (kind, pattern)));
    }
    Ok(all)
}

fn unique<T: Ord + std::fmt::Debug>(key: &str, values: impl Iterator<Item = T>) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for value in values {
        let text = format!("{value:?} stands here twice");
        if !seen.insert(value) {
            return Err(ConfigError::invalid(key, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
