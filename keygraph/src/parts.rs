//! User-, key-oriented and hybrid rekeying: which wraps go into which message.

use smallvec::smallvec;

use crate::cores;
use crate::ids::{child_towards, path_to_root};
use crate::plan::{Numbers, Part, Update, Wrap, Wraps};
use crate::planner::{Branch, Planner};
use crate::types::{Degree, NodeId, Strategy};

/// Messages of one plan at the most; a plan that needs more is one group-oriented message, which every member
/// understands as well. A leave takes (d-1)(h-1) messages, a few hundred in the worst of trees; what passes the limit
/// are large batches, where almost every member would have a message of its own.
pub const MAX_PARTS: usize = 512;

/// Wraps and k-nodes of one message, about: half a mebioctet of 32-octet wraps. A larger plan is divided by subtrees, so
/// that no member collects much more than it needs.
const WEIGHT: usize = 16_384;

/// Messages of a plan whose updates are group-oriented so far; none if one message carries all.
pub(crate) fn split(planner: &Planner<'_, '_>, updates: &mut [Update]) -> Vec<Part> {
    let all: usize = updates.iter().map(|update| update.wraps.len() + 1).sum();
    // In a star every message would be for one member, or for all.
    let star = planner.marking.tree.degree == Degree::STAR;
    let strategy = if star { Strategy::Group } else { planner.marking.tree.strategy };
    if matches!(strategy, Strategy::Group | Strategy::Chain) && all <= WEIGHT {
        return Vec::new();
    }
    let weight = WEIGHT.max(all / (MAX_PARTS / 4));
    let plan = Updates { planner, nodes: updates.iter().map(|update| update.node).collect() };
    let parts = match strategy {
        Strategy::Group | Strategy::Chain => Vec::new(),
        Strategy::Hybrid => plan.below(updates, weight, 1),
        strategy => {
            let audiences = plan.audiences(updates);
            match strategy {
                _ if audiences.len() > MAX_PARTS => Vec::new(),
                Strategy::User => return plan.user_oriented(updates, &audiences),
                _ => audiences.iter().map(|audience| plan.way(updates, *audience)).collect(),
            }
        }
    };
    match parts.len() {
        2..=MAX_PARTS => parts,
        _ if all > WEIGHT => plan.below(updates, weight, 0),
        _ => Vec::new(),
    }
}

struct Updates<'p, 'm, 't> {
    planner: &'p Planner<'m, 't>,
    /// Of the updates, descending.
    nodes: Vec<NodeId>,
}

/// Members who share a key that they hold already and need the same new secrets: the lowest wrap that they open, as
/// (index of its update, its index there).
type Audience = (usize, usize);

impl Updates<'_, '_, '_> {
    /// Index of a k-node's update.
    fn at(&self, node: NodeId) -> Option<usize> {
        self.nodes.binary_search_by(|other| node.cmp(other)).ok()
    }

    fn audiences(&self, updates: &[Update]) -> Vec<Audience> {
        let mut all = Vec::new();
        for (at, update) in updates.iter().enumerate() {
            for (number, wrap) in update.wraps.iter().enumerate() {
                let held = match wrap.child == update.node {
                    // Under the k-node's own old secret, if somebody needs that first: below a child that stays as it is.
                    true => self
                        .planner
                        .branches(update.node)
                        .iter()
                        .any(|branch| !self.is_changed(update, branch) && !self.planner.is_told_otherwise(branch)),
                    // What has this epoch's version comes from a wrap further down.
                    false => wrap.kek.version < self.planner.marking.epoch,
                };
                if held {
                    all.push((at, number));
                }
            }
        }
        all
    }

    /// Whether members below a child are served elsewhere: by a wrap of their own, or from further down.
    fn is_changed(&self, update: &Update, branch: &Branch) -> bool {
        self.at(branch.node).is_some() || update.wraps.iter().any(|wrap| wrap.child == branch.child)
    }

    /// The message of an audience, without its wraps.
    fn part(&self, updates: &[Update], (at, number): Audience) -> Part {
        let update = &updates[at];
        let below = update.wraps[number].child;
        let changed = |branch: &Branch| self.is_changed(update, branch);
        let except = match below == update.node {
            true => self.planner.branches(below).iter().filter(|branch| changed(branch)).map(|b| b.child).collect(),
            false => Vec::new(),
        };
        Part { below, except, entries: Vec::new() }
    }

    /// The updates above a place, lowest first, each with its child on that side.
    fn above(&self, node: NodeId) -> impl Iterator<Item = (usize, NodeId)> {
        let degree = self.planner.marking.tree.degree;
        path_to_root(node, degree)
            .skip(1)
            .filter_map(move |above| Some((self.at(above)?, child_towards(above, node, degree)?)))
    }

    /// Key-oriented: on each k-node from the audience's first up to the root, the wrap that it opens.
    fn way(&self, updates: &[Update], audience: Audience) -> Part {
        let mut part = self.part(updates, audience);
        part.entries.push((audience.0, smallvec![audience.1]));
        let node = updates[audience.0].node;
        part.entries.extend(self.above(node).map(|(at, child)| (at, wrap_for(&updates[at], child))));
        part
    }

    /// User-oriented: the same secrets, each under the key that the audience has in common.
    fn user_oriented(&self, updates: &mut [Update], audiences: &[Audience]) -> Vec<Part> {
        let mut wraps = vec![Wraps::new(); updates.len()];
        let mut parts = Vec::with_capacity(audiences.len());
        for audience in audiences {
            let first = updates[audience.0].wraps[audience.1];
            let mut part = self.part(updates, *audience);
            part.entries.push((audience.0, smallvec![wraps[audience.0].len()]));
            wraps[audience.0].push(first);
            for (at, child) in self.above(updates[audience.0].node) {
                part.entries.push((at, smallvec![wraps[at].len()]));
                wraps[at].push(Wrap { child, kek: first.kek });
            }
            parts.push(part);
        }
        updates.iter_mut().zip(wraps).for_each(|(update, wraps)| update.wraps = wraps);
        parts
    }

    /// One message for each subtree: of at most `weight`, and at least `depth` steps below the root. It has all that is new
    /// in the subtree, and of what is above the way to it. (Hybrid: the subtrees below the root.)
    fn below(&self, updates: &[Update], weight: usize, depth: usize) -> Vec<Part> {
        let mut weights: Vec<usize> = updates.iter().map(|update| update.wraps.len() + 1).collect();
        let above = cores::map(updates, |update| self.above(update.node).next().map(|(above, _)| above));
        for (at, above) in above.iter().enumerate() {
            if let Some(above) = above {
                weights[*above] += weights[at];
            }
        }
        // Each subtree by its place, and the update at its top, or in its stead.
        let mut subtrees: Vec<(NodeId, Option<usize>)> = Vec::new();
        let mut open: Vec<(NodeId, NodeId, usize)> = vec![(NodeId::ROOT, NodeId::ROOT, 0)];
        while let Some((place, node, steps)) = open.pop() {
            match self.at(node) {
                Some(at) if weights[at] > weight || steps < depth => {
                    let branches = self.planner.branches(node);
                    let told = branches.into_iter().filter(|branch| !self.planner.is_told_otherwise(branch));
                    open.extend(told.map(|branch| (branch.child, branch.node, steps + 1)));
                }
                top => subtrees.push((place, top)),
            }
        }
        subtrees.sort_unstable();
        // What is above comes later in the plan.
        let mut subtree: Vec<Option<usize>> = vec![None; updates.len()];
        subtrees
            .iter()
            .enumerate()
            .for_each(|(number, (_, top))| top.iter().for_each(|top| subtree[*top] = Some(number)));
        for at in (0..updates.len()).rev() {
            subtree[at] = subtree[at].or_else(|| subtree[above[at]?]);
        }
        let mut parts: Vec<(NodeId, Vec<usize>)> = subtrees.iter().map(|(place, _)| (*place, Vec::new())).collect();
        for (at, subtree) in subtree.iter().enumerate().filter(|(at, _)| !updates[*at].silent) {
            subtree.iter().for_each(|subtree| parts[*subtree].1.push(at));
        }
        cores::map_all(&parts, updates.len(), |(below, own)| {
            let mut entries: Vec<_> = own.iter().map(|at| (*at, (0..updates[*at].wraps.len()).collect())).collect();
            entries.extend(self.above(*below).map(|(at, child)| (at, wrap_for(&updates[at], child))));
            Part { below: *below, except: Vec::new(), entries }
        })
    }
}

/// The wrap of an update for whoever is below this child: the child's, or else the one under the own old secret; none if
/// they compute it.
fn wrap_for(update: &Update, child: NodeId) -> Numbers {
    let of = |place: NodeId| update.wraps.iter().position(|wrap| wrap.child == place);
    of(child).or_else(|| of(update.node)).into_iter().collect()
}
