//! A tree that went through its slots goes on as if nothing had happened; damaged slots make no tree.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{Rng, STRATEGIES, World, change_horses, degree, members, random_batch, seeds};
use keygraph::{MemberId, NodeId, Slot, SnapshotError, Strategy, Tree};

fn copy(tree: &Tree) -> Tree {
    let mut copy = Tree::from_slots(tree.degree(), tree.strategy(), tree.epoch(), tree.slots()).unwrap();
    copy.set_splicing(tree.splicing());
    copy
}

#[test]
fn further_plans_are_identical() {
    for seed in seeds(20) {
        for d in [2, 3, 4, 8] {
            let mut rng = Rng(seed);
            let strategy = STRATEGIES[usize::try_from(seed % 5).unwrap()];
            let mut world = World::new(Tree::filled(degree(d), strategy, 1, members(0..30)).unwrap());
            let mut restored = world.clone();
            for _ in 0..100 {
                if rng.below(5) == 0 {
                    restored.tree = copy(&restored.tree);
                }
                change_horses(&mut rng, &mut world.tree);
                restored.tree.set_strategy(world.tree.strategy());
                restored.tree.set_splicing(world.tree.splicing());
                let batch = random_batch(&mut rng, &world.tree, 60);
                let plan = world.step(&batch).clone();
                assert_eq!(restored.step(&batch), &plan, "KEYGRAPH_SEED={seed}, degree {d}");
                assert_eq!(restored.tree, world.tree, "KEYGRAPH_SEED={seed}, degree {d}");
            }
        }
    }
}

type Slots = Vec<(NodeId, Slot)>;

fn refused(damage: impl Fn(&mut Slots), expected: SnapshotError) {
    let tree = Tree::filled(degree(3), Strategy::Chain, 5, members(0..20)).unwrap();
    let mut slots: Slots = tree.slots().collect();
    damage(&mut slots);
    assert_eq!(Tree::from_slots(degree(3), Strategy::Chain, 5, slots), Err(expected));
}

/// Twenty members in a tree of degree 3: k-nodes 0 to 9, leaves from 10 on.
#[test]
fn damage_is_refused() {
    let knode = |version| Slot::KNode { version };
    let unode = |member, version| Slot::UNode { member: MemberId(member), version };
    refused(Vec::clear, SnapshotError::NoRoot);
    refused(|slots| slots.retain(|(node, _)| node.0 != 0), SnapshotError::Orphan { node: NodeId(1) });
    refused(|slots| *slots = vec![(NodeId(0), unode(1, 1))], SnapshotError::NoRoot);
    refused(|slots| slots[0].1 = unode(99, 1), SnapshotError::Orphan { node: NodeId(1) });
    refused(|slots| slots.retain(|(node, _)| node.0 != 4), SnapshotError::Orphan { node: NodeId(13) });
    refused(|slots| slots[4].1 = unode(99, 1), SnapshotError::Orphan { node: NodeId(13) });
    refused(|slots| slots.push((NodeId(13), unode(99, 1))), SnapshotError::RepeatedNode { node: NodeId(13) });
    refused(|slots| slots.push((NodeId(200), unode(99, 1))), SnapshotError::Orphan { node: NodeId(200) });
    refused(|slots| slots[0].1 = knode(6), SnapshotError::Version { node: NodeId(0), version: 6, limit: 5 });
    refused(|slots| slots[1].1 = knode(4), SnapshotError::Version { node: NodeId(4), version: 5, limit: 4 });
    refused(|slots| slots[19].1 = unode(99, 6), SnapshotError::Version { node: NodeId(19), version: 6, limit: 5 });
    refused(|slots| slots[2].1 = Slot::Spliced, SnapshotError::Spliced { node: NodeId(2) });
    refused(|slots| slots[10].1 = knode(5), SnapshotError::Childless { node: NodeId(10) });
    refused(
        |slots| {
            let first = slots[10].1;
            slots[11].1 = first;
        },
        SnapshotError::RepeatedMember { member: member_at(10) },
    );
    // Place 12 as a k-node with a child: then the leaves at 10 and 11 are below the largest k-node.
    refused(
        |slots| {
            slots[12].1 = knode(5);
            slots.push((NodeId(37), unode(99, 5)));
        },
        SnapshotError::Misplaced { node: NodeId(10), largest_knode: NodeId(12) },
    );
    refused(
        |slots| {
            let way = std::iter::successors(Some(1u32), |node| node.checked_mul(3)?.checked_add(1));
            *slots = way.map(|node| (NodeId(node), knode(5))).collect();
            slots.push((NodeId(0), knode(5)));
        },
        SnapshotError::TooLarge { node: NodeId(1_743_392_200) },
    );
}

fn member_at(node: u32) -> MemberId {
    let tree = Tree::filled(degree(3), Strategy::Chain, 5, members(0..20)).unwrap();
    tree.members().find(|m| tree.leaf(*m).unwrap().node == NodeId(node)).unwrap()
}
