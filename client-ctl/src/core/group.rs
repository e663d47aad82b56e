//! One group as this client sees it: what it wants, what it may believe, what it tells.

mod answers;
mod hear;
mod pages;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::request::{Losses, Resync, Role};
use protocol::unit::UnitVerifier;
use protocol::{Budget, Entropy, GroupId, MemberId};

use super::fence::Fence;
use super::member::Member;
use super::output::{Counters, Event, GroupStatus, LiveKey, Output, Snapshot, Status};
use super::stream::Carrier;
use super::tally::{REPORT_MS, Tally};
use super::{Now, requests::Ask};

/// Data processors whose reports are remembered: far more than share one host's keys.
const MAX_CONSUMERS: usize = 64;
/// Hold time told before anything was announced, in milliseconds.
const HOLD_MS: u64 = 10_000;

/// What a group may use of the core around it.
pub(super) struct Env<'a> {
    pub(super) now: Now,
    pub(super) entropy: &'a mut Box<dyn Entropy>,
    pub(super) verifier: &'a mut UnitVerifier,
    pub(super) outputs: &'a mut VecDeque<Output>,
}

impl Env<'_> {
    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

/// What is to be asked, and when.
struct Want {
    ask: Ask,
    at: Now,
    /// Not the first time: it waits alone.
    again: bool,
}

/// A membership that is over: messages of epochs before the first one without this client still count for a moment.
struct Ending {
    epoch: u64,
    at: Now,
}

/// Signature checks of one group.
struct Budgets {
    /// Units and beacons whose tag is right: of members, who could forge it, or of the key server. At its default rate the key
    /// server begins less than 700 blocks a second; saved up are the blocks of the longest message.
    tagged: Budget,
    /// Units of epochs whose tag this member cannot check, because a message before them is missing. Re-synchronization
    /// helps it whatever becomes of them.
    untagged: Budget,
    /// Beacons of such epochs. The key server sends a few in a second at the most.
    beacons: Budget,
}

impl Budgets {
    fn new() -> Self {
        Self { tagged: Budget::new(2_000, 2_048), untagged: Budget::new(50, 64), beacons: Budget::new(20, 20) }
    }
}

pub(super) struct Group {
    name: String,
    /// How its datagrams come.
    pub(super) carrier: Carrier,
    status: Status,
    detail: String,
    want: Option<Want>,
    /// An operation of this group is on its way to the key server.
    asking: Option<Ask>,
    /// Where the group is published: whether the key server is to be asked, because the pages were no help.
    is_for_key_server: bool,
    /// Failures in a row.
    attempt: u32,
    fence: Fence,
    /// The key server knows less than was seen, and is to be shown that.
    is_witness: bool,
    budgets: Budgets,
    tally: Tally,
    /// When the next report of losses may be sent.
    report_at: Now,
    member: Option<Member>,
    /// What the policy means this client to do.
    role: Option<Role>,
    /// Seconds for which it may be silent; 0 for ever.
    lease_s: u32,
    ending: Option<Ending>,
    joined_epoch: Option<u64>,
    left_epoch: Option<u64>,
    counters: Counters,
    applied: BTreeMap<String, u64>,
    changed: bool,
}

impl Group {
    pub(super) fn new(now: Now, name: &str, carrier: Carrier) -> Self {
        Self {
            name: name.to_owned(),
            carrier,
            status: Status::Joining,
            detail: String::new(),
            want: Some(Want { ask: Ask::Join, at: now, again: false }),
            asking: None,
            is_for_key_server: false,
            attempt: 0,
            fence: Fence::default(),
            is_witness: false,
            budgets: Budgets::new(),
            tally: Tally::default(),
            report_at: Now::ZERO,
            member: None,
            role: None,
            lease_s: 0,
            ending: None,
            joined_epoch: None,
            left_epoch: None,
            counters: Counters::default(),
            applied: BTreeMap::new(),
            changed: true,
        }
    }

    /// The user wants to be a member.
    pub(super) fn join(&mut self, now: Now) {
        // A leave that is on its way is followed by a join, not undone by it.
        let leaving = self.wants(Ask::Leave) || self.asking == Some(Ask::Leave);
        if matches!(self.status, Status::Member | Status::Stale) && !leaving {
            return;
        }
        self.set(Status::Joining, "");
        self.want = Some(Want { ask: Ask::Join, at: now, again: false });
    }

    /// The user does not want to be a member any more.
    pub(super) fn leave(&mut self, now: Now) {
        if self.may_be_member() {
            self.want = Some(Want { ask: Ask::Leave, at: now, again: false });
        } else {
            self.want = None;
            self.set(Status::Left, "");
        }
    }

    /// The client has registered anew: its old leaf is worth nothing, so it joins again.
    pub(super) fn renew(&mut self, now: Now) {
        let leaving = self.asking.take() == Some(Ask::Leave) || self.wants(Ask::Leave);
        let ask = match self.status {
            Status::Joining | Status::Member | Status::Stale if leaving => Ask::Leave,
            Status::Joining | Status::Member | Status::Stale => Ask::Join,
            Status::Left | Status::Evicted | Status::Refused => return,
        };
        self.want = Some(Want { ask, at: now, again: false });
        self.changed = true;
    }

    /// Registration was refused for good.
    pub(super) fn refuse(&mut self, why: &str) {
        (self.want, self.member, self.ending) = (None, None, None);
        self.set(Status::Refused, why);
    }

    /// The key server may hold this client for a member.
    pub(super) fn may_be_member(&self) -> bool {
        // A join that is asked again may have been carried out: only a member is told to come later.
        let joins_again = self.want.as_ref().is_some_and(|want| want.ask == Ask::Join && want.again);
        (self.member.is_some() && self.ending.is_none()) || self.asking == Some(Ask::Join) || joins_again
    }

    fn wants(&self, ask: Ask) -> bool {
        self.want.as_ref().is_some_and(|want| want.ask == ask)
    }

    pub(super) fn wanted_at(&self) -> Option<Now> {
        if self.is_witness {
            return Some(Now::ZERO);
        }
        let is_asked = |want: &&Want| want.ask != Ask::Resync || self.asks_key_server();
        self.want.as_ref().filter(is_asked).map(|want| want.at)
    }

    /// Takes out what the key server is to be shown.
    pub(super) fn take_witness(&mut self) -> Option<(String, Vec<u8>)> {
        std::mem::take(&mut self.is_witness).then(|| (self.name.clone(), self.fence.evidence().to_vec()))
    }

    /// Takes a due join or leave out, to be asked.
    pub(super) fn take_change(&mut self, now: Now) -> Option<Ask> {
        let due = self.want.take_if(|want| want.ask != Ask::Resync && want.at <= now)?;
        self.asking = Some(due.ask);
        Some(due.ask)
    }

    /// Whether a re-synchronization is due.
    pub(super) fn resync_due(&self, now: Now) -> bool {
        self.asks_key_server() && self.want.as_ref().is_some_and(|want| want.ask == Ask::Resync && want.at <= now)
    }

    /// Takes a re-synchronization out, to be asked now: one that is due, or that waits for its first time and
    /// saves a request by going along.
    pub(super) fn take_resync(&mut self, now: Now) -> Option<Resync> {
        let asks = self.asks_key_server();
        self.want.take_if(|want| asks && want.ask == Ask::Resync && (want.at <= now || !want.again))?;
        let member = self.member.as_ref()?;
        let have = member.context.epoch;
        self.asking = Some(Ask::Resync);
        self.counters.resyncs += 1;
        let losses = if self.carrier == Carrier::Multicast { self.tally.take(now) } else { Losses::default() };
        let detail = if self.detail.is_empty() { "asking for the present keys" } else { &self.detail };
        let detail = detail.to_owned();
        self.set(Status::Stale, &detail);
        Some(Resync { group: self.name.clone(), seen: self.fence.seen(), have, losses })
    }

    /// Whether this member is of those who report what they lose; when it may do so next.
    pub(super) fn reports_at(&self, client: Option<MemberId>) -> Option<Now> {
        // Where nothing is lost, and repair units do not come, there is nothing to report.
        let present = self.is_present() && self.carrier == Carrier::Multicast;
        let one_in = self.member.as_ref().filter(|_| present)?.report_one_in;
        let sampled = one_in > 0 && client.is_some_and(|client| client.0.is_multiple_of(one_in));
        sampled.then_some(self.report_at)
    }

    /// Takes out a report that is due and worth its octets. Either way the next one waits.
    pub(super) fn take_report(&mut self, now: Now, entropy: &mut impl Entropy) -> Option<(String, Losses)> {
        self.report_at = now + Duration::from_millis(REPORT_MS + entropy.below(REPORT_MS));
        Some((self.name.clone(), self.tally.take_report(now)?))
    }

    /// For how long this member may be silent.
    pub(super) fn lease(&self) -> Option<Duration> {
        let lease = Some(self.lease_s).filter(|lease| *lease > 0 && self.is_present());
        lease.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// What is told with a sign of life.
    pub(super) fn sign_of_life(&mut self, now: Now) -> Option<(String, Losses)> {
        self.is_present().then(|| (self.name.clone(), self.tally.take_report(now).unwrap_or_default()))
    }

    /// What was asked goes on being asked elsewhere, or never again.
    pub(super) fn forget_asking(&mut self) {
        self.asking = None;
    }

    /// Octets of rekey messages that are kept, in pieces or whole.
    pub(super) fn octets(&self) -> usize {
        self.member.as_ref().map_or(0, Member::octets)
    }

    /// All groups together keep too much, and this one most.
    pub(super) fn give_up_one(&mut self) {
        if let Some(member) = &mut self.member {
            member.give_up_one();
            self.counters.messages_given_up += 1;
        }
    }

    /// Whether it is a member, and not about to end.
    pub(super) fn is_present(&self) -> bool {
        self.member.is_some() && self.ending.is_none()
    }

    pub(super) fn id(&self) -> Option<GroupId> {
        self.member.as_ref().map(|member| member.context.group)
    }

    /// Term and epoch of what is installed.
    pub(super) fn at(&self) -> Option<(u64, u64)> {
        self.member.as_ref().map(Member::at)
    }

    pub(super) fn destination(&self) -> Option<std::net::SocketAddr> {
        self.member.as_ref().map(|member| member.destination)
    }

    /// Time has passed.
    pub(super) fn advance(&mut self, env: &mut Env<'_>) {
        let Some(member) = &mut self.member else {
            return;
        };
        self.changed |= member.keys.expire(env.now);
        if self.ending.as_ref().is_some_and(|ending| ending.at <= env.now) {
            (self.member, self.ending, self.changed) = (None, None, true);
            return;
        }
        if self.listens_for_silence() && self.silent_at() <= Some(env.now) {
            if let Some(member) = &mut self.member {
                member.silence();
            }
            self.counters.silences += 1;
            self.need(env, "no beacon");
            self.set(Status::Stale, "no beacon");
        }
    }

    fn silent_at(&self) -> Option<Now> {
        self.member.as_ref().map(Member::silent_at)
    }

    fn listens_for_silence(&self) -> bool {
        self.member.is_some() && self.want.is_none() && self.asking.is_none() && self.ending.is_none()
    }

    /// When [`Group::advance`] has something to do, and what.
    pub(super) fn next(&self) -> Option<(Now, &'static str)> {
        let expiry = self.member.as_ref().and_then(|m| m.keys.next_expiry()).map(|at| (at, "a key expires"));
        let ending = self.ending.as_ref().map(|ending| (ending.at, "a membership ends"));
        let silence = self.silent_at().filter(|_| self.listens_for_silence()).map(|at| (at, "silence"));
        [expiry, ending, silence].into_iter().flatten().min()
    }

    /// A data processor has told which epoch it uses.
    pub(super) fn applied(&mut self, env: &mut Env<'_>, consumer: String, epoch: u64) {
        if self.applied.len() >= MAX_CONSUMERS && !self.applied.contains_key(&consumer) {
            return env.event(Event::Dropped { cause: "a report of one data processor too many" });
        }
        self.applied.insert(consumer.clone(), epoch);
        env.event(Event::Applied { group: self.name.clone(), consumer, epoch });
    }

    /// Somebody sends under a key that this member does not have, or says so. That alone is no reason to ask: the next beacon
    /// tells, and it is waited for no longer than until it is due.
    pub(super) fn missing(&mut self, env: &Env<'_>, epoch: u64) {
        if let Some(member) = &mut self.member
            && epoch > member.context.epoch
        {
            self.counters.keys_missing += 1;
            member.doubt(env.now);
        }
    }

    fn set(&mut self, status: Status, detail: &str) {
        self.changed |= self.status != status || self.detail != detail;
        self.status = status;
        self.detail = detail.to_owned();
    }

    /// Whether data processors must be told of a change; asked once.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn data_key(&self, epoch: u64) -> Option<&protocol::DataKey> {
        self.member.as_ref().and_then(|member| member.keys.get(epoch))
    }

    pub(super) fn tag_key(&self) -> Option<&protocol::TagKey> {
        self.member.as_ref()?.tag_key()
    }

    pub(super) fn snapshot(&self, client: Option<MemberId>) -> Snapshot {
        let member = self.member.as_ref();
        Snapshot {
            group: self.name.clone(),
            group_id: self.fence.id(),
            status: self.status,
            detail: self.detail.clone(),
            sender_id: client,
            role: self.role.filter(|_| self.member.is_some()),
            joined_epoch: self.joined_epoch,
            left_epoch: self.left_epoch,
            hold_ms: member.map_or(HOLD_MS, Member::hold_ms),
            keys: member.map_or_else(Vec::<LiveKey>::new, |member| member.keys.to_vec()),
        }
    }

    pub(super) fn status(&self) -> GroupStatus {
        let at = self.member.as_ref().map(Member::at);
        GroupStatus {
            group: self.name.clone(),
            status: self.status,
            detail: self.detail.clone(),
            term: at.map(|(term, _)| term),
            epoch: at.map(|(_, epoch)| epoch),
            joined_epoch: self.joined_epoch,
            left_epoch: self.left_epoch,
            carrier: self.carrier,
            destination: self.destination(),
            counters: self.counters,
            applied: self.applied.clone(),
        }
    }
}
