//! A member of a small group that says it loses everything, in bursts without end: what the key server sends stays bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use fec::RepairScheme;
use tests::check;
use tests::world::{Network, Story, live};

/// What is planned for at most is a loss of a half in bursts of 20, whoever says what: a message of one unit takes some ten
/// copies then, where the default takes three, and a little more is for what nobody knows of the bursts. In a group of two or
/// three, where the others have lost little and so have said little, a liar may come near to it.
const FACTOR: u64 = 5;

#[test]
fn a_liar_makes_the_key_server_send_a_few_times_as_much_and_no_more() {
    for seed in 1..=10 {
        println!("seed {seed}");
        let (faults_end, end) = (Duration::from_secs(100), Duration::from_secs(110));
        let story = Story { repair: RepairScheme::Adaptive, faults_end, end, ..Story::calm(seed, Network::Losses) };
        let without = live(story.clone()).record;
        let world = live(Story { liar: true, ..story });
        check::all(&world);
        assert!(world.record.counts["lies"] > 1_000);
        let (honest, lied) = (without.octets, world.record.octets);
        println!("{lied} octets with a liar, {honest} without");
        assert!(lied > honest && lied <= FACTOR * honest, "{lied} octets with a liar, {honest} without");
    }
}
