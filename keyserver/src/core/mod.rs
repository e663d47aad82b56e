//! The pure core of the key server.
//!
//! ```text
//! handle(now, input) -> intents -> stage -> Output::Persist
//! handle(now, Persisted) -> merge -> Output::{Reply, Datagram, ...}
//! ```
//!
//! One transaction is in flight at a time, so that what is staged is always staged against what is merged.

mod admin;
mod batch;
mod beacons;
mod clients;
mod codec;
mod group;
mod outbox;
mod recovery;
mod registrars;
mod requests;
mod restore;
mod sending;
mod snapshot;
mod transaction;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use fec::RepairScheme;
use keygraph::{Degree, KeyRef, Plan, Strategy};
use protocol::identity::{Identity, IdentityPattern};
use protocol::request::Denial;
use protocol::sign::SigningKey;
use protocol::{Entropy, GroupId, Incarnation, IndividualKey, MemberId, Reason, Suite};
use zeroize::Zeroizing;

pub use admin::{Admin, AdminError, AdminReply, GroupStatus, Status};
pub use restore::RestoreError;

use clients::Clients;
use group::Group;
use outbox::Outbox;
use recovery::Recovery;
use registrars::Link;
use requests::Waiting;
use transaction::{Intent, Transaction};

/// Time since an arbitrary start. The shell's clock and the simulation's give the same thing.
pub type Now = Duration;

/// Requests and changes that wait while a write is in flight. At one millisecond a write this is ten seconds of
/// backlog; whoever comes after it is told to come again.
const MAX_INTENTS: usize = 10_000;
/// Records after which a snapshot is written, so that a start replays seconds of work and not hours.
const RECORDS_PER_SNAPSHOT: usize = 4_096;

/// What the key server is told once, before it starts.
#[derive(Debug)]
pub struct Config {
    /// Name of this key server.
    pub name: String,
    /// Registrars that may connect, each with the identities that it may register.
    pub registrars: Vec<(Identity, Vec<IdentityPattern>)>,
    /// The groups.
    pub groups: Vec<GroupConfig>,
    /// Bits that multicasts may take per second, without headers of IP and below.
    pub bits_per_second: u64,
    /// Re-synchronizations served per second at the most; who asks beyond is told when to come back.
    pub resyncs_per_second: u32,
    /// Key that signs rekey messages and beacons.
    pub signing: SigningKey,
}

/// One group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Number; never used again for another group.
    pub id: GroupId,
    /// Name, unique on this key server.
    pub name: String,
    /// Where rekey messages and beacons are multicast.
    pub destination: SocketAddr,
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
    /// Who may join.
    pub allow: Vec<IdentityPattern>,
    /// Members at the most.
    pub max_members: usize,
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

/// What happens to the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// A registrar has connected and proved its identity.
    RegistrarUp {
        /// Names the connection.
        link: u64,
        /// From its certificate.
        identity: Identity,
    },
    /// A registrar's connection is gone.
    RegistrarDown {
        /// Names the connection.
        link: u64,
    },
    /// A frame from a registrar.
    FromRegistrar {
        /// Names the connection.
        link: u64,
        /// The frame.
        frame: &'a [u8],
    },
    /// A request, opened by a Noise session under the individual key of this registration.
    Request {
        /// Names the session.
        session: u64,
        /// The client.
        client: MemberId,
        /// The registration whose key was proved.
        registration: u64,
        /// The request.
        message: &'a [u8],
    },
    /// An operator's command.
    Admin {
        /// Names the command.
        ticket: u64,
        /// The command.
        command: Admin,
    },
    /// The last `Persist` or `Snapshot` is durable (`true`) or has failed (`false`).
    Persisted(bool),
    /// The time of `poll_timeout` has come.
    Timeout,
}

/// What the core wants done.
#[derive(Debug)]
pub enum Output {
    /// Append these records, all or none, and answer `Persisted`.
    Persist(Vec<Zeroizing<Vec<u8>>>),
    /// Replace the journal by this snapshot and answer `Persisted`.
    Snapshot(Zeroizing<Vec<u8>>),
    /// Send a frame to a registrar.
    ToRegistrar {
        /// Names the connection.
        link: u64,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Close a registrar's connection: it broke the protocol or may not be here.
    CloseRegistrar {
        /// Names the connection.
        link: u64,
    },
    /// Seal and send a reply, then close the session.
    Reply {
        /// Names the session.
        session: u64,
        /// The reply.
        message: Zeroizing<Vec<u8>>,
    },
    /// Close a session without a reply: its request was none.
    Refuse {
        /// Names the session.
        session: u64,
    },
    /// Multicast a datagram.
    Datagram {
        /// The group's multicast address.
        destination: SocketAddr,
        /// The datagram.
        octets: Vec<u8>,
    },
    /// Answer an operator.
    AdminReply {
        /// Names the command.
        ticket: u64,
        /// The answer.
        result: Result<AdminReply, AdminError>,
    },
    /// For the log and for checks; no secret is in it.
    Event(Event),
    /// The store has failed: nothing more is acknowledged, the process must end.
    Halt,
}

/// What happened, without a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A reign has begun.
    Reign {
        /// Its number.
        term: u64,
        /// Its name.
        incarnation: Incarnation,
    },
    /// An individual key was stored.
    Registered {
        /// The client.
        client: MemberId,
        /// Its identity.
        identity: Identity,
        /// Number of the registration.
        registration: u64,
    },
    /// A group has a new key.
    Epoch(Box<EpochEvent>),
    /// A client was given keys in a reply.
    Given {
        /// The group.
        group: GroupId,
        /// The client.
        client: MemberId,
        /// The secrets of its path.
        keys: Vec<KeyRef>,
        /// Epochs of the earlier data keys.
        earlier: Vec<u64>,
    },
    /// An operation was denied.
    Denied {
        /// The group, as it was asked for.
        group: String,
        /// The client.
        client: MemberId,
        /// Why.
        denial: Denial,
    },
    /// A peer broke the protocol and was cut off.
    Misbehaved {
        /// Who, in words.
        peer: String,
        /// How, in words.
        how: String,
    },
    /// The first datagram of an epoch without evicted members was sent.
    EvictionSent {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: u64,
        /// Time since the operator asked for it.
        took: Duration,
    },
    /// Datagrams were dropped because the queue was full; members will re-synchronize.
    Overflow {
        /// How many.
        datagrams: usize,
    },
}

/// A new epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochEvent {
    /// The group.
    pub group: GroupId,
    /// Number of the reign.
    pub term: u64,
    /// Number of the key.
    pub epoch: u64,
    /// Why.
    pub reason: Reason,
    /// Members after the change.
    pub members: usize,
    /// What was done, symbolically.
    pub plan: Plan,
    /// Rekey messages.
    pub messages: usize,
    /// Octets of the rekey messages.
    pub octets: usize,
    /// Units of message.
    pub units: usize,
    /// Repair units.
    pub repair_units: usize,
}

/// The key server's state and rules.
pub struct Core {
    config: Config,
    entropy: Box<dyn Entropy>,
    coder: fec::ReedSolomon,
    term: u64,
    incarnation: Incarnation,
    clients: Clients,
    groups: BTreeMap<GroupId, Group>,
    /// Of the configured groups.
    names: BTreeMap<String, GroupId>,
    links: BTreeMap<u64, Link>,
    intents: VecDeque<Intent>,
    /// Requests that wait for batches, by session.
    waiting: BTreeMap<u64, Waiting>,
    /// When each group's beacon or refresh is due.
    timers: BTreeSet<(Now, GroupId)>,
    /// When each group's batch is due.
    batches: BTreeSet<(Now, GroupId)>,
    /// Whether a due batch goes before an intent.
    batch_next: bool,
    in_flight: Option<Transaction>,
    recovery: Recovery,
    records: usize,
    halted: bool,
    outbox: Outbox,
    outputs: VecDeque<Output>,
}

impl Core {
    /// The individual key that a session of this client and registration must prove.
    pub fn individual_key(&self, client: MemberId, registration: u64) -> Option<IndividualKey> {
        self.clients.key(client, registration).cloned()
    }

    /// Takes one input. Drain [`Core::poll_output`] before the next.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        if self.halted {
            return;
        }
        match input {
            Input::RegistrarUp { link, identity } => self.registrar_up(link, &identity),
            Input::RegistrarDown { link } => drop(self.links.remove(&link)),
            Input::FromRegistrar { link, frame } => self.on_registrar(link, frame),
            Input::Request { session, client, registration, message } => {
                self.request(session, client, registration, message);
            }
            Input::Admin { ticket, command } => self.admin(now, ticket, command),
            Input::Persisted(true) => self.persisted(now),
            Input::Persisted(false) => self.halt(),
            Input::Timeout => {}
        }
        self.due(now);
        self.pump(now);
        self.release(now);
    }

    /// The next thing to be done, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Core::handle`] with a time-out at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Now, &'static str)> {
        if self.halted {
            return None;
        }
        let send = self.outbox.next_release().map(|at| (at, "datagrams are waiting"));
        let timer = self.timers.first().map(|(at, _)| (*at, "a beacon or a refresh is due"));
        // While a write is under way, whatever is due waits for it.
        let batch = self.batches.first().filter(|_| self.in_flight.is_none()).map(|(at, _)| (*at, "a batch is due"));
        [send, timer, batch].into_iter().flatten().min()
    }

    /// Whether everything that was accepted has been stored and sent: a drain may end here.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.intents.is_empty() && self.waiting.is_empty() && self.outbox.is_empty()
    }

    fn due(&mut self, now: Now) {
        while let Some((_, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            group.armed = None;
            let refresh = group.refresh_due(now);
            if let Some(datagram) = group.beacon_due(now, &self.config.signing, &self.recovery) {
                self.outbox.push(now, group.destination(), datagram);
            }
            if refresh {
                self.refresh(now, id, None);
            }
            self.arm(id);
        }
    }

    /// Sets a group's timer to what is due next.
    fn arm(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            if let Some(at) = group.armed.take() {
                self.timers.remove(&(at, id));
            }
            group.armed = group.next_due();
            self.timers.extend(group.armed.map(|at| (at, id)));
        }
    }

    /// Lets datagrams go, and keeps how long evictions took.
    fn release(&mut self, now: Now) {
        for (group, took) in self.outbox.release(now, &mut self.outputs) {
            if let Some(group) = self.groups.get_mut(&group) {
                let worst = group.eviction.map_or(took, |(_, worst)| worst.max(took));
                group.eviction = Some((took, worst));
            }
        }
    }

    /// The store has failed. What is staged is dropped and was never acknowledged.
    fn halt(&mut self) {
        self.halted = true;
        self.in_flight = None;
        self.outputs.push_back(Output::Halt);
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn misbehaved(&mut self, peer: String, how: String) {
        self.event(Event::Misbehaved { peer, how });
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("term", &self.term).field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}
