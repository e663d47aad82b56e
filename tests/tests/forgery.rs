//! A thousand forged units for each genuine one: who does not hold the group key changes nothing, who does costs a bounded
//! amount of work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use client_ctl::core::Counters;
use tests::check;
use tests::record::Record;
use tests::world::{Forger, Network, Story, World, live};

/// Signature checks that a member spends on a group: saved up, and in a second (client-ctl/src/core/group.rs). Of units and of
/// beacons whose tag it cannot check, and of those whose tag is right.
const UNTAGGED: (u64, u64) = (64 + 20, 50 + 20);
const TAGGED: (u64, u64) = (2_048, 2_000);
/// A member that lacks a message and notices it late does so by the next beacon, a second later at the most, and then waits
/// half a second at the most as it would have before.
const LATE: Duration = Duration::from_millis(1_500);

fn counters(world: &World) -> Vec<Counters> {
    world.clients.iter().flat_map(|client| client.core.status()).map(|group| group.counters).collect()
}

/// The most signature checks that forged datagrams cost a member in a group.
fn checks(world: &World) -> u64 {
    let all = counters(world).into_iter().map(|c| c.units_bad_signature + c.beacons_bad_signature);
    all.max().unwrap()
}

/// How many seeds: `KEYSTONE_SEEDS`, or a few; or only `KEYSTONE_SEED`.
fn seeds(few: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("KEYSTONE_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("KEYSTONE_SEEDS").unwrap_or(few)).collect(),
    }
}

/// The same world with and without an outsider who sees all multicasts. In nearly all worlds all have the same keys at the same
/// time, in the same way, and ask as often. The exception: a member that lacks a message cannot check the tags of what comes
/// after it, and spends its small ration of signature checks on what is forged. So not the next unit tells it of a loss but the
/// next beacon; and where two epochs overlap on their way, it may lose the second for the first and ask for it.
#[test]
fn an_outsider_changes_next_to_nothing() {
    let (mut worlds, mut same) = (0, 0);
    let (mut asked, mut asked_before, mut forged, mut most) = (0, 0, 0, 0);
    for seed in seeds(4) {
        for network in Network::ALL {
            println!("seed {seed} {network:?}");
            let calm = live(Story::calm(seed, network)).record;
            let story = Story { forger: Some((Forger::Outsider, 1_000)), ..Story::calm(seed, network) };
            let seconds = story.end.as_secs();
            let world = live(story);
            check::all(&world);
            let flooded = &world.record;
            all_in_time(&calm, flooded);
            assert!(checks(&world) <= UNTAGGED.0 + UNTAGGED.1 * seconds, "{} checks", checks(&world));
            let (kept, honest) = (flooded.most_kept, calm.most_kept);
            assert!(kept <= honest.max(4 * fec::UNIT), "{kept} octets kept, without attack {honest}");
            assert!(flooded.forged >= 5_000, "{}", flooded.forged);
            let everything = |record: &Record| (record.installed.clone(), record.resynced.clone(), record.octets);
            same += u32::from(everything(&calm) == everything(flooded));
            worlds += 1;
            asked += flooded.resynced.values().sum::<u64>();
            asked_before += calm.resynced.values().sum::<u64>();
            forged += flooded.forged;
            most = most.max(checks(&world));
        }
    }
    println!("{same} of {worlds} worlds are the same; {asked} re-synchronizations, {asked_before} without attack");
    println!("{forged} forged, {most} signature checks of a member in a group at the most");
    assert!(20 * same >= 19 * worlds || worlds < 20, "{same} of {worlds} worlds are the same");
    assert!(asked_before > 0 && 50 * asked <= 51 * asked_before + 50, "{asked} asked, {asked_before} without attack");
}

/// Whoever has a key without attack has it, or a later one, under attack, and at most a little later.
fn all_in_time(calm: &Record, flooded: &Record) {
    for ((client, group, epoch), (at, _)) in &calm.installed {
        let from = (*client, group.clone(), *epoch);
        let mut later = flooded.installed.range(from..=(*client, group.clone(), u64::MAX));
        let in_time = later.any(|(_, (then, _))| *then <= *at + LATE);
        assert!(in_time, "client {client} has no key of epoch {epoch} of {group} by {:?}", *at + LATE);
    }
}

/// A member forges what costs the others most: units of new blocks that go on from their epoch, with the right tag.
#[test]
fn a_member_costs_a_bounded_amount_of_work() {
    let (mut resyncs, mut unchecked) = (0, 0);
    for seed in seeds(2) {
        for network in [Network::Quiet, Network::Losses] {
            println!("seed {seed} {network:?}");
            let story = Story { forger: Some((Forger::Member(0), 5_000)), ..Story::calm(seed, network) };
            let seconds = story.end.as_secs();
            let world = live(story);
            // Who loses something in the flood asks for it; the end finds everybody with the newest key.
            check::all(&world);
            let ration = UNTAGGED.0 + TAGGED.0 + (UNTAGGED.1 + TAGGED.1) * seconds;
            assert!(checks(&world) <= ration, "{} checks", checks(&world));
            assert!(world.record.most_kept <= 64 * fec::UNIT, "{} octets kept", world.record.most_kept);
            assert!(world.record.forged >= 50_000, "{}", world.record.forged);
            resyncs += world.record.resynced.values().sum::<u64>();
            unchecked += counters(&world).iter().map(|c| c.units_unchecked).sum::<u64>();
        }
    }
    println!("{resyncs} re-synchronizations; {unchecked} signatures not looked at");
    assert!(resyncs > 0 && unchecked > 0);
}
