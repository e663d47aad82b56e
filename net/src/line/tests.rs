use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

const PLACES: usize = 100;
const NEWCOMER: u32 = u32::MAX;

/// Random numbers of a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn source(client: u32) -> IpAddr {
    IpAddr::from(client.to_be_bytes())
}

fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Leaves { registrar: usize },
    Comes { client: u32, registrar: usize },
}

struct Door {
    line: Line,
    inside: usize,
    /// When it will have done what it has begun: one after the other.
    busy_until: Duration,
}

/// How a crowd got through.
struct Passed {
    /// When the last was registered.
    last: Duration,
    /// How often clients came.
    came: u32,
    /// The most that one client came.
    most: u32,
    /// Time in which doors had nothing to do, all together, before the last was in.
    idle: Duration,
}

/// So many clients come within a tenth of a second to registrars that each take `cost` for a handshake, and do as they are told. If
/// all have one address, that may have ten places. Each holds its place for `way` longer than that.
fn crowd(clients: u32, registrars: usize, [cost, way]: [Duration; 2], one_address: bool, seed: u64) -> Passed {
    let (places, source) = match one_address {
        true => (10, (|_| source(1)) as fn(u32) -> IpAddr),
        false => (PLACES, source as fn(u32) -> IpAddr),
    };
    let mut dice = Dice(seed);
    let door = || Door { line: Line::new(PLACES), inside: 0, busy_until: Duration::ZERO };
    let mut doors: Vec<Door> = (0..registrars).map(|_| door()).collect();
    let mut coming = BinaryHeap::new();
    for client in 0..clients {
        let registrar = usize::try_from(dice.below(u64::try_from(registrars).unwrap())).unwrap();
        coming.push(Reverse((us(dice.below(100_000)), Happens::Comes { client, registrar })));
    }
    let mut times = vec![0; usize::try_from(clients).unwrap()];
    let mut passed = Passed { last: Duration::ZERO, came: 0, most: 0, idle: Duration::ZERO };
    while let Some(Reverse((now, happens))) = coming.pop() {
        match happens {
            Happens::Comes { client, registrar } => {
                let Door { line, inside, busy_until } = &mut doors[registrar];
                let times = &mut times[usize::try_from(client).unwrap()];
                *times += 1;
                (passed.came, passed.most) = (passed.came + 1, passed.most.max(*times));
                if *inside < places && line.may_enter(now, source(client), *inside) {
                    *inside += 1;
                    passed.idle += now.saturating_sub(*busy_until);
                    *busy_until = now.max(*busy_until) + cost;
                    coming.push(Reverse((*busy_until + way, Happens::Leaves { registrar })));
                } else {
                    let wait = line.send_away(now, source(client));
                    let random = us(dice.below(u64::try_from((wait / 8).min(us(500_000)).as_micros()).unwrap() + 1));
                    coming.push(Reverse((now + wait + random, Happens::Comes { client, registrar })));
                }
            }
            Happens::Leaves { registrar } => {
                let Door { line, inside, .. } = &mut doors[registrar];
                line.left(now);
                *inside -= 1;
                passed.last = passed.last.max(now);
            }
        }
    }
    assert!(doors.iter().all(|door| door.inside == 0));
    passed
}

#[test]
fn ten_thousand_at_once_are_in_when_they_can_be() {
    // Registrars, microseconds of work and of way for each client, one address for all.
    let cases = [
        (1, 1_000, 0, false),
        (2, 1_000, 0, false),
        (4, 1_000, 0, false),
        (1, 5_000, 0, false),
        (4, 700, 20_000, false),
        (1, 1_000, 0, true),
        (4, 1_000, 0, true),
        (1, 1_000, 15_000, true),
        (2, 500, 100_000, true),
    ];
    for (registrars, cost, way, one_address) in cases {
        let seed = 7;
        let Passed { last, came, most, idle } = crowd(10_000, registrars, [us(cost), us(way)], one_address, seed);
        let places = if one_address { 10 } else { u32::try_from(PLACES).unwrap() };
        let least = us(cost).max(us(cost + way) / places) * 10_000 / u32::try_from(registrars).unwrap();
        let eps = last.as_secs_f64() / least.as_secs_f64() - 1.0;
        println!(
            "{registrars} registrars, {cost} + {way} us, one address {one_address}: {last:.2?} beside {least:.2?}, eps {eps:.3}; {came} came, one {most} times, idle {idle:.2?}"
        );
        assert!(eps < if one_address { 0.2 } else { 0.1 }, "seed {seed}: {eps}");
        assert!(most <= 20 && came < 50_000, "seed {seed}: {came} came, one {most} times");
    }
}

#[test]
fn who_waited_goes_before_who_did_not() {
    let mut line = Line::new(4);
    let now = Duration::from_secs(1);
    assert!(line.may_enter(now, source(1), 3), "nobody waits");
    assert!(!line.may_enter(now, source(2), 4));
    let wait = line.send_away(now, source(2));
    assert!(!line.may_enter(now, source(NEWCOMER), 3), "half of the places are kept");
    assert!(line.may_enter(now, source(NEWCOMER), 1), "and half are not");
    assert!(!line.may_enter(now, source(2), 3), "too soon");
    assert!(line.may_enter(now + wait, source(2), 3));
    assert!(line.may_enter(now + wait, source(NEWCOMER), 3), "nobody waits any more");
    // Who does not come is waited for no longer than a while.
    line.send_away(now, source(3));
    assert!(!line.may_enter(now + wait, source(NEWCOMER), 3));
    assert!(line.may_enter(now + GRACE * 3, source(NEWCOMER), 3));
    assert!(line.moments.is_empty());
}

#[test]
fn one_source_takes_no_more_than_its_part_of_the_line() {
    let mut line = Line::new(4);
    let greedy: Vec<Duration> = (0..1_000_000).map(|_| line.send_away(Duration::ZERO, source(1))).collect();
    assert!(greedy.iter().all(|wait| *wait <= LONGEST));
    assert_eq!(line.waiting, MAX_MOMENTS / PART);
    let other = line.send_away(Duration::ZERO, source(2));
    assert!(other < LONGEST / 4, "{other:?}");
    // However many sources: it has an end.
    for client in 0..200_000 {
        assert!(line.send_away(Duration::ZERO, source(client)) <= LONGEST);
    }
    assert!(line.waiting <= MAX_MOMENTS);
    assert!(line.may_enter(Duration::from_secs(100), source(NEWCOMER), 0) && line.waiting == 0);
}
