//! A journal that has gone back, was altered, or is another version's: named, and left alone.

use std::collections::BTreeMap;

use super::*;
use crate::store::Held;
use crate::store::seal::FORMAT;

/// A site key in a file, which is there as long as its folder.
fn site_key() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.key");
    SiteKey::create(&path, &mut Counting(5)).unwrap();
    (folder, path)
}

#[test]
fn a_store_that_has_gone_back_is_noticed_and_named() {
    let (_folder, path) = site_key();
    let key = || SiteKey::open(&path).unwrap();
    let backend = MemoryBackend::default();
    let mut store = open_with(&backend, key(), 1).unwrap();
    begin(&mut store, &[b"one"]);
    let early = backend.values();
    store.append(&[b"two"]).unwrap();
    let fork = backend.values();
    store.snapshot(b"all").unwrap();
    store.append(&[b"three"]).unwrap();
    drop(store);
    open_with(&backend, key(), 1).unwrap();
    for older in [early, fork, BTreeMap::new()] {
        backend.roll_back(older);
        let refused = open_with(&backend, key(), 1).err().unwrap();
        assert!(matches!(refused, StoreError::RolledBack { .. }), "{refused}");
        assert!(refused.to_string().contains("keystone recover"), "{refused}");
    }
}

#[test]
fn a_recovery_that_wrote_nothing_is_none() {
    let (_folder, path) = site_key();
    let key = || SiteKey::open(&path).unwrap();
    let backend = MemoryBackend::default();
    let mut store = open_with(&backend, key(), 1).unwrap();
    begin(&mut store, &[b"one"]);
    let early = backend.values();
    store.append(&[b"two"]).unwrap();
    backend.roll_back(early);
    let recovering = || {
        let mut key = key();
        key.forget_mark();
        open_with(&backend, key, 2).unwrap()
    };
    // It reads, begins a reign, reads again, and then something is wrong.
    let mut store = recovering();
    store.load().unwrap();
    store.fence().unwrap();
    store.follow().unwrap();
    drop(store);
    assert!(matches!(open_with(&backend, key(), 1), Err(StoreError::RolledBack { .. })));
    begin(&mut recovering(), &[b"recovered"]);
    assert_eq!(content(&mut open_with(&backend, key(), 1).unwrap()).1, [b"one".to_vec(), b"recovered".to_vec()]);
}

#[test]
fn a_store_of_another_format_names_both_and_is_left_alone() {
    let backend = MemoryBackend::default();
    let mut store = open(&backend, 1);
    begin(&mut store, &[b"one"]);
    for (format, age) in [(FORMAT + 1, "a newer"), (FORMAT - 1, "an older")] {
        let mut values = backend.values();
        values.get_mut(HEAD).unwrap().value[..4].copy_from_slice(&format.to_be_bytes());
        backend.roll_back(values.clone());
        let words = format!("was written by {age} Keystone: format {format}, and this one knows format {FORMAT}");
        let refused = open_with(&backend, SiteKey::in_memory(&SECRET), 2).err().unwrap().to_string();
        assert!(refused.contains(&words), "{refused}");
        // Whoever had it open reads no further and writes nothing either.
        let refused = store.follow().err().unwrap().to_string();
        assert!(refused.contains(&words), "{refused}");
        assert!(backend.values() == values);
    }
}

#[test]
fn another_record_under_the_same_number_is_a_fork() {
    let (_folder, path) = site_key();
    let copy = path.with_file_name("copy.key");
    std::fs::copy(&path, &copy).unwrap();
    let backend = MemoryBackend::default();
    let mut store = open_with(&backend, SiteKey::open(&path).unwrap(), 1).unwrap();
    begin(&mut store, &[b"one"]);
    let early = backend.values();
    store.append(&[b"two"]).unwrap();
    backend.roll_back(early);
    let mut other = open_with(&backend, SiteKey::open(&copy).unwrap(), 2).unwrap();
    begin(&mut other, &[b"other"]);
    let refused = open_with(&backend, SiteKey::open(&path).unwrap(), 1).err().unwrap();
    assert!(matches!(refused, StoreError::RolledBack { .. }), "{refused}");
}

#[test]
fn what_is_altered_missing_or_moved_is_named() {
    let backend = MemoryBackend::default();
    let mut store = open(&backend, 1);
    begin(&mut store, &[b"zero"]);
    store.snapshot(b"all").unwrap();
    store.append(&[b"one", b"two", b"three"]).unwrap();
    let whole = backend.values();
    let record = |number| store.record_name(number);
    let piece = store.key.name(Kind::Piece as u8, 1, 0);
    type Change<'a> = Box<dyn Fn(&mut BTreeMap<String, Held>) + 'a>;
    let flip = |name: String| -> Change<'_> { Box::new(move |v| v.get_mut(&name).unwrap().value[20] ^= 1) };
    let lose = |name: String| -> Change<'_> { Box::new(move |v| drop(v.remove(&name).unwrap())) };
    let swap = |a: String, b: String| -> Change<'_> {
        Box::new(move |v| {
            let (x, y) = (v[&a].clone(), v[&b].clone());
            v.insert(a.clone(), y);
            v.insert(b.clone(), x);
        })
    };
    let label = |at: usize| -> Change<'_> { Box::new(move |v| v.get_mut("head").unwrap().value[at] ^= 1) };
    let changes = [
        ("record 2", flip(record(2))),
        ("record 2", lose(record(2))),
        ("record 3", lose(record(3))),
        ("record 1", swap(record(1), record(2))),
        ("the snapshot", flip(piece.clone())),
        ("the snapshot", lose(piece.clone())),
        ("the snapshot", swap(piece, record(1))),
        ("the term", lose("term".into())),
        ("the head", label(60)),
        ("format", label(3)),
        ("the generation", label(20)),
        ("another site key", label(30)),
    ];
    for (named, change) in changes {
        let mut values = whole.clone();
        change(&mut values);
        backend.roll_back(values);
        let opened = open_with(&backend, SiteKey::in_memory(&SECRET), 1).and_then(|mut store| store.load());
        let error = opened.err().expect(named).to_string();
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn what_is_whole_of_a_damaged_store_can_be_gone_on_from() {
    let records: [&[u8]; 5] = [b"a", b"b", &[7; PIECE + 1], b"d", b"e"];
    // Values of the snapshot's generation: 1 and 2 are a and b, 3 and 4 are the large one, 5 and 6 are d and e.
    for (damaged, whole) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (6, 4)] {
        let backend = MemoryBackend::default();
        let mut store = open(&backend, 1);
        begin(&mut store, &[b"before"]);
        store.snapshot(b"all").unwrap();
        store.append(&records).unwrap();
        let mut standby = open(&backend, 2);
        standby.load().unwrap();
        let mut values = backend.values();
        values.get_mut(&store.record_name(damaged)).unwrap().value[20] ^= 1;
        backend.roll_back(values.clone());
        let refused = open(&backend, 3).load().err().unwrap().to_string();
        let words = format!(
            "record {damaged} of the store memory is damaged or missing; what was stored before it is whole, it and the {} \
             after it are lost",
            6 - damaged
        );
        assert!(refused.contains(&words) && refused.contains("keystone recover --damaged"), "{refused}");
        // To look changes nothing.
        let mut recovering = open(&backend, 4);
        let (saved, lost) = recovering.salvage().unwrap();
        assert_eq!((plain(&saved).0.unwrap(), lost), (b"all".to_vec(), 7 - damaged));
        assert_eq!(plain(&saved).1, records[..whole], "{damaged}");
        assert!(backend.values() == values);
        recovering.fence().unwrap();
        assert!(matches!(recovering.follow().unwrap(), Followed::Records(none) if none.is_empty()));
        recovering.begin_anew(b"saved").unwrap();
        recovering.append(&[b"goes on"]).unwrap();
        let now = (Some(b"saved".to_vec()), vec![b"goes on".to_vec()]);
        assert!(content(&mut open(&backend, 5)) == now);
        // Whoever knew what is lost forgets it.
        assert!(matches!(standby.follow().unwrap(), Followed::Anew(loaded) if plain(&loaded) == now));
        assert_eq!(backend.values().len(), 2 + 1 + 1, "nothing damaged is left");
    }
}

/// A way to a backend on which, at one reading, another key server is a moment faster and compacts.
struct Overtaken {
    backend: MemoryBackend,
    reads: u32,
    at: u32,
    other: Journal<MemoryBackend>,
}

impl Backend for Overtaken {
    fn place(&self) -> String {
        self.backend.place()
    }

    fn read(&mut self, name: &str) -> Result<Option<Held>, CommitError> {
        if self.reads == self.at {
            self.other.snapshot(b"compacted").unwrap();
        }
        self.reads += 1;
        self.backend.read(name)
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), CommitError> {
        self.backend.commit(ops)
    }

    fn pause(&mut self, attempt: u32) -> bool {
        self.backend.pause(attempt)
    }
}

#[test]
fn what_a_compaction_removes_meanwhile_is_not_damaged() {
    type Look = fn(&mut Journal<Overtaken>) -> Result<(Loaded, u64), StoreError>;
    let looks: [Look; 2] = [|store| store.load().map(|loaded| (loaded, 0)), |store| store.salvage()];
    for look in looks {
        let (mut before, mut after) = (0, 0);
        for at in 2..20 {
            let backend = MemoryBackend::default();
            let mut other = open(&backend, 1);
            begin(&mut other, &[b"a", b"b", b"c"]);
            other.snapshot(&[1; 3 * PIECE]).unwrap();
            other.append(&[b"d", b"e"]).unwrap();
            let overtaken = Overtaken { backend, reads: 0, at, other };
            let key = SiteKey::in_memory(&SECRET);
            let mut store = Journal::open(overtaken, key, Box::new(Counting(2))).unwrap();
            let (loaded, lost) = look(&mut store).unwrap();
            assert_eq!(lost, 0, "overtaken at reading {at}");
            match plain(&loaded) {
                (Some(snapshot), records) if snapshot == b"compacted" && records.is_empty() => after += 1,
                (Some(snapshot), records) => {
                    assert!(snapshot.len() == 3 * PIECE && records == [b"d", b"e"], "overtaken at reading {at}");
                    before += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(before > 0 && after > 0, "{before} {after}");
    }
}
