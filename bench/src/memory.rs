//! Octets of memory for each member.

use std::alloc::System;

use keygraph::{Degree, Strategy};
use stats_alloc::{Region, StatsAlloc};

use crate::Failure;
use crate::server::Server;
use crate::table::Row;

#[global_allocator]
static ALLOCATOR: StatsAlloc<System> = StatsAlloc::system();

/// Tree, versions, leaf index and secrets of a member of a binary tree: two secrets of 32 octets, two versions of 8, an ID
/// number and a place of 4 at the leaf's and the index's each, and what holds them together.
const GOAL: f64 = 96.0;

/// All rows for a group of 2^k members.
pub(crate) fn rows(size: u32) -> Result<Vec<Row>, Failure> {
    let members = 1u32 << size;
    let mut rows = Vec::new();
    for degree in [2, 4, 8] {
        let held = held(|| Server::new(members, Strategy::Chain, Degree::new(degree)?))?;
        let goal = (degree == 2).then_some(1.0);
        let case = format!("memory 2^{size} aes256 d={degree} tree, versions, leaf index, secrets");
        rows.push(Row::new(case, (held / f64::from(members), "octets"), ("goal", GOAL), goal));
    }
    Ok(rows)
}

/// Octets that something keeps once it is built.
fn held<T>(make: impl FnOnce() -> Result<T, Failure>) -> Result<f64, Failure> {
    let region = Region::new(&ALLOCATOR);
    let kept = make()?;
    let change = region.change();
    drop(kept);
    let grown = isize::try_from(change.bytes_allocated)? - isize::try_from(change.bytes_deallocated)?;
    Ok(f64::from(u32::try_from(grown)?))
}
