//! The tree is that of the marking algorithm, written down naively: every place in one array, every step a scan.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Rng, STRATEGIES, World, degree, random_batch, seeds};
use keygraph::{Change, MemberId, Slot, Tree};

/// `None` is a k-node, `Some` a u-node; where there is no entry is an n-node.
struct Naive {
    d: u32,
    nodes: BTreeMap<u32, Option<MemberId>>,
}

impl Naive {
    fn nk(&self) -> u32 {
        self.nodes.iter().filter(|(_, member)| member.is_none()).map(|(node, _)| *node).max().unwrap()
    }

    fn batch(&mut self, changes: &[Change]) {
        let mut joins = changes.iter().filter_map(|c| if let Change::Join(m) = c { Some(*m) } else { None });
        let gone: BTreeSet<MemberId> =
            changes.iter().filter_map(|c| if let Change::Leave(m) = c { Some(*m) } else { None }).collect();
        let places: Vec<u32> =
            self.nodes.iter().filter(|(_, m)| m.is_some_and(|m| gone.contains(&m))).map(|(node, _)| *node).collect();
        for place in &places {
            match joins.next() {
                Some(member) => self.nodes.insert(*place, Some(member)),
                None => self.nodes.remove(place),
            };
        }
        let childless = |nodes: &BTreeMap<u32, Option<MemberId>>, node: u32, d: u32| {
            nodes.get(&node) == Some(&None)
                && node != 0
                && (d * node + 1..=d * node + d).all(|c| !nodes.contains_key(&c))
        };
        while let Some(node) = self.nodes.keys().copied().find(|node| childless(&self.nodes, *node, self.d)) {
            self.nodes.remove(&node);
        }
        for member in joins {
            let place = loop {
                let nk = self.nk();
                match (nk + 1..=self.d * nk + self.d).find(|node| !self.nodes.contains_key(node)) {
                    Some(place) => break place,
                    None => {
                        if let Some(displaced) = self.nodes.insert(nk + 1, None) {
                            self.nodes.insert(self.d * (nk + 1) + 1, displaced);
                        }
                    }
                }
            };
            self.nodes.insert(place, Some(member));
            self.stand(place);
        }
        let moves = changes.iter().filter_map(|c| if let Change::Compact(moves) = c { Some(*moves) } else { None });
        for _ in 0..moves.max().unwrap_or(0) {
            self.compact();
        }
    }

    /// All above a place is a k-node.
    fn stand(&mut self, place: u32) {
        let mut above = place;
        while above != 0 {
            above = (above - 1) / self.d;
            self.nodes.entry(above).or_insert(None);
        }
    }

    fn compact(&mut self) {
        let nk = self.nk();
        let members = self.nodes.values().filter(|member| member.is_some()).count();
        let mut height = usize::from(members > 0);
        let mut above = nk;
        while above != 0 {
            above = (above - 1) / self.d;
            height += 1;
        }
        let enough = (0..).find(|levels| usize::try_from(self.d).unwrap().pow(*levels) >= members).unwrap();
        if members == 0 || height <= usize::try_from(enough).unwrap() + 1 {
            return;
        }
        let first = self.d * nk + 1;
        let children: Vec<u32> = (first..first + self.d).filter(|node| self.nodes.contains_key(node)).collect();
        let from = *children.last().unwrap();
        let to = match children.len() {
            1 => nk,
            _ => match (nk + 1..first).find(|node| !self.nodes.contains_key(node)) {
                Some(to) => to,
                None => return,
            },
        };
        let member = self.nodes.remove(&from).unwrap();
        self.nodes.insert(to, member);
        self.stand(to);
    }
}

#[test]
fn the_same_tree_as_the_naive_algorithm() {
    for seed in seeds(40) {
        for d in [2u8, 3, 4, 8] {
            let mut rng = Rng(seed);
            let strategy = STRATEGIES[usize::try_from(seed % 5).unwrap()];
            let mut world = World::new(Tree::new(degree(d), strategy, 0));
            let mut naive = Naive { d: d.into(), nodes: BTreeMap::from([(0, None)]) };
            for step in 0..100 {
                let batch = random_batch(&mut rng, &world.tree, 60);
                world.step(&batch);
                naive.batch(&batch);
                let tree: BTreeMap<u32, Option<MemberId>> = world
                    .tree
                    .slots()
                    .map(|(node, slot)| {
                        (node.0, if let Slot::UNode { member, .. } = slot { Some(member) } else { None })
                    })
                    .collect();
                assert_eq!(tree, naive.nodes, "KEYGRAPH_SEED={seed}, degree {d}, step {step}: {batch:?}");
                assert_eq!(world.tree.largest_knode().0, naive.nk());
                let users = tree.iter().filter(|(_, m)| m.is_some()).map(|(node, _)| u64::from(*node));
                let (nk, d) = (u64::from(naive.nk()), u64::from(d));
                assert!(
                    users.into_iter().all(|node| nk < node && node <= d * nk + d),
                    "KEYGRAPH_SEED={seed}, degree {d}"
                );
            }
        }
    }
}

#[test]
fn a_tree_built_at_once_is_one_batch_of_joins() {
    for d in [2, 3, 4, 8] {
        for count in [1, 2, 3, 7, 8, 9, 50, 257] {
            for strategy in STRATEGIES {
                let filled = Tree::filled(degree(d), strategy, 5, crate::common::members(0..count)).unwrap();
                let mut world = World::new(Tree::new(degree(d), strategy, 4));
                world.step(&crate::common::members(0..count).map(Change::Join).collect::<Vec<_>>());
                assert_eq!(world.tree, filled, "degree {d}, {count} members");
            }
        }
    }
}
