//! When a group's beacons go out, and what they announce.

use std::time::Duration;

use protocol::Beacon;
use protocol::sign::SigningKey;

use super::Now;
use super::group::Group;
use super::recovery::Recovery;
use super::sending::Delivery;

/// The beacons of one group in this reign.
#[derive(Default)]
pub(super) struct Beacons {
    newest: Vec<u8>,
    counter: u64,
    /// Time from the newest to the next.
    interval: Duration,
    next: Option<Now>,
}

impl Beacons {
    /// The newest, signed; empty before the first.
    pub(super) fn newest(&self) -> &[u8] {
        &self.newest
    }

    pub(super) fn next(&self) -> Option<Now> {
        self.next
    }
}

impl Group {
    /// Whether this reign has signed a beacon for the group.
    pub(super) fn is_announced(&self) -> bool {
        !self.beacons.newest.is_empty()
    }

    /// A beacon, if one is due. As long as nothing changes, each waits twice as long as the one before.
    pub(super) fn beacon_due(&mut self, now: Now, key: &SigningKey, recovery: &Recovery) -> Option<Vec<u8>> {
        self.beacons.next.filter(|at| *at <= now)?;
        let longest = self.config.beacon_max.max(self.config.beacon);
        self.beacons.interval = (self.beacons.interval * 2).clamp(self.config.beacon, longest);
        Some(self.sign_beacon(now, key, recovery))
    }

    /// The beacon of a new epoch; after it they come often again.
    pub(super) fn changed(&mut self, now: Now, key: &SigningKey, recovery: &Recovery) -> Vec<u8> {
        self.beacons.interval = self.config.beacon;
        self.sign_beacon(now, key, recovery)
    }

    fn sign_beacon(&mut self, now: Now, key: &SigningKey, recovery: &Recovery) -> Vec<u8> {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self.beacons.counter += 1;
        let beacon = Beacon {
            context: self.at.context,
            commitment: self.at.commitment,
            header_hash: self.at.header_hash,
            counter: self.beacons.counter,
            interval_ms: millis(self.beacons.interval),
            resync_wait_ms: millis(recovery.wait(self.tree.len(), self.config.resync_wait)),
            report_one_in: Delivery::report_one_in(&self.config.repair, self.tree.len()),
        };
        // A start without a key for the group's suite is refused.
        self.beacons.newest = beacon.sign(key, &self.tag()).unwrap_or_default();
        self.beacons.next = Some(now + self.beacons.interval);
        self.beacons.newest.clone()
    }
}
