//! Two key servers over one store, searched whole: whatever is lost, late or asleep, nothing forks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use tests::model::{Budget, Mutant, Report, search};

const NOTHING: Budget =
    Budget { held: 0, follows: [0; 2], take_overs: [0; 2], beacons: [0; 2], asks: [0; 2], unanswered: 0 };
/// A write whose answer is lost, a take-over, a beacon of the deposed one.
const WRITES: Budget = Budget { held: 1, follows: [0, 1], take_overs: [0, 1], beacons: [1, 0], ..NOTHING };
/// Questions to both, and a standby that may be behind.
const QUESTIONS: Budget = Budget { follows: [0, 1], take_overs: [0, 1], asks: [1, 0], ..NOTHING };

/// Every one of these must be reached, or the search shows less than it says.
const REACHED: [&str; 12] = [
    "a take-over with a write of the other held back",
    "a write that was held back lands",
    "a write that was held back lands in vain",
    "a deposed key server sends late",
    "a deposed key server is stopped by its next write",
    "a lost answer is settled as done",
    "a lost answer is settled as not done",
    "a lost answer is settled by another's reign",
    "a lost answer is never settled",
    "a member refuses the deposed key server",
    "a member follows a take-over by multicast",
    "a standby answers",
];

fn print(name: &str, report: &Report) {
    let Report { states, transitions, deepest, histories, reached, violation } = report;
    println!("{name}: {states} states, {transitions} steps, deepest {deepest}; histories carried out: {histories:?}");
    reached.iter().for_each(|(what, times)| println!("  {times:>9} {what}"));
    if let Some((why, steps)) = violation {
        println!("  {why}, after {}", steps.join(", "));
    }
}

/// Searches each of these whole.
fn whole(budgets: &[(&str, Budget)]) -> usize {
    let (mut states, mut reached) = (0, BTreeSet::new());
    for (name, budget) in budgets {
        let report = search(*budget, None);
        print(name, &report);
        assert!(report.violation.is_none(), "a promise was broken");
        states += report.states;
        reached.extend(report.reached.into_keys());
    }
    for what in REACHED {
        assert!(reached.contains(what), "never reached: {what}");
    }
    states
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    assert!(whole(&[("writes", WRITES), ("questions", QUESTIONS)]) > 10_000);
}

#[test]
#[ignore = "minutes: tests/full/model"]
fn no_order_of_many_events_breaks_a_promise() {
    let writes = Budget { held: 2, ..WRITES };
    let both = Budget { asks: [1, 0], ..WRITES };
    let reigns = Budget { held: 1, follows: [0, 2], take_overs: [0, 2], beacons: [1, 1], ..NOTHING };
    let unanswered = Budget { unanswered: 1, ..QUESTIONS };
    whole(&[("two writes", writes), ("unanswered", unanswered), ("both", both), ("reigns", reigns)]);
}

#[test]
fn faults_of_the_store_are_found() {
    for mutant in
        [Mutant::NoFence, Mutant::HeadUnconditional, Mutant::NoConditions, Mutant::LostIsDone, Mutant::LostIsRetried]
    {
        let report = search(WRITES, Some(mutant));
        print(&format!("{mutant:?}"), &report);
        assert!(report.violation.is_some(), "{mutant:?} was not found");
    }
}
