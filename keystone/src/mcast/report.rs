//! What a receiver read, what it did not, and why.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::packet::StreamId;

/// Pairs of epoch and cause that are told apart: forged packets may name any epoch, and a report is read by a person.
const MAX_CAUSES: usize = 64;

/// Why packets could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cause {
    /// Of an epoch before the oldest key held.
    BeforeOldestKey,
    /// The key was here and its time is over.
    KeyExpired,
    /// The key did not come while the packet could be held.
    NoKey,
    /// There was no room to wait for the key.
    HoldFull,
}

/// Packets and their octets of payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Count {
    /// Packets.
    pub(super) packets: u64,
    /// Octets of payload.
    pub(super) octets: u64,
}

/// Data packets that were not read, by epoch and cause. The headers that say so are not authentic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Unreadable {
    /// Their epoch; `None` for all that are not told apart.
    pub(super) epoch: Option<u64>,
    /// Why; `None` for all that are not told apart.
    pub(super) cause: Option<Cause>,
    /// How many.
    #[serde(flatten)]
    pub(super) count: Count,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct StreamReport {
    /// Stream id in hexadecimal.
    pub(super) stream: String,
    /// The sender's number.
    pub(super) sender: u32,
    /// Counter of the first packet read.
    pub(super) first_counter: u64,
    /// Octet of the stream at which reading began.
    pub(super) first_octet: u64,
    /// Data packets read.
    pub(super) packets: u64,
    /// Octets read.
    pub(super) octets: u64,
    /// Data packets given up.
    pub(super) missing_packets: u64,
    /// Octets given up.
    pub(super) missing_octets: u64,
    /// Packets that came again, or after they were given up.
    pub(super) replayed: u64,
    /// Packets whose place in the stream contradicts others.
    pub(super) inconsistent: u64,
    /// Packets after the first whose key was not there.
    pub(super) unreadable: u64,
    /// Whether the end was seen and everything before it was read or given up.
    pub(super) finished: bool,
    /// Whether nothing is missing from the first packet on.
    pub(super) complete: bool,
}

/// A receiver's counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    /// Whether nothing is missing between the first packet of each stream and its end, or now.
    pub(super) complete: bool,
    /// The streams that are tracked.
    pub(super) streams: Vec<StreamReport>,
    /// Data packets without a key.
    pub(super) unreadable: Vec<Unreadable>,
    /// Packets with a wrong tag.
    pub(super) bad_tags: u64,
    /// Datagrams that are no packets.
    pub(super) malformed: u64,
    /// Packets of other groups.
    pub(super) other_group: u64,
    /// Authentic packets of streams beyond the limit.
    pub(super) beyond_streams: u64,
    /// Finished or silent streams that made room for others.
    pub(super) streams_replaced: u64,
    /// Of those, how many were incomplete.
    pub(super) replaced_incomplete: u64,
}

/// Counts of what has no key.
#[derive(Debug, Default)]
pub(super) struct Causes {
    told_apart: BTreeMap<(u64, Cause), Count>,
    others: Count,
}

impl Causes {
    /// Counts a packet of so many octets.
    pub(super) fn add(&mut self, epoch: u64, cause: Cause, octets: u64) {
        let room = self.told_apart.len() < MAX_CAUSES;
        let count = match self.told_apart.get_mut(&(epoch, cause)) {
            Some(count) => count,
            None if room => self.told_apart.entry((epoch, cause)).or_default(),
            None => &mut self.others,
        };
        count.packets += 1;
        count.octets = count.octets.saturating_add(octets);
    }

    pub(super) fn to_vec(&self) -> Vec<Unreadable> {
        let told = self.told_apart.iter().map(|((epoch, cause), count)| Unreadable {
            epoch: Some(*epoch),
            cause: Some(*cause),
            count: *count,
        });
        let others = Unreadable { epoch: None, cause: None, count: self.others };
        told.chain((self.others.packets > 0).then_some(others)).collect()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeOldestKey => "from before the oldest key held",
            Self::KeyExpired => "the key's time was over",
            Self::NoKey => "the key did not come in time",
            Self::HoldFull => "no room to wait for the key",
        })
    }
}

/// The summary for people, a line for each thing that was not read.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.streams.is_empty() {
            writeln!(f, "no packet could be read")?;
        }
        for s in &self.streams {
            let end = if s.finished { "to its end" } else { "its end was not seen" };
            writeln!(
                f,
                "stream {} of sender {}: read {} octets in {} packets from octet {}, {end}",
                s.stream, s.sender, s.octets, s.packets, s.first_octet
            )?;
            let counts = [
                (s.missing_packets, format!("packets missing, {} octets", s.missing_octets)),
                (s.unreadable, "packets after the first came without their key".to_owned()),
                (s.replayed, "packets dropped that came again or too late".to_owned()),
                (s.inconsistent, "packets dropped that contradict others".to_owned()),
            ];
            for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
                writeln!(f, "  {count} {what}")?;
            }
        }
        for Unreadable { epoch, cause, count: Count { packets, octets } } in &self.unreadable {
            match (epoch, cause) {
                (Some(epoch), Some(cause)) => {
                    writeln!(f, "unreadable under epoch {epoch}: {packets} packets, {octets} octets: {cause}")?;
                }
                _ => writeln!(f, "unreadable under other epochs: {packets} packets, {octets} octets")?,
            }
        }
        let counts = [
            (self.bad_tags, "packets with a wrong tag (forged, damaged or another key)"),
            (self.malformed, "datagrams that are no packets"),
            (self.other_group, "packets of other groups"),
            (self.beyond_streams, "packets of streams beyond --streams"),
            (self.streams_replaced, "streams made room for newer ones"),
            (self.replaced_incomplete, "of them were incomplete"),
        ];
        for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "{count} {what}")?;
        }
        f.write_str(if self.complete { "nothing is missing" } else { "incomplete" })
    }
}

/// Octets of a stream that were written, all of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Written {
    /// Stream id in hexadecimal.
    pub(super) stream: String,
    /// The sender's number.
    pub(super) sender: u32,
    /// The epoch.
    pub(super) epoch: u64,
    /// The first octet.
    pub(super) from_octet: u64,
    /// One after the last.
    pub(super) to_octet: u64,
}

/// Merges what was written into ranges. It holds one range for each stream, so it is as bounded as they are.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<StreamId, Written>);

impl Ranges {
    /// Adds octets; returns the stream's range before if these do not continue it.
    pub(super) fn add(&mut self, id: StreamId, epoch: u64, offset: u64, octets: u64) -> Option<Written> {
        let to_octet = offset.saturating_add(octets);
        if let Some(last) = self.0.get_mut(&id)
            && (last.epoch, last.to_octet) == (epoch, offset)
        {
            last.to_octet = to_octet;
            return None;
        }
        let (stream, sender) = (hex::encode(id.id), id.sender);
        self.0.insert(id, Written { stream, sender, epoch, from_octet: offset, to_octet })
    }

    /// The ranges that are open, which end now.
    pub(super) fn close(&mut self) -> Vec<Written> {
        std::mem::take(&mut self.0).into_values().collect()
    }
}
