//! What another version of Keystone has written is refused whole, with both versions named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::World;
use keyserver::core::{Admin, RestoreError};
use keyserver::store::{Followed, Journal, MemoryBackend, SiteKey, Store};
use zeroize::Zeroizing;

fn journal(backend: &MemoryBackend) -> Journal<MemoryBackend> {
    Journal::open(backend.clone(), SiteKey::in_memory(&[7; 32]), Box::new(crate::common::Counter(backend.calls())))
        .unwrap()
}

/// The same as another version would have written it.
fn of_version(octets: &[u8], step: i8) -> Zeroizing<Vec<u8>> {
    let mut other = Zeroizing::new(octets.to_vec());
    other[0] = other[0].checked_add_signed(step).unwrap();
    other
}

fn assert_names(refused: &RestoreError, what: &str, step: i8, known: u8) {
    let age = if step > 0 { "a newer" } else { "an older" };
    let found = known.checked_add_signed(step).unwrap();
    let words = format!("{what} was written by {age} Keystone: version {found}, and this one knows version {known}");
    assert!(matches!(refused, RestoreError::Version { .. }), "{refused}");
    assert!(refused.to_string().contains(&words), "{refused}");
}

#[test]
fn nobody_begins_from_what_another_version_has_written() {
    let backend = MemoryBackend::default();
    let mut active = World::start_on(journal(&backend), 1, |_| {});
    let who = active.register("member/m1");
    active.join(who, "news");
    let mut standby = World::stand_by_on(journal(&backend), 2, |_| {});
    let mut begin = |snapshot: Option<&[u8]>, records: &[_]| standby.core.anew(standby.now, snapshot, records);
    let records = active.store.load().unwrap().records;
    let known = records[0][0];
    for step in [1, -1] {
        // The newest record, and the oldest.
        for at in [records.len() - 1, 0] {
            let mut records = records.clone();
            records[at] = of_version(&records[at], step);
            let what = format!("record {} after the snapshot", at + 1);
            assert_names(&begin(None, &records).unwrap_err(), &what, step, known);
        }
        let snapshot = of_version(&active.core.snapshot(active.now), step);
        assert_names(&begin(Some(&snapshot), &[]).unwrap_err(), "the snapshot", step, known);
    }
    assert!(begin(None, &records).is_ok());
}

#[test]
fn a_standby_applies_nothing_of_a_newer_version_and_everything_before_it() {
    let backend = MemoryBackend::default();
    let mut active = World::start_on(journal(&backend), 1, |_| {});
    let mut standby = World::stand_by_on(journal(&backend), 2, |_| {});
    active.admin(Admin::Refresh { group: "news".into() }).unwrap();
    standby.follow();
    let (known, digests) = (active.core.snapshot(active.now)[0], active.core.digests());
    // A newer one takes over and writes.
    let record = active.store.load().unwrap().records.pop().unwrap();
    let mut newer = journal(&backend);
    newer.fence().unwrap();
    newer.append(&[&of_version(&record, 1)]).unwrap();
    let Followed::Records(records) = standby.store.follow().unwrap() else { panic!("compacted") };
    let refused = standby.core.followed(standby.now, &records).unwrap_err();
    assert_names(
        &refused,
        &format!("record {} after the snapshot", standby.store.load().unwrap().records.len()),
        1,
        known,
    );
    assert_eq!(standby.core.digests(), digests);
    // A compaction of the newer one is refused in the same way.
    newer.snapshot(&of_version(&active.core.snapshot(active.now), 1)).unwrap();
    let Followed::Records(none) = standby.store.follow().unwrap() else { panic!("not followed") };
    assert!(none.is_empty(), "it had read everything before");
    let loaded = standby.store.load().unwrap();
    let snapshot = loaded.snapshot.as_ref().map(|snapshot| snapshot.as_slice());
    let refused = standby.core.anew(standby.now, snapshot, &loaded.records).unwrap_err();
    assert_names(&refused, "the snapshot", 1, known);
}
