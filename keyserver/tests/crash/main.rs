//! Crashes of a key server over the embedded store, one at every write, sync and rename: whatever was acknowledged is there
//! afterwards, whatever was not is whole or absent. By default every crash of a trace of 100 requests in which all or
//! nothing since the last sync reached the disk, and a share of the others; with `KEYSTONE_CRASH=full` all of 1,000 requests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod folder;
mod recover;
mod trace;

use std::path::Path;
use std::sync::{Arc, Mutex};

use keyserver::store::{RedbBackend, SiteKey};
use protocol::Entropy;

use disk::{Disk, Faults, Log, Step};
use recover::Share;
use trace::{Length, Notes};

pub(crate) const SECRET: [u8; 32] = [7; 32];

struct Sevens;

impl Entropy for Sevens {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill(7);
    }
}

fn seed() -> u64 {
    let seed = std::env::var("KEYSTONE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("KEYSTONE_SEED={seed}");
    seed
}

fn logged_disk() -> (Disk, Log) {
    let log = Log::default();
    (Disk { log: Some(log.clone()), ..Disk::default() }, log)
}

/// Everything that was ever stored is enough for a key server to know what it had acknowledged.
fn check_states(notes: &Notes) {
    let facts = |at: usize| notes.facts.partition_point(|facts| facts.at <= at) - 1;
    for state in &notes.states {
        let before = facts(state.at);
        trace::check(&state.content, &notes.facts[before], &notes.facts[(before + 1).min(notes.facts.len() - 1)]);
    }
}

#[test]
fn nothing_is_lost_by_a_crash_at_any_point() {
    let full = std::env::var("KEYSTONE_CRASH").is_ok_and(|value| value == "full");
    let seed = seed();
    let (length, share, threads) = match full {
        true => (
            Length { requests: 1_000, records_per_snapshot: 40, per_restart: 100 },
            Share { torn: 1, lost: 1, latest: 1, keys: 1 },
            std::thread::available_parallelism().unwrap().get(),
        ),
        false => (
            Length { requests: 100, records_per_snapshot: 20, per_restart: 25 },
            Share { torn: 40, lost: 10, latest: 4, keys: 8 },
            1,
        ),
    };
    let place = folder::place();
    let path = place.path().join(folder::KEY);
    SiteKey::create(&path, &mut Sevens).unwrap();
    let first_key = std::fs::read(&path).unwrap();
    let (mut disk, log) = logged_disk();
    let key = |disk: &Disk| SiteKey::open_with(&path, folder::beside(disk)).unwrap();
    let notes = trace::run(&mut disk, length, seed, &key);
    assert!(!notes.halted);
    check_states(&notes);
    let log = log.lock().unwrap();
    let report = recover::all(&log, &notes, &first_key, share, seed, threads);
    println!(
        "{} requests, {} states, {} compactions, {} operations of the disk",
        length.requests,
        notes.states.len(),
        notes.states.last().unwrap().generation,
        log.len()
    );
    println!(
        "{} crash points, {} recoveries, {} of site key and store together, {} lost",
        report.points,
        report.recoveries,
        report.keys,
        report.complaints.len()
    );
    report.complaints.iter().take(10).for_each(|complaint| println!("{complaint}"));
    assert!(report.complaints.is_empty());
    assert!(notes.states.last().unwrap().generation >= 3, "compactions were among it");
    no_key_is_on_the_disk(&log, &disk, &first_key);
}

/// The store's file holds no site key, of whatever generation.
fn no_key_is_on_the_disk(log: &[Step], disk: &Disk, first: &[u8]) {
    let keys = log.iter().filter_map(|step| match step {
        Step::Put { name, content, .. } if !name.contains("mark") => Some(content.as_slice()),
        _ => None,
    });
    let octets = &disk.platter().octets;
    for digits in keys.chain([first]) {
        let key = &digits[16..80];
        let raw = (0..32).map(|at| u8::from_str_radix(std::str::from_utf8(&key[2 * at..][..2]).unwrap(), 16).unwrap());
        let raw: Vec<u8> = raw.collect();
        assert!(!octets.windows(32).any(|window| window == raw || window == &key[..32]));
    }
}

/// The life of a key server, its site key at `path`, on a disk whose calls fail from the `from`-th on, so many of them.
fn on_a_failing_disk(path: &Path, first_key: &[u8], from: usize, count: usize) -> (Notes, Disk, Log) {
    let length = Length { requests: 16, records_per_snapshot: 6, per_restart: 8 };
    let (mut disk, log) = logged_disk();
    let refuse = (count > 0).then(|| from..from.saturating_add(count));
    disk.faults = Arc::new(Mutex::new(Faults { refuse, ..Faults::default() }));
    folder::put(path, Some(first_key));
    folder::put(&path.with_file_name(folder::MARK), None);
    let key = |disk: &Disk| SiteKey::open_with(path, folder::beside(disk)).unwrap();
    let notes = trace::run(&mut disk, length, 11, &key);
    (notes, disk, log)
}

#[test]
fn a_disk_that_fails_stops_the_key_server_and_loses_nothing() {
    let place = folder::place();
    let path = place.path().join(folder::KEY);
    SiteKey::create(&path, &mut Sevens).unwrap();
    let first_key = std::fs::read(&path).unwrap();
    let (whole, disk, log) = on_a_failing_disk(&path, &first_key, 0, 0);
    assert!(!whole.halted && whole.states.last().unwrap().generation > 1);
    let calls = disk.faults.lock().unwrap().calls;
    assert_eq!(calls, log.lock().unwrap().len());
    let (mut halted, mut syncs) = (0, 0);
    for call in 0..calls {
        // Full from here on; and only this once, as if there were room again or the fault had passed.
        for count in [usize::MAX, 1] {
            let (notes, disk, log) = on_a_failing_disk(&path, &first_key, call, count);
            let sync = disk.faults.lock().unwrap().sync_refused;
            let acknowledged = notes.states.len() - 1;
            halted += usize::from(notes.halted);
            syncs += usize::from(sync);
            let log = log.lock().unwrap();
            if sync && notes.halted {
                assert_eq!(log.len(), call, "nothing is written after a sync that failed");
            }
            // Whatever was written since the last sync is there or not: nobody knows after such a fault.
            let last = log.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
            for kept in [last, log.len()] {
                let again = Disk::default();
                log[..kept].iter().for_each(|step| again.platter().apply(step));
                let found = recover::recover(&again, &notes, acknowledged);
                // The one under way may be whole: it is the next of the trace that does not fail.
                let found = found.or_else(|_| recover::recover(&again, &whole, acknowledged));
                let states = acknowledged..=acknowledged + 1;
                assert!(
                    found.as_ref().is_ok_and(|state| states.contains(state)),
                    "call {call} of {calls}, {count} fail: {found:?}, and {acknowledged} was acknowledged"
                );
                recover::open_with(&path, RedbBackend::on(again.clone()).unwrap()).unwrap();
                recover::go_on(&again).unwrap();
            }
            check_states(&notes);
        }
    }
    println!("{calls} calls, {halted} halts, {syncs} failed syncs, 0 lost");
    assert!(halted > calls && syncs > 20);
}
