//! What should stand of one group, and what does: what has to be written follows from the two. No clock, no socket.

use std::collections::{BTreeMap, BTreeSet};

use protocol::GroupId;
use protocol::pages::{Digest, KEPT_EPOCHS, MAX_PIECE, epoch_name, epoch_pieces, head_name, now_name, page_name};

use crate::core::Published;

/// Pages in one transaction: with what surrounds each, well below the 1 MB that ZooKeeper takes.
const PAGES_AT_ONCE: usize = 250;
/// Changes for epochs in one transaction, but for the removals of the last: each takes some hundred octets beside its value.
const EPOCHS_AT_ONCE: usize = 64;
/// Octets of epochs that wait to be written; if ZooKeeper is away for longer, members read the pages.
const MAX_EPOCHS: usize = 16 << 20;

/// One change, by name; whether it stands already decides between making and replacing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Make(String, Vec<u8>),
    Replace(String, Vec<u8>, u64),
    Remove(String),
}

/// A value of which the newest alone counts.
#[derive(Debug, Default)]
struct Newest {
    name: String,
    value: Vec<u8>,
    is_written: bool,
    /// Of what stands.
    version: Option<u64>,
}

impl Newest {
    fn set(&mut self, value: Vec<u8>) {
        (self.value, self.is_written) = (value, false);
    }

    fn change(&self) -> Option<Change> {
        if self.is_written || self.value.is_empty() {
            return None;
        }
        let (name, value) = (self.name.clone(), self.value.clone());
        Some(match self.version {
            None => Change::Make(name, value),
            Some(version) => Change::Replace(name, value, version),
        })
    }

    fn written(&mut self, value: &[u8]) {
        self.version = Some(self.version.map_or(0, |version| version + 1));
        self.is_written = self.value == value;
    }
}

/// What stands in ZooKeeper, as far as it was listed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) now: Option<u64>,
    pub(super) head: Option<u64>,
    /// Names below `e`.
    pub(super) epochs: Vec<String>,
    /// Names of all pages.
    pub(super) pages: Vec<String>,
}

/// One group.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    group: Option<GroupId>,
    now: Newest,
    head: Newest,
    /// Pieces by epoch, that wait to be written.
    epochs: BTreeMap<u64, Vec<Vec<u8>>>,
    /// What stands: epochs by pieces, and names that are no epoch of ours.
    standing: BTreeMap<u64, u16>,
    /// All pages of now. The octets are needed again if what stands is lost.
    pages: BTreeMap<Digest, Vec<u8>>,
    written: BTreeSet<Digest>,
    /// Names that nobody needs any more.
    gone: BTreeSet<String>,
    /// Pages that the head before the newest still points to.
    going: BTreeSet<Digest>,
}

/// Changes that belong into one transaction, and what they do to what stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) changes: Vec<Change>,
    mark: Mark,
}

#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Epochs(Vec<(u64, u16)>, Option<Vec<u8>>),
    Pages(Vec<Digest>),
    Head(Vec<u8>),
    Gone(Vec<String>),
}

impl Wanted {
    pub(super) fn new(group: GroupId) -> Self {
        let newest = |name: String| Newest { name, ..Newest::default() };
        let (now, head) = (newest(now_name(group)), newest(head_name(group)));
        Self { group: Some(group), now, head, ..Self::default() }
    }

    /// The core has something new.
    pub(super) fn publish(&mut self, part: Published) {
        match part {
            Published::Beacon(beacon) => self.now.set(beacon),
            Published::Epoch { epoch, units } => {
                self.epochs.insert(epoch, epoch_pieces(&units));
                let octets = |pieces: &Vec<Vec<u8>>| pieces.iter().map(Vec::len).sum::<usize>();
                while self.epochs.len() > 1 && self.epochs.values().map(octets).sum::<usize>() > MAX_EPOCHS {
                    self.epochs.pop_first();
                }
            }
            Published::Pages { head, rewritten, is_whole } => {
                let replaced: Vec<Digest> = match is_whole {
                    true => std::mem::take(&mut self.pages).into_keys().collect(),
                    false => rewritten.gone,
                };
                for digest in std::mem::take(&mut self.going) {
                    self.drop_page(&digest);
                }
                for digest in replaced {
                    self.pages.remove(&digest);
                    self.going.insert(digest);
                }
                for (digest, octets) in rewritten.added {
                    self.going.remove(&digest);
                    self.pages.insert(digest, octets);
                }
                self.head.set(head);
            }
        }
    }

    fn drop_page(&mut self, digest: &Digest) {
        if let Some(group) = self.group
            && !self.pages.contains_key(digest)
            && self.written.remove(digest)
        {
            self.gone.insert(page_name(group, digest));
        }
    }

    /// This is what stands, whatever was believed before.
    pub(super) fn listed(&mut self, listing: Listing) {
        let Some(group) = self.group else { return };
        (self.now.version, self.now.is_written) = (listing.now, false);
        (self.head.version, self.head.is_written) = (listing.head, false);
        (self.standing, self.gone) = (BTreeMap::new(), BTreeSet::new());
        for name in listing.epochs {
            let (epoch, piece) = name.split_once('.').unwrap_or((&name, "0"));
            match (epoch.parse::<u64>(), piece.parse::<u16>()) {
                (Ok(epoch), Ok(piece)) => {
                    let pieces = self.standing.entry(epoch).or_default();
                    *pieces = (*pieces).max(piece + 1);
                }
                _ => drop(self.gone.insert(format!("{group}/e/{name}"))),
            }
        }
        let wanted: BTreeMap<String, Digest> =
            self.pages.keys().chain(&self.going).map(|digest| (digest.to_string(), *digest)).collect();
        self.written.clear();
        for name in listing.pages {
            match wanted.get(&name) {
                Some(digest) => drop(self.written.insert(*digest)),
                // Whatever the reign before has left.
                None => drop(self.gone.insert(format!("{group}/p/{}/{name}", name.get(..1).unwrap_or_default()))),
            }
        }
    }

    /// What is to be written next; epochs and the beacon first, since members wait for them.
    pub(super) fn step(&self) -> Option<Step> {
        let group = self.group?;
        if !self.epochs.is_empty() || self.now.change().is_some() {
            return Some(self.next_epochs(group));
        }
        let missing = self.pages.iter().filter(|(digest, _)| !self.written.contains(*digest)).take(PAGES_AT_ONCE);
        let missing: Vec<(&Digest, &Vec<u8>)> = missing.collect();
        if !missing.is_empty() {
            let changes =
                missing.iter().map(|(digest, octets)| Change::Make(page_name(group, digest), octets.to_vec()));
            let mark = Mark::Pages(missing.iter().map(|(digest, _)| **digest).collect());
            return Some(Step { changes: changes.collect(), mark });
        }
        if let Some(change) = self.head.change() {
            return Some(Step { changes: vec![change], mark: Mark::Head(self.head.value.clone()) });
        }
        let gone: Vec<String> = self.gone.iter().take(PAGES_AT_ONCE).cloned().collect();
        (!gone.is_empty())
            .then(|| Step { changes: gone.iter().cloned().map(Change::Remove).collect(), mark: Mark::Gone(gone) })
    }

    /// The epochs that wait, the oldest first, as far as a transaction takes them: where ZooKeeper is far away, one for each epoch
    /// would fall behind. The beacon only with the newest.
    fn next_epochs(&self, group: GroupId) -> Step {
        let (mut changes, mut marks, mut octets, mut is_full) = (Vec::new(), Vec::new(), 0, false);
        for (epoch, pieces) in &self.epochs {
            let mut stand = self.standing.get(epoch).copied().unwrap_or(0);
            for (piece, value) in (0..).zip(pieces).skip(stand.into()) {
                octets += value.len();
                is_full = !changes.is_empty() && (octets > MAX_PIECE || changes.len() >= EPOCHS_AT_ONCE);
                if is_full {
                    break;
                }
                changes.push(Change::Make(epoch_name(group, *epoch, piece), value.clone()));
                stand = piece + 1;
            }
            if stand > 0 {
                marks.push((*epoch, stand));
            }
            if is_full {
                return Step { changes, mark: Mark::Epochs(marks, None) };
            }
            let old = self.standing.range(..epoch.saturating_sub(KEPT_EPOCHS - 1));
            let old = old.filter(|(old, _)| !self.epochs.contains_key(old) && !marks.contains(&(**old, 0)));
            for (old, pieces) in old.take(8).collect::<Vec<_>>() {
                changes.extend((0..*pieces).map(|piece| Change::Remove(epoch_name(group, *old, piece))));
                marks.push((*old, 0));
            }
        }
        let change = self.now.change();
        let value = change.is_some().then(|| self.now.value.clone());
        changes.extend(change);
        Step { changes, mark: Mark::Epochs(marks, value) }
    }

    /// A step was carried out.
    pub(super) fn done(&mut self, step: Step) {
        match step.mark {
            Mark::Epochs(marks, now) => {
                for (epoch, pieces) in marks {
                    match pieces {
                        0 => drop(self.standing.remove(&epoch)),
                        pieces => drop(self.standing.insert(epoch, pieces)),
                    }
                    if self.epochs.get(&epoch).is_some_and(|wanted| wanted.len() <= pieces.into()) {
                        self.epochs.remove(&epoch);
                    }
                }
                if let Some(now) = now {
                    self.now.written(&now);
                }
            }
            Mark::Pages(digests) => self.written.extend(digests),
            Mark::Head(value) => self.head.written(&value),
            Mark::Gone(names) => names.iter().for_each(|name| {
                self.gone.remove(name);
            }),
        }
    }
}
