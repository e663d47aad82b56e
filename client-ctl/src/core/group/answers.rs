//! What the key server answers: granted, left, denied.

use std::time::Duration;

use protocol::Beacon;
use protocol::request::{Denial, Membership};

use super::super::backoff::backoff;
use super::super::keys::LiveKeys;
use super::super::member::Member;
use super::super::output::{Event, How, Status};
use super::super::reply::{self, ReplyError};
use super::super::requests::Ask;
use super::{Ending, Env, Group, Want};

/// A time to return is no shorter, or asking would be a storm, and no longer, or a slip would lock a member out.
const LATER_MS: [u64; 2] = [10, 60_000];

/// All members of a group may get a new site certificate at once: who knows of no other spread takes this one.
const RETRY_MS: u64 = 1_000;

impl Group {
    /// A join or re-synchronization was granted by a sealed reply. Whether a key of the site certificate has signed it.
    pub(in super::super) fn granted(&mut self, env: &mut Env<'_>, ask: Ask, membership: Membership) -> bool {
        self.asking = None;
        // Left in the meantime, as a leave that is asked next will say again.
        let former = self.member.take_if(|_| self.ending.is_none());
        match reply::check(&membership, &self.fence, former.as_ref(), env.verifier.keys()) {
            Ok(beacon) => {
                self.install(env, ask, membership, &beacon, former);
                true
            }
            Err(error) => {
                self.member = former.or(self.member.take());
                self.bad_reply(env, ask, &error);
                error != ReplyError::Signature
            }
        }
    }

    fn install(
        &mut self,
        env: &mut Env<'_>,
        ask: Ask,
        membership: Membership,
        beacon: &Beacon,
        mut former: Option<Member>,
    ) {
        let Membership { destination, joined_epoch, role, lease_s, announcement, path, earlier, beacon: shown } =
            membership;
        let (now, group) = (env.now, self.name.clone());
        let (term, epoch) = (beacon.context.term, beacon.context.epoch);
        let is_new = former.as_ref().is_none_or(|member| member.context.epoch < epoch);
        let mut keys = former.as_mut().map_or_else(LiveKeys::default, |m| std::mem::take(&mut m.keys));
        let data_key = path.root().map(|root| beacon.context.data(root));
        for key in earlier {
            keys.add_earlier(now, key.epoch, key.key, Duration::from_millis(key.remaining_ms.into()));
        }
        if is_new && let Some(key) = data_key {
            keys.install(now, epoch, key, &announcement);
        }
        let mut member = Member::new(now, destination, path, beacon, announcement, keys);
        if let Some(former) = former {
            member.inherit(former);
        }
        self.fence.raise_by(beacon, &shown);
        self.member = Some(member);
        self.ending = None;
        self.attempt = 0;
        (self.role, self.lease_s) = (Some(role), lease_s);
        self.is_for_key_server = false;
        (self.joined_epoch, self.left_epoch) = (Some(joined_epoch), None);
        self.set(Status::Member, "");
        let how = if ask == Ask::Join {
            env.event(Event::Joined { group: group.clone(), term, epoch });
            How::Reply
        } else {
            env.event(Event::Resynced { group: group.clone(), term, epoch });
            How::Resync
        };
        if is_new {
            env.event(Event::Installed { group, term, epoch, recovered: false, how });
        }
        self.catch_up(env);
    }

    /// A reply that is not believed changes nothing; the same is asked again.
    pub(in super::super) fn bad_reply(&mut self, env: &mut Env<'_>, ask: Ask, error: &ReplyError) {
        self.counters.bad_replies += 1;
        env.event(Event::BadReply { group: self.name.clone(), why: error.to_string() });
        self.again(env, ask, &error.to_string());
    }

    fn again(&mut self, env: &mut Env<'_>, ask: Ask, why: &str) {
        self.asking = None;
        if self.want.is_none() {
            let at = env.now + backoff(env.entropy, self.attempt);
            self.want = Some(Want { ask, at, again: true });
        }
        self.attempt = self.attempt.saturating_add(1);
        self.set(self.status, why);
    }

    /// What is to be asked again after a failure need not wait for so long.
    pub(in super::super) fn retry_soon(&mut self, env: &mut Env<'_>) {
        let spread_ms = self.member.as_ref().map_or(RETRY_MS, |member| u64::from(member.resync_wait_ms));
        if let Some(want) = self.want.as_mut().filter(|want| want.again) {
            want.at = want.at.min(env.now + Duration::from_millis(env.entropy.below(spread_ms + 1)));
            self.attempt = 0;
        }
    }

    /// The key server has too much to do, and has said when to come back. Some come a little later than they were told, so that
    /// clocks that agree do not make a crowd.
    pub(in super::super) fn later(&mut self, env: &mut Env<'_>, ask: Ask, after_ms: u32) {
        self.asking = None;
        let after_ms = u64::from(after_ms).clamp(LATER_MS[0], LATER_MS[1]);
        let wait_ms = after_ms + env.entropy.below(after_ms / 8 + 1);
        if self.want.is_none() {
            let at = env.now + Duration::from_millis(wait_ms);
            self.want = Some(Want { ask, at, again: true });
        }
        env.event(Event::Waiting { group: self.name.clone(), wait_ms, why: "the key server is busy" });
    }

    /// The key server has said no.
    pub(in super::super) fn denied(&mut self, env: &mut Env<'_>, ask: Ask, denial: Denial) {
        self.asking = None;
        env.event(Event::Denied { group: self.name.clone(), denial });
        self.is_witness |= denial == Denial::Behind && !self.fence.evidence().is_empty();
        match ask {
            Ask::Leave if denial == Denial::NotMember => self.left(env, None),
            Ask::Join if denial.is_final() => {
                self.refuse(&denial.to_string());
            }
            Ask::Resync | Ask::Report if denial.is_outside() => self.evicted(env, denial),
            Ask::Report => {}
            _ => self.again(env, ask, &denial.to_string()),
        }
    }

    /// The key server has ended the membership.
    fn evicted(&mut self, env: &mut Env<'_>, denial: Denial) {
        if !self.is_present() {
            return;
        }
        let leaving = self.wants(Ask::Leave);
        self.refuse(&denial.to_string());
        env.event(Event::Evicted { group: self.name.clone(), denial });
        match denial {
            _ if leaving => self.set(Status::Left, ""),
            // It was away, and is back; or it will register anew, and joins then.
            Denial::Lapsed | Denial::CredentialEnded => {
                self.set(Status::Joining, &denial.to_string());
                let at = env.now + backoff(env.entropy, self.attempt);
                self.want = Some(Want { ask: Ask::Join, at, again: false });
            }
            _ => self.set(Status::Evicted, &denial.to_string()),
        }
    }

    /// A leave was granted: `epoch` is the first one without this client.
    pub(in super::super) fn left(&mut self, env: &mut Env<'_>, epoch: Option<u64>) {
        self.asking = None;
        self.attempt = 0;
        self.want.take_if(|want| want.ask != Ask::Join);
        self.left_epoch = epoch;
        if let Some(member) = &mut self.member {
            let overlap = u64::from(member.announcement.send_delay_ms) + u64::from(member.announcement.keep_old_ms);
            let at = env.now + Duration::from_millis(overlap);
            member.keys.retire(env.now, at);
            self.ending = Some(Ending { epoch: epoch.unwrap_or(0), at });
        }
        let status = if self.want.is_some() { Status::Joining } else { Status::Left };
        self.set(status, "");
        env.event(Event::Left { group: self.name.clone(), epoch });
    }
}
