//! Every entry that faces the network, with mutated inputs: bits flipped, octets cut off, added, repeated, spliced, and
//! numbers that are often wrong. An input is made from its number alone, so a number and a name are a failure to repeat.
//!
//! `KEYSTONE_FUZZ=N` tries N times as many, `KEYSTONE_FUZZ_SECONDS` goes on for so long, `KEYSTONE_FUZZ_ENTRY` takes one
//! entry, `KEYSTONE_FUZZ_FROM` begins with this number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "the long run ends by the clock")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::dice::Dice;
use tests::entries::{ENTRIES, Entry};

/// Inputs of a round for a plain decoder.
const INPUTS: u64 = 100_000;

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
    match dice.number(10) {
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
        8 => input.insert(at, if dice.chance(50) { 1 << dice.number(8) } else { dice.roll().to_be_bytes()[0] }),
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

/// Whether the entry accepts this input; `None` if it panics, which is told.
fn run(entry: &Entry, what: &str, input: &[u8]) -> Option<bool> {
    let outcome = catch_unwind(AssertUnwindSafe(|| (entry.run)(input))).ok();
    if outcome.is_none() {
        let octets: String = input.iter().map(|octet| format!("{octet:02x}")).collect();
        eprintln!("entry {}, {what}, input of {} octets: {octets}", entry.name, input.len());
    }
    outcome
}

/// What became of an entry's inputs.
#[derive(Default)]
struct Tally {
    accepted: u64,
    refused: u64,
    /// Inputs that panicked, and seeds that were refused; each is the last of its round.
    failed: u64,
    time: Duration,
    longest: (Duration, u64),
}

/// Runs the inputs of one round, those after all of the rounds before it, and adds them to the tally.
fn round(entry: &Entry, round: u64, until: Option<Instant>, tally: &Mutex<BTreeMap<&str, Tally>>) {
    let seeds = (entry.seeds)();
    let mut here = Tally::default();
    for seed in &seeds {
        if run(entry, "an unchanged seed", seed) != Some(true) {
            eprintln!("entry {} refuses what is valid", entry.name);
            here.failed = 1;
        }
    }
    let inputs = INPUTS / entry.cost;
    let first = number("KEYSTONE_FUZZ_FROM").unwrap_or(0) + round * inputs;
    for seed in first..first + inputs {
        let begun = Instant::now();
        if here.failed > 0 || until.is_some_and(|until| begun >= until) {
            break;
        }
        match run(entry, &format!("seed {seed}"), &input(seed, &seeds)) {
            Some(true) => here.accepted += 1,
            Some(false) => here.refused += 1,
            None => here.failed += 1,
        }
        let took = begun.elapsed();
        here.time += took;
        here.longest = here.longest.max((took, seed));
    }
    let mut tally = tally.lock().unwrap();
    let all = tally.entry(entry.name).or_default();
    all.accepted += here.accepted;
    all.refused += here.refused;
    all.failed += here.failed;
    all.time += here.time;
    all.longest = all.longest.max(here.longest);
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
    let tally = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                while let Some((at, entry)) = next() {
                    round(entry, at, until, &tally);
                }
            });
        }
    });
    let mut wrong = Vec::new();
    for (name, Tally { accepted, refused, failed, time, longest: (longest, seed) }) in tally.into_inner().unwrap() {
        let time = time.as_secs_f64();
        println!(
            "{name:20} {accepted:>9} accepted {refused:>9} refused {time:>7.1} s, longest {longest:.1?} (seed {seed})"
        );
        // Where all is accepted, or nothing, nothing is tested.
        if failed > 0 || accepted == 0 || refused == 0 {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "these entries fail, or cannot: {wrong:?}");
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
