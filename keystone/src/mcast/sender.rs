//! The sender's state: which key, which counter, which octets went under which epoch. No clock, no socket.

use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use super::feed::{Key, State};
use super::packet::{Header, Kind, StreamId, StreamKey, Totals, octets_of};

/// Why nothing can be sent any more. Nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum SendError {
    /// The next counter would wrap.
    #[error("the stream has used all its {} counters; start another", u64::MAX)]
    Exhausted,
    /// There is no key for sending now.
    #[error("there is no key to send under now")]
    NoKey,
}

/// Octets of the stream that went under one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Range {
    /// The epoch.
    pub(super) epoch: u64,
    /// The first octet.
    pub(super) from_octet: u64,
    /// One after the last.
    pub(super) to_octet: u64,
}

/// One run of a sender.
pub(super) struct Sender {
    stream_id: [u8; 16],
    /// Group and sender number, as the feed said first: the stream keeps them.
    numbers: Option<(u32, u32)>,
    keys: Vec<Key>,
    /// Keys below are never used again.
    floor: u64,
    current: Option<(u64, StreamKey)>,
    counter: u64,
    octets: u64,
    packets: u64,
    range: Option<Range>,
}

impl Sender {
    /// A stream that is named by 16 octets which no other start has drawn.
    pub(super) fn new(stream_id: [u8; 16]) -> Self {
        Self {
            stream_id,
            numbers: None,
            keys: Vec::new(),
            floor: 0,
            current: None,
            counter: 0,
            octets: 0,
            packets: 0,
            range: None,
        }
    }

    /// The keys that are alive. A key that revokes rules out the older ones from here on.
    pub(super) fn feed(&mut self, state: &State) {
        self.numbers = self.numbers.or(state.group.zip(state.sender));
        self.keys.clone_from(&state.keys);
        let revoking = self.keys.iter().filter(|key| key.revoke).map(|key| key.epoch).max();
        self.floor = self.floor.max(revoking.unwrap_or(0));
        // The same epoch may come with another secret only if its key server broke its promise; the new word counts.
        self.current = None;
    }

    /// The epoch to send under: the newest whose time has come.
    pub(super) fn epoch(&self, now: Duration) -> Option<u64> {
        self.key(now).map(|key| key.epoch)
    }

    /// When [`epoch`](Self::epoch) may change without news.
    pub(super) fn timeout(&self, now: Duration) -> Option<Duration> {
        let times = self.keys.iter().flat_map(|key| [Some(key.send_not_before), key.send_until]);
        times.flatten().filter(|at| *at > now).min()
    }

    /// A packet with the next octets of the stream, and the range that ended if the epoch has changed.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(super) fn data(&mut self, now: Duration, payload: &[u8]) -> Result<(Vec<u8>, Option<Range>), SendError> {
        let (packet, epoch) = self.seal(now, Kind::Data, payload)?;
        let from = self.octets;
        self.octets = from.checked_add(octets_of(payload.len())).ok_or(SendError::Exhausted)?;
        self.packets += 1;
        let (same, ended) = match self.range.take() {
            Some(range) if range.epoch == epoch => (Some(range), None),
            ended => (None, ended),
        };
        let from_octet = same.map_or(from, |range| range.from_octet);
        self.range = Some(Range { epoch, from_octet, to_octet: self.octets });
        Ok((packet, ended))
    }

    /// An end marker; every call makes one with the next counter.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(super) fn end(&mut self, now: Duration) -> Result<Vec<u8>, SendError> {
        let totals = Totals { octets: self.octets, packets: self.packets };
        self.seal(now, Kind::End, &totals.encode()).map(|(packet, _)| packet)
    }

    /// The range in use, which ends with the stream.
    pub(super) fn last_range(&mut self) -> Option<Range> {
        self.range.take()
    }

    /// Octets sent.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// Data packets sent.
    pub(super) fn packets(&self) -> u64 {
        self.packets
    }

    fn key(&self, now: Duration) -> Option<&Key> {
        self.numbers?;
        self.keys.iter().rev().find(|key| {
            let begun = key.revoke || key.send_not_before <= now;
            key.epoch >= self.floor && begun && key.send_until.is_none_or(|until| now < until)
        })
    }

    fn seal(&mut self, now: Duration, kind: Kind, payload: &[u8]) -> Result<(Vec<u8>, u64), SendError> {
        let (group, sender) = self.numbers.ok_or(SendError::NoKey)?;
        let stream = StreamId { sender, id: self.stream_id };
        let counter = self.counter;
        let next = counter.checked_add(1).ok_or(SendError::Exhausted)?;
        let current = self.current.take();
        let key = self.key(now).ok_or(SendError::NoKey)?;
        let epoch = key.epoch;
        let stream_key = match current {
            Some((of, stream_key)) if of == epoch => stream_key,
            _ => StreamKey::new(&key.secret, stream),
        };
        let header = Header { kind, group, epoch, stream, counter, offset: self.octets };
        let packet = stream_key.seal(&header, payload);
        self.current = Some((epoch, stream_key));
        self.floor = epoch;
        self.counter = next;
        Ok((packet, epoch))
    }
}

#[cfg(test)]
mod tests;
