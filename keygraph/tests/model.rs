//! Everybody in the group can follow: from what a member holds and what a plan sends, it computes exactly its path.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Rng, STRATEGIES, World, degree, members, random_batch, seeds};
use keygraph::{Degree, KeyRef, MemberId, NodeId, Plan, Source, Tree, ids};

/// What one member holds, without any tree: its leaf and the secrets by place.
struct Member {
    leaf: NodeId,
    held: BTreeSet<KeyRef>,
}

impl Member {
    fn new(path: &[KeyRef]) -> Self {
        Self { leaf: path[0].node, held: path.iter().copied().collect() }
    }

    /// Returns the keys that it unwrapped with.
    fn apply(&mut self, plan: &Plan) -> Vec<KeyRef> {
        let leaf = ids::find_leaf(self.leaf, plan.largest_knode, plan.degree).expect("a place in the new tree");
        self.rename_leaf(leaf);
        let path: BTreeSet<NodeId> = ids::path_to_root(leaf, plan.degree).collect();
        let mut used = Vec::new();
        for update in plan.updates.iter().filter(|update| path.contains(&update.node)) {
            let by_source = match update.source {
                Source::Fresh => None,
                Source::Advance { from } => Some(KeyRef { node: update.node, version: from }),
                Source::Derive { child } => Some(KeyRef { node: child, version: plan.epoch }),
            };
            let kek = update.wraps.iter().find(|kek| self.held.contains(kek));
            let computed = by_source.is_some_and(|key| self.held.contains(&key));
            assert!(computed || kek.is_some(), "no way to k-node {}", update.node);
            assert!(!computed || kek.is_none(), "a wrap for somebody who computes k-node {}", update.node);
            used.extend(kek);
            // Later updates of this plan wrap under the newest version, whatever was held before.
            self.held.insert(KeyRef { node: update.node, version: plan.epoch });
        }
        let updated: BTreeSet<NodeId> = plan.updates.iter().map(|update| update.node).collect();
        self.held.retain(|key| path.contains(&key.node) && (key.version == plan.epoch || !updated.contains(&key.node)));
        let key = *self.held.last().unwrap();
        let advances = plan.advanced_leaves.contains(&key);
        assert_eq!(advances, used.contains(&key), "a leaf is advanced exactly if it was used");
        if advances {
            self.held.remove(&key);
            self.held.insert(KeyRef { version: plan.epoch, ..key });
        }
        used
    }

    fn rename_leaf(&mut self, leaf: NodeId) {
        let key = self.held.pop_last().unwrap();
        assert_eq!(key.node, self.leaf);
        self.held.insert(KeyRef { node: leaf, ..key });
        self.leaf = leaf;
    }

    fn path(&self) -> Vec<KeyRef> {
        self.held.iter().rev().copied().collect()
    }
}

/// What a plan promises about its own form.
fn check_form(plan: &Plan, d: Degree, before: &Tree, after: &Tree) {
    assert_eq!((plan.degree, plan.largest_knode), (d, after.largest_knode()));
    let nodes: Vec<NodeId> = plan.updates.iter().map(|update| update.node).collect();
    assert!(nodes.is_sorted_by(|a, b| a > b), "descending: {nodes:?}");
    assert_eq!(nodes.last(), Some(&NodeId::ROOT));
    assert!(plan.updates.iter().all(|update| update.wraps.is_sorted_by(|a, b| a.node < b.node)));
    assert!(plan.joined.is_sorted_by(|a, b| a.1 < b.1) && plan.left.is_sorted_by(|a, b| a.1 < b.1));
    assert!(plan.advanced_leaves.is_sorted() && plan.moved.is_sorted_by(|a, b| a.from < b.from));
    let fresh: BTreeSet<NodeId> = plan.joined.iter().map(|(_, leaf)| *leaf).collect();
    for update in &plan.updates {
        assert!(update.wraps.iter().all(|kek| !fresh.contains(&kek.node)), "a wrap under a fresh leaf");
    }
    for m in &plan.moved {
        let (old, new) = (before.leaf(m.member).unwrap(), after.leaf(m.member).unwrap());
        assert_eq!((old.node, new.node), (m.from, m.to));
        assert!(ids::path_to_root(m.to, d).any(|above| above == m.from), "displaced out of its own subtree");
    }
}

#[test]
fn every_member_follows_every_plan() {
    for seed in seeds(40) {
        for d in [2, 3, 4, 8] {
            for strategy in STRATEGIES {
                println!("KEYGRAPH_SEED={seed}, degree {d}, {strategy}");
                run(seed, d, strategy);
            }
        }
    }
}

fn run(seed: u64, d: u8, strategy: keygraph::Strategy) {
    let mut rng = Rng(seed);
    let start = rng.below(60);
    let mut world = World::new(Tree::filled(degree(d), strategy, 1, members(0..start)).unwrap());
    let path = |world: &World, member| world.tree.path(member).unwrap();
    let mut model: BTreeMap<MemberId, Member> =
        world.tree.members().map(|member| (member, Member::new(&path(&world, member)))).collect();
    for _ in 0..80 {
        if rng.below(8) == 0 {
            world.tree.set_strategy(STRATEGIES[usize::from(rng.below(2) == 1)]);
        }
        let before = world.tree.clone();
        let batch = random_batch(&mut rng, &world.tree, 80);
        // Epochs rise, but not always by one.
        let epoch = world.tree.epoch() + 1 + u64::from(rng.below(3));
        let plan = world.step_at(&batch, epoch).clone();
        check_form(&plan, degree(d), &before, &world.tree);
        plan.left.iter().for_each(|(member, _)| drop(model.remove(member)));
        for (member, _) in &plan.joined {
            model.insert(*member, Member::new(&path(&world, *member)));
        }
        let joined: BTreeSet<MemberId> = plan.joined.iter().map(|(member, _)| *member).collect();
        for (member, state) in model.iter_mut().filter(|(member, _)| !joined.contains(member)) {
            state.apply(&plan);
            assert_eq!(state.path(), path(&world, *member), "member {member}, {batch:?}, {plan:#?}");
        }
        assert!(model.keys().copied().eq(world.tree.members()));
    }
}
