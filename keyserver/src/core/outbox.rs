//! Paced sending: each datagram when its message's schedule says, no more octets a second than the ceiling, and evictions
//! before everything else.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use protocol::GroupId;

use super::subscribers::Subscribers;
use super::{Event, Now, Output};

/// Datagrams that wait: those of the largest batch, a quarter of a million members replaced, and as many of others. What does
/// not fit is dropped, first due first, and its members re-synchronize.
const MAX_WAITING: usize = 1 << 17;
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

/// Whom a datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Audience {
    pub(super) group: GroupId,
    /// The group's multicast address.
    pub(super) destination: SocketAddr,
}

struct Waiting {
    to: Audience,
    octets: Vec<u8>,
    eviction: Option<Eviction>,
}

/// When due, and its number: of what is due at the same time, what came first leaves first.
type Place = (Now, u64);

/// What waits to be multicast. Messages of several groups interleave, because each waits for its own times.
pub(super) struct Outbox {
    urgent: BTreeMap<Place, Waiting>,
    waiting: BTreeMap<Place, Waiting>,
    numbers: u64,
    bits_per_second: u64,
    /// When the next datagram may leave, were there no burst.
    free_at: Now,
    dropped: usize,
}

impl Outbox {
    pub(super) fn new(bits_per_second: u64) -> Self {
        Self {
            urgent: BTreeMap::new(),
            waiting: BTreeMap::new(),
            numbers: 0,
            bits_per_second: bits_per_second.max(1),
            free_at: Now::ZERO,
            dropped: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.waiting.is_empty()
    }

    /// One datagram, now.
    pub(super) fn push(&mut self, now: Now, to: Audience, octets: Vec<u8>) {
        self.push_all(now, to, vec![(0, octets)], None, false);
    }

    /// The datagrams of a message, each at its unit-time from now on. Of an urgent one the first may end an eviction's waiting.
    pub(super) fn push_all(
        &mut self,
        now: Now,
        to: Audience,
        datagrams: Vec<(u32, Vec<u8>)>,
        mut eviction: Option<Eviction>,
        is_urgent: bool,
    ) {
        for (unit_time, octets) in datagrams {
            let place = (now + self.time(octets.len()) * unit_time, self.numbers);
            self.numbers += 1;
            let waiting = Waiting { to, octets, eviction: eviction.take() };
            if is_urgent {
                self.urgent.insert(place, waiting);
                continue;
            }
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.pop_first();
                self.dropped += 1;
            }
            self.waiting.insert(place, waiting);
        }
    }

    /// Time that so many octets take at the ceiling.
    fn time(&self, octets: usize) -> Duration {
        let bits = u64::try_from(octets).unwrap_or(u64::MAX).saturating_mul(8);
        Duration::from_nanos(bits.saturating_mul(1_000_000_000) / self.bits_per_second)
    }

    /// The first that is due, or will be.
    fn first(&self) -> Option<(Now, usize)> {
        let of =
            |queue: &BTreeMap<Place, Waiting>| queue.first_key_value().map(|((at, _), one)| (*at, one.octets.len()));
        [of(&self.urgent), of(&self.waiting)].into_iter().flatten().min()
    }

    /// When [`Outbox::release`] has something to do.
    pub(super) fn next_release(&self) -> Option<Now> {
        self.first().map(|(at, octets)| at.max(self.free_at.saturating_sub(self.time(octets) * BURST)))
    }

    /// Lets go what may leave by now, over TCP to those who have subscribed too. Returns evictions whose first datagram did, with the time that each took.
    pub(super) fn release(
        &mut self,
        now: Now,
        subscribers: &Subscribers,
        outputs: &mut VecDeque<Output>,
    ) -> Vec<(GroupId, Duration)> {
        let mut evictions = Vec::new();
        if self.dropped > 0 {
            outputs.push_back(Output::Event(Event::Overflow { datagrams: std::mem::take(&mut self.dropped) }));
        }
        self.free_at = self.free_at.max(now);
        let due = |queue: &BTreeMap<Place, Waiting>| queue.first_key_value().is_some_and(|((at, _), _)| *at <= now);
        loop {
            let queue = if due(&self.urgent) { &self.urgent } else { &self.waiting };
            let Some((_, next)) = queue.first_key_value().filter(|_| due(queue)) else {
                return evictions;
            };
            let takes = self.time(next.octets.len());
            if self.free_at > now + takes * BURST {
                return evictions;
            }
            self.free_at += takes;
            let queue = if due(&self.urgent) { &mut self.urgent } else { &mut self.waiting };
            let Some((_, Waiting { to, octets, eviction })) = queue.pop_first() else {
                return evictions;
            };
            outputs.extend(subscribers.push(to.group, &octets));
            outputs.push_back(Output::Datagram { destination: to.destination, octets });
            if let Some(Eviction { group, epoch, since }) = eviction {
                let took = now.saturating_sub(since);
                outputs.push_back(Output::Event(Event::EvictionSent { group, epoch, took }));
                evictions.push((group, took));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: Audience = Audience {
        group: GroupId(1),
        destination: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(239, 1, 1, 1)), 1),
    };

    /// A thousand octets a millisecond.
    fn outbox() -> Outbox {
        Outbox::new(8_000_000)
    }

    fn message(mark: u8, times: impl IntoIterator<Item = u32>) -> Vec<(u32, Vec<u8>)> {
        times.into_iter().map(|time| (time, vec![mark; 1_000])).collect()
    }

    /// The marks of what leaves at each millisecond.
    fn run(outbox: &mut Outbox, ms: std::ops::Range<u64>) -> Vec<(u64, u8)> {
        let mut all = Vec::new();
        for ms in ms {
            let mut outputs = VecDeque::new();
            outbox.release(Now::from_millis(ms), &Subscribers::default(), &mut outputs);
            for output in outputs {
                if let Output::Datagram { octets, .. } = output {
                    all.push((ms, octets[0]));
                }
            }
        }
        all
    }

    #[test]
    fn each_leaves_at_its_time_and_groups_interleave() {
        let mut outbox = outbox();
        outbox.push_all(Now::ZERO, TO, message(1, [0, 10, 20]), None, false);
        outbox.push_all(Now::ZERO, TO, message(2, [0, 1, 2, 3]), None, false);
        let all = run(&mut outbox, 0..30);
        assert_eq!(all, [(0, 1), (0, 2), (1, 2), (2, 2), (3, 2), (10, 1), (20, 1)]);
        assert!(outbox.is_empty() && outbox.next_release().is_none());
    }

    #[test]
    fn the_ceiling_holds_and_evictions_overtake() {
        let mut outbox = outbox();
        outbox.push_all(Now::ZERO, TO, message(1, vec![0; 1_000]), None, false);
        let first = run(&mut outbox, 0..100);
        assert!((99..=110).contains(&first.len()), "{}", first.len());
        let since = Now::from_millis(100);
        let eviction = Eviction { group: GroupId(1), epoch: 2, since };
        outbox.push_all(since, TO, message(9, [0, 4]), Some(eviction), true);
        let mut outputs = VecDeque::new();
        let took = outbox.release(Now::from_millis(101), &Subscribers::default(), &mut outputs);
        assert_eq!(took, [(GroupId(1), Duration::from_millis(1))]);
        assert!(matches!(outputs.front(), Some(Output::Datagram { octets, .. }) if octets[0] == 9));
        let rest = run(&mut outbox, 102..2_000);
        assert_eq!(rest.iter().position(|(ms, mark)| *mark == 9 && *ms == 104).map(|at| rest[at].0), Some(104));
        assert_eq!(
            first.len() + rest.len() + outputs.iter().filter(|o| matches!(o, Output::Datagram { .. })).count(),
            1_002
        );
        assert!(rest.last().is_some_and(|(ms, _)| (985..=1_010).contains(ms)), "{:?}", rest.last());
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let mut outbox = outbox();
        outbox.push_all(Now::ZERO, TO, message(1, 0..u32::try_from(MAX_WAITING).unwrap() + 5), None, false);
        let mut outputs = VecDeque::new();
        outbox.release(Now::ZERO, &Subscribers::default(), &mut outputs);
        assert!(matches!(outputs.front(), Some(Output::Event(Event::Overflow { datagrams: 5 }))));
    }
}
