//! Every entry that faces the network, with mutated inputs: bits flipped, octets cut off, added, repeated, spliced, and
//! numbers that are often wrong. An input is made from its number alone, so a number and a name are a failure to repeat.
//!
//! `KEYSTONE_FUZZ=N` tries N times as many, `KEYSTONE_FUZZ_SECONDS` goes on for so long, `KEYSTONE_FUZZ_ENTRY` takes one
//! entry, `KEYSTONE_FUZZ_FROM` begins with this number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "the long run ends by the clock")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::dice::Dice;
use tests::entries::{ENTRIES, Entry};

/// Inputs of a round; of entries that cost more, so many times fewer.
const INPUTS: u64 = 20_000;

/// The longest input, as `cargo fuzz` has it.
const MAX_INPUT: usize = 65_536;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Numbers at the edges of their types.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX - 1, u64::MAX];

/// One change of `input`.
fn mutate(dice: &mut Dice, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = dice.number(input.len() + 1);
    let span = at..at + dice.number((input.len() - at).min(64) + 1);
    match dice.number(9) {
        0 | 1 if at < input.len() => input[at] ^= 1 << dice.number(8),
        2 if at < input.len() => input[at] = dice.roll().to_be_bytes()[0],
        3 => input.truncate(at),
        4 => input.extend((0..1 + dice.number(40)).map(|_| dice.roll().to_be_bytes()[0])),
        5 => {
            let octets = EDGES[dice.number(EDGES.len())].to_be_bytes();
            let width = 1 << dice.number(4);
            input.iter_mut().skip(at).zip(&octets[8 - width..]).for_each(|(to, octet)| *to = *octet);
        }
        6 => {
            let other = &seeds[dice.number(seeds.len())];
            let from = if dice.chance(50) { at.min(other.len()) } else { dice.number(other.len() + 1) };
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        7 => {
            let repeated = input[span.clone()].repeat(1 + dice.number(4));
            input.splice(span.end..span.end, repeated);
        }
        _ => drop(input.drain(span)),
    }
    input.truncate(MAX_INPUT);
}

/// The input of this number.
fn input(seed: u64, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut input = seeds[dice.number(seeds.len())].clone();
    for _ in 0..1 + dice.number(3) {
        mutate(&mut dice, &mut input, seeds);
    }
    input
}

/// Runs one input; if it panics, says which it was.
fn run(entry: &Entry, what: &str, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (entry.run)(input))).unwrap_or_else(|panic| {
        let octets: String = input.iter().map(|octet| format!("{octet:02x}")).collect();
        eprintln!("entry {}, {what}, input of {} octets: {octets}", entry.name, input.len());
        resume_unwind(panic)
    })
}

/// What became of an entry's inputs.
#[derive(Default)]
struct Tally {
    accepted: u64,
    refused: u64,
    time: Duration,
    slowest: (Duration, u64),
}

/// Runs the inputs of one round, those after all of the rounds before it.
fn round(entry: &Entry, round: u64, until: Option<Instant>, tallies: &Mutex<BTreeMap<&str, Tally>>) {
    let seeds = (entry.seeds)();
    for seed in &seeds {
        assert!(run(entry, "an unchanged seed", seed), "entry {} refuses what is valid", entry.name);
    }
    let inputs = INPUTS / entry.cost;
    let first = number("KEYSTONE_FUZZ_FROM").unwrap_or(0) + round * inputs;
    let mut tally = Tally::default();
    for seed in first..first + inputs {
        let begun = Instant::now();
        if until.is_some_and(|until| begun >= until) {
            break;
        }
        let accepted = run(entry, &format!("seed {seed}"), &input(seed, &seeds));
        *(if accepted { &mut tally.accepted } else { &mut tally.refused }) += 1;
        let took = begun.elapsed();
        tally.time += took;
        tally.slowest = tally.slowest.max((took, seed));
    }
    let mut tallies = tallies.lock().unwrap();
    let all = tallies.entry(entry.name).or_default();
    all.accepted += tally.accepted;
    all.refused += tally.refused;
    all.time += tally.time;
    all.slowest = all.slowest.max(tally.slowest);
}

fn chosen() -> Vec<&'static Entry> {
    let name = std::env::var("KEYSTONE_FUZZ_ENTRY").ok();
    ENTRIES.iter().filter(|entry| name.as_ref().is_none_or(|name| name == entry.name)).collect()
}

#[test]
fn nothing_that_is_accepted_is_wrong_and_nothing_panics() {
    let until = number("KEYSTONE_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let rounds = if until.is_some() { u64::MAX } else { number("KEYSTONE_FUZZ").unwrap_or(1) };
    let due = Mutex::new((0..rounds).flat_map(|round| chosen().into_iter().map(move |entry| (round, entry))));
    let next = || due.lock().unwrap().next().filter(|_| until.is_none_or(|until| Instant::now() < until));
    let tallies = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while let Some((at, entry)) = next() {
                    round(entry, at, until, &tallies);
                }
            });
        }
    });
    for (name, Tally { accepted, refused, time, slowest: (longest, seed) }) in tallies.into_inner().unwrap() {
        let time = time.as_secs_f64();
        println!(
            "{name:20} {accepted:>9} accepted {refused:>9} refused {time:>7.1} s, longest {longest:.1?} (seed {seed})"
        );
        assert!(accepted > 0 && refused > 0, "entry {name}: nothing to tell right from wrong");
    }
}

/// `cargo fuzz` begins from the same seeds: a file for each, in a folder for each entry.
#[test]
#[ignore = "writes files: the corpus of cargo fuzz, into the folder KEYSTONE_CORPUS"]
fn corpus() {
    let folder = std::env::var("KEYSTONE_CORPUS").expect("KEYSTONE_CORPUS names a folder");
    for entry in chosen() {
        let folder = Path::new(&folder).join(entry.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in (entry.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
}

/// Every entry has its target, and the other way round.
#[test]
fn every_entry_is_a_target_of_cargo_fuzz() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let mut targets: Vec<String> = (std::fs::read_dir(folder).unwrap())
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    targets.sort();
    let mut names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    names.sort_unstable();
    assert_eq!(targets, names);
    let manifest = include_str!("../../fuzz/Cargo.toml");
    assert!(names.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))));
}
