//! Re-synchronization out of published pages, and when the key server is asked instead.

use std::time::Duration;

use protocol::Beacon;
use protocol::pages::Found;
use protocol::request::{Membership, Role};

use super::super::backoff::backoff;
use super::super::output::{Event, Status};
use super::super::requests::Ask;
use super::super::stream::Carrier;
use super::{Env, Group, Want};
use crate::core::Now;

impl Group {
    /// When pages are to be read in place of asking the key server.
    pub(in super::super) fn pages_at(&self) -> Option<Now> {
        let want = self.want.as_ref().filter(|want| want.ask == Ask::Resync && !self.asks_key_server())?;
        Some(want.at)
    }

    pub(in super::super) fn pages_due(&self, now: Now) -> bool {
        self.pages_at().is_some_and(|at| at <= now)
    }

    /// Whether re-synchronizations go to the key server: for groups that are not published, and where pages were no help.
    pub(in super::super) fn asks_key_server(&self) -> bool {
        self.carrier != Carrier::Zookeeper || self.is_for_key_server
    }

    pub(in super::super) fn begin_pages(&mut self) {
        self.want = None;
        self.counters.pages_read += 1;
        let detail = if self.detail.is_empty() { "reading the present keys".to_owned() } else { self.detail.clone() };
        self.set(Status::Stale, &detail);
    }

    /// Pages were no help: the key server is asked at once.
    pub(in super::super) fn pages_failed(&mut self, env: &mut Env<'_>, why: &str) {
        self.is_for_key_server = true;
        if self.want.is_none() {
            self.want = Some(Want { ask: Ask::Resync, at: env.now, again: true });
        }
        env.event(Event::PagesUnusable { group: self.name.clone(), why: why.to_owned() });
    }

    /// Something newer stands, so that what has failed before is worth to be tried soon. Whether it is signed.
    pub(in super::super) fn hurry(&mut self, env: &mut Env<'_>, beacon: &[u8]) -> bool {
        if !self.budgets.beacons.spend(env.now) {
            self.counters.beacons_unchecked += 1;
            return false;
        }
        if Beacon::verify(beacon, env.verifier.keys()).is_err() {
            self.counters.beacons_bad_signature += 1;
            return false;
        }
        let wait_ms = self.member.as_ref().map_or(0, |member| u64::from(member.resync_wait_ms));
        if let Some(want) = self.want.as_mut().filter(|want| want.ask == Ask::Resync && want.again) {
            want.at = want.at.min(env.now + Duration::from_millis(env.entropy.below(wait_ms + 1)));
            self.is_for_key_server = false;
        }
        true
    }

    /// The key server does not answer: after a pause the pages are read again.
    pub(in super::super) fn unanswered(&mut self, env: &mut Env<'_>) {
        let was_asked = self.asking.take_if(|asking| *asking == Ask::Resync).is_some();
        if self.carrier != Carrier::Zookeeper || !(was_asked || self.is_for_key_server) {
            return;
        }
        self.is_for_key_server = false;
        let at = env.now + backoff(env.entropy, self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        match &mut self.want {
            None => self.want = Some(Want { ask: Ask::Resync, at, again: true }),
            Some(want) if want.ask == Ask::Resync => want.at = at,
            // A join brings the keys along, and a leave needs none.
            Some(_) => {}
        }
    }

    /// This member's path was found.
    pub(in super::super) fn read_pages(&mut self, env: &mut Env<'_>, found: &Found) {
        let (beacon, shown) = found.beacon();
        let Some(member) = self.member.as_ref().filter(|_| self.ending.is_none()) else {
            return;
        };
        if (beacon.context.term, beacon.context.epoch) <= member.at() {
            return self.pages_failed(env, "the pages have nothing newer");
        }
        let path = match found.open(member.path()) {
            Ok(path) => path,
            Err(error) => return self.pages_failed(env, &error.to_string()),
        };
        let membership = Membership {
            destination: member.destination,
            joined_epoch: self.joined_epoch.unwrap_or(beacon.context.epoch),
            role: self.role.unwrap_or(Role::Receiver),
            lease_s: self.lease_s,
            announcement: found.announcement(),
            path,
            earlier: Vec::new(),
            beacon: shown.to_vec(),
        };
        // If it is not believed, the key server has the word.
        self.is_for_key_server = true;
        // What the key server is being asked meanwhile stays asked.
        let asking = self.asking;
        self.granted(env, Ask::Resync, membership);
        self.asking = asking;
    }
}
