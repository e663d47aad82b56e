//! The symbolic attacker: everything that follows from what a coalition was given and what was ever sent.

use std::collections::BTreeSet;

use crate::plan::{Plan, Source};
use crate::types::{KeyRef, NodeId};
use crate::wrapped::Wrapped;

/// What a coalition knows, closed at all times under all plans that it has observed.
///
/// Every way to a secret is one step from *one* other secret (unwrap, advance, derive), so the closure is reachability in a graph whose edges are read off the plans, in the order of
/// neither time nor call: what is learnt late opens what was recorded early.
///
/// Knowledge is monotone: a larger coalition knows at least what each smaller one does. Hence for each epoch the *one*
/// coalition of all principals without a right to it decides the secrecy of that epoch; no subset can do better.
#[derive(Debug, Clone, Default)]
pub struct Knowledge {
    known: BTreeSet<KeyRef>,
    edges: BTreeSet<(KeyRef, KeyRef)>,
}

impl Knowledge {
    /// Knows nothing, has observed nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Learns every way from key to key that is in the plan.
    pub fn observe(&mut self, plan: &Plan) {
        edges(plan).into_iter().for_each(|(from, to)| self.link(from, to));
    }

    /// Learns one place of the wrapped tree, as pages show it.
    pub fn observe_wrapped(&mut self, place: &Wrapped) {
        self.link(place.kek, place.target);
    }

    fn link(&mut self, from: KeyRef, to: KeyRef) {
        if self.edges.insert((from, to)) && self.known.contains(&from) {
            self.learn(to);
        }
    }

    /// Is given a secret, and computes all that follows.
    pub fn learn(&mut self, key: KeyRef) {
        let mut fringe = vec![key];
        while let Some(key) = fringe.pop() {
            if self.known.insert(key) {
                let last = KeyRef { node: NodeId(u32::MAX), version: u64::MAX };
                let first = KeyRef { node: NodeId(0), version: 0 };
                fringe.extend(self.edges.range((key, first)..=(key, last)).map(|(_, to)| *to));
            }
        }
    }

    /// Whether the secret follows from what is known.
    pub fn reaches(&self, key: KeyRef) -> bool {
        self.known.contains(&key)
    }

    /// All that is known, by place and version.
    pub fn known(&self) -> impl Iterator<Item = KeyRef> + '_ {
        self.known.iter().copied()
    }
}

/// Every way from one secret to another that a plan opens: (what must be known, what follows).
fn edges(plan: &Plan) -> Vec<(KeyRef, KeyRef)> {
    let mut edges = Vec::new();
    let made = |node| KeyRef { node, version: plan.epoch };
    for update in &plan.updates {
        let target = made(update.node);
        match update.source {
            Source::Fresh => {}
            Source::Advance { from } => edges.push((KeyRef { node: update.node, version: from }, target)),
            Source::Derive { from } => edges.push((made(from), target)),
        }
        edges.extend(update.wraps.iter().map(|wrap| (wrap.kek, target)));
    }
    edges.extend(plan.advanced.iter().map(|leaf| (leaf.from, made(leaf.to))));
    edges
}
