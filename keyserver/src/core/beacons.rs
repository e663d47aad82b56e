//! When a group's beacons go out, and what they announce.

use std::time::Duration;

use keygraph::{Change, NodeId};
use protocol::sign::SigningKey;
use protocol::{Beacon, Commitment, EpochContext, HeaderHash, NodeSecret, TagKey};

use super::Now;
use super::group::{Group, StagedEpoch};
use super::recovery::Recovery;
use super::sending::Delivery;

/// The beacons of one group.
#[derive(Default)]
pub(super) struct Beacons {
    newest: Vec<u8>,
    /// Of the reign that has signed the newest.
    term: u64,
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

    /// A new epoch's first beacon.
    pub(super) fn announce(&mut self, term: u64, beacon: Vec<u8>) {
        (self.term, self.newest) = (term, beacon);
    }

    /// Of the reign that has signed the newest.
    pub(super) fn term(&self) -> u64 {
        self.term
    }

    pub(super) fn next(&self) -> Option<Now> {
        self.next
    }
}

impl Group {
    /// Whether the reign of this term has signed a beacon for the group.
    pub(super) fn is_announced(&self, term: u64) -> bool {
        !self.beacons.newest.is_empty() && self.beacons.term == term
    }

    /// A beacon, if one is due. As long as nothing changes, each waits twice as long as the one before.
    pub(super) fn beacon_due(&mut self, now: Now, key: &SigningKey, recovery: &Recovery) -> Option<Vec<u8>> {
        self.beacons.next.filter(|at| *at <= now)?;
        let longest = self.config.beacon_max.max(self.config.beacon);
        self.beacons.interval = (self.beacons.interval * 2).clamp(self.config.beacon, longest);
        let position = (self.at.context, self.at.commitment, self.at.header_hash);
        let tag = self.tag();
        self.beacons.newest = self.sign_beacon(position, self.tree.len(), (key, &tag), recovery);
        self.beacons.next = Some(now + self.beacons.interval);
        Some(self.beacons.newest.clone())
    }

    /// The first beacon of a staged epoch; after it they come often again.
    pub(super) fn sign_first(&mut self, staged: &StagedEpoch, key: &SigningKey, recovery: &Recovery) -> Vec<u8> {
        self.beacons.interval = self.config.beacon;
        let StagedEpoch { header, executed, recipe, .. } = staged;
        let context = header.context();
        // The root of an epoch is always new.
        let root = executed.secrets.iter().find(|(node, _)| *node == NodeId::ROOT).map(|(_, secret)| secret);
        let tag = context.tag(root.unwrap_or(&NodeSecret::default()));
        let position = (context, executed.commitment, header.hash(&executed.commitment));
        let count = |of: fn(&Change) -> bool| recipe.changes.iter().filter(|change| of(change)).count();
        let joins = count(|change| matches!(change, Change::Join(_)));
        let leaves = count(|change| matches!(change, Change::Leave(_)));
        let members = (self.tree.len() + joins).saturating_sub(leaves);
        self.sign_beacon(position, members, (key, &tag), recovery)
    }

    /// The next beacon goes out by this time, and pages that are published are written again.
    pub(super) fn hasten(&mut self, by: Now) {
        self.beacons.next = self.beacons.next.map(|next| next.min(by));
        if self.config.published {
            self.publishing.due = Some(self.publishing.due.map_or(by, |due| due.min(by)));
        }
    }

    /// The first beacon of the epoch that was just merged is on its way.
    pub(super) fn changed(&mut self, now: Now) -> Vec<u8> {
        self.beacons.next = Some(now + self.beacons.interval);
        self.beacons.newest.clone()
    }

    fn sign_beacon(
        &mut self,
        (context, commitment, header_hash): (EpochContext, Commitment, HeaderHash),
        members: usize,
        (key, tag): (&SigningKey, &TagKey),
        recovery: &Recovery,
    ) -> Vec<u8> {
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self.beacons.counter += 1;
        let beacon = Beacon {
            context,
            commitment,
            header_hash,
            counter: self.beacons.counter,
            interval_ms: millis(self.beacons.interval),
            resync_wait_ms: millis(recovery.wait(members, self.config.resync_wait)),
            report_one_in: Delivery::report_one_in(&self.config.repair, members),
        };
        // A start without a key for the group's suite is refused.
        beacon.sign(key, tag).unwrap_or_default()
    }
}
