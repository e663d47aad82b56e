//! The same with as many clients as a key server is made for, in simulated time: their cores, registrars' cores, and a key
//! server's core that starts from its store. Computation costs what was measured; the network costs nothing. Of all clients a few go on
//! hearing multicast when they are back; the others are taken to hear all.

mod world;

use std::collections::VecDeque;
use std::time::Duration;

use net::admission::Limits;

use crate::Failure;
use crate::table::Row;
use world::World;

/// A registrar's time for one registration, most of it the handshake, and the key server's for a request: `bench register` and
/// `bench storm`.
const HANDSHAKE: Duration = Duration::from_micros(750);
const REQUEST: Duration = Duration::from_micros(250);
/// A commit of the store (`bench store`).
const COMMIT: Duration = Duration::from_micros(4_400);
/// A connection that is told to come again.
const RESET: Duration = Duration::from_millis(1);
/// Every so many clients goes on to follow.
const SAMPLE: u32 = 1_000;
/// When it is given up.
const GIVE_UP: Duration = Duration::from_secs(3_600);
const SEED: u64 = 6;

/// Rows for so many clients at so many registrars.
pub(super) fn rows(members: u32, registrars: usize) -> Result<Vec<Row>, Failure> {
    println!("blackout, {members} simulated clients, {registrars} registrars: seed {SEED}");
    let mut world = World::dark(members, registrars)?;
    let last = world.live()?;
    let name = |of: &str| format!("blackout, {members} simulated, {registrars} registrars: {of}");
    let (all, count) = (f64::from(members), |number: u32| (f64::from(number), ""));
    let places = f64::from(u32::try_from(Limits::default().in_flight)?);
    let ideal = HANDSHAKE.as_secs_f64() * all / f64::from(u32::try_from(registrars)?);
    let Tally { registrations, turned_away, refused, requests, requests_away, later, lost, queue, waiting } =
        world.tally;
    let of = |all: u32| ("of all", f64::from(all.max(1)));
    Ok(vec![
        Row::new(name("until all are current"), (last.as_secs_f64(), "s"), ("handshakes alone", ideal), None),
        Row::new(name("attempts to register"), count(registrations), ("clients", all), None),
        Row::new(name("told to come again at the registrar's door"), count(turned_away), of(registrations), None),
        Row::new(name("refused by the registrar"), count(refused), of(registrations), None),
        Row::new(name("longest queue at a registrar's door"), count(queue), ("places", places), Some(1.0)),
        Row::new(name("longest queue at the key server's door"), count(waiting), ("places", places), Some(1.0)),
        Row::new(name("requests"), count(requests), ("clients", all), None),
        Row::new(name("told to come again at the key server's door"), count(requests_away), of(requests), None),
        Row::new(name("requests told to come back"), count(later), of(requests), None),
        Row::new(name("clients that gave up, members lost"), count(lost), ("clients", all), Some(0.0)),
    ])
}

#[derive(Default)]
struct Tally {
    registrations: u32,
    turned_away: u32,
    refused: u32,
    requests: u32,
    requests_away: u32,
    later: u32,
    lost: u32,
    queue: u32,
    waiting: u32,
}

/// One that computes, one thing after the other.
#[derive(Default)]
struct Desk(VecDeque<Duration>);

impl Desk {
    fn inside(&mut self, now: Duration) -> usize {
        while self.0.front().is_some_and(|done| *done <= now) {
            self.0.pop_front();
        }
        self.0.len()
    }

    /// When what comes now is done; `None` if there is no place.
    fn take(&mut self, now: Duration, cost: Duration, longest: &mut u32) -> Option<Duration> {
        if self.inside(now) >= Limits::default().in_flight {
            return None;
        }
        let done = self.0.back().copied().unwrap_or(now).max(now) + cost;
        self.0.push_back(done);
        *longest = (*longest).max(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_crowd_comes_back_and_nobody_is_lost() {
        let mut world = World::dark(2_000, 2).unwrap();
        let last = world.live().unwrap();
        assert_eq!((world.back, world.tally.lost), (2_000, 0));
        assert!(world.tally.turned_away > 0, "all at once are too many");
        assert!(last < Duration::from_secs(60), "{last:?}");
    }
}
