//! Packets whose key is on its way, within bounds of octets and time.
//!
//! Anybody can forge such packets, so nothing here grows with their number beyond the bound.

use std::collections::BTreeMap;
use std::time::Duration;

use super::packet::{HEADER, Packet, TAG};

/// Octets that a held packet takes beside its payload: header, tag, the entries of two maps, allocation.
const OVERHEAD: usize = HEADER + TAG + 128;

/// Held packets by epoch, and by age.
#[derive(Debug)]
pub(super) struct Hold {
    /// Bound in octets.
    limit: usize,
    used: usize,
    arrivals: u64,
    packets: BTreeMap<(u64, u64), Packet>,
    ages: BTreeMap<u64, (u64, Duration)>,
}

impl Hold {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, used: 0, arrivals: 0, packets: BTreeMap::new(), ages: BTreeMap::new() }
    }

    /// Holds a packet. Returns those for which there is no room: of the highest epochs, because the key that comes next is
    /// that of the lowest epoch, and a forger gains nothing by numbers out of reach.
    pub(super) fn push(&mut self, now: Duration, packet: Packet) -> Vec<Packet> {
        let (epoch, arrival) = (packet.header.epoch, self.arrivals);
        self.arrivals += 1;
        self.used += size(&packet);
        self.ages.insert(arrival, (epoch, now));
        self.packets.insert((epoch, arrival), packet);
        let mut dropped = Vec::new();
        while self.used > self.limit {
            let Some(((_, arrival), packet)) = self.packets.pop_last() else {
                break;
            };
            self.ages.remove(&arrival);
            self.used -= size(&packet);
            dropped.push(packet);
        }
        dropped
    }

    /// Takes out all packets of an epoch, in the order of their streams.
    pub(super) fn take_epoch(&mut self, epoch: u64) -> Vec<Packet> {
        let of_epoch = self.packets.range((epoch, 0)..=(epoch, u64::MAX));
        let arrivals: Vec<u64> = of_epoch.map(|((_, arrival), _)| *arrival).collect();
        let mut taken = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            self.ages.remove(&arrival);
            if let Some(packet) = self.packets.remove(&(epoch, arrival)) {
                self.used -= size(&packet);
                taken.push(packet);
            }
        }
        taken.sort_by_key(|packet| (packet.header.stream, packet.header.counter));
        taken
    }

    /// Takes out what arrived at `limit` or before.
    pub(super) fn take_older(&mut self, limit: Duration) -> Vec<Packet> {
        let mut taken = Vec::new();
        while let Some(entry) = self.ages.first_entry().filter(|entry| entry.get().1 <= limit) {
            let (arrival, (epoch, _)) = entry.remove_entry();
            if let Some(packet) = self.packets.remove(&(epoch, arrival)) {
                self.used -= size(&packet);
                taken.push(packet);
            }
        }
        taken
    }

    /// Epochs of which packets are held and which `wanted` says yes to.
    pub(super) fn epochs(&self, wanted: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut epochs: Vec<u64> = self.packets.keys().map(|(epoch, _)| *epoch).collect();
        epochs.dedup();
        epochs.retain(|epoch| wanted(*epoch));
        epochs
    }

    /// The lowest epoch of which packets are held.
    pub(super) fn first_epoch(&self) -> Option<u64> {
        self.packets.first_key_value().map(|((epoch, _), _)| *epoch)
    }

    /// Arrival of the oldest.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.ages.first_key_value().map(|(_, (_, at))| *at)
    }

    /// Octets in use.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used
    }
}

fn size(packet: &Packet) -> usize {
    packet.payload() + OVERHEAD
}
