//! A simulated link: what is sent comes out late, twice, spoilt, in another order, or never.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::{Channel, SplitMix64};

/// What a [`Link`] does to datagrams besides losing them. The default is nothing: delivered at once, whole, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    /// Delay of each datagram; those that are not held back keep their order.
    pub delay: RangeInclusive<Duration>,
    /// Probability that a datagram that is not lost arrives twice.
    pub duplication: f64,
    /// Probability that a datagram is held back, so that later ones pass it.
    pub reordering: f64,
    /// How long datagrams are held back at most, beyond their delay.
    pub held_back: Duration,
    /// Probability that one bit of a datagram is flipped.
    pub corruption: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO..=Duration::ZERO,
            duplication: 0.0,
            reordering: 0.0,
            held_back: Duration::ZERO,
            corruption: 0.0,
        }
    }
}

/// What has become of the datagrams. `sent + duplicated` are always `lost + delivered` and those on their way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Given to [`Link::send`].
    pub sent: u64,
    /// Never arrive.
    pub lost: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Held back.
    pub held_back: u64,
    /// One bit flipped.
    pub corrupted: u64,
    /// Taken by [`Link::poll`].
    pub delivered: u64,
}

/// A one-way link from a sender to one receiver. It reads no clock: time, from an arbitrary start, is given to it, and one
/// seed decides everything. A forged datagram is sent into it as any other.
#[derive(Debug, Clone)]
pub struct Link<T = Vec<u8>> {
    channel: Channel,
    unit_time: Duration,
    faults: Faults,
    random: SplitMix64,
    /// By time of arrival, then in the order of sending.
    on_the_way: BTreeMap<(Duration, u64), T>,
    /// Arrival of the last datagram that was not held back.
    in_order: Duration,
    /// Datagrams and copies so far.
    carried: u64,
    counters: LinkCounters,
}

impl<T: Clone + AsMut<[u8]>> Link<T> {
    /// A link that loses as `channel` does, whose unit-time is `unit_time` (0 counts as a nanosecond). Datagrams sent faster
    /// than one in a unit-time meet the channel as if sent back to back.
    pub fn new(channel: Channel, unit_time: Duration, faults: Faults, seed: u64) -> Self {
        Self {
            channel,
            unit_time: unit_time.max(Duration::from_nanos(1)),
            faults,
            random: SplitMix64::new(seed),
            on_the_way: BTreeMap::new(),
            in_order: Duration::ZERO,
            carried: 0,
            counters: LinkCounters::default(),
        }
    }

    /// Sends a datagram.
    pub fn send(&mut self, now: Duration, datagram: T) {
        self.counters.sent += 1;
        let elapsed = now.as_secs_f64() / self.unit_time.as_secs_f64() - self.channel.now();
        if self.channel.lost(elapsed) {
            self.counters.lost += 1;
            return;
        }
        if self.random.chance(self.faults.duplication) {
            self.counters.duplicated += 1;
            self.carry(now, datagram.clone());
        }
        self.carry(now, datagram);
    }

    /// The next datagram that has arrived by `now`.
    pub fn poll(&mut self, now: Duration) -> Option<T> {
        let entry = self.on_the_way.first_entry()?;
        let arrived = entry.key().0 <= now;
        arrived.then(|| {
            self.counters.delivered += 1;
            entry.remove()
        })
    }

    /// When the next datagram arrives.
    pub fn next(&self) -> Option<Duration> {
        self.on_the_way.first_key_value().map(|((when, _), _)| *when)
    }

    /// What has become of the datagrams.
    pub fn counters(&self) -> LinkCounters {
        self.counters
    }

    /// Datagrams and copies that have not arrived yet.
    pub fn on_the_way(&self) -> usize {
        self.on_the_way.len()
    }

    fn carry(&mut self, now: Duration, mut datagram: T) {
        if self.random.chance(self.faults.corruption) && flip_a_bit(datagram.as_mut(), &mut self.random) {
            self.counters.corrupted += 1;
        }
        let (least, most) = (*self.faults.delay.start(), *self.faults.delay.end());
        let arrival = now + least + most.saturating_sub(least).mul_f64(self.random.fraction());
        let arrival = if self.random.chance(self.faults.reordering) {
            self.counters.held_back += 1;
            arrival + self.faults.held_back.mul_f64(self.random.fraction())
        } else {
            self.in_order = self.in_order.max(arrival);
            self.in_order
        };
        self.carried += 1;
        self.on_the_way.insert((arrival, self.carried), datagram);
    }
}

/// Whether there was a bit to flip.
fn flip_a_bit(octets: &mut [u8], random: &mut SplitMix64) -> bool {
    let bits = u64::try_from(octets.len()).unwrap_or(u64::MAX).saturating_mul(8);
    let bit = random.below(bits);
    let octet = usize::try_from(bit / 8).ok().and_then(|place| octets.get_mut(place));
    octet.map(|octet| *octet ^= 1 << (bit % 8)).is_some()
}
