//! Clocks that jump: a process that was stopped for an hour, or a year, and time that goes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use tests::check;
use tests::world::{Network, Story, Who, live};

const HOUR: Duration = Duration::from_secs(3_600);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Once in the middle of changes, twice in a row, and once when all is quiet.
fn leaping(seed: u64, who: Who, by: Duration) -> Story {
    let at = [8_000, 12_345, 12_346, 25_000].map(Duration::from_millis);
    Story { leaps: at.map(|at| (at, who, by)).into(), ..Story::calm(seed, Network::Losses) }
}

#[test]
fn a_clock_that_leaps_costs_a_few_messages_and_no_more() {
    for seed in 1..=5 {
        let steady = live(Story::calm(seed, Network::Losses)).record;
        for who in [Who::Server, Who::Client(0), Who::Client(3)] {
            for by in [HOUR, YEAR] {
                println!("seed {seed} {who:?} {by:?}");
                let world = live(leaping(seed, who, by));
                check::all(&world);
                let record = &world.record;
                assert_eq!(record.counts["clocks leapt"], 4);
                // For each leap a beacon and a refresh of each group; the member asks at most once for each group.
                let (sent, before) = (record.octets, steady.octets);
                assert!(sent <= before + before / 2, "{sent} octets sent, {before} without leaps");
                let resyncs = |record: &tests::record::Record| record.resynced.values().sum::<u64>();
                let (asked, before) = (resyncs(record), resyncs(&steady));
                let may = if who == Who::Server { 4 * 2 * 5 } else { 4 * 2 };
                assert!(asked <= before + may, "{asked} re-synchronizations, {before} without leaps");
            }
        }
    }
}
