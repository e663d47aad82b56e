use super::*;
use crate::store::{Fault, MemoryBackend, MemoryStore};

mod damage;

struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            // SplitMix64.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *octet = ((z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8;
        }
    }
}

const SECRET: [u8; 32] = [7; 32];

fn open_with(backend: &MemoryBackend, key: SiteKey, seed: u64) -> Result<Journal<MemoryBackend>, StoreError> {
    Journal::open(backend.clone(), key, Box::new(Counting(seed)))
}

fn open(backend: &MemoryBackend, seed: u64) -> Journal<MemoryBackend> {
    open_with(backend, SiteKey::in_memory(&SECRET), seed).unwrap()
}

fn begin(store: &mut dyn Store, records: &[&[u8]]) {
    store.fence().unwrap();
    store.follow().unwrap();
    store.append(records).unwrap();
}

type Content = (Option<Vec<u8>>, Vec<Vec<u8>>);

fn plain(loaded: &Loaded) -> Content {
    (loaded.snapshot.as_ref().map(|s| s.to_vec()), loaded.records.iter().map(|record| record.to_vec()).collect())
}

fn content(store: &mut dyn Store) -> Content {
    plain(&store.load().unwrap())
}

/// One step of a trace.
#[derive(Debug, Clone)]
enum Step {
    Begin(Vec<Vec<u8>>),
    Append(Vec<Vec<u8>>),
    Snapshot(Vec<u8>),
}

impl Step {
    fn take(&self, store: &mut dyn Store) -> Result<(), StoreError> {
        fn slices(records: &[Vec<u8>]) -> Vec<&[u8]> {
            records.iter().map(Vec::as_slice).collect()
        }
        match self {
            Self::Begin(records) => {
                store.fence()?;
                store.follow()?;
                store.append(&slices(records))
            }
            Self::Append(records) => store.append(&slices(records)),
            Self::Snapshot(snapshot) => store.snapshot(snapshot),
        }
    }
}

/// Small and large records, some in several parts and some in several commits; compactions; a new reign.
fn trace() -> Vec<Step> {
    let large = |octet: u8, length: usize| vec![octet; length];
    vec![
        Step::Begin(vec![b"reign 1".to_vec()]),
        Step::Append(vec![b"a".to_vec(), Vec::new(), b"b".to_vec()]),
        Step::Append(vec![large(1, PIECE), large(2, PIECE + 1), large(3, 3 * PIECE)]),
        Step::Snapshot(large(4, 2 * PIECE + 5)),
        Step::Append(vec![b"c".to_vec()]),
        Step::Begin(vec![b"reign 2".to_vec()]),
        Step::Snapshot(Vec::new()),
        Step::Append(vec![b"d".to_vec()]),
        Step::Snapshot(b"small".to_vec()),
        Step::Append((0..600u16).map(|number| number.to_be_bytes().to_vec()).collect()),
    ]
}

/// What the store holds after each step, from the simplest store.
fn expected() -> Vec<Content> {
    let mut model = MemoryStore::default();
    let mut contents = vec![content(&mut model)];
    for step in trace() {
        step.take(&mut model).unwrap();
        contents.push(content(&mut model));
    }
    contents
}

#[test]
fn it_holds_what_the_simplest_store_holds() {
    let backend = MemoryBackend::default();
    let mut store = open(&backend, 1);
    let mut reader = open(&backend, 2);
    let mut followed = content(&mut reader);
    for (step, expected) in trace().iter().zip(&expected()[1..]) {
        step.take(&mut store).unwrap();
        assert!(content(&mut open(&backend, 3)) == *expected, "{step:?}");
        match reader.follow().unwrap() {
            Followed::Records(new) => followed.1.extend(new.iter().map(|record| record.to_vec())),
            Followed::Anew(loaded) => followed = plain(&loaded),
        }
        if !matches!(step, Step::Snapshot(_)) && followed.0 == expected.0 {
            assert!(followed == *expected, "a follower after {step:?}");
        }
    }
    let names: Vec<String> = backend.values().into_keys().collect();
    // 1 piece, 600 records; nothing that a compaction left.
    assert_eq!(names.len(), 2 + 1 + 600);
}

#[test]
fn a_follower_that_slept_through_compactions_reads_all_of_it() {
    let backend = MemoryBackend::default();
    let mut store = open(&backend, 1);
    let mut reader = open(&backend, 2);
    reader.load().unwrap();
    trace().iter().for_each(|step| step.take(&mut store).unwrap());
    match reader.follow().unwrap() {
        Followed::Anew(loaded) => assert!(plain(&loaded) == *expected().last().unwrap()),
        Followed::Records(new) => panic!("{} records", new.len()),
    }
    assert_eq!(reader.key.generation(), 3);
}

#[test]
fn an_answer_that_is_lost_is_settled_at_every_call() {
    let calls = {
        let backend = MemoryBackend::default();
        let mut store = open(&backend, 1);
        trace().iter().for_each(|step| step.take(&mut store).unwrap());
        backend.calls()
    };
    for fault in [Fault::Before, Fault::After] {
        for call in 0..calls {
            let backend = MemoryBackend::default();
            backend.fail(call, fault);
            let mut store = open(&backend, 1);
            for (step, expected) in trace().iter().zip(&expected()[1..]) {
                step.take(&mut store).unwrap();
                assert!(content(&mut open(&backend, 2)) == *expected, "{fault:?} at {call}, {step:?}");
            }
        }
    }
}

#[test]
fn whoever_dies_at_any_call_leaves_a_step_whole_or_absent() {
    let expected = expected();
    let calls = 30;
    let mut deaths = 0;
    for fault in [Fault::Before, Fault::After] {
        for call in 0..calls {
            let backend = MemoryBackend::default();
            backend.die(call, fault);
            let mut done = 0;
            if let Ok(mut store) = open_with(&backend, SiteKey::in_memory(&SECRET), 1) {
                for step in trace() {
                    if step.take(&mut store).is_err() {
                        deaths += 1;
                        break;
                    }
                    done += 1;
                }
            }
            backend.revive();
            let mut next = open(&backend, 2);
            let mut seen = content(&mut next);
            let whole = expected.get(done + 1).is_some_and(|after| *after == seen);
            // A reign fences first and writes its records then: in between there is nothing but the fence.
            assert!(whole || seen == expected[done], "{fault:?} at {call}: {done} steps were acknowledged");
            // The next one goes on, over whatever is left under the names that it needs.
            let step = Step::Begin(vec![vec![9; 2 * PIECE], vec![8; 2 * PIECE]]);
            step.take(&mut next).unwrap();
            seen.1.extend([vec![9; 2 * PIECE], vec![8; 2 * PIECE]]);
            assert!(content(&mut open(&backend, 3)) == seen, "{fault:?} at {call}");
            next.snapshot(b"compacted").unwrap();
            next.append(&[b"after"]).unwrap();
            let after = (Some(b"compacted".to_vec()), vec![b"after".to_vec()]);
            assert!(content(&mut open(&backend, 3)) == after, "{fault:?} at {call}");
        }
    }
    assert!(deaths > 30, "{deaths}");
}

#[test]
fn a_deposed_writer_writes_nothing_more_whatever_it_holds() {
    let backend = MemoryBackend::default();
    let mut old = open(&backend, 1);
    begin(&mut old, &[b"old"]);
    let mut new = open(&backend, 2);
    new.load().unwrap();
    old.append(&[b"before"]).unwrap();
    // It may have slept through anything: the fence comes first, and then it reads what was written before it.
    new.fence().unwrap();
    assert!(matches!(new.append(&[b"too soon"]), Err(StoreError::Deposed(_))));
    new.load().unwrap();
    begin(&mut new, &[b"new"]);
    assert!(content(&mut new).1.contains(&b"before".to_vec()));
    let held = backend.values();
    assert!(matches!(old.append(&[b"late"]), Err(StoreError::Deposed(_))));
    // Not even after it has read what the other wrote: it would have to begin a reign.
    old.load().unwrap();
    assert!(matches!(old.append(&[b"late"]), Err(StoreError::Stopped(_))));
    assert!(held == backend.values(), "a deposed writer left nothing");
    new.append(&[b"goes on"]).unwrap();
    // Large writes meet the fence before the first of their parts.
    let mut asleep = open(&backend, 3);
    asleep.load().unwrap();
    begin(&mut asleep, &[]);
    new.load().unwrap();
    begin(&mut new, &[]);
    let held = backend.values();
    assert!(matches!(asleep.snapshot(&vec![1; 4 * PIECE]), Err(StoreError::Deposed(_))));
    assert!(held == backend.values(), "a deposed writer left nothing");
}

#[test]
fn whoever_is_too_late_to_reign_goes_on_following() {
    let backend = MemoryBackend::default();
    let mut late = open(&backend, 1);
    late.load().unwrap();
    let mut other = open(&backend, 2);
    begin(&mut other, &[b"other"]);
    assert!(matches!(late.fence(), Err(StoreError::Deposed(_))));
    assert!(matches!(late.append(&[b"late"]), Err(StoreError::Stopped(_))));
    late.load().unwrap();
    begin(&mut other, &[b"again"]);
    assert!(matches!(late.fence(), Err(StoreError::Deposed(_))));
    assert!(matches!(late.follow(), Ok(Followed::Records(records)) if records.len() == 1));
    begin(&mut late, &[b"late"]);
    assert_eq!(content(&mut late).1, [b"other".to_vec(), b"again".to_vec(), b"late".to_vec()]);
}

#[test]
fn nothing_that_was_sealed_before_the_last_compaction_opens() {
    let backend = MemoryBackend::default();
    let mut store = open(&backend, 1);
    trace().iter().for_each(|step| step.take(&mut store).unwrap());
    assert_eq!(store.key.generation(), 3);
    let opened = attacker::opened(&store);
    let count = |kind| opened.iter().filter(|value| value.kind == kind).count();
    // The present snapshot, the records after it, the heads since: these open, and nothing else.
    println!("{} values were written; the attacker opens {}", backend.written().len(), opened.len());
    assert_eq!((count(Kind::Piece), count(Kind::Record), count(Kind::Head)), (1, 600, 2));
}
