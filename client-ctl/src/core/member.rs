//! A membership: the secrets of the path, the live data keys, and the rekey messages on their way to the next epoch.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use fec::{Progress, Reassembly};
use protocol::codec::DecodeError;
use protocol::member::ApplyError;
use protocol::rekey::Announcement;
use protocol::unit::VerifiedUnit;
use protocol::{Beacon, Commitment, EpochContext, EpochHeader, HeaderHash, KeyPath, RekeyMessage, TagKey};
use thiserror::Error;

use super::Now;
use super::fence::{Conflict, Fence};
use super::keys::LiveKeys;

/// Rekey messages of a group that are in progress, and epochs known ahead. More than are ever under way within a
/// re-synchronization wait; at 1 MiB each it is one bound of a member's memory.
const MAX_AHEAD: usize = 16;
/// Octets of whole messages that wait for their turn, the other bound. An epoch may have hundreds of small messages, and which
/// of them is for this member is known when its turn comes.
const MAX_WAITING: usize = 16 << 20;
/// Silence is noticed no sooner and no later than after three of these, whatever is announced.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(600)];
/// Longest pause between re-synchronizations for silence.
const MAX_SILENCE: Duration = Duration::from_secs(30);

/// Names an epoch, older ones first: term, epoch.
type EpochKey = (u64, u64);
/// Names a rekey message, older ones first: term, epoch, index among the epoch's messages.
type MessageKey = (u64, u64, u16);

pub(super) struct Member {
    pub(super) destination: SocketAddr,
    pub(super) context: EpochContext,
    pub(super) announcement: Announcement,
    pub(super) keys: LiveKeys,
    pub(super) resync_wait_ms: u32,
    /// Whose ID number this divides reports what it loses; nobody, if it is 0.
    pub(super) report_one_in: u32,
    commitment: Commitment,
    header_hash: HeaderHash,
    path: KeyPath,
    /// Of the installed epoch.
    tag: Option<TagKey>,
    interval: Duration,
    heard: Now,
    /// Silences since the last beacon that came by multicast.
    silences: u32,
    /// Since when a data processor misses a key, if no beacon was heard since.
    doubted: Option<Now>,
    headers: BTreeMap<EpochKey, EpochHeader>,
    reassembly: Reassembly<MessageKey>,
    later: BTreeMap<MessageKey, Whole>,
}

/// A rekey message that has all its units.
struct Whole {
    header: EpochHeader,
    message: RekeyMessage,
    octets: usize,
    recovered: bool,
}

/// What a unit has brought.
pub(super) enum Taken {
    Nothing { is_new: bool },
    Whole { recovered: bool },
}

/// A signed unit that cannot be used. The key server is to blame.
#[derive(Debug, Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Conflict(Conflict),
    #[error(transparent)]
    Units(#[from] fec::AssemblyError),
    #[error(transparent)]
    Message(#[from] DecodeError),
}

/// The next epoch did not follow from its rekey message.
pub(super) enum Broken {
    Conflict(Conflict),
    /// A new reign goes on from another epoch than ours.
    Elsewhere,
    Apply(ApplyError),
}

impl Member {
    /// From a sealed reply that was checked. `keys` are those of the membership so far.
    pub(super) fn new(
        now: Now,
        destination: SocketAddr,
        path: KeyPath,
        beacon: &Beacon,
        announcement: Announcement,
        keys: LiveKeys,
    ) -> Self {
        let mut member = Self {
            destination,
            context: beacon.context,
            announcement,
            keys,
            resync_wait_ms: 0,
            report_one_in: 0,
            commitment: beacon.commitment,
            header_hash: beacon.header_hash,
            tag: path.root().map(|root| beacon.context.tag(root)),
            path,
            interval: INTERVALS[0],
            heard: now,
            silences: 0,
            doubted: None,
            headers: BTreeMap::new(),
            reassembly: Reassembly::new(MAX_AHEAD),
            later: BTreeMap::new(),
        };
        member.announced(now, beacon);
        member
    }

    /// Keeps what a former state of the same membership had collected for later epochs.
    pub(super) fn inherit(&mut self, former: Self) {
        self.silences = former.silences;
        self.headers = former.headers;
        self.reassembly = former.reassembly;
        self.later = former.later;
        self.tidy();
    }

    pub(super) fn at(&self) -> (u64, u64) {
        (self.context.term, self.context.epoch)
    }

    /// The secrets of its path.
    pub(super) fn path(&self) -> &KeyPath {
        &self.path
    }

    /// What those who hold the installed group key make tags with.
    pub(super) fn tag_key(&self) -> Option<&TagKey> {
        self.tag.as_ref()
    }

    /// Whether a datagram ends with the tag of those who hold the group key of the epoch with this header; `None` if this
    /// member cannot tell, because it is not the installed one.
    pub(super) fn is_tagged(&self, header: HeaderHash, datagram: &[u8]) -> Option<bool> {
        self.tag.as_ref().filter(|_| header == self.header_hash).map(|tag| tag.is_on(datagram))
    }

    /// Nothing that is signed contradicts what is installed.
    pub(super) fn agrees(&self, beacon: &Beacon) -> Result<(), Conflict> {
        let context = &beacon.context;
        if context.term == self.context.term && context.incarnation != self.context.incarnation {
            return Err("another incarnation under the same term");
        }
        if context.term > self.context.term && context.epoch <= self.context.epoch {
            return Err("a later reign with an earlier epoch");
        }
        if (context.term, context.epoch) != self.at() {
            return Ok(());
        }
        if beacon.commitment != self.commitment {
            return Err("another commitment for the same epoch");
        }
        if beacon.header_hash != self.header_hash {
            return Err("another header for the same epoch");
        }
        Ok(())
    }

    /// A new beacon came by multicast.
    pub(super) fn hear(&mut self, now: Now, beacon: &Beacon) {
        self.silences = 0;
        self.announced(now, beacon);
    }

    fn announced(&mut self, now: Now, beacon: &Beacon) {
        let [least, most] = INTERVALS;
        (self.heard, self.doubted) = (now, None);
        self.interval = Duration::from_millis(beacon.interval_ms.into()).clamp(least, most);
        self.resync_wait_ms = beacon.resync_wait_ms;
        self.report_one_in = beacon.report_one_in;
    }

    /// When three announced intervals without a beacon are over, or one since a key is missing; later if that was so before.
    pub(super) fn silent_at(&self) -> Now {
        let backed_off =
            |time: Duration| time.saturating_mul(2u32.saturating_pow(self.silences.min(16))).min(time.max(MAX_SILENCE));
        let silent = self.heard + backed_off(self.interval * 3);
        self.doubted.map_or(silent, |since| silent.min(since + backed_off(self.interval)))
    }

    /// A data processor misses a key.
    pub(super) fn doubt(&mut self, now: Now) {
        self.doubted.get_or_insert(now);
    }

    pub(super) fn silence(&mut self) {
        self.silences += 1;
        self.doubted = None;
    }

    /// Beacon interval, longest wait and two seconds for the request itself.
    pub(super) fn hold_ms(&self) -> u64 {
        let interval = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        interval.saturating_add(self.resync_wait_ms.into()).saturating_add(2_000)
    }

    /// Takes in a verified unit of a later epoch.
    pub(super) fn take(&mut self, unit: &VerifiedUnit<'_>) -> Result<Taken, Unusable> {
        let header = unit.header.epoch;
        let key = (header.term, header.epoch);
        if header.term == self.context.term && header.incarnation != self.context.incarnation {
            return Err(Unusable::Conflict("another incarnation under the same term"));
        }
        if self.headers.get(&key).is_some_and(|known| *known != header) {
            return Err(Unusable::Conflict("another header for the same epoch"));
        }
        let piece = fec::Unit {
            block: unit.header.block,
            index: unit.index,
            s: unit.header.s,
            r: unit.header.r,
            payload: unit.payload,
        };
        let len = usize::try_from(unit.header.message_len).unwrap_or(usize::MAX);
        let message_key = (key.0, key.1, unit.header.message);
        let progress = self.reassembly.insert(message_key, len, unit.header.blocks, piece)?;
        if progress == Progress::Stale {
            return Ok(Taken::Nothing { is_new: false });
        }
        self.headers.insert(key, header);
        let mut taken = Taken::Nothing { is_new: progress == Progress::Incomplete };
        if let Progress::Complete { message, recovered } = progress {
            let recovered = recovered > 0;
            let octets = message.len();
            let message = RekeyMessage::decode(&message, header.suite)?;
            self.later.insert(message_key, Whole { header, message, octets, recovered });
            taken = Taken::Whole { recovered };
        }
        // What is farthest away is the likeliest to come again by re-synchronization.
        while self.headers.len() > MAX_AHEAD {
            self.headers.pop_last();
        }
        while self.later.values().map(|whole| whole.octets).sum::<usize>() > MAX_WAITING {
            self.later.pop_last();
        }
        Ok(taken)
    }

    /// Octets of rekey messages that are kept, in pieces or whole.
    pub(super) fn octets(&self) -> usize {
        self.reassembly.octets() + self.later.values().map(|whole| whole.octets).sum::<usize>()
    }

    /// Gives up one of several messages in progress, the oldest, since re-synchronization replaces the older ones first. If
    /// there is but one, a whole message, the one that is farthest away.
    pub(super) fn give_up_one(&mut self) {
        if self.reassembly.in_progress().nth(1).is_some() || self.later.pop_last().is_none() {
            self.reassembly.forget_oldest();
        }
    }

    /// Goes one epoch on, if its rekey message is there, or of several the one for this member: `Some(recovered)` then. A
    /// message that does not lead on is dropped, and nothing is changed.
    pub(super) fn step(&mut self, now: Now, fence: &Fence) -> Option<Result<bool, Broken>> {
        let next = self.context.epoch.checked_add(1)?;
        loop {
            let key = *self.later.keys().rev().find(|(_, epoch, _)| *epoch == next)?;
            let Whole { header, message, recovered, .. } = self.later.remove(&key)?;
            let path = match self.follow(fence, &header, &message) {
                Err(Broken::Apply(ApplyError::NotAddressed { .. })) => continue,
                Err(broken) => return Some(Err(broken)),
                Ok(path) => path,
            };
            let context = header.context();
            if let Some(root) = path.root() {
                self.keys.install(now, next, context.data(root), &message.announcement);
            }
            self.header_hash = header.hash(&message.commitment);
            self.commitment = message.commitment;
            self.announcement = message.announcement;
            self.tag = path.root().map(|root| context.tag(root));
            (self.path, self.context) = (path, context);
            self.tidy();
            return Some(Ok(recovered));
        }
    }

    fn follow(&self, fence: &Fence, header: &EpochHeader, message: &RekeyMessage) -> Result<KeyPath, Broken> {
        let context = header.context();
        fence.same_reign(&context).map_err(Broken::Conflict)?;
        if header.previous != self.header_hash {
            return Err(if header.term == self.context.term {
                Broken::Conflict("an epoch that does not continue the one before it")
            } else {
                Broken::Elsewhere
            });
        }
        let hash = header.hash(&message.commitment);
        fence.same_claim((header.term, header.epoch), &message.commitment, &hash).map_err(Broken::Conflict)?;
        self.path.apply(&context, message).map_err(Broken::Apply)
    }

    /// Forgets what was collected for epochs that are no longer ahead.
    fn tidy(&mut self) {
        let (term, epoch) = self.at();
        let ahead = |of_term: u64, of_epoch: u64| of_term >= term && of_epoch > epoch;
        self.headers.retain(|key, _| ahead(key.0, key.1));
        self.later.retain(|key, _| ahead(key.0, key.1));
        self.reassembly.forget_below(&(term, epoch.saturating_add(1), 0));
    }
}
