//! Everybody in the group can follow: from what a member holds and what a plan sends, it computes exactly its path.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Rng, STRATEGIES, World, change_horses, degree, members, random_batch, seeds};
use keygraph::{Degree, KeyRef, MemberId, NodeId, Numbers, Plan, Source, Tree, ids};

/// What one member holds, without any tree: its leaf and the secrets by place.
struct Member {
    leaf: NodeId,
    held: BTreeMap<NodeId, KeyRef>,
}

impl Member {
    fn new(path: &[KeyRef]) -> Self {
        Self { leaf: path[0].node, held: path.iter().map(|key| (key.node, *key)).collect() }
    }

    /// Follows a plan by one of its messages, if its wraps are enough; `None` if they are not.
    fn follow(&self, plan: &Plan, part: &[(usize, Numbers)]) -> Option<Self> {
        let named = plan.moved.iter().find(|m| m.from == self.leaf && !m.is_found(plan.largest_knode, plan.degree));
        let leaf = match named {
            Some(m) => m.to,
            None => ids::find_leaf(self.leaf, plan.largest_knode, plan.degree).expect("a place in the new tree"),
        };
        let path: BTreeSet<NodeId> = ids::path_to_root(leaf, plan.degree).collect();
        let mut held = self.held.clone();
        let own = held.remove(&self.leaf).expect("its leaf secret");
        held.retain(|node, _| path.contains(node) && !plan.spliced.contains(node) && *node != leaf);
        let knows = |held: &BTreeMap<NodeId, KeyRef>, key: KeyRef| held.get(&key.node) == Some(&key) || key == own;
        let mut leaf_used = leaf != self.leaf;
        // User-oriented, one key opens all wraps of a message, although it is a k-node's that the first makes new.
        let mut again = None;
        for (at, update) in plan.updates.iter().enumerate().filter(|(_, update)| path.contains(&update.node)) {
            let source = match update.source {
                Source::Fresh => None,
                Source::Advance { from } => Some(KeyRef { node: update.node, version: from }),
                Source::Derive { from } => Some(KeyRef { node: from, version: plan.epoch }),
            };
            let computed = source.is_some_and(|key| knows(&held, key));
            let (_, wraps) = part.iter().find(|(update, _)| *update == at)?;
            let mut wraps = wraps.iter().map(|wrap| update.wraps[*wrap].kek);
            let kek = wraps.find(|kek| knows(&held, *kek) || again == Some(*kek));
            // Only a wrap for those who moved in may be one for others too, who advance what they hold.
            let twice = computed && kek.is_some();
            assert!(!twice || matches!(update.source, Source::Advance { .. }), "a wrap for nothing at {}", update.node);
            if !computed {
                leaf_used |= kek? == own;
                again = again.or(kek);
            }
            held.insert(update.node, KeyRef { node: update.node, version: plan.epoch });
        }
        let advanced = plan.advanced.iter().find(|advance| advance.from == own);
        assert!(advanced.is_none_or(|advance| advance.to == leaf));
        assert_eq!(advanced.is_some(), leaf_used, "a leaf is advanced exactly if it was used or moved");
        held.insert(leaf, if leaf_used { KeyRef { node: leaf, version: plan.epoch } } else { own });
        Some(Self { leaf, held })
    }

    fn apply(&mut self, plan: &Plan) {
        let whole = (plan.updates.iter().enumerate())
            .filter(|(_, update)| !update.silent)
            .map(|(at, update)| (at, (0..update.wraps.len()).collect()))
            .collect();
        let parts: Vec<_> = match plan.parts.as_slice() {
            [] => vec![whole],
            parts => parts.iter().map(|part| part.entries.clone()).collect(),
        };
        let followed: Vec<(usize, Self)> =
            (0..).zip(&parts).filter_map(|(at, part)| Some((at, self.follow(plan, part)?))).collect();
        // It takes the one message that is for it; that one must be enough.
        let leaf = followed.first().map_or(self.leaf, |(_, next)| next.leaf);
        let mine: Vec<usize> =
            (0..).zip(&plan.parts).filter(|(_, part)| part.is_for(leaf, plan.degree)).map(|(at, _)| at).collect();
        let mine = match mine.as_slice() {
            [] if plan.parts.is_empty() => 0,
            [one] => *one,
            other => panic!("messages {other:?} are for {:?}: {plan:#?}", self.path()),
        };
        let next = followed.into_iter().find(|(at, _)| *at == mine);
        *self = next.unwrap_or_else(|| panic!("message {mine} is not enough for {:?}: {plan:#?}", self.path())).1;
    }

    fn path(&self) -> Vec<KeyRef> {
        self.held.values().rev().copied().collect()
    }
}

/// What a plan promises about its own form.
fn check_form(plan: &Plan, d: Degree, before: &Tree, after: &Tree) {
    assert_eq!((plan.degree, plan.largest_knode), (d, after.largest_knode()));
    let nodes: Vec<NodeId> = plan.updates.iter().map(|update| update.node).collect();
    assert!(nodes.is_sorted_by(|a, b| a > b), "descending: {nodes:?}");
    assert_eq!(nodes.last(), Some(&NodeId::ROOT));
    assert!(plan.joined.is_sorted_by(|a, b| a.1 < b.1) && plan.left.is_sorted_by(|a, b| a.1 < b.1));
    assert!(plan.advanced.is_sorted() && plan.moved.is_sorted_by(|a, b| a.from < b.from));
    let fresh: BTreeSet<NodeId> = plan.joined.iter().map(|(_, leaf)| *leaf).collect();
    for update in &plan.updates {
        let made = |kek: KeyRef| !fresh.contains(&kek.node) || kek.version < plan.epoch;
        assert!(update.wraps.iter().all(|wrap| made(wrap.kek)), "a wrap under a fresh leaf");
    }
    for m in &plan.moved {
        assert_eq!((before.place(m.member), after.place(m.member)), (Some(m.from), Some(m.to)));
    }
    // Every wrap is in a message, or there is only one message.
    let entries = plan.parts.iter().flat_map(|part| &part.entries);
    let sent: BTreeSet<(usize, usize)> =
        entries.flat_map(|(at, wraps)| wraps.iter().map(|wrap| (*at, *wrap))).collect();
    assert!(plan.parts.is_empty() || sent.len() == plan.wraps(), "{:?} {plan:#?}", before.strategy());
    assert!(plan.parts.iter().all(|part| part.entries.is_sorted()));
    // The numbering's promise: every leaf is where its member looks for it.
    let (nk, d) = (u64::from(after.largest_knode().0), u64::from(d.get()));
    assert!(after.members().all(|member| (nk + 1..=d * nk + d).contains(&after.place(member).unwrap().0.into())));
}

#[test]
fn every_member_follows_every_plan() {
    for seed in seeds(8) {
        for d in [2, 3, 4, 8].map(degree).into_iter().chain([Degree::STAR]) {
            for strategy in STRATEGIES {
                println!("KEYGRAPH_SEED={seed}, degree {d}, {strategy}");
                let start = Rng(seed).below(60);
                run(seed, World::new(Tree::filled(d, strategy, 1, members(0..start)).unwrap()));
            }
        }
    }
}

/// Groups that have shrunk to those who stand at the end of the tree: there is a lot to move, for many wraps.
#[test]
fn every_member_follows_compactions() {
    let mut paid = 0;
    for seed in seeds(8) {
        for d in [2, 3, 4, 8].map(degree) {
            for strategy in STRATEGIES {
                println!("KEYGRAPH_SEED={seed}, degree {d}, {strategy}");
                let mut world = World::new(Tree::filled(d, strategy, 1, members((0..300).rev())).unwrap());
                world.step(&members(12..300).map(keygraph::Change::Leave).collect::<Vec<_>>());
                let world = run(seed, world);
                paid += world.plans.iter().map(|plan| plan.compaction.wraps).sum::<usize>();
            }
        }
    }
    println!("{paid} wraps for moves");
    assert!(paid > 1_000);
}

fn run(seed: u64, mut world: World) -> World {
    let mut rng = Rng(seed + 1_000);
    let d = world.tree.degree();
    let path = |world: &World, member| world.tree.path(member).unwrap();
    let mut model: BTreeMap<MemberId, Member> =
        world.tree.members().map(|member| (member, Member::new(&path(&world, member)))).collect();
    for _ in 0..80 {
        change_horses(&mut rng, &mut world.tree);
        let before = world.tree.clone();
        let mut batch = random_batch(&mut rng, &world.tree, 80);
        if world.tree.is_too_high() && rng.below(2) == 0 {
            batch.push(keygraph::Change::Compact(1 + rng.below(4)));
        }
        // Epochs rise, but not always by one.
        let epoch = world.tree.epoch() + 1 + u64::from(rng.below(3));
        let plan = world.step_at(&batch, epoch).clone();
        check_form(&plan, d, &before, &world.tree);
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
    world
}
