//! What is written, beside a store that is only a map: transactions that fail or whose answers are lost, key servers that begin
//! anew, and a member's look at every moment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use protocol::GroupId;
use protocol::pages::{Digest, KEPT_EPOCHS, Rewritten, Units, epoch_name, head_name, now_name, page_name};

use super::wanted::{Change, Listing, Wanted};
use crate::core::Published;

const GROUP: GroupId = GroupId(7);

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Znodes: value and version. A transaction is whole or not at all.
#[derive(Default)]
struct Store(BTreeMap<String, (Vec<u8>, u64)>);

impl Store {
    fn multi(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Make(name, value) => {
                    assert!(self.0.insert(name.clone(), (value.clone(), 0)).is_none(), "{name} is there already");
                }
                Change::Replace(name, value, version) => {
                    let held = self.0.get_mut(name).expect("what is replaced is there");
                    assert_eq!(held.1, *version, "{name}");
                    *held = (value.clone(), version + 1);
                }
                Change::Remove(name) => assert!(self.0.remove(name).is_some(), "{name} is not there"),
            }
        }
    }

    fn listing(&self) -> Listing {
        let version = |name: &str| self.0.get(name).map(|(_, version)| *version);
        let below = |prefix: String, from: usize| {
            let names = self.0.keys().filter(move |name| name.starts_with(&prefix));
            names.map(|name| name.rsplit('/').next().unwrap().to_owned()).filter(|name| name.len() >= from).collect()
        };
        Listing {
            now: version(&now_name(GROUP)),
            head: version(&head_name(GROUP)),
            epochs: below(format!("{GROUP}/e/"), 1),
            pages: below(format!("{GROUP}/p/"), 64),
        }
    }
}

/// What should stand, in the simplest words.
#[derive(Default)]
struct Model {
    beacon: Vec<u8>,
    head: Vec<u8>,
    pages: BTreeMap<Digest, Vec<u8>>,
    epochs: BTreeMap<u64, Vec<Vec<u8>>>,
}

impl Model {
    /// A change of some pages and a new epoch, told to `wanted`.
    fn change(&mut self, dice: &mut Dice, wanted: &mut Wanted, is_whole: bool) {
        let epoch = self.epochs.last_key_value().map_or(1, |(last, _)| last + 1 + dice.below(3) / 2);
        let units: Vec<Vec<u8>> = (0..=dice.below(4)).map(|at| vec![u8::try_from(at).unwrap(); 700]).collect();
        self.epochs.insert(epoch, units.clone());
        wanted.publish(Published::Epoch { epoch, units });
        self.beacon = format!("beacon {epoch}").into_bytes();
        wanted.publish(Published::Beacon(self.beacon.clone()));
        let mut rewritten = Rewritten::default();
        let old: Vec<Digest> = self.pages.keys().filter(|_| dice.below(3) == 0).copied().collect();
        for digest in if is_whole { self.pages.keys().copied().collect() } else { old } {
            self.pages.remove(&digest);
            rewritten.gone.push(digest);
        }
        for at in 0..=dice.below(if is_whole { 600 } else { 6 }) {
            let octets = format!("page {epoch} {at}").into_bytes();
            let digest = Digest::of(&octets);
            self.pages.insert(digest, octets.clone());
            rewritten.added.push((digest, octets));
        }
        self.head = format!("head {epoch}").into_bytes();
        wanted.publish(Published::Pages { head: self.head.clone(), rewritten, is_whole });
    }

    fn stands_in(&self, store: &Store, seed: u64) {
        let value = |name: String| store.0.get(&name).map(|(value, _)| value.as_slice());
        assert_eq!(value(now_name(GROUP)), Some(self.beacon.as_slice()), "seed {seed}");
        assert_eq!(value(head_name(GROUP)), Some(self.head.as_slice()), "seed {seed}");
        for (digest, octets) in &self.pages {
            assert_eq!(value(page_name(GROUP, digest)), Some(octets.as_slice()), "seed {seed}");
        }
    }
}

/// The pages of a head that stands are there, whenever a member looks; so are the last epochs, up to the beacon.
fn look(store: &Store, heads: &BTreeMap<Vec<u8>, Vec<Digest>>, model: &Model, seed: u64) {
    if let Some((head, _)) = store.0.get(&head_name(GROUP)) {
        let pages = heads.get(head).expect("a head of some time");
        assert!(pages.iter().all(|digest| store.0.contains_key(&page_name(GROUP, digest))), "seed {seed}");
    }
    if let Some((beacon, _)) = store.0.get(&now_name(GROUP)) {
        let epoch: u64 = String::from_utf8_lossy(beacon).rsplit(' ').next().unwrap().parse().unwrap();
        if let Some((value, _)) = store.0.get(&epoch_name(GROUP, epoch, 0)) {
            let units: Vec<Vec<u8>> = Units::decode(value).unwrap().units.into_iter().map(<[u8]>::to_vec).collect();
            assert_eq!(units, model.epochs[&epoch], "seed {seed}");
        } else {
            panic!("seed {seed}: the beacon is of epoch {epoch}, which is not there");
        }
    }
}

#[test]
fn what_should_stand_comes_to_stand() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let (mut store, mut model, mut heads) = (Store::default(), Model::default(), BTreeMap::new());
        for reign in 0..3 {
            let mut wanted = Wanted::new(GROUP);
            wanted.listed(store.listing());
            // Epochs go on, and whoever reigns anew writes all pages.
            for round in 0..=dice.below(30) {
                model.change(&mut dice, &mut wanted, round == 0);
                heads.insert(model.head.clone(), model.pages.keys().copied().collect::<Vec<_>>());
                for _ in 0..dice.below(8) {
                    let Some(step) = wanted.step() else { break };
                    match dice.below(12) {
                        // The answer is lost, after or before.
                        0 => {
                            store.multi(&step.changes);
                            wanted.listed(store.listing());
                        }
                        1 => wanted.listed(store.listing()),
                        _ => {
                            store.multi(&step.changes);
                            wanted.done(step);
                        }
                    }
                    look(&store, &heads, &model, seed);
                }
            }
            // Two of three reigns come to rest; the third is cut off.
            if reign != 1 {
                while let Some(step) = wanted.step() {
                    store.multi(&step.changes);
                    wanted.done(step);
                    look(&store, &heads, &model, seed);
                }
                model.stands_in(&store, seed);
                let epochs = store.listing().epochs;
                assert!(epochs.len() <= usize::try_from(KEPT_EPOCHS).unwrap() + 8, "seed {seed}: {}", epochs.len());
            }
        }
        // Another head, and of what stood before two heads nothing is left.
        let mut wanted = Wanted::new(GROUP);
        wanted.listed(store.listing());
        for _ in 0..3 {
            model.change(&mut dice, &mut wanted, true);
            while let Some(step) = wanted.step() {
                store.multi(&step.changes);
                wanted.done(step);
            }
        }
        let pages = store.listing().pages.len();
        assert!(pages <= model.pages.len() + 601, "seed {seed}: {pages} pages");
    }
}

/// Where ZooKeeper is far away, epochs come faster than transactions go.
#[test]
fn epochs_that_wait_go_together() {
    let (mut store, mut wanted) = (Store::default(), Wanted::new(GROUP));
    wanted.listed(store.listing());
    let large = vec![vec![1; 1000]; 300];
    for epoch in 1..=200 {
        let units = if epoch == 150 || epoch == 151 { large.clone() } else { vec![vec![1; 700]] };
        wanted.publish(Published::Epoch { epoch, units });
        wanted.publish(Published::Beacon(format!("beacon {epoch}").into_bytes()));
    }
    let mut transactions = 0;
    while let Some(step) = wanted.step() {
        let octets = step.changes.iter().map(|change| match change {
            Change::Make(_, value) | Change::Replace(_, value, _) => value.len(),
            Change::Remove(_) => 0,
        });
        assert!(octets.sum::<usize>() <= 600_000 && step.changes.len() <= 250);
        let makes = |wanted: String| {
            step.changes.iter().any(|change| matches!(change, Change::Make(name, _) if *name == wanted))
        };
        assert_eq!(makes(now_name(GROUP)), makes(epoch_name(GROUP, 200, 0)));
        store.multi(&step.changes);
        wanted.done(step);
        transactions += 1;
    }
    // 64 changes at once, removals among them, and the two large ones do not go together.
    assert_eq!(transactions, 6);
    assert!((137..=200).all(|epoch| store.0.contains_key(&epoch_name(GROUP, epoch, 0))));
}
