//! What the core is configured with.

use std::net::SocketAddr;
use std::time::Duration;

use fec::RepairScheme;
use keygraph::{Degree, Strategy};
use protocol::identity::{Identity, IdentityPattern};
use protocol::{Authentication, GroupId, Ration, SigningKey, Suite, VerifyingKey};

use super::{Access, COMPACT_EVERY, RECORDS_PER_SNAPSHOT};

/// What the key server is told once, before it starts.
#[derive(Debug)]
pub struct Config {
    /// Name of this key server.
    pub name: String,
    /// Registrars that may connect, each with whom it may register.
    pub registrars: Vec<(Identity, Prefixes)>,
    /// Those of them that may hand over no key that they know.
    pub sealed_only: Vec<Identity>,
    /// Registrations of one and the same client, again and again.
    pub registrations: Ration,
    /// The groups.
    pub groups: Vec<GroupConfig>,
    /// Bits that multicasts may take per second, each counted once however many relays it goes to; without headers of IP and
    /// below.
    pub bits_per_second: u64,
    /// Re-synchronizations served per second at the most; who asks beyond is told when to come back.
    pub resyncs_per_second: u32,
    /// Records after which a snapshot is written; [`RECORDS_PER_SNAPSHOT`](super::RECORDS_PER_SNAPSHOT) outside tests.
    pub records_per_snapshot: usize,
    /// Time after which a snapshot is written whatever happened; [`COMPACT_EVERY`](super::COMPACT_EVERY) by default.
    pub compact_every: Duration,
    /// Key that signs rekey messages and beacons.
    pub signing: SigningKey,
    /// Keys with which other key servers of the site sign: what they have signed, members may show.
    pub others: Vec<VerifyingKey>,
}

/// Identities that a registrar may register, each with the kind of authentication that it may use for them.
pub type Prefixes = Vec<(Authentication, IdentityPattern)>;

/// One group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Number; never used again for another group.
    pub id: GroupId,
    /// Name, unique on this key server.
    pub name: String,
    /// Where rekey messages and beacons are multicast.
    pub destination: SocketAddr,
    /// Whether rekey messages and the wrapped key tree are published as well, for members without multicast.
    pub published: bool,
    /// Degree of the key tree; fixed when the group is made.
    pub degree: Degree,
    /// Cipher suite; fixed when the group is made.
    pub suite: Suite,
    /// Rekeying strategy.
    pub strategy: Strategy,
    /// Whether k-nodes with one child are spliced out.
    pub splicing: bool,
    /// Joins, leaves and renewals wait so long for others to share an epoch with. Evictions do not.
    pub batch: Duration,
    /// Leaves moved by one batch at the most while the tree is too high for its members; 0 for never.
    pub compaction: u32,
    /// Repair scheme.
    pub repair: RepairScheme,
    /// Who may be a member.
    pub access: Access,
    /// Members at the most.
    pub max_members: usize,
    /// Joins that make one and the same client a member, again and again.
    pub joins: Ration,
    /// Time between refreshes of the group key; `None` for never.
    pub refresh: Option<Duration>,
    /// Time from a change to the next beacon. It doubles with every beacon without a change,
    pub beacon: Duration,
    /// up to this.
    pub beacon_max: Duration,
    /// Bound of the random wait before a re-synchronize request, at the least: it grows with the group.
    pub resync_wait: Duration,
    /// Time that a sender waits before it uses a new key.
    pub send_delay: Duration,
    /// Time for which receivers keep the key before.
    pub keep_old: Duration,
    /// The same after an eviction.
    pub keep_old_revoked: Duration,
}

impl Config {
    /// A key server of this name without groups and registrars, with nothing that a small site would notice as a bound.
    pub fn plain(name: &str, signing: SigningKey) -> Self {
        Self {
            name: name.into(),
            registrars: Vec::new(),
            sealed_only: Vec::new(),
            groups: Vec::new(),
            bits_per_second: 8_000_000_000,
            resyncs_per_second: 4_000,
            registrations: Ration::UNLIMITED,
            records_per_snapshot: RECORDS_PER_SNAPSHOT,
            compact_every: COMPACT_EVERY,
            signing,
            others: Vec::new(),
        }
    }
}

impl GroupConfig {
    /// A group as it is by default (`keyserver::config`), but joined without a bound, and never refreshed.
    pub fn plain(id: GroupId, name: &str, destination: SocketAddr, access: Access) -> Self {
        Self {
            id,
            name: name.into(),
            destination,
            published: false,
            degree: Degree::BINARY,
            suite: Suite::default(),
            strategy: Strategy::default(),
            splicing: false,
            batch: Duration::ZERO,
            compaction: 64,
            repair: RepairScheme::default(),
            access,
            max_members: 1_000_000,
            joins: Ration::UNLIMITED,
            refresh: None,
            beacon: Duration::from_secs(1),
            beacon_max: Duration::from_secs(8),
            resync_wait: Duration::from_secs(1),
            send_delay: Duration::from_millis(500),
            keep_old: Duration::from_secs(5),
            keep_old_revoked: Duration::from_secs(1),
        }
    }
}
