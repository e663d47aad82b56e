//! All small cases: every sequence of changes, single and in pairs, of up to five members, in every strategy, with and
//! without splicing; after each, all principals without a right to an epoch, together, must not reach its root.
//!
//! Without more said, to a fixed depth. With `KEYGRAPH_SECONDS` ever deeper, for so many seconds on one core.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "the long run ends by the clock")]

use std::time::{Duration, Instant};

use crate::common::{STRATEGIES, World, degree, members};
use keygraph::Change::{Compact, Join, Leave, Refresh, Renew};
use keygraph::{Change, MemberId, Strategy, Tree};

/// Members that there are.
const IDS: u32 = 5;
const DEGREES: [u8; 3] = [2, 3, 4];

#[derive(Debug, Clone, Copy)]
struct Scope {
    degree: u8,
    strategy: Strategy,
    splicing: bool,
    /// Members at first. More than `IDS` for trees that have leaves to move.
    start: u32,
}

#[derive(Default)]
struct Seen {
    sequences: u64,
    epochs: u64,
    moves: u64,
    /// Wraps that moves took; a leaf that is alone is moved for nothing.
    move_wraps: u64,
    splices: u64,
}

struct Search {
    seen: Seen,
    until: Option<Instant>,
}

impl Search {
    /// Every sequence of so many batches from here on; whether there was time for all.
    fn explore(&mut self, world: &World, depth: u32) -> bool {
        if depth == 0 {
            // Knowledge is monotone in time too: if no epoch is open at the end, none was on the way.
            self.seen.sequences += 1;
            self.seen.epochs += u64::try_from(world.roots.len()).unwrap();
            assert_eq!(world.leak(), None, "{:#?}", world.plans);
            return self.until.is_none_or(|until| Instant::now() < until);
        }
        for batch in batches(world) {
            let mut next = world.clone();
            let plan = next.step(&batch);
            self.seen.moves += u64::try_from(plan.compaction.moves).unwrap();
            self.seen.move_wraps += u64::try_from(plan.compaction.wraps).unwrap();
            self.seen.splices += u64::try_from(plan.spliced.len()).unwrap();
            if !self.explore(&next, depth - 1) {
                return false;
            }
        }
        true
    }
}

/// All batches of one or two changes, but one of each kind that differs from another only by the names of strangers
/// who were never in, or by an order of no effect.
fn batches(world: &World) -> Vec<Vec<Change>> {
    let mut singles = vec![Refresh];
    if world.tree.is_too_high() {
        singles.extend([Compact(1), Compact(3)]);
    }
    let mut pairs = Vec::new();
    let seen = |member: &MemberId| world.grants.iter().any(|grant| grant.member == *member);
    let mut strangers = members(0..IDS).filter(|member| !seen(member));
    let (first, second) = (strangers.next(), strangers.next());
    for member in members(0..IDS) {
        if world.tree.contains(member) {
            // An eviction is a leave, and for the keys there is no difference.
            singles.extend([Leave(member), Renew(member)]);
            pairs.push(vec![Leave(member), Join(member)]);
        } else if seen(&member) || Some(member) == first {
            singles.push(Join(member));
        }
    }
    for (at, a) in singles.iter().enumerate() {
        for (other, b) in singles.iter().enumerate() {
            let both_join = matches!((a, b), (Join(_), Join(_)));
            let same =
                who(a).is_some_and(|member| who(b) == Some(member)) || matches!((a, b), (Compact(_), Compact(_)));
            if at != other && !same && (at < other || both_join) {
                pairs.push(vec![*a, *b]);
            }
        }
    }
    if let (Some(first), Some(second)) = (first, second) {
        pairs.push(vec![Join(first), Join(second)]);
    }
    singles.into_iter().map(|change| vec![change]).chain(pairs).collect()
}

fn who(change: &Change) -> Option<MemberId> {
    match change {
        Join(member) | Leave(member) | Renew(member) => Some(*member),
        Refresh | Compact(_) => None,
    }
}

fn begin(scope: Scope) -> World {
    let Scope { degree: d, strategy, splicing, start } = scope;
    // Whoever comes last stands together at the end, where a compaction begins.
    let mut tree = Tree::filled(degree(d), strategy, 1, members((0..start.max(IDS)).rev())).unwrap();
    tree.set_splicing(splicing);
    let mut world = World::new(tree);
    // From more members than are looked at: the others leave first, so that there is something to compact.
    let strangers: Vec<Change> = members(start.min(IDS)..start.max(IDS)).map(Leave).collect();
    if !strangers.is_empty() {
        world.step(&strangers);
    }
    world
}

fn scopes() -> Vec<Scope> {
    let mut all = Vec::new();
    for d in DEGREES {
        for strategy in STRATEGIES {
            for splicing in [false, true] {
                for start in [0, 3, 5, 40] {
                    all.push(Scope { degree: d, strategy, splicing, start });
                }
            }
        }
    }
    all
}

#[test]
fn no_sequence_opens_an_epoch_to_those_without_a_right() {
    let seconds: Option<u64> = std::env::var("KEYGRAPH_SECONDS").ok().map(|text| text.parse().unwrap());
    let scopes = scopes();
    let mut total = Seen::default();
    for scope in &scopes {
        let share = seconds.map(|all| Duration::from_secs(all) / u32::try_from(scopes.len()).unwrap());
        let mut search = Search { seen: Seen::default(), until: share.map(|share| Instant::now() + share) };
        let world = begin(*scope);
        let deepest = if seconds.is_some() { 12 } else { 2 };
        let mut complete = 0;
        for depth in (if seconds.is_some() { 1 } else { deepest })..=deepest {
            if !search.explore(&world, depth) {
                break;
            }
            complete = depth;
        }
        let Seen { sequences, epochs, moves, move_wraps, splices } = search.seen;
        println!(
            "{scope:?}: all of depth {complete}, {sequences} sequences, {epochs} epochs, {moves} moves for {move_wraps} wraps, {splices} splices"
        );
        total.sequences += sequences;
        total.epochs += epochs;
        total.moves += moves;
        total.move_wraps += move_wraps;
        total.splices += splices;
    }
    let Seen { sequences, epochs, moves, move_wraps, splices } = total;
    println!("in all: {sequences} sequences, {epochs} epochs, {moves} moves for {move_wraps} wraps, {splices} splices");
    assert!(sequences > 50_000 && moves > 1_000 && move_wraps > 1_000 && splices > 1_000);
}
