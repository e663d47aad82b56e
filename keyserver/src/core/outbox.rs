//! Paced sending: datagrams leave at a steady rate, evictions before everything else.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use protocol::GroupId;

use super::{Event, Now, Output};

/// Datagrams that wait. At the default rate this is more than half a minute of sending; what does not fit is
/// dropped, oldest first, and its members re-synchronize.
const MAX_WAITING: usize = 65_536;
/// Datagrams that may leave back to back, so that a timer's grain does not lower the rate.
const BURST: u32 = 8;

/// Marks the first datagram of an epoch without evicted members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Eviction {
    pub(super) group: GroupId,
    pub(super) epoch: u64,
    /// When the eviction was asked for.
    pub(super) since: Now,
}

/// What waits to be multicast.
pub(super) struct Outbox {
    urgent: VecDeque<(SocketAddr, Vec<u8>, Option<Eviction>)>,
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Time that one datagram takes at the configured rate.
    spacing: Duration,
    /// When the next datagram may leave, were there no burst.
    free_at: Now,
    dropped: usize,
}

impl Outbox {
    pub(super) fn new(units_per_second: u32) -> Self {
        let spacing = Duration::from_secs(1) / units_per_second.max(1);
        Self { urgent: VecDeque::new(), waiting: VecDeque::new(), spacing, free_at: Now::ZERO, dropped: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn push(&mut self, destination: SocketAddr, datagram: Vec<u8>) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back((destination, datagram));
    }

    pub(super) fn push_urgent(&mut self, destination: SocketAddr, datagram: Vec<u8>, eviction: Option<Eviction>) {
        self.urgent.push_back((destination, datagram, eviction));
    }

    /// When [`Outbox::release`] has something to do.
    pub(super) fn next_release(&self) -> Option<Now> {
        (!self.is_empty()).then(|| self.free_at.saturating_sub(self.spacing * BURST))
    }

    /// Lets go what may leave by now. Returns evictions whose first datagram did, with the time that each took.
    pub(super) fn release(&mut self, now: Now, outputs: &mut VecDeque<Output>) -> Vec<(GroupId, Duration)> {
        let mut evictions = Vec::new();
        if self.dropped > 0 {
            outputs.push_back(Output::Event(Event::Overflow { datagrams: std::mem::take(&mut self.dropped) }));
        }
        self.free_at = self.free_at.max(now);
        while self.free_at <= now + self.spacing * BURST {
            let waiting = |outbox: &mut Self| outbox.waiting.pop_front().map(|(to, octets)| (to, octets, None));
            let Some((destination, octets, eviction)) = self.urgent.pop_front().or_else(|| waiting(self)) else {
                return evictions;
            };
            self.free_at += self.spacing;
            outputs.push_back(Output::Datagram { destination, octets });
            if let Some(Eviction { group, epoch, since }) = eviction {
                let took = now.saturating_sub(since);
                outputs.push_back(Output::Event(Event::EvictionSent { group, epoch, took }));
                evictions.push((group, took));
            }
        }
        evictions
    }
}
