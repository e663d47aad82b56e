//! No operation on a tree allocates in proportion to the group.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::alloc::System;

use common::{STRATEGIES, degree, members};
use keygraph::{Change, Degree, MemberId, Strategy, Tree};
use stats_alloc::{Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: StatsAlloc<System> = StatsAlloc::system();

/// Octets allocated by all of these, staged and merged one after the other, on a group of this size.
fn allocated(tree: &mut Tree, strategy: Strategy, size: u32) -> usize {
    tree.set_strategy(strategy);
    let d = tree.degree();
    let (member, joiner) = (MemberId(size / 3), MemberId(size + u32::try_from(tree.epoch()).unwrap()));
    let region = Region::new(&ALLOCATOR);
    for changes in [
        &[Change::Join(joiner)][..],
        &[Change::Leave(joiner)],
        &[Change::Renew(member)],
        &[Change::Leave(member), Change::Join(member), Change::Refresh],
        &[Change::Leave(member), Change::Compact(4)],
        &[Change::Join(member)],
    ] {
        // In a star a leave is a wrap for everybody, and that has to be somewhere; so only one joins.
        if d == Degree::STAR && !changes.iter().all(|change| *change == Change::Join(joiner)) {
            continue;
        }
        let staged = tree.stage(changes, tree.epoch() + 1).unwrap();
        tree.merge(staged).unwrap();
    }
    region.change().bytes_allocated
}

#[test]
fn a_group_a_thousand_times_larger_takes_a_few_times_more() {
    for d in [degree(2), degree(4), degree(64), Degree::STAR] {
        let [mut small, mut large] =
            [1 << 10, 1 << 20].map(|size| Tree::filled(d, Strategy::Chain, 1, members(0..size)).unwrap());
        for strategy in STRATEGIES {
            let (small, large) = (allocated(&mut small, strategy, 1 << 10), allocated(&mut large, strategy, 1 << 20));
            println!("{strategy}, degree {d}: {small} octets at 2^10, {large} at 2^20");
            // Twice the levels; user-oriented, the square of that, and lists that double.
            assert!(large <= 10 * small, "{strategy}, degree {d}: {small} and {large}");
        }
    }
}
