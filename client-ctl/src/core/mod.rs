//! The pure core of the client control manager.
//!
//! ```text
//! registered -> joined -+-> unit -> verified -> rekey message -> next epoch ----> feed
//!                       |-> beacon ahead, gap, silence -> wait -> re-synchronize -^
//!                       `-> leave, eviction -------------------------------------^
//! ```
//!
//! A client's keys change only by a signed rekey message that continues what is installed, or by a sealed reply whose
//! signed beacon commits to the keys in it and is not older than anything seen.

mod backoff;
mod certificate;
mod fence;
mod group;
mod input;
mod keys;
mod life;
mod member;
mod output;
mod published;
mod renewal;
mod reply;
mod requests;
mod stream;
mod tally;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use protocol::unit::{Kind, Unit, UnitVerifier, kind};
use protocol::{Beacon, DataKey, Entropy, GroupId, MAX_NAME, MemberId, TagKey};

pub use input::{Config, Input};
pub use output::{Counters, Event, GroupStatus, How, LiveKey, Output, Snapshot, Status};
pub use stream::{Carrier, Carriers};

use certificate::Certificate;
use group::{Env, Group};
use life::Life;
use published::Published;
use renewal::Renewal;
use requests::{InFlight, Registration};
use stream::Stream;

/// Time since an arbitrary start. The shell's clock and the simulation's give the same thing.
pub type Now = Duration;

/// Groups that are or were of interest: what fits one request. Names come from the configuration and from local users.
pub const MAX_GROUPS: usize = protocol::request::MAX_OPERATIONS;
/// Octets of rekey messages kept for all groups together, in pieces or whole: the longest message for each group. So the newest
/// message that a group has in progress is never given up for another's. By itself a group may keep half of that.
const MAX_OCTETS: usize = MAX_GROUPS * fec::MAX_MESSAGE;
/// Time for the leave request at the end; a key server that is away is not waited for.
const LEAVE_TIME: Duration = Duration::from_secs(2);
/// Octets of a data processor's name for itself.
pub const MAX_CONSUMER: usize = 64;

/// One client of one key server.
pub struct Core {
    entropy: Box<dyn Entropy>,
    verifier: UnitVerifier,
    groups: BTreeMap<String, Group>,
    registration: Registration,
    renewal: Option<Renewal>,
    client: Option<MemberId>,
    in_flight: Option<InFlight>,
    life: Life,
    certificate: Certificate,
    /// Registrations in a row whose credential had ended already.
    ended: u32,
    /// Handshakes refused since the last reply.
    refusals: u32,
    subscribed: BTreeSet<SocketAddr>,
    /// [`MAX_OCTETS`], or less in tests.
    most_octets: usize,
    carriers: Carriers,
    stream: Stream,
    published: Published,
    /// Datagrams that are no unit or beacon of a group of ours.
    foreign: u64,
    /// When the core stops, whatever is still on its way.
    stopping: Option<Now>,
    is_stopped: bool,
    /// The latest time that was given.
    clock: Now,
    outputs: VecDeque<Output>,
}

impl Core {
    /// Begins with registration at the first input. Groups beyond [`MAX_GROUPS`] are ignored; configurations are
    /// checked for that before.
    pub fn new(config: Config, entropy: Box<dyn Entropy>) -> Self {
        let (names, carriers) = (config.groups.into_iter().take(MAX_GROUPS), config.carriers);
        Self {
            entropy,
            verifier: UnitVerifier::new(config.signing),
            groups: names.map(|name| (name.clone(), Group::new(Now::ZERO, &name, carriers.of(&name)))).collect(),
            registration: Registration::Wanted { at: Now::ZERO, attempt: 0 },
            renewal: None,
            client: None,
            in_flight: None,
            life: Life::default(),
            certificate: Certificate::default(),
            ended: 0,
            refusals: 0,
            subscribed: BTreeSet::new(),
            most_octets: MAX_OCTETS,
            carriers,
            stream: Stream::default(),
            published: Published::default(),
            foreign: 0,
            stopping: None,
            is_stopped: false,
            clock: Now::ZERO,
            outputs: VecDeque::new(),
        }
    }

    /// Takes in one event. Bad input changes nothing but a counter. A `now` that is earlier than one before counts as that
    /// one: a clock that goes back stands still here, so that no key ends before its time.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        if self.is_stopped {
            return;
        }
        self.clock = self.clock.max(now);
        let now = self.clock;
        match input {
            // Nothing follows from what is dropped but a count: a flood must cost no more.
            Input::Datagram(octets) if !self.datagram(now, octets) => return,
            Input::Datagram(_) => {}
            Input::Registered { client, registration } => self.registered(now, client, registration),
            Input::RegistrationFailed { retry_after, is_final } => {
                self.registration_failed(now, retry_after, is_final);
            }
            Input::RegistrationLater { after } => self.registration_later(now, after),
            Input::Credential => self.renew_registration(now),
            Input::Trusted { signing, begins } => self.trust(now, signing, begins),
            Input::Reply { id, message } => self.reply(now, id, message),
            Input::RequestFailed { id, refused } => self.request_failed(now, id, refused),
            Input::RequestLater { id, after } => self.request_later(now, id, after),
            Input::Subscribed { id, message } => self.subscribed(now, id, message),
            Input::StreamEnded { id } => self.stream_ended(now, id),
            Input::Now { group, octets } => self.found_now(now, group, octets),
            Input::Read { id, group, values } => self.has_read(now, group, id, values),
            Input::ReadFailed { id, group } => self.read_failed(now, group, id),
            Input::Join(name) => self.join(now, &name),
            Input::Leave(name) => self.with(now, &name, |group, env| group.leave(env.now)),
            Input::Stop { leave } => self.stop(now, leave),
            Input::Applied { group, consumer, epoch } => {
                if consumer.len() <= MAX_CONSUMER {
                    self.with(now, &group, |group, env| group.applied(env, consumer, epoch));
                }
            }
            Input::Missing { group, epoch } => self.with(now, &group, |group, env| group.missing(env, epoch)),
            Input::Timeout => {}
        }
        self.advance(now);
    }

    /// The next thing to be done, until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Core::handle`] with a time-out at the latest, and why.
    pub fn poll_timeout(&self) -> Option<(Now, &'static str)> {
        if self.is_stopped {
            return None;
        }
        let stop = self.stopping.map(|at| (at, "stop"));
        let groups = self.groups.values().filter_map(Group::next);
        let all = groups.chain(stop).chain(self.next_drive()).chain(self.next_renewal());
        all.chain(self.next_stream()).chain(self.next_published()).min()
    }

    /// Where every group stands, by name.
    pub fn status(&self) -> Vec<GroupStatus> {
        self.groups.values().map(Group::status).collect()
    }

    /// ID number and number of the registration, while there is one.
    pub fn registration(&self) -> Option<(MemberId, u64)> {
        match self.registration {
            Registration::Done { client, number } => Some((client, number)),
            _ => None,
        }
    }

    /// Datagrams that were no unit or beacon of a group of ours.
    pub fn foreign_datagrams(&self) -> u64 {
        self.foreign
    }

    /// Octets of rekey messages that are kept for all groups, in pieces or whole: 64 MiB at the most.
    pub fn octets_kept(&self) -> usize {
        self.groups.values().map(Group::octets).sum()
    }

    /// The data key of a live epoch, so that a simulation can compare members. Nothing else may call it.
    pub fn danger_data_key(&self, group: &str, epoch: u64) -> Option<&DataKey> {
        self.groups.get(group)?.data_key(epoch)
    }

    /// What a member can make the tags of the next epoch's units with, so that a simulation can forge them. Nothing else may
    /// call it.
    pub fn danger_tag_key(&self, group: &str) -> Option<&TagKey> {
        self.groups.get(group)?.tag_key()
    }

    /// Whether anything may have changed but counters.
    fn datagram(&mut self, now: Now, octets: &[u8]) -> bool {
        match kind(octets) {
            Ok(Kind::Unit) => {
                if let Ok(unit) = Unit::decode(octets)
                    && let Some(changed) =
                        self.with_id(now, unit.header.epoch.group, |group, env| group.unit(env, &unit, octets))
                {
                    if changed {
                        self.bound();
                    }
                    return changed;
                }
            }
            Ok(Kind::Beacon) => {
                if let Ok(beacon) = Beacon::decode(octets)
                    && let Some(changed) =
                        self.with_id(now, beacon.context.group, |group, env| group.beacon(env, &beacon, octets))
                {
                    return changed;
                }
            }
            Err(_) => {}
        }
        self.foreign += 1;
        false
    }

    /// Only verified units are kept. If they are too many, the group that keeps most gives up some.
    fn bound(&mut self) {
        while self.octets_kept() > self.most_octets
            && let Some(fullest) = self.groups.values_mut().max_by_key(|group| group.octets())
        {
            fullest.give_up_one();
        }
    }

    /// `None` if this client is no member of such a group.
    fn with_id<T>(&mut self, now: Now, id: GroupId, f: impl FnOnce(&mut Group, &mut Env<'_>) -> T) -> Option<T> {
        let group = self.groups.values_mut().find(|group| group.id() == Some(id));
        let (entropy, verifier, outputs) = (&mut self.entropy, &mut self.verifier, &mut self.outputs);
        group.map(|group| f(group, &mut Env { now, entropy, verifier, outputs }))
    }

    fn join(&mut self, now: Now, name: &str) {
        if let Some(group) = self.groups.get_mut(name) {
            group.join(now);
        } else if self.groups.len() >= MAX_GROUPS || name.is_empty() || name.len() > MAX_NAME {
            self.event(Event::Dropped { cause: "a join of one group too many or of no valid name" });
        } else {
            self.groups.insert(name.to_owned(), Group::new(now, name, self.carriers.of(name)));
        }
    }

    fn stop(&mut self, now: Now, leave: bool) {
        let asked = leave && self.leave_all(now);
        self.stopping = Some(if asked { now + LEAVE_TIME } else { now });
    }

    /// Does what time and the last input have made due, then tells.
    fn advance(&mut self, now: Now) {
        let names: Vec<String> = self
            .groups
            .iter()
            .filter(|(_, g)| g.next().is_some_and(|(at, _)| at <= now))
            .map(|(n, _)| n.clone())
            .collect();
        for name in names {
            self.with(now, &name, |group, env| group.advance(env));
        }
        let ending = self.stopping.is_some_and(|at| at <= now || self.in_flight.is_none());
        if !ending {
            self.drive(now);
            self.drive_stream(now);
            self.drive_published(now);
        }
        self.publish();
        if ending {
            self.is_stopped = true;
            self.outputs.push_back(Output::Stopped);
        }
    }

    fn publish(&mut self) {
        let multicast = self.groups.values().filter(|group| group.carrier == Carrier::Multicast);
        let wanted: BTreeSet<SocketAddr> = multicast.filter_map(Group::destination).collect();
        self.outputs.extend(wanted.difference(&self.subscribed).map(|to| Output::Subscribe(*to)));
        self.outputs.extend(self.subscribed.difference(&wanted).map(|to| Output::Unsubscribe(*to)));
        self.subscribed = wanted;
        for (name, group) in &mut self.groups {
            if group.take_changed() {
                let snapshot = group.snapshot(self.client);
                self.outputs.push_back(Output::Feed { group: name.clone(), snapshot });
            }
        }
    }

    fn with(&mut self, now: Now, name: &str, f: impl FnOnce(&mut Group, &mut Env<'_>)) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let (entropy, verifier, outputs) = (&mut self.entropy, &mut self.verifier, &mut self.outputs);
        f(group, &mut Env { now, entropy, verifier, outputs });
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("client", &self.client).field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}
