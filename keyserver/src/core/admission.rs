//! The end of admission: who may not be a member any longer, since when, and why. Every cause ends in one eviction of all whom
//! it concerns at the same time.

use std::collections::{BTreeMap, BTreeSet};

use protocol::request::{Denial, Role};
use protocol::{Credential, DecodeError, GroupId, MemberId};

use super::batch::Eviction;
use super::clients::Client;
use super::codec::Record;
use super::group::Group;
use super::transaction::{Intent, Transaction};
use super::{Core, Event, GroupConfig, Now};

/// Why a membership ended that the member did not end itself. Numbers are in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    /// An operator's command. The client may not join again until an operator admits it.
    Operator = 1,
    /// The policy does not allow it any more.
    Policy = 2,
    /// The credential of its registration has ended.
    Expired = 3,
    /// The credential of its registration was revoked.
    Revoked = 4,
    /// The policy's end of the membership has come.
    Ended = 5,
    /// It was silent for longer than its lease.
    Lapsed = 6,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 6] = [Self::Operator, Self::Policy, Self::Expired, Self::Revoked, Self::Ended, Self::Lapsed];

    /// A word for logs and operators.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Policy => "policy",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Ended => "ended",
            Self::Lapsed => "lapsed",
        }
    }

    /// What the member is told.
    pub fn denial(self) -> Denial {
        match self {
            Self::Operator => Denial::Evicted,
            Self::Policy => Denial::Policy,
            Self::Expired => Denial::CredentialEnded,
            Self::Revoked => Denial::Revoked,
            Self::Ended => Denial::MembershipEnded,
            Self::Lapsed => Denial::Lapsed,
        }
    }
}

impl TryFrom<u8> for Cause {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        let unknown = DecodeError::Value { what: "cause", value: value.into() };
        Self::ALL.into_iter().find(|cause| *cause as u8 == value).ok_or(unknown)
    }
}

/// What the key server takes the wall clock's time for. It never goes back. It stands within two seconds of what it is told, so that
/// what ends in the same second ends in the same batch.
#[derive(Debug, Default)]
pub(super) struct Wall {
    /// What it was when.
    anchor: Option<(Now, u64)>,
    /// It was put back: it stands until the clock has come there again.
    stands: bool,
    /// Since when a leap ahead has been told that is not believed yet.
    doubted: Option<Now>,
}

/// A leap ahead of more than this would end what has long to live, for everybody at once.
const LEAP_S: u64 = 3_600;
/// It is believed when the clock has said so for this long: time for an operator, or for the time service, to put it right.
const DOUBT: Now = Now::from_secs(600);
/// Differences up to this are the cutting off of fractions.
const SLACK_S: u64 = 1;

/// What a clock has told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Expected,
    Moved,
    Doubted,
}

impl Wall {
    /// Seconds since 1970; 0 as long as nobody has told.
    pub(super) fn at(&self, now: Now) -> u64 {
        let gone = |at| if self.stands { 0 } else { now.saturating_sub(at).as_secs() };
        self.anchor.map_or(0, |(at, seconds)| seconds.saturating_add(gone(at)))
    }

    fn told(&mut self, now: Now, seconds: u64) -> Told {
        let expected = self.at(now);
        let (ahead, behind) = (seconds.saturating_sub(expected), expected.saturating_sub(seconds));
        let is_known = self.anchor.is_some();
        if is_known && ahead > LEAP_S {
            let since = *self.doubted.get_or_insert(now);
            if now - since < DOUBT {
                return if since == now { Told::Doubted } else { Told::Expected };
            }
        }
        self.doubted = None;
        if is_known && behind > SLACK_S {
            // A clock that was put back is waited for: what has ended stays so.
            (self.anchor, self.stands) = (Some((now, expected)), true);
            return Told::Expected;
        }
        if is_known && ahead <= SLACK_S && !self.stands {
            return Told::Expected;
        }
        (self.anchor, self.stands) = (Some((now, seconds.max(expected))), false);
        if is_known && ahead <= SLACK_S { Told::Expected } else { Told::Moved }
    }
}

/// Signs of life, and when each membership is looked at next.
#[derive(Default)]
pub(super) struct Admission {
    pub(super) wall: Wall,
    /// Names of revoked credentials.
    pub(super) revoked: BTreeSet<Vec<u8>>,
    /// When each client was heard last in this reign.
    heard: BTreeMap<MemberId, Now>,
    /// Since when it could have been.
    since: Now,
    looks: BTreeSet<(Now, GroupId, MemberId)>,
    planned: BTreeMap<(GroupId, MemberId), Now>,
}

impl Admission {
    pub(super) fn heard(&self, client: MemberId) -> Now {
        self.heard.get(&client).map_or(self.since, |at| self.since.max(*at))
    }

    /// When the next membership is to be looked at.
    pub(super) fn next(&self) -> Option<Now> {
        self.looks.first().map(|(at, ..)| *at)
    }

    /// Why nobody may register with this credential any more.
    pub(super) fn rejects(&self, now: Now, credential: &Credential) -> Option<&'static str> {
        if self.revoked.contains(&credential.name) {
            return Some("the credential is revoked");
        }
        (credential.ends <= self.wall.at(now)).then_some("the credential has ended")
    }

    /// Why the client may not be a member; its lease aside.
    pub(super) fn objection(&self, now: Now, config: &GroupConfig, client: &Client) -> Option<Cause> {
        let Some(credential) = client.credential() else {
            return Some(Cause::Revoked);
        };
        if self.revoked.contains(&credential.name) {
            return Some(Cause::Revoked);
        }
        let Some(grant) = config.access.decide(&client.identity, credential.kind).grant() else {
            return Some(Cause::Policy);
        };
        let time = self.wall.at(now);
        if credential.ends <= time {
            return Some(Cause::Expired);
        }
        grant.until.is_some_and(|until| until <= time).then_some(Cause::Ended)
    }

    /// Why the client may not be a member any longer, or else when to look again.
    fn judge(
        &self,
        now: Now,
        config: &GroupConfig,
        member: MemberId,
        client: Option<&Client>,
    ) -> Result<Option<Now>, Cause> {
        let Some(client) = client else {
            return Err(Cause::Revoked);
        };
        if let Some(cause) = self.objection(now, config, client) {
            return Err(cause);
        }
        let credential = client.credential();
        let grant = credential.and_then(|one| config.access.decide(&client.identity, one.kind).grant());
        let lease = grant.and_then(|grant| grant.lease).map(|lease| self.heard(member) + lease);
        if lease.is_some_and(|at| at <= now) {
            return Err(Cause::Lapsed);
        }
        // `None` of the wall clock is the far future: what does not end within a century is not waited for.
        let ends = [credential.map(|one| one.ends), grant.and_then(|grant| grant.until)];
        let wall = ends.into_iter().flatten().min().map(|end| end.saturating_sub(self.wall.at(now)));
        let wall = wall.filter(|seconds| *seconds < CENTURY_S).map(|seconds| now + Now::from_secs(seconds));
        // Whole seconds, so that what ends in the same second is one change.
        let up = |at: Now| Now::from_secs(at.as_secs() + u64::from(at.subsec_nanos() > 0));
        Ok(lease.into_iter().chain(wall).min().map(up))
    }

    fn plan(&mut self, group: GroupId, member: MemberId, at: Option<Now>) {
        if let Some(old) = self.planned.remove(&(group, member)) {
            self.looks.remove(&(old, group, member));
        }
        if let Some(at) = at {
            self.planned.insert((group, member), at);
            self.looks.insert((at, group, member));
        }
    }
}

/// Nothing is done so late by a key server that runs.
const STALL: Now = Now::from_secs(2);
/// What ends later than this is not waited for.
const CENTURY_S: u64 = 100 * 31_557_600;

impl Core {
    /// The client has made a request, whatever it asked.
    pub(super) fn alive(&mut self, now: Now, client: MemberId) {
        self.admission.heard.insert(client, now);
    }

    /// A key server that did not run, because its process or its machine was stopped, has heard nobody: silence counts from the moment
    /// at which it goes on. It shows in what is done late.
    pub(super) fn notice_stall(&mut self, now: Now) {
        if self.poll_timeout().is_some_and(|(at, _)| at + STALL < now) {
            self.admission.since = now;
        }
    }

    /// The shell has looked at the wall clock.
    pub(super) fn wall_clock(&mut self, now: Now, seconds: u64) {
        match self.admission.wall.told(now, seconds) {
            Told::Expected => {}
            Told::Moved if self.standing_by => {}
            Told::Moved => self.review(now),
            Told::Doubted => self.event(Event::ClockLeapt { seconds, believed: self.admission.wall.at(now) }),
        }
    }

    /// A reign begins: nobody can have been silent for long.
    pub(super) fn begin_admission(&mut self, now: Now) {
        self.admission.since = now;
        self.admission.heard.clear();
        self.review(now);
        self.intents.push_front(Intent::Revoke);
    }

    /// Looks at all memberships.
    pub(super) fn review(&mut self, now: Now) {
        self.admission.looks.clear();
        self.admission.planned.clear();
        let groups: Vec<GroupId> = self.config.groups.iter().map(|group| group.id).collect();
        for id in groups {
            let members: Vec<MemberId> =
                self.groups.get(&id).map(|group| group.joined.keys().copied().collect()).unwrap_or_default();
            members.into_iter().for_each(|member| self.look(now, id, member));
        }
    }

    /// Looks at a membership: it ends, or is looked at again when it may.
    pub(super) fn look(&mut self, now: Now, id: GroupId, member: MemberId) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        let judged = match group.contains(member) {
            true => self.admission.judge(now, &group.config, member, self.clients.get(member)),
            false => Ok(None),
        };
        self.admission.plan(id, member, judged.ok().flatten());
        if let Err(cause) = judged {
            self.evict(now, id, Eviction { ticket: None, member, since: now, cause });
        }
    }

    /// Looks at all memberships of a client, whose credential is another one now.
    pub(super) fn look_everywhere(&mut self, now: Now, client: MemberId) {
        let of = self.groups.values().filter(|group| group.contains(client)).map(Group::id);
        let groups: Vec<GroupId> = of.collect();
        groups.into_iter().for_each(|group| self.look(now, group, client));
    }

    /// The names of all revoked credentials, as they are from now on.
    pub(super) fn revoked(&mut self, now: Now, names: BTreeSet<Vec<u8>>) {
        self.admission.revoked = names;
        if self.standing_by {
            return;
        }
        self.review(now);
        // No outsider can make this: it goes before whatever waits, once.
        if !matches!(self.intents.front(), Some(Intent::Revoke)) {
            self.intents.push_front(Intent::Revoke);
        }
    }

    /// Writes down which individual keys are dropped.
    pub(super) fn revoke(&mut self) {
        let registrations = self.clients.registered_with(&self.admission.revoked);
        if !registrations.is_empty() {
            let record = Record::Revoked { registrations: registrations.clone() };
            self.write(record, Transaction::Revoke(registrations));
        }
    }

    /// Looks at the memberships whose time has come.
    pub(super) fn look_at_due(&mut self, now: Now) {
        while let Some((_, id, member)) = self.admission.looks.first().copied().filter(|(at, ..)| *at <= now) {
            self.look(now, id, member);
        }
    }

    /// Whether the client may join.
    pub(super) fn may_join(&self, now: Now, group: &Group, client: MemberId) -> Result<(), Denial> {
        may_join(&self.admission, now, group, self.clients.get(client), client)
    }

    /// What the policy gives a member: its role, and the seconds of its lease, 0 for none.
    pub(super) fn terms(&self, group: GroupId, client: MemberId) -> (Role, u32) {
        let (Some(group), Some(client)) = (self.groups.get(&group), self.clients.get(client)) else {
            return (Role::Receiver, 0);
        };
        let kind = client.credential().map(|credential| credential.kind);
        let grant = kind.and_then(|kind| group.config.access.decide(&client.identity, kind).grant());
        let lease = grant.and_then(|grant| grant.lease).map_or(0, |lease| lease.as_secs());
        (grant.map_or(Role::Receiver, |grant| grant.role), u32::try_from(lease).unwrap_or(u32::MAX))
    }
}

/// Whether the client may join; with parts of the core, so that the group may be in use.
pub(super) fn may_join(
    admission: &Admission,
    now: Now,
    group: &Group,
    known: Option<&Client>,
    client: MemberId,
) -> Result<(), Denial> {
    let objection = known.map_or(Some(Cause::Policy), |known| admission.objection(now, &group.config, known));
    match objection {
        _ if group.barred.contains(&client) => Err(Denial::Evicted),
        Some(cause) => Err(cause.denial()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Now {
        Now::from_secs(seconds)
    }

    #[test]
    fn the_wall_clock_neither_goes_back_nor_leaps_far_at_once() {
        let mut wall = Wall::default();
        assert_eq!(wall.at(s(5)), 0);
        assert_eq!(wall.told(s(10), 1_000_000), Told::Moved);
        assert_eq!(wall.at(s(15)), 1_000_005);
        assert_eq!(wall.told(s(15), 1_000_006), Told::Expected, "a fraction was cut off");
        assert_eq!(wall.at(s(15)), 1_000_005);
        assert_eq!(wall.told(s(20), 1_000_100), Told::Moved, "put right");
        // Put back by a minute: it stands still until that is over.
        for at in 20..80 {
            assert_eq!(wall.told(s(at), 1_000_020 + at), Told::Expected);
            assert_eq!(wall.at(s(at)), 1_000_100);
        }
        assert_eq!(wall.told(s(100), 1_000_120), Told::Expected);
        assert!((1_000_119..=1_000_121).contains(&wall.at(s(100))), "{}", wall.at(s(100)));
        // A leap of a day is believed after ten minutes, and forgotten if it is taken back before.
        let day = 86_400;
        assert_eq!(wall.told(s(200), 1_000_220 + day), Told::Doubted);
        assert_eq!(wall.told(s(201), 1_000_221 + day), Told::Expected);
        assert_eq!(wall.told(s(300), 1_000_320), Told::Expected);
        assert_eq!(wall.told(s(400), 1_000_420 + day), Told::Doubted, "from the beginning");
        assert_eq!(wall.told(s(999), 1_001_019 + day), Told::Expected);
        assert!(wall.at(s(999)) < 1_001_100);
        assert_eq!(wall.told(s(1_000), 1_001_020 + day), Told::Moved);
        assert_eq!(wall.at(s(1_000)), 1_001_020 + day);
    }
}
