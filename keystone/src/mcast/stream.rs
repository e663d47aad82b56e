//! One stream at a receiver: authentic packets in, octets in order out, what is missing counted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::packet::{Header, StreamId, Totals, octets_of};

/// What a receiver has to tell, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// The next octets of a stream.
    Data {
        /// The stream.
        stream: StreamId,
        /// The epoch that they came under.
        epoch: u64,
        /// Octets of the stream before these.
        offset: u64,
        /// The octets.
        octets: Vec<u8>,
    },
    /// A part of a stream that is given up.
    Gap {
        /// The stream.
        stream: StreamId,
        /// Counters of the packets.
        counters: std::ops::Range<u64>,
        /// Octets of the stream.
        octets: std::ops::Range<u64>,
    },
}

#[derive(Debug)]
struct Pending {
    epoch: u64,
    offset: u64,
    octets: Vec<u8>,
    arrived: Duration,
}

/// A stream that is being read.
#[derive(Debug)]
pub(super) struct Stream {
    id: StreamId,
    /// Counter of the first packet that was read.
    pub(super) first_counter: u64,
    /// Octet of the stream at which reading began.
    pub(super) first_octet: u64,
    next: u64,
    next_octet: u64,
    pending: BTreeMap<u64, Pending>,
    pending_octets: usize,
    /// Since when the packet `next` is known to be late.
    late_since: Option<Duration>,
    end: Option<Totals>,
    /// Newest epoch that a packet came under.
    pub(super) epoch: u64,
    /// Data packets and octets handed out.
    pub(super) read_packets: u64,
    /// Octets handed out.
    pub(super) read_octets: u64,
    /// Data packets given up.
    pub(super) missing_packets: u64,
    /// Octets given up.
    pub(super) missing_octets: u64,
    /// Packets that came again, or after they were given up.
    pub(super) replayed: u64,
    /// Packets whose place in the stream contradicts others: a member sends nonsense.
    pub(super) inconsistent: u64,
    /// Packets of this stream, after its first, whose key was not there.
    pub(super) unreadable: u64,
}

impl Stream {
    /// Begins with a packet that was opened.
    pub(super) fn new(header: &Header) -> Self {
        Self {
            id: header.stream,
            first_counter: header.counter,
            first_octet: header.offset,
            next: header.counter,
            next_octet: header.offset,
            pending: BTreeMap::new(),
            pending_octets: 0,
            late_since: None,
            end: None,
            epoch: header.epoch,
            read_packets: 0,
            read_octets: 0,
            missing_packets: 0,
            missing_octets: 0,
            replayed: 0,
            inconsistent: 0,
            unreadable: 0,
        }
    }

    /// Takes a data packet that was opened.
    pub(super) fn data(&mut self, now: Duration, header: &Header, octets: Vec<u8>, out: &mut impl Extend<Output>) {
        self.epoch = self.epoch.max(header.epoch);
        if header.counter < self.next || self.pending.contains_key(&header.counter) {
            self.replayed += 1;
            return;
        }
        if self.end.is_some_and(|end| header.counter >= end.packets) {
            self.inconsistent += 1;
            return;
        }
        self.pending_octets += octets.len();
        let &Header { epoch, offset, counter, .. } = header;
        self.pending.insert(counter, Pending { epoch, offset, octets, arrived: now });
        self.advance(out);
    }

    /// Takes an end marker that was opened.
    pub(super) fn end(&mut self, now: Duration, header: &Header, totals: Totals, out: &mut impl Extend<Output>) {
        self.epoch = self.epoch.max(header.epoch);
        let beyond = self.pending.last_key_value().is_some_and(|(last, _)| *last >= totals.packets);
        let fits = header.counter >= totals.packets && header.offset == totals.octets && !beyond;
        match self.end {
            Some(end) if end == totals => {}
            None if fits => {
                self.end = Some(totals);
                self.late_since = self.late_since.or((!self.is_finished()).then_some(now));
                self.advance(out);
            }
            _ => self.inconsistent += 1,
        }
    }

    /// When the gap at the head is given up.
    pub(super) fn deadline(&self, hold: Duration) -> Option<Duration> {
        self.late_since.map(|since| since + hold)
    }

    /// Gives up the gap at the head, if there is one, and hands out what follows it.
    pub(super) fn give_up(&mut self, out: &mut impl Extend<Output>) {
        let (counter, octet) = match (self.pending.first_key_value(), self.end) {
            (Some((counter, head)), _) => (*counter, head.offset),
            (None, Some(end)) => (end.packets, end.octets),
            (None, None) => (self.next, self.next_octet),
        };
        if counter <= self.next {
            self.late_since = None;
            return;
        }
        // A member that sends nonsense may place a later packet before earlier octets.
        let octets = self.next_octet..octet.max(self.next_octet);
        let counters = self.next..counter;
        self.missing_packets = self.missing_packets.saturating_add(counters.end - counters.start);
        self.missing_octets = self.missing_octets.saturating_add(octets.end - octets.start);
        (self.next, self.next_octet) = (counters.end, octets.end);
        out.extend([Output::Gap { stream: self.id, counters, octets }]);
        self.advance(out);
    }

    /// Whether the end is known and everything before it was handed out or given up.
    pub(super) fn is_finished(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end.packets)
    }

    /// Octets that wait behind a gap.
    pub(super) fn pending_octets(&self) -> usize {
        self.pending_octets
    }

    /// Whether everything from the first packet on was read.
    pub(super) fn is_complete(&self) -> bool {
        let clean = self.missing_packets == 0 && self.inconsistent == 0;
        clean && (self.is_finished() || self.unreadable == 0)
    }

    fn advance(&mut self, out: &mut impl Extend<Output>) {
        let before = self.next;
        while let Some(entry) = self.pending.first_entry().filter(|head| *head.key() <= self.next) {
            let Pending { epoch, offset, octets, .. } = entry.remove();
            self.pending_octets -= octets.len();
            self.next += 1;
            if offset != self.next_octet {
                self.inconsistent += 1;
                continue;
            }
            self.next_octet += octets_of(octets.len());
            self.read_packets += 1;
            self.read_octets += octets_of(octets.len());
            out.extend([Output::Data { stream: self.id, epoch, offset, octets }]);
        }
        // The wait counts from the head: its arrival says that what is before it is late.
        match self.pending.first_key_value() {
            Some((_, head)) if self.next != before || self.late_since.is_none() => {
                self.late_since = Some(head.arrived);
            }
            None if self.end.is_none() || self.is_finished() => self.late_since = None,
            _ => {}
        }
    }
}
