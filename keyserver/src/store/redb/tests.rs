use super::*;

struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            self.0 = self.0.wrapping_mul(31).wrapping_add(7);
            *octet = self.0;
        }
    }
}

fn open(path: &Path) -> Result<RedbStore, StoreError> {
    RedbStore::open(path, &[7; 32], Box::new(Counting(1)))
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
        open(&path).unwrap().append(&slices).unwrap();
        expected.extend(batch);
        assert_eq!(records(&path), expected);
        if round == 5 {
            open(&path).unwrap().snapshot(b"all of it").unwrap();
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
    open(&path).unwrap().append(&[secret]).unwrap();
    let octets = std::fs::read(&path).unwrap();
    assert!(!octets.windows(12).any(|window| window == &secret[..12]));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_second_process_a_wrong_key_and_an_open_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let first = open(&path).unwrap();
    assert!(matches!(open(&path), Err(StoreError::InUse(_))));
    drop(first);
    let wrong = RedbStore::open(&path, &[8; 32], Box::new(Counting(2)));
    assert!(matches!(wrong, Err(StoreError::WrongKey(_))));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(open(&path), Err(StoreError::Mode { mode: 0o644, .. })));
}

/// Changes the table of records behind the store's back.
fn tamper(path: &Path, change: impl FnOnce(&mut redb::Table<'_, u64, &[u8]>)) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&mut transaction.open_table(RECORDS).unwrap());
    transaction.commit().unwrap();
}

#[test]
fn a_record_that_is_altered_missing_or_moved_is_named() {
    let value = |table: &redb::Table<'_, u64, &[u8]>, at| table.get(at).unwrap().unwrap().value().to_vec();
    type Change = Box<dyn Fn(&mut redb::Table<'_, u64, &[u8]>)>;
    let changes: Vec<(&str, Change)> = vec![
        (
            "record 1",
            Box::new(move |table| {
                let mut octets = value(table, 1);
                octets[20] ^= 1;
                table.insert(1, octets.as_slice()).unwrap();
            }),
        ),
        ("record 1", Box::new(|table| drop(table.remove(1).unwrap()))),
        (
            "record 0",
            Box::new(move |table| {
                let (first, second) = (value(table, 0), value(table, 1));
                table.insert(0, second.as_slice()).unwrap();
                table.insert(1, first.as_slice()).unwrap();
            }),
        ),
    ];
    for (named, change) in changes {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        open(&path).unwrap().append(&[b"zero", b"one", b"two"]).unwrap();
        tamper(&path, change);
        let error = open(&path).unwrap().load().err().unwrap().to_string();
        assert!(error.contains(named), "{error}");
    }
}
