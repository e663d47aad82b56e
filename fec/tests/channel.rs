//! Channels lose as they say.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use fec::{Channel, TwoState};

const UNITS: u32 = 400_000;

/// Units lost and bursts of them, sent back to back.
fn count(channel: &mut Channel) -> (f64, f64) {
    let (mut lost, mut bursts, mut before) = (0, 0, false);
    for _ in 0..UNITS {
        let now = channel.lost(1.0);
        lost += u32::from(now);
        bursts += u32::from(now && !before);
        before = now;
    }
    (f64::from(lost), f64::from(bursts))
}

fn seed() -> u64 {
    crate::common::prng().bits()
}

/// Within four standard deviations, with the variance that the correlation of the chain makes.
#[test]
fn loss_and_length_of_bursts() {
    for (p, length) in [(0.1, 0.0), (0.3, 0.0), (0.1, 2.0), (0.1, 5.0), (0.1, 10.0), (0.4, 20.0)] {
        let process = TwoState::bursts(p, length);
        let (lost, bursts) = count(&mut Channel::bursts(p, length, seed()));
        let n = f64::from(UNITS);
        let memory = process.memory(1.0);
        let sigma = (p * (1.0 - p) / n * (1.0 + memory) / (1.0 - memory)).sqrt();
        assert!((lost / n - p).abs() < 4.0 * sigma, "loss {p}, burst {length}: {}, sigma {sigma}", lost / n);
        // Lengths of bursts are geometric: mean m, variance m (m - 1).
        let mean = process.burst();
        let sigma = (mean * (mean - 1.0) / bursts).sqrt();
        assert!((lost / bursts - mean).abs() < 4.0 * sigma, "burst {mean}: {}, sigma {sigma}", lost / bursts);
    }
}

/// From each state, one jump over k unit-times ends like k single steps: both are lost as often as the chain's k-th power
/// (here multiplied out) says.
#[test]
fn a_jump_is_as_many_steps() {
    const TRIALS: u32 = 60_000;
    let (p, length) = (0.2, 6.0);
    let (to_good, to_bad) = (1.0 / length, p / (length * (1.0 - p)));
    for k in [2, 5, 13] {
        let power = |start: f64| (0..k).fold(start, |bad, _| bad * (1.0 - to_good) + (1.0 - bad) * to_bad);
        let mut jumps = Channel::bursts(p, length, seed());
        let mut steps = Channel::bursts(p, length, seed() + 1);
        let mut counts = [[(0, 0); 2]; 2];
        for _ in 0..TRIALS {
            let from = jumps.lost(1.0);
            let to = jumps.lost(f64::from(k));
            let (lost, of) = &mut counts[0][usize::from(from)];
            (*lost, *of) = (*lost + u32::from(to), *of + 1);
            let from = steps.lost(1.0);
            let to = (0..k).map(|_| steps.lost(1.0)).last().unwrap();
            let (lost, of) = &mut counts[1][usize::from(from)];
            (*lost, *of) = (*lost + u32::from(to), *of + 1);
        }
        for (way, counts) in ["jumps", "steps"].iter().zip(counts) {
            for (start, (lost, of)) in [0.0, 1.0].into_iter().zip(counts) {
                let (expected, of) = (power(start), f64::from(of));
                let sigma = (expected * (1.0 - expected) / of).sqrt();
                let measured = f64::from(lost) / of;
                assert!((measured - expected).abs() < 4.0 * sigma, "{way} of {k} from {start}: {measured}, {expected}");
            }
        }
    }
}

#[test]
fn an_outage_loses_everything_and_then_ends() {
    let mut channel = Channel::independent(0.0, 1).with_outage(10.0..20.0);
    let lost: Vec<bool> = (0..30).map(|place| channel.lost(if place == 0 { 0.0 } else { 1.0 })).collect();
    let expected: Vec<bool> = (0..30).map(|time| (10..20).contains(&time)).collect();
    assert_eq!(lost, expected);
    assert_eq!(channel.now(), 29.0);
}

#[test]
fn the_same_seed_loses_the_same_units() {
    let run = |seed| {
        let mut channel = Channel::bursts(0.3, 4.0, seed);
        (0..1000).map(|_| channel.lost(1.5)).collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
