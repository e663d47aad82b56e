use protocol::Entropy;

use super::*;
use crate::store::{Journal, SiteKey, Store};

struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            self.0 = self.0.wrapping_mul(31).wrapping_add(7);
            *octet = self.0;
        }
    }
}

fn open_with(path: &Path, secret: u8) -> Result<Journal<RedbBackend>, StoreError> {
    Journal::open(RedbBackend::open(path)?, SiteKey::in_memory(&[secret; 32]), Box::new(Counting(1)))
}

fn open(path: &Path) -> Result<Journal<RedbBackend>, StoreError> {
    open_with(path, 7)
}

fn begun(path: &Path) -> Journal<RedbBackend> {
    let mut store = open(path).unwrap();
    store.fence().unwrap();
    store
}

fn records(path: &Path) -> Vec<Vec<u8>> {
    open(path).unwrap().load().unwrap().records.iter().map(|record| record.to_vec()).collect()
}

#[test]
fn what_was_appended_is_there_after_every_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for round in 0..10u8 {
        let batch: Vec<Vec<u8>> = (0..round % 3 + 1).map(|i| vec![round, i, 0]).collect();
        let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        begun(&path).append(&slices).unwrap();
        expected.extend(batch);
        assert_eq!(records(&path), expected);
        if round == 5 {
            begun(&path).snapshot(b"all of it").unwrap();
            expected.clear();
            assert_eq!(open(&path).unwrap().load().unwrap().snapshot.unwrap().as_slice(), b"all of it");
        }
    }
    assert_eq!(open(&path).unwrap().load().unwrap().snapshot.unwrap().as_slice(), b"all of it");
}

#[test]
fn nothing_is_readable_in_the_file_and_its_mode_is_0600() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let secret = b"a very recognizable secret of a key server";
    begun(&path).append(&[secret]).unwrap();
    let octets = std::fs::read(&path).unwrap();
    assert!(!octets.windows(12).any(|window| window == &secret[..12]));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_second_process_a_wrong_key_and_an_open_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let first = open(&path).unwrap();
    let refused = |result: Result<Journal<RedbBackend>, StoreError>, words: &str| {
        let error = result.err().unwrap().to_string();
        assert_eq!(error, format!("the store {} {words}", path.display()));
    };
    refused(open(&path), "is in use by another process");
    drop(first);
    let octets = std::fs::read(&path).unwrap();
    // Of another site, or of this one after its key was lost: the store is left as it is.
    refused(open_with(&path, 8), "is sealed under another site key");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(open(&path), "can be read by others (mode 0644); it must be 0600");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, b"not a store of ours, but somebody's notes").unwrap();
    let notes = open(&path).err().unwrap().to_string();
    assert!(notes.contains(&path.display().to_string()), "{notes}");
    assert_eq!(std::fs::read(&path).unwrap(), b"not a store of ours, but somebody's notes");
    put(&path, &octets);
    assert!(open(&path).is_ok());
}

/// A disk with room for so many octets: a file that grows beyond it, or holes that are to be filled, are refused.
#[derive(Debug, Default, Clone)]
struct Small(std::sync::Arc<std::sync::Mutex<(Vec<u8>, bool)>>);

impl Small {
    fn is_full(&self, full: bool) {
        self.0.lock().unwrap().1 = full;
    }

    fn change(&self, work: impl FnOnce(&mut Vec<u8>)) -> std::io::Result<()> {
        let (octets, full) = &mut *self.0.lock().unwrap();
        match *full {
            // What Linux says when there is no space.
            true => Err(std::io::Error::from_raw_os_error(28)),
            false => {
                work(octets);
                Ok(())
            }
        }
    }
}

impl StorageBackend for Small {
    fn len(&self) -> std::io::Result<u64> {
        Ok(u64::try_from(self.0.lock().unwrap().0.len()).unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap().0[at..at + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.change(|octets| octets.resize(usize::try_from(length).unwrap(), 0))
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, new: &[u8]) -> std::io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.change(|octets| octets[at..at + new.len()].copy_from_slice(new))
    }
}

#[test]
fn a_full_disk_stops_the_writer_and_loses_nothing_that_was_acknowledged() {
    for is_snapshot in [false, true] {
        let disk = Small::default();
        let open =
            || Journal::open(RedbBackend::on(disk.clone())?, SiteKey::in_memory(&[7; 32]), Box::new(Counting(1)));
        let mut store = open().unwrap();
        store.fence().unwrap();
        store.append(&[b"acknowledged"]).unwrap();
        disk.is_full(true);
        let large = vec![1; 5_000_000];
        let full = if is_snapshot { store.snapshot(&large) } else { store.append(&[&large]) };
        let full = full.unwrap_err().to_string();
        assert!(full.contains("the store a disk: ") && full.contains("No space left on device"), "{full}");
        // There may be space again: this one has stopped for good.
        disk.is_full(false);
        let stopped = store.append(&[b"more"]).unwrap_err();
        assert!(matches!(stopped, StoreError::Stopped(_)), "{stopped}");
        drop(store);
        let mut store = open().unwrap();
        assert_eq!(content(&mut store).unwrap(), (None, vec![b"acknowledged".to_vec()]));
        store.fence().unwrap();
        store.append(&[b"more"]).unwrap();
        assert_eq!(content(&mut store).unwrap().1.len(), 2);
    }
}

#[test]
fn a_file_of_another_format_names_both_and_keeps_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    begun(&path).append(&[b"of a newer Keystone"]).unwrap();
    let head = |backend: &mut RedbBackend| backend.read("head").unwrap().unwrap();
    let mut backend = RedbBackend::open(&path).unwrap();
    let Held { mut value, version } = head(&mut backend);
    value[3] += 1;
    let bumped = Op::Replace { name: "head".into(), value, version };
    backend.commit(&[bumped]).unwrap();
    let held = head(&mut backend);
    let known = u32::from(held.value[3]) - 1;
    drop(backend);
    let words = format!(
        "the store {} was written by a newer Keystone: format {}, and this one knows format {known}; nothing was changed",
        path.display(),
        known + 1
    );
    assert_eq!(open(&path).err().unwrap().to_string(), words);
    assert_eq!(head(&mut RedbBackend::open(&path).unwrap()), held);
}

/// What a crash leaves: the file as it is, without the goodbye of a store that is closed.
fn crashed(path: &Path, copy: &Path) -> Vec<u8> {
    let octets = std::fs::read(path).unwrap();
    put(copy, &octets);
    octets
}

fn put(path: &Path, octets: &[u8]) {
    std::fs::write(path, octets).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

type Content = (Option<Vec<u8>>, Vec<Vec<u8>>);

fn content(store: &mut dyn Store) -> Result<Content, StoreError> {
    let loaded = store.load()?;
    let plain = |octets: &zeroize::Zeroizing<Vec<u8>>| octets.to_vec();
    Ok((loaded.snapshot.as_ref().map(plain), loaded.records.iter().map(plain).collect()))
}

fn content_of(path: &Path) -> Result<Content, StoreError> {
    content(&mut open(path)?)
}

fn seed() -> u64 {
    let seed = std::env::var("KEYSTONE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("KEYSTONE_SEED={seed}");
    seed
}

struct Dice(u64);

impl Dice {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }
}

#[test]
fn it_holds_what_a_store_in_memory_holds_whatever_is_done_and_whenever_it_crashes() {
    let mut dice = Dice(seed());
    let folder = tempfile::tempdir().unwrap();
    let mut path = folder.path().join("store-0");
    let mut model = crate::store::MemoryStore::default();
    let mut store = begun(&path);
    for round in 1..150 {
        let octets = |dice: &mut Dice| vec![u8::try_from(round).unwrap(); dice.below(3_000)];
        match dice.below(8) {
            0 => {
                let snapshot = octets(&mut dice);
                store.snapshot(&snapshot).unwrap();
                model.snapshot(&snapshot).unwrap();
            }
            1 => {
                drop(store);
                store = begun(&path);
            }
            2 => {
                let copy = folder.path().join(format!("store-{round}"));
                crashed(&path, &copy);
                (store, path) = (begun(&copy), copy);
            }
            _ => {
                let batch: Vec<Vec<u8>> = (0..dice.below(4)).map(|_| octets(&mut dice)).collect();
                let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
                store.append(&slices).unwrap();
                model.append(&slices).unwrap();
            }
        }
        if dice.below(2) == 0 {
            assert_eq!(content(&mut store).unwrap(), content(&mut model).unwrap(), "round {round}");
        }
    }
}

#[test]
fn octets_that_flipped_in_the_file_are_never_taken_for_content() {
    let mut dice = Dice(seed());
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("store"), folder.path().join("copy"));
    let mut store = begun(&path);
    store.append(&[b"before"]).unwrap();
    store.snapshot(&[4; 9_000]).unwrap();
    store.append(&[&[1; 5_000], &[2; 50]]).unwrap();
    let expected = content(&mut store).unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut refused = 0;
    for _ in 0..1_000 {
        let mut octets = whole.clone();
        octets[used[dice.below(used.len())]] ^= 1 << dice.below(8);
        put(&copy, &octets);
        // Twice: what is refused once must not be repaired into something older that is then accepted.
        for _ in 0..2 {
            match content_of(&copy) {
                Ok(seen) => assert!(seen == expected, "other content: {} records", seen.1.len()),
                Err(_) => refused += 1,
            }
        }
    }
    println!("{refused} of 2,000 were noticed");
    assert!(refused > 400);
}
