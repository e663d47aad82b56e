//! The key server's configuration file, and everything about it that can be wrong.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fec::RepairScheme;
use keygraph::{Degree, Strategy};
use net::config::{ConfigError, in_range, load};
use net::multicast::{self, Interface, MAX_DSCP, SendOptions};
use net::noise::StaticKey;
use net::secret_file;
use net::tls::{CredentialFiles, Credentials};
use protocol::identity::{Identity, IdentityPattern};
use protocol::{GroupId, MAX_NAME, SigningKey, Suite};
use serde::Deserialize;

use crate::core;

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
    /// Bits that multicasts may take per second, 64,000 to 100,000,000,000; default 12,000,000, some 2,000 units. More fills
    /// slow links.
    #[serde(default = "bits_per_second")]
    pub bits_per_second: u64,
    /// Re-synchronizations served per second at the most, 1 to 1,000,000; default 4,000, about what one core can do.
    /// Members beyond are told when to come back.
    #[serde(default = "resyncs_per_second")]
    pub resyncs_per_second: u32,
    /// Differentiated services code point of multicast, 0 (default) to 63.
    #[serde(default)]
    pub dscp: u8,
    /// The store: one file, made when it is missing. Required.
    pub store: PathBuf,
    /// File of mode 0600 with the key that seals the store; made together with the store. Required.
    pub store_key: PathBuf,
    /// File of mode 0600 with the static Noise key. Required.
    pub noise_key: PathBuf,
    /// File of mode 0600 with the Ed25519 seed that signs rekey messages. Required.
    pub signing_key: PathBuf,
    /// File of mode 0600 with an RSA-3072 key (PKCS #8, hexadecimal), for groups of suite `rsa`. Default none.
    #[serde(default)]
    pub signing_key_rsa: Option<PathBuf>,
    /// File of mode 0600 with an RSA-512 key (PKCS #8, hexadecimal), for groups of suite `paper`. Default none.
    #[cfg(feature = "paper")]
    #[serde(default)]
    pub signing_key_paper: Option<PathBuf>,
    /// Unix socket for the operator's commands. Required.
    pub admin_socket: PathBuf,
    /// User ids that may give commands, besides the server's own and root. Default none.
    #[serde(default)]
    pub admin_uids: Vec<u32>,
    /// Certificate, key and roots for the link with registrars. Required.
    pub tls: CredentialFiles,
    /// The registrars; at least one.
    pub registrar: Vec<RegistrarConfig>,
    /// The groups; at least one.
    pub group: Vec<GroupFileConfig>,
}

/// `[[registrar]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrarConfig {
    /// Identity in its certificate. Required.
    pub identity: String,
    /// Identities that it may register: exact, or `spiffe://domain/path/*`. Required, not empty.
    pub may_register: Vec<String>,
}

/// `[[group]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupFileConfig {
    /// Number, 1 to 2^32 - 1; never used again for another group. Required.
    pub id: u32,
    /// Name, 1 to 64 octets of letters, digits, `.`, `_`, `-`. Required.
    pub name: String,
    /// Multicast address and port of rekey messages and beacons, IPv4 or IPv6 (`[ff05::4b]:7100`); groups may share one.
    /// Required.
    pub address: SocketAddr,
    /// Children of a k-node, 2 to 64, or `"star"` for no k-node but the root; default 2. Fixed when the group is made.
    #[serde(default = "group_degree")]
    pub degree: GraphConfig,
    /// `chain` (default), `group`, `key`, `user` or `hybrid`. Takes effect at the next rekey.
    #[serde(default = "strategy")]
    pub strategy: String,
    /// `aes256` (default), `aes128`, `rsa`; where it is compiled in and all addresses are loopback, `paper`. Fixed when the
    /// group is made.
    #[serde(default = "suite")]
    pub suite: String,
    /// Whether k-nodes with one child are spliced out; default false.
    #[serde(default)]
    pub splice: bool,
    /// Milliseconds that joins and leaves wait for others to share a rekey with, 0 (default) to 5,000. Evictions do not
    /// wait. A client waits 9 seconds for its answer.
    #[serde(default)]
    pub batch_ms: u64,
    /// Leaves that a batch moves at the most while the tree is too high for its members, 0 (never) to 4,096; default 64.
    #[serde(default = "compaction")]
    pub compaction: u32,
    /// `rs1`, `rs2`, `alpha=0.5`, a target such as the default `loss=0.1,miss=0.001`, or `adaptive`: what members report to
    /// have lost decides.
    #[serde(default = "repair")]
    pub repair: String,
    /// Who may join: identities, or prefixes `spiffe://domain/path/*`. Required, not empty.
    pub allow: Vec<String>,
    /// Members at the most, 1 to 1,000,000 (default).
    #[serde(default = "max_members")]
    pub max_members: usize,
    /// Seconds between refreshes of the group key, 1 to 31,536,000; 0 for never; default 3,600.
    #[serde(default = "refresh_s")]
    pub refresh_s: u64,
    /// Milliseconds from a change to the next beacon, 50 to 600,000; default 1,000. Shorter finds losses sooner and costs
    /// datagrams. It doubles with every beacon without a change,
    #[serde(default = "beacon_ms")]
    pub beacon_ms: u64,
    /// up to this, `beacon_ms` to 600,000; default 8,000, or `beacon_ms` if that is more.
    #[serde(default)]
    pub beacon_max_ms: Option<u64>,
    /// Bound of the random wait before a re-synchronize request in milliseconds, 0 to 600,000; default 1,000. It is longer in
    /// groups of more members than `resyncs_per_second` serves in that time, up to 30,000.
    #[serde(default = "resync_wait_ms")]
    pub resync_wait_ms: u64,
    /// Milliseconds that senders wait before they use a new key, 0 to 60,000; default 500.
    #[serde(default = "send_delay_ms")]
    pub send_delay_ms: u64,
    /// Milliseconds for which receivers keep the key before, 0 to 600,000; default 5,000.
    #[serde(default = "keep_old_ms")]
    pub keep_old_ms: u64,
    /// The same after an eviction, 0 to 600,000; default 1,000: what was sent before the switch is still on its way.
    #[serde(default = "keep_old_revoked_ms")]
    pub keep_old_revoked_ms: u64,
}

/// `degree` of a group.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum GraphConfig {
    /// A tree.
    Degree(u8),
    /// `"star"`.
    Named(String),
}

impl GraphConfig {
    fn check(&self) -> Result<Degree, String> {
        match self {
            Self::Degree(degree) => Degree::new(*degree).map_err(|error| error.to_string()),
            Self::Named(name) if name == "star" => Ok(Degree::STAR),
            Self::Named(name) => Err(format!(
                "`{}` is no key graph: expected 2 to 64, or `star`",
                name.chars().take(32).collect::<String>()
            )),
        }
    }
}

fn ttl() -> u8 {
    1
}
fn bits_per_second() -> u64 {
    12_000_000
}
fn group_degree() -> GraphConfig {
    GraphConfig::Degree(2)
}
fn suite() -> String {
    Suite::default().to_string()
}
fn compaction() -> u32 {
    64
}
fn strategy() -> String {
    Strategy::default().to_string()
}
fn repair() -> String {
    RepairScheme::default().to_string()
}
fn max_members() -> usize {
    1_000_000
}
fn refresh_s() -> u64 {
    3_600
}
fn beacon_ms() -> u64 {
    1_000
}
fn resyncs_per_second() -> u32 {
    4_000
}
fn resync_wait_ms() -> u64 {
    1_000
}
fn send_delay_ms() -> u64 {
    500
}
fn keep_old_ms() -> u64 {
    5_000
}
fn keep_old_revoked_ms() -> u64 {
    1_000
}

/// Default of `beacon_max_ms`: silence, three times as long, is noticed within half a minute.
const BEACON_MAX_MS: u64 = 8_000;

/// Ten thousand groups a server is the size that the design is for; each costs timers and beacons.
const MAX_GROUPS: usize = 10_000;

/// Everything that the key server needs, checked.
#[derive(Debug)]
pub struct Checked {
    /// For the core.
    pub core: core::Config,
    /// The file, with absolute paths.
    pub file: FileConfig,
    /// For the link with registrars.
    pub credentials: Credentials,
    /// For requests.
    pub noise: StaticKey,
}

impl Checked {
    /// Reads and checks the file and all files that it names. Nothing is bound or written.
    ///
    /// # Errors
    /// The first flaw, with its file, line or key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut file: FileConfig = load(path)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let tls = &mut file.tls;
        for path in [
            &mut file.store,
            &mut file.store_key,
            &mut file.noise_key,
            &mut file.signing_key,
            &mut file.admin_socket,
            &mut tls.certificate,
            &mut tls.key,
            &mut tls.roots,
        ] {
            *path = folder.join(&*path);
        }
        let credentials = Credentials::load(&file.tls).map_err(|e| ConfigError::invalid("tls", e))?;
        let noise = StaticKey::load(&file.noise_key).map_err(|e| ConfigError::invalid("noise_key", e))?;
        let seed = secret_file::read(&file.signing_key).map_err(|e| ConfigError::invalid("signing_key", e))?;
        let signing = SigningKey::from_seed(&seed).map_err(|e| ConfigError::invalid("signing_key", e))?;
        let signing = match &file.signing_key_rsa {
            None => signing,
            Some(path) => {
                let key = secret_file::read_octets(folder.join(path));
                let key = key.map_err(|e| ConfigError::invalid("signing_key_rsa", e))?;
                signing.with_rsa(&key).map_err(|e| ConfigError::invalid("signing_key_rsa", e))?
            }
        };
        #[cfg(feature = "paper")]
        let signing = match &file.signing_key_paper {
            None => signing,
            Some(path) => {
                let key = secret_file::read_octets(folder.join(path));
                let key = key.map_err(|e| ConfigError::invalid("signing_key_paper", e))?;
                let key = protocol::paper::SigningKey::from_pkcs8(&key);
                signing.with_paper(key.ok_or_else(|| ConfigError::invalid("signing_key_paper", "no RSA-512 key"))?)
            }
        };
        let core = file.core(signing)?;
        Ok(Self { core, file, credentials, noise })
    }
}

impl FileConfig {
    /// How multicast leaves.
    pub fn multicast(&self) -> SendOptions {
        SendOptions { interface: self.interface.clone(), ttl: self.ttl, dscp: self.dscp }
    }

    fn core(&self, signing: SigningKey) -> Result<core::Config, ConfigError> {
        name("name", &self.name)?;
        in_range("ttl", self.ttl, 1..=255)?;
        in_range("dscp", self.dscp, 0..=MAX_DSCP)?;
        in_range("number of [[registrar]] tables", self.registrar.len(), 1..=1_000)?;
        in_range("number of [[group]] tables", self.group.len(), 1..=MAX_GROUPS)?;
        let registrars = (self.registrar.iter())
            .map(|registrar| {
                let identity =
                    Identity::parse(&registrar.identity).map_err(|e| ConfigError::invalid("registrar.identity", e))?;
                Ok((identity, patterns("registrar.may_register", &registrar.may_register)?))
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        unique("registrar.identity", self.registrar.iter().map(|registrar| &registrar.identity))?;
        unique("group.id", self.group.iter().map(|group| group.id))?;
        unique("group.name", self.group.iter().map(|group| &group.name))?;
        let groups: Vec<core::GroupConfig> = self.group.iter().map(GroupFileConfig::check).collect::<Result<_, _>>()?;
        let loopback = self.listen_requests.ip().is_loopback()
            && self.listen_registrars.ip().is_loopback()
            && self.interface.is_loopback();
        for group in &groups {
            let key = format!("group `{}`: suite", group.name);
            if !signing.signs(group.suite) {
                let why = format!("`{}` needs a signing key of its own, and none is configured", group.suite);
                return Err(ConfigError::invalid(key, why));
            }
            if group.suite.is_broken() && !loopback {
                let why = "it protects nothing: listen_requests, listen_registrars and interface must be loopback";
                return Err(ConfigError::invalid(key, why));
            }
        }
        Ok(core::Config {
            name: self.name.clone(),
            registrars,
            groups,
            bits_per_second: in_range("bits_per_second", self.bits_per_second, 64_000..=100_000_000_000)?,
            resyncs_per_second: in_range("resyncs_per_second", self.resyncs_per_second, 1..=1_000_000)?,
            records_per_snapshot: core::RECORDS_PER_SNAPSHOT,
            signing,
        })
    }
}

impl GroupFileConfig {
    fn check(&self) -> Result<core::GroupConfig, ConfigError> {
        let key = |field: &str| format!("group `{}`: {field}", self.name);
        name(&key("name"), &self.name)?;
        in_range(key("id"), self.id, 1..=u32::MAX)?;
        multicast::group(self.address).map_err(|e| ConfigError::invalid(key("address"), e))?;
        let millis = |field, value, low, high| in_range(key(field), value, low..=high).map(Duration::from_millis);
        let repair: RepairScheme = self.repair.parse().map_err(|e| ConfigError::invalid(key("repair"), e))?;
        // What the scheme cannot do for the largest message it must not promise for any.
        fec::Layout::new(fec::MAX_MESSAGE, &repair).map_err(|e| ConfigError::invalid(key("repair"), e))?;
        in_range(key("refresh_s"), self.refresh_s, 0..=31_536_000)?;
        Ok(core::GroupConfig {
            id: GroupId(self.id),
            name: self.name.clone(),
            destination: self.address,
            degree: self.degree.check().map_err(|e| ConfigError::invalid(key("degree"), e))?,
            strategy: self.strategy.parse().map_err(|e| ConfigError::invalid(key("strategy"), e))?,
            suite: Suite::named(&self.suite).ok_or_else(|| {
                let known: Vec<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
                ConfigError::invalid(key("suite"), format!("expected one of {}", known.join(", ")))
            })?,
            splicing: self.splice,
            batch: millis("batch_ms", self.batch_ms, 0, 5_000)?,
            compaction: in_range(key("compaction"), self.compaction, 0..=4_096)?,
            repair,
            allow: patterns(&key("allow"), &self.allow)?,
            max_members: in_range(key("max_members"), self.max_members, 1..=1_000_000)?,
            refresh: (self.refresh_s > 0).then(|| Duration::from_secs(self.refresh_s)),
            beacon: millis("beacon_ms", self.beacon_ms, 50, 600_000)?,
            beacon_max: millis(
                "beacon_max_ms",
                self.beacon_max_ms.unwrap_or_else(|| self.beacon_ms.max(BEACON_MAX_MS)),
                self.beacon_ms,
                600_000,
            )?,
            resync_wait: millis("resync_wait_ms", self.resync_wait_ms, 0, 600_000)?,
            send_delay: millis("send_delay_ms", self.send_delay_ms, 0, 60_000)?,
            keep_old: millis("keep_old_ms", self.keep_old_ms, 0, 600_000)?,
            keep_old_revoked: millis("keep_old_revoked_ms", self.keep_old_revoked_ms, 0, 600_000)?,
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
