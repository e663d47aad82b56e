//! The wrapped tree: whoever holds its leaf's secret reaches its whole path and nothing else; and what a change alters of it is
//! where `rewrapped` says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Rng, STRATEGIES, change_horses, degree, members, random_batch, seeds};
use keygraph::closure::Knowledge;
use keygraph::{Degree, KeyRef, MemberId, NodeId, Tree, Wrapped};

fn all(tree: &Tree) -> Vec<Wrapped> {
    tree.wrapped(NodeId::ROOT, tree.last_place()).collect()
}

/// A leaf's secret opens the path, and the wrapped tree opens nothing beside.
fn opens_paths(tree: &Tree) {
    let wrapped = all(tree);
    assert!(wrapped.is_sorted_by_key(|place| place.kek.node));
    for member in tree.members() {
        let mut knowledge = Knowledge::new();
        wrapped.iter().for_each(|place| knowledge.observe_wrapped(place));
        knowledge.learn(tree.leaf(member).unwrap());
        let path: BTreeSet<KeyRef> = tree.path(member).unwrap().into_iter().collect();
        assert_eq!(knowledge.known().collect::<BTreeSet<_>>(), path);
    }
    let leaves: Vec<(MemberId, NodeId)> =
        wrapped.iter().filter_map(|place| Some((place.member?, place.kek.node))).collect();
    assert_eq!(leaves.len(), tree.len());
    assert!(leaves.iter().all(|(member, place)| tree.place(*member) == Some(*place)));
    let (first, last) = (MemberId(0), MemberId(u32::MAX));
    assert!(tree.members_between(first, last).all(|entry| leaves.contains(&entry)));
    for (first, last) in [(0, 7), (8, 15), (16, 16), (30, 29)] {
        let (first, last) = (MemberId(first), MemberId(last));
        let inside = tree.members().filter(|member| (first..=last).contains(member));
        assert!(tree.members_between(first, last).map(|(member, _)| member).eq(inside));
    }
}

#[test]
fn of_long_random_runs() {
    for seed in seeds(20) {
        for (strategy, d) in STRATEGIES.iter().flat_map(|strategy| [2, 3, 4, 9, 0].map(|d| (*strategy, d))) {
            let mut rng = Rng(seed);
            let start = rng.below(30);
            let degree = if d == 0 { Degree::STAR } else { degree(d) };
            let mut tree = Tree::filled(degree, strategy, 1, members(0..start)).unwrap();
            tree.set_splicing(seed % 3 == 0);
            opens_paths(&tree);
            for epoch in 2..60 {
                if seed % 2 == 1 {
                    change_horses(&mut rng, &mut tree);
                }
                let before: BTreeMap<NodeId, Wrapped> = all(&tree).into_iter().map(|at| (at.kek.node, at)).collect();
                let staged = tree.stage(&random_batch(&mut rng, &tree, 40), epoch).unwrap();
                let touched = staged.places();
                tree.merge(staged).unwrap();
                opens_paths(&tree);
                let after: BTreeMap<NodeId, Wrapped> = all(&tree).into_iter().map(|at| (at.kek.node, at)).collect();
                let ranges = tree.rewrapped(&touched);
                for node in before.keys().chain(after.keys()).filter(|node| before.get(node) != after.get(node)) {
                    let is_told = ranges.iter().any(|(first, last)| first <= node && node <= last);
                    assert!(is_told, "KEYGRAPH_SEED={seed}, {strategy}, degree {d}, epoch {epoch}: {node}");
                }
            }
        }
    }
}
