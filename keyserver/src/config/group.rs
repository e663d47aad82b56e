//! `[[group]]`: one group in the policy.

use std::net::SocketAddr;
use std::time::Duration;

use fec::RepairScheme;
use keygraph::{Degree, Strategy};
use net::config::{ConfigError, in_range};
use net::multicast;
use protocol::{GroupId, Ration, Suite};
use serde::Deserialize;

use super::name;
use super::rule::{RuleFileConfig, access};
use crate::core;

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
    /// Whether rekey messages and the wrapped key tree are published in ZooKeeper too (`[publish]`), for members without
    /// multicast; default false.
    #[serde(default)]
    pub publish: bool,
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
    /// Who may join and do everything, however it was authenticated: identities, or prefixes `spiffe://domain/path/*`. Required if
    /// there is no `[[group.rule]]`; empty for nobody.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// Who may not, though a shorter prefix says so. Default nobody.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Rules that say more than `allow` and `deny` can. Of all three, what is said of an identity stands before what is said of
    /// a prefix, and a longer prefix before a shorter one; the order means nothing.
    #[serde(default)]
    pub rule: Vec<RuleFileConfig>,
    /// Seconds for which a member may be silent before it is taken for gone and evicted, 3 to 31,536,000; 0 (default) for ever. It
    /// is not less than `beacon_max_ms`. Members make themselves heard when a third of it has passed.
    #[serde(default)]
    pub lease_s: u64,
    /// Members at the most, 1 to 1,000,000 (default).
    #[serde(default = "max_members")]
    pub max_members: usize,
    /// Joins that one client may have at once, 1 to 1,000; default 5. Each join that makes a member rekeys the group, and who leaves
    /// and joins again and again is told to wait. Leaving is never refused.
    #[serde(default = "join_burst")]
    pub join_burst: u32,
    /// Seconds in which a client earns one more of these, 1 to 3,600, or 0 for no limit; default 10.
    #[serde(default = "join_each_s")]
    pub join_each_s: u64,
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
fn join_burst() -> u32 {
    5
}
fn join_each_s() -> u64 {
    10
}
fn refresh_s() -> u64 {
    3_600
}
fn beacon_ms() -> u64 {
    1_000
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

impl GroupFileConfig {
    pub(super) fn check(&self) -> Result<core::GroupConfig, ConfigError> {
        let key = |field: &str| format!("group `{}`: {field}", self.name);
        name(&key("name"), &self.name)?;
        in_range(key("id"), self.id, 1..=u32::MAX)?;
        multicast::group(self.address).map_err(|e| ConfigError::invalid(key("address"), e))?;
        let millis = |field, value, low, high| in_range(key(field), value, low..=high).map(Duration::from_millis);
        let repair: RepairScheme = self.repair.parse().map_err(|e| ConfigError::invalid(key("repair"), e))?;
        // What the scheme cannot do for the largest message it must not promise for any.
        fec::Layout::new(fec::MAX_MESSAGE, &repair).map_err(|e| ConfigError::invalid(key("repair"), e))?;
        in_range(key("refresh_s"), self.refresh_s, 0..=31_536_000)?;
        let beacon_max_ms = self.beacon_max_ms.unwrap_or_else(|| self.beacon_ms.max(BEACON_MAX_MS));
        Ok(core::GroupConfig {
            id: GroupId(self.id),
            name: self.name.clone(),
            destination: self.address,
            published: self.publish,
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
            access: access(self, beacon_max_ms)?,
            max_members: in_range(key("max_members"), self.max_members, 1..=1_000_000)?,
            joins: Ration {
                burst: in_range(key("join_burst"), self.join_burst, 1..=1_000)?,
                each: Duration::from_secs(in_range(key("join_each_s"), self.join_each_s, 0..=3_600)?),
            },
            refresh: (self.refresh_s > 0).then(|| Duration::from_secs(self.refresh_s)),
            beacon: millis("beacon_ms", self.beacon_ms, 50, 600_000)?,
            beacon_max: millis("beacon_max_ms", beacon_max_ms, self.beacon_ms, 600_000)?,
            resync_wait: millis("resync_wait_ms", self.resync_wait_ms, 0, 600_000)?,
            send_delay: millis("send_delay_ms", self.send_delay_ms, 0, 60_000)?,
            keep_old: millis("keep_old_ms", self.keep_old_ms, 0, 600_000)?,
            keep_old_revoked: millis("keep_old_revoked_ms", self.keep_old_revoked_ms, 0, 600_000)?,
        })
    }
}
