//! The receiver's state: keys, streams, and packets that wait for their key. No clock, no socket.
//!
//! ```text
//! datagram -> packet -> key held?  yes -> tag right? -> its stream -> in order -> output
//!                                  not yet -> hold, until the feed brings the key or its time is over
//!                                  no more -> count as unreadable
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use protocol::DataKey;

use super::feed::{State, Status};
use super::hold::Hold;
use super::packet::{Header, Kind, Packet, StreamId, StreamKey, Totals, octets_of};
use super::report::{Cause, Causes, Report, StreamReport};
use super::stream::{Output, Stream};

/// How long a packet waits if the feed names no time: the default beacon interval and a re-synchronization.
const DEFAULT_HOLD: Duration = Duration::from_millis(2500);

/// What a receiver may grow to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Octets of packets that wait for a key, and again of packets that wait for an earlier one.
    pub(super) hold_octets: usize,
    /// Streams that are tracked at a time.
    pub(super) streams: usize,
}

struct Held {
    secret: DataKey,
    until: Option<Duration>,
}

/// A receiver of one group.
pub(super) struct Receiver {
    group: u32,
    limits: Limits,
    hold_time: Duration,
    keys: BTreeMap<u64, Held>,
    /// Highest epoch whose key was held and is gone.
    gone: Option<u64>,
    /// No key goes any more.
    frozen: bool,
    /// Keys of the streams' newest epochs; all of them can be made again.
    stream_keys: BTreeMap<StreamId, (u64, StreamKey)>,
    streams: BTreeMap<StreamId, Stream>,
    hold: Hold,
    causes: Causes,
    counts: Report,
    out: VecDeque<Output>,
}

impl Receiver {
    /// A receiver of the group with this number.
    pub(super) fn new(group: u32, limits: Limits) -> Self {
        Self {
            group,
            limits,
            hold_time: DEFAULT_HOLD * 2,
            keys: BTreeMap::new(),
            gone: None,
            frozen: false,
            stream_keys: BTreeMap::new(),
            streams: BTreeMap::new(),
            hold: Hold::new(limits.hold_octets),
            causes: Causes::default(),
            counts: Report::default(),
            out: VecDeque::new(),
        }
    }

    /// Takes the keys that are alive and reads what waited for them.
    pub(super) fn feed(&mut self, now: Duration, state: &State) {
        if self.frozen {
            return;
        }
        self.hold_time = state.hold.map_or(self.hold_time, |hold| hold.saturating_mul(2));
        // A client-ctl that starts again has no keys for a while; that says nothing against those held here.
        if state.status != Status::Joining || !state.keys.is_empty() {
            let listed = |epoch: &u64| state.keys.iter().any(|key| key.epoch == *epoch);
            let unlisted: Vec<u64> = self.keys.keys().copied().filter(|e| !listed(e)).collect();
            unlisted.into_iter().for_each(|epoch| self.forget(epoch));
        }
        for key in &state.keys {
            let held = Held { secret: key.secret.clone(), until: key.receive_until };
            self.keys.insert(key.epoch, held);
        }
        self.stream_keys.clear();
        self.expire_keys(now);
        for epoch in self.hold.epochs(|epoch| self.keys.contains_key(&epoch) || self.too_late(epoch).is_some()) {
            for packet in self.hold.take_epoch(epoch) {
                self.packet(now, packet);
            }
        }
    }

    /// Keeps the keys held for good, whatever the feed says: for demonstrations.
    pub(super) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Takes a datagram, whoever sent it.
    pub(super) fn datagram(&mut self, now: Duration, octets: &[u8]) {
        self.tick(now);
        match Packet::decode(octets) {
            Err(why) => {
                tracing::debug!(%why, "dropped a datagram");
                self.counts.malformed += 1;
            }
            Ok(packet) if packet.header.group != self.group => self.counts.other_group += 1,
            Ok(packet) => self.packet(now, packet),
        }
    }

    /// The first epoch after the newest key of which data is held. A forger can name any.
    pub(super) fn missing(&self) -> Option<u64> {
        let newest = self.epoch();
        self.hold.first_epoch().filter(|epoch| Some(*epoch) > newest)
    }

    /// Gives up what has waited for long enough.
    pub(super) fn tick(&mut self, now: Duration) {
        self.expire_keys(now);
        if let Some(limit) = now.checked_sub(self.hold_time) {
            for packet in self.hold.take_older(limit) {
                self.unreadable(&packet, Cause::NoKey);
            }
        }
        for stream in self.streams.values_mut() {
            while stream.deadline(self.hold_time).is_some_and(|at| at <= now) {
                stream.give_up(&mut self.out);
            }
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let keys = self.keys.values().filter_map(|key| key.until).filter(|_| !self.frozen);
        let held = self.hold.oldest().map(|at| at + self.hold_time);
        let gaps = self.streams.values().filter_map(|stream| stream.deadline(self.hold_time));
        keys.chain(held).chain(gaps).min()
    }

    /// What is to be written or told next.
    pub(super) fn output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// Whether there were streams and all of them have ended.
    pub(super) fn is_finished(&self) -> bool {
        !self.streams.is_empty() && self.streams.values().all(Stream::is_finished)
    }

    /// Newest epoch whose key is held.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.keys.last_key_value().map(|(epoch, _)| *epoch)
    }

    /// Nothing more will come: gives up every gap and everything without a key.
    pub(super) fn close(&mut self) {
        for packet in self.hold.take_older(Duration::MAX) {
            self.unreadable(&packet, Cause::NoKey);
        }
        for stream in self.streams.values_mut() {
            while stream.deadline(Duration::ZERO).is_some() {
                stream.give_up(&mut self.out);
            }
        }
    }

    /// The counts so far.
    pub(super) fn report(&self) -> Report {
        let streams = self.streams.iter().map(|(id, stream)| stream_report(id, stream)).collect();
        let unreadable = self.causes.to_vec();
        let silent = self.streams.is_empty() && (!unreadable.is_empty() || self.counts.bad_tags > 0);
        let complete =
            !silent && self.counts.replaced_incomplete == 0 && self.streams.values().all(Stream::is_complete);
        Report { complete, streams, unreadable, ..self.counts.clone() }
    }

    fn packet(&mut self, now: Duration, packet: Packet) {
        let header = packet.header;
        match self.keys.get(&header.epoch) {
            Some(held) => {
                let cached = self.stream_keys.get(&header.stream).filter(|(of, _)| *of == header.epoch);
                let opened = match cached {
                    Some((_, key)) => packet.open(key),
                    None => {
                        let key = StreamKey::new(&held.secret, header.stream);
                        let opened = packet.open(&key);
                        // Only what decrypts may take room.
                        if opened.is_ok() && self.streams.contains_key(&header.stream) {
                            self.stream_keys.insert(header.stream, (header.epoch, key));
                        }
                        opened
                    }
                };
                match opened {
                    Ok(payload) => self.authentic(now, &header, payload),
                    Err(_) => self.counts.bad_tags += 1,
                }
            }
            None => match self.too_late(header.epoch) {
                Some(cause) => self.unreadable(&packet, cause),
                None => {
                    for dropped in self.hold.push(now, packet) {
                        self.unreadable(&dropped, Cause::HoldFull);
                    }
                }
            },
        }
    }

    fn authentic(&mut self, now: Duration, header: &Header, payload: Vec<u8>) {
        if !self.streams.contains_key(&header.stream) {
            if self.streams.len() >= self.limits.streams && !self.make_room() {
                self.counts.beyond_streams += 1;
                return;
            }
            self.streams.insert(header.stream, Stream::new(header));
        }
        let Some(stream) = self.streams.get_mut(&header.stream) else {
            return;
        };
        match header.kind {
            Kind::Data => stream.data(now, header, payload, &mut self.out),
            Kind::End => match Totals::decode(&payload) {
                Ok(totals) => stream.end(now, header, totals, &mut self.out),
                Err(_) => self.counts.malformed += 1,
            },
        }
        // The bound holds for all streams together; the one that has just grown gives way.
        let mut waiting: usize = self.streams.values().map(Stream::pending_octets).sum();
        while waiting > self.limits.hold_octets {
            let Some(stream) = self.streams.get_mut(&header.stream) else {
                return;
            };
            let before = stream.pending_octets();
            stream.give_up(&mut self.out);
            match before - stream.pending_octets() {
                0 => return,
                freed => waiting -= freed,
            }
        }
    }

    /// Frees the slot of a stream of which no packet can be read again: otherwise what was delivered could be replayed.
    fn make_room(&mut self) -> bool {
        let over = |stream: &Stream| !self.keys.contains_key(&stream.epoch) && stream.pending_octets() == 0;
        let oldest = self.streams.iter().filter(|(_, s)| over(s)).min_by_key(|(_, s)| s.epoch);
        let Some(id) = oldest.map(|(id, _)| *id) else {
            return false;
        };
        let incomplete = self.streams.remove(&id).is_some_and(|stream| !stream.is_complete());
        self.stream_keys.remove(&id);
        self.counts.streams_replaced += 1;
        self.counts.replaced_incomplete += u64::from(incomplete);
        true
    }

    fn unreadable(&mut self, packet: &Packet, cause: Cause) {
        let Header { kind, epoch, stream, counter, .. } = packet.header;
        // End markers carry none of the stream's octets.
        if kind == Kind::Data {
            self.causes.add(epoch, cause, octets_of(packet.payload()));
            if let Some(stream) = self.streams.get_mut(&stream)
                && counter >= stream.first_counter
            {
                stream.unreadable += 1;
            }
        }
    }

    /// Why no key for this epoch will come, if so. `None` while it is held or may still come.
    fn too_late(&self, epoch: u64) -> Option<Cause> {
        let oldest = self.keys.first_key_value().map(|(oldest, _)| *oldest);
        match (oldest, self.gone) {
            _ if self.keys.contains_key(&epoch) => None,
            (_, Some(gone)) if epoch <= gone => Some(Cause::KeyExpired),
            (Some(oldest), _) if epoch < oldest => Some(Cause::BeforeOldestKey),
            _ => None,
        }
    }

    fn expire_keys(&mut self, now: Duration) {
        if self.frozen {
            return;
        }
        let over = |held: &Held| held.until.is_some_and(|until| until <= now);
        let expired: Vec<u64> = self.keys.iter().filter(|(_, held)| over(held)).map(|(epoch, _)| *epoch).collect();
        expired.into_iter().for_each(|epoch| self.forget(epoch));
    }

    fn forget(&mut self, epoch: u64) {
        self.keys.remove(&epoch);
        self.stream_keys.retain(|_, (of, _)| *of != epoch);
        self.gone = self.gone.max(Some(epoch));
    }
}

fn stream_report(id: &StreamId, stream: &Stream) -> StreamReport {
    StreamReport {
        stream: hex::encode(id.id),
        sender: id.sender,
        first_counter: stream.first_counter,
        first_octet: stream.first_octet,
        packets: stream.read_packets,
        octets: stream.read_octets,
        missing_packets: stream.missing_packets,
        missing_octets: stream.missing_octets,
        replayed: stream.replayed,
        inconsistent: stream.inconsistent,
        unreadable: stream.unreadable,
        finished: stream.is_finished(),
        complete: stream.is_complete(),
    }
}

#[cfg(test)]
mod tests;
