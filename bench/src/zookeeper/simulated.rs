//! Keys received of keys sent in simulated time, from a seed. Members join at random (a Poisson process) for 50 seconds and stay; hops
//! between ZooKeeper and its clients, key managers among them, take 50 to 250 ms, everything else nothing; no server fails (the paper's
//! 99.99 per cent of availability would change the second digit after the point).
//!
//! What the paper leaves open and is assumed: its key manager serves requests one after the other, for each of which it saves the
//! operation, waits for the answer, writes all wrapped keys at once and waits for the answer (four hops); in another
//! variant three hops pass. A new member gets its key by a reply, opens a session (two hops), reads and sets its watch. A key that is
//! not in its hands when the run ends is lost, as are those that were overwritten before it read them; the row "under way included"
//! counts them as received if they would have arrived.

use std::collections::BTreeMap;

use fec::SplitMix64;

use super::{HOP, RATES, WAIT};
use crate::Failure;
use crate::table::Row;

const SEED: u64 = 1;
const RUNS: u32 = 500;
/// Seconds of a run.
const RUN: f64 = 50.0;
/// Seconds for which our key server collects joins: none, by default.
const BATCH: f64 = 0.0;
/// Seconds from an epoch to its pages, and transactions that they take.
const PAGES_AFTER: f64 = 0.5;
const PAGE_STEPS: u32 = 3;
/// Epochs that a member of ours reads at once, and those that are kept.
const AT_ONCE: usize = 16;
const KEPT: usize = 64;

/// What was observed of one kind in all runs.
#[derive(Default)]
struct Tally {
    sent: u32,
    in_time: u32,
    received: u32,
    latency: f64,
    joins: u32,
    joining: f64,
}

/// A key: when it was made, and when it stood in ZooKeeper.
struct Key {
    made: f64,
    stands: f64,
}

/// A member: the key of its join, by number, when it asked and when it had it.
struct Member {
    key: usize,
    asked: f64,
    replied: f64,
}

struct World(SplitMix64);

/// All rows.
pub(super) fn rows() -> Result<Vec<Row>, Failure> {
    println!("simulated: seed {SEED}, {RUNS} runs of {RUN} s each");
    type Scheme = (&'static str, fn(&mut World, f64) -> (Vec<Key>, Vec<Member>), bool, f64);
    let schemes: [Scheme; 4] = [
        ("naive", |world, rate| world.manager(rate, true, 0.0), false, 96.0),
        ("naive, three hops an update", |world, rate| world.manager(rate, false, 0.0), false, 96.0),
        ("naive, 2 s apart", |world, rate| world.manager(rate, true, WAIT), false, 99.0),
        ("ours", World::key_server, true, 99.0),
    ];
    let (mut rows, mut naive) = (Vec::new(), BTreeMap::new());
    for (name, send, is_ours, paper) in schemes {
        for rate in RATES {
            let (mut world, mut tally) = (World(SplitMix64::new(SEED)), Tally::default());
            for _ in 0..RUNS {
                let (keys, members) = send(&mut world, rate);
                for member in members.iter().filter(|member| member.replied <= RUN) {
                    let got = if is_ours { world.follow(&keys, member) } else { world.watch(&keys, member) };
                    tally.count(&keys, member, &got);
                }
            }
            let row = |of: &str, value, paper| {
                Row::new(format!("simulated {name}, {rate} joins a second: {of}"), value, ("the paper", paper), None)
            };
            let share = |part: u32| (f64::from(part) / f64::from(tally.sent) * 100.0, "%");
            rows.push(row("received", share(tally.in_time), paper));
            let all = row("received, under way included", share(tally.received), paper);
            let goal = is_ours.then_some((100.0, tally.received == tally.sent));
            rows.push(match goal {
                Some((goal, met)) => Row { goal: Some(goal / paper), met: Some(met), ..all },
                None => all,
            });
            rows.push(row("latency", (tally.latency / f64::from(tally.received), "s"), 0.5));
            // The first scheme is what the others are compared with.
            let joining = tally.joining / f64::from(tally.joins);
            let naive = *naive.entry(rate.to_bits()).or_insert(joining);
            let case = format!("simulated {name}, {rate} joins a second: time to join");
            rows.push(Row::new(case, (joining, "s"), ("naive", naive), None));
        }
    }
    Ok(rows)
}

impl Tally {
    /// Keys after that of its own join count, which came by the reply.
    fn count(&mut self, keys: &[Key], member: &Member, got: &BTreeMap<usize, f64>) {
        self.joins += 1;
        self.joining += member.replied - member.asked;
        for (number, key) in keys.iter().enumerate().skip(member.key + 1).filter(|(_, key)| key.made <= RUN) {
            self.sent += 1;
            if let Some(at) = got.get(&number) {
                self.received += 1;
                self.in_time += u32::from(*at <= RUN);
                self.latency += at - key.made;
            }
        }
    }
}

impl World {
    fn hop(&mut self) -> f64 {
        HOP.0 + (HOP.1 - HOP.0) * self.0.fraction()
    }

    fn hops(&mut self, count: u32) -> f64 {
        (0..count).map(|_| self.hop()).sum()
    }

    /// When clients ask to join.
    fn arrivals(&mut self, rate: f64) -> Vec<f64> {
        let (mut at, mut all) = (0.0, Vec::new());
        loop {
            at -= (1.0 - self.0.fraction()).ln() / rate;
            if at > RUN {
                return all;
            }
            all.push(at);
        }
    }

    /// The paper's key manager; `waits` for the answer to its last write too.
    fn manager(&mut self, rate: f64, waits: bool, pause: f64) -> (Vec<Key>, Vec<Member>) {
        let (mut free, mut keys, mut members) = (0.0f64, Vec::new(), Vec::new());
        for asked in self.arrivals(rate) {
            let made = free.max(asked) + self.hops(2);
            let stands = made + self.hop();
            let answered = stands + self.hop();
            free = pause + if waits { answered } else { stands };
            members.push(Member { key: keys.len(), asked, replied: answered + self.hop() });
            keys.push(Key { made, stands });
        }
        (keys, members)
    }

    /// Our key server: its own store is on its own disk; an epoch for each join, or for those of a batch; a transaction at a time in
    /// ZooKeeper, with all epochs that wait and the newest beacon; pages while none waits.
    fn key_server(&mut self, rate: f64) -> (Vec<Key>, Vec<Member>) {
        let (mut made, mut members) = (Vec::<f64>::new(), Vec::new());
        for asked in self.arrivals(rate) {
            if made.last().is_none_or(|last| asked > *last) {
                made.push(asked + BATCH);
            }
            let key = made.len() - 1;
            members.push(Member { key, asked, replied: made[key] + self.hop() });
        }
        let (mut free, mut pages, mut steps) = (0.0f64, f64::INFINITY, 0);
        let mut keys = Vec::new();
        while let Some(oldest) = made.get(keys.len()) {
            let page = free.max(pages);
            if steps > 0 && page < free.max(*oldest) {
                (free, steps) = (page + self.hops(2), steps - 1);
                continue;
            }
            let begun = free.max(*oldest);
            let stands = begun + self.hop();
            free = stands + self.hop();
            pages = if steps == 0 { begun + PAGES_AFTER } else { pages };
            steps = PAGE_STEPS;
            let waiting = made.iter().skip(keys.len()).take_while(|at| **at <= begun);
            let together: Vec<Key> = waiting.map(|at| Key { made: *at, stands }).collect();
            keys.extend(together);
        }
        (keys, members)
    }

    /// The naive member: one znode, a watch that tells once. When it had which keys.
    fn watch(&mut self, keys: &[Key], member: &Member) -> BTreeMap<usize, f64> {
        let mut got = BTreeMap::new();
        let mut asks = member.replied + self.hops(2);
        loop {
            let read = asks + self.hop();
            let next = keys.partition_point(|key| key.stands <= read);
            let answered = read + self.hop();
            if let Some(newest) = next.checked_sub(1).filter(|newest| *newest > member.key) {
                got.entry(newest).or_insert(answered);
            }
            let Some(changed) = keys.get(next).map(|key| key.stands) else { return got };
            asks = answered.max(changed + self.hop());
        }
    }

    /// Our member: watches the beacon and reads, by their numbers, the epochs that it has not.
    fn follow(&mut self, keys: &[Key], member: &Member) -> BTreeMap<usize, f64> {
        let mut beacons = Vec::new();
        let mut asks = member.replied + self.hops(2);
        loop {
            let read = asks + self.hop();
            let next = keys.partition_point(|key| key.stands <= read);
            let answered = read + self.hop();
            beacons.extend(next.checked_sub(1).map(|newest| (answered, newest)));
            let Some(changed) = keys.get(next).map(|key| key.stands) else { break };
            asks = answered.max(changed + self.hop());
        }
        let (mut got, mut have, mut free) = (BTreeMap::new(), member.key, 0.0f64);
        for (at, _) in &beacons {
            let mut now = at.max(free);
            let known = beacons.iter().take_while(|(heard, _)| *heard <= now).map(|(_, newest)| *newest).max();
            let Some(newest) = known.filter(|newest| *newest > have) else { continue };
            if newest - have > KEPT {
                // Pages give it the newest alone: head, indexes, pages.
                now += self.hops(6);
                got.insert(newest, now);
            } else {
                let numbers: Vec<usize> = (have + 1..=newest).collect();
                for some in numbers.chunks(AT_ONCE) {
                    now += self.hops(2);
                    got.extend(some.iter().map(|number| (*number, now)));
                }
            }
            (have, free) = (newest, now);
        }
        got
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(stand: &[f64]) -> Vec<Key> {
        stand.iter().map(|at| Key { made: at - 0.1, stands: *at }).collect()
    }

    const FIRST: Member = Member { key: 0, asked: 0.0, replied: 0.2 };

    #[test]
    fn a_watch_misses_what_is_overwritten_and_numbers_do_not() {
        let mut world = World(SplitMix64::new(3));
        // Four keys within less than the shortest way there and back.
        let keys = keys(&[0.0, 10.0, 10.02, 10.04, 10.06]);
        let naive = world.watch(&keys, &FIRST);
        assert_eq!(naive.keys().copied().collect::<Vec<_>>(), [4]);
        let ours = world.follow(&keys, &FIRST);
        assert_eq!(ours.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(ours.values().all(|at| (10.25..11.5).contains(at)), "{ours:?}");
    }

    #[test]
    fn keys_that_are_seconds_apart_all_arrive() {
        let mut world = World(SplitMix64::new(4));
        let keys = keys(&[0.0, 5.0, 10.0, 15.0]);
        assert_eq!(world.watch(&keys, &FIRST).len(), 3);
        assert_eq!(world.follow(&keys, &FIRST).len(), 3);
    }

    #[test]
    fn what_is_too_far_behind_comes_to_the_newest() {
        let mut world = World(SplitMix64::new(5));
        let many: Vec<f64> = (0..100).map(|number| f64::from(number) * 0.001).collect();
        let ours = world.follow(&keys(&many), &FIRST);
        assert_eq!(ours.keys().copied().collect::<Vec<_>>(), [99]);
    }
}
