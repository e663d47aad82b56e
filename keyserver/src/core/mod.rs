//! The pure core of the key server.
//!
//! ```text
//! handle(now, input) -> intents -> stage -> Output::Persist
//! handle(now, Persisted) -> merge -> Output::{Reply, Datagram, ...}
//! ```
//!
//! One transaction is in flight at a time, so that what is staged is always staged against what is merged. What comes meanwhile
//! goes into the next one, as far as it may.

mod access;
mod admin;
mod admission;
mod batch;
mod beacons;
mod clients;
mod codec;
mod group;
mod io;
mod keys;
mod left;
mod membership;
mod outbox;
#[cfg(test)]
mod past;
mod policy;
mod publish;
mod recover;
mod recovery;
mod registrars;
mod requests;
mod restore;
mod sealed;
mod sending;
mod settings;
mod snapshot;
mod standby;
mod subscribers;
mod together;
mod tokens;
mod transaction;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use protocol::{Entropy, GroupId, Incarnation, IndividualKey, MemberId, Rations};

pub use access::{Access, Contradiction, Grant, Rule, Verdict};
pub use admin::{Admin, AdminError, AdminReply, Endings, GroupStatus, MemberStatus, Members, Status};
pub use admission::Cause;
pub use io::{EpochEvent, Event, Input, Output};
pub use keys::{Issued, Keys, KeysError};
pub use policy::PolicyError;
pub use publish::{Publication, Published};
pub use recover::{LEAP, Recovery as RecoveryPlan};
pub use restore::RestoreError;
pub use sealed::Registrations;
pub use settings::{Config, GroupConfig, Prefixes};
pub use subscribers::MAX_SUBSCRIBERS;

use admission::Admission;
use clients::Clients;
use group::Group;
use outbox::Outbox;
use recovery::Recovery;
use registrars::Link;
use requests::Waiting;
use subscribers::Subscribers;
use transaction::{Intent, Transaction};

/// Time since an arbitrary start. The shell's clock and the simulation's give the same thing.
pub type Now = Duration;

/// Requests and changes that wait while a write is in flight. At one millisecond a write this is ten seconds of
/// backlog; whoever comes after it is told to come again.
const MAX_INTENTS: usize = 10_000;
/// Records after which a snapshot is written, so that a start replays seconds of work and not hours.
pub const RECORDS_PER_SNAPSHOT: usize = 4_096;
/// Time after which a snapshot is written by default, so that what was stored before it stays openable for a day at the most:
/// only a snapshot turns the site key's ratchet. Of a million members it is 100 MB, once a day.
pub const COMPACT_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// So many times that, left by reigns that ended too soon to write a snapshot, and the next one writes it before all else.
const TOO_MANY: usize = 4;
/// How soon after its beginning a reign writes a snapshot, if records of a reign before it are left: how old they are nobody
/// knows without a clock on the wall. By then all groups of a take-over have been rekeyed.
const SETTLED: Duration = Duration::from_secs(60);

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
    registrations: Registrations,
    /// How often clients have registered lately.
    registering: Rations<MemberId>,
    intents: VecDeque<Intent>,
    /// Requests that wait for batches, by session.
    waiting: BTreeMap<u64, Waiting>,
    /// When each group's beacon, refresh or pages are due.
    timers: BTreeSet<(Now, GroupId)>,
    /// When each group's batch is due.
    batches: BTreeSet<(Now, GroupId)>,
    /// Whether a due batch goes before an intent.
    batch_next: bool,
    in_flight: Option<Transaction>,
    recovery: Recovery,
    admission: Admission,
    subscribers: Subscribers,
    /// The site certificate for members whose own is older.
    issued: Option<Issued>,
    records: usize,
    /// Records that stood in the store when all of it was read.
    loaded: usize,
    /// When the next snapshot is due, however few records there are.
    compact_at: Now,
    halted: bool,
    /// The latest time that was given.
    clock: Now,
    /// Whether another key server reigns.
    standing_by: bool,
    /// Whether the state is from a backup and nobody has said yet from where it may go on.
    must_recover: bool,
    outbox: Outbox,
    /// Operations denied, and offences of peers that have proved who they are, in this reign.
    refused: (u64, u64),
    outputs: VecDeque<Output>,
}

impl Core {
    /// The individual key that a session of this client and registration must prove.
    pub fn individual_key(&self, client: MemberId, registration: u64) -> Option<IndividualKey> {
        self.clients.key(client, registration, &self.admission.revoked).cloned()
    }

    /// Takes one input. Drain [`Core::poll_output`] before the next. A `now` that is earlier than one before counts as that
    /// one: a clock that goes back stands still here, so that no key ends before its time.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        if self.halted {
            return;
        }
        self.clock = self.clock.max(now);
        let now = self.clock;
        self.notice_stall(now);
        if self.standing_by {
            return self.while_standing_by(now, input);
        }
        match input {
            Input::RegistrarUp { link, identity } => self.registrar_up(link, &identity),
            Input::RegistrarDown { link } => drop(self.links.remove(&link)),
            Input::FromRegistrar { link, frame } => self.on_registrar(link, frame),
            Input::Answered { link, client, registration, answer } => {
                self.answered(link, (client, registration), answer);
            }
            Input::Request { session, client, registration, message } => {
                self.request(now, session, client, registration, message);
            }
            Input::Admin { ticket, command } => self.admin(now, ticket, command),
            Input::Clock { seconds } => self.wall_clock(now, seconds),
            Input::Revoked(names) => self.revoked(now, names),
            Input::Policy(groups) => self.new_policy(now, groups),
            Input::Keys(keys) => self.new_keys(now, keys),
            Input::SubscriberGone { session, too_slow } => self.subscribers.gone(session, too_slow),
            Input::Persisted(true) => self.persisted(now),
            Input::Persisted(false) => self.halt(),
            Input::Timeout => {}
        }
        self.due(now);
        self.look_at_due(now);
        self.pump(now);
        self.release(now);
    }

    /// The next thing to be done, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Core::handle`] with a time-out at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Now, &'static str)> {
        if self.halted || self.standing_by {
            return None;
        }
        let send = self.outbox.next_release().map(|at| (at, "datagrams are waiting"));
        let timer = self.timers.first().map(|(at, _)| (*at, "a beacon, a refresh or pages are due"));
        // While a write is under way, whatever is due waits for it.
        let batch = self.batches.first().filter(|_| self.in_flight.is_none()).map(|(at, _)| (*at, "a batch is due"));
        let compaction = self.in_flight.is_none().then_some((self.compact_at, "a compaction is due"));
        let look = self.admission.next().map(|at| (at, "a membership is to be looked at"));
        [send, timer, batch, compaction, look].into_iter().flatten().min()
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
            if group.stopped.is_some() {
                continue;
            }
            let refresh = group.refresh_due(now);
            if let Some(datagram) = group.beacon_due(now, &self.config.signing, &self.recovery) {
                self.outbox.push(now, group.audience(), datagram);
                self.outputs.extend(group.publish_beacon());
            }
            self.outputs.extend(group.publish_pages(now, &self.config.signing));
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
        for (group, took) in self.outbox.release(now, &self.subscribers, &mut self.outputs) {
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
        match event {
            Event::Denied { .. } => self.refused.0 += 1,
            Event::Misbehaved { .. } => self.refused.1 += 1,
            _ => {}
        }
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
