//! Executes a symbolic plan: expands, advances, derives and wraps, and writes the rekey messages.

use keygraph::ids::{child_index, child_towards};
use keygraph::{KeyRef, NodeId, Part, Plan, Source, Update, Wrap, cores};
use smallvec::SmallVec;
use thiserror::Error;

use crate::cipher::wrap;
use crate::header::Commitment;
use crate::rekey::{Announcement, Audience, Entry, Origin, RekeyMessage, Wrapped};
use crate::schedule::EpochContext;
use crate::secret::{NodeSecret, Seed};

/// The secrets that the key server holds before the change, by k-node or leaf.
pub trait Secrets: Sync {
    /// The secret that is held for `key`; `None` if another version or nothing is held.
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret>;
}

/// A plan names what the key server does not hold: the plan belongs to another state of the tree.
/// This is a fault of Keystone itself; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExecuteError {
    /// No such secret is held.
    #[error("the plan needs the secret of k-node {} at version {}, which is not held", key.node.0, key.version)]
    Missing {
        /// Its name.
        key: KeyRef,
    },
    /// The plan and the context speak of different epochs.
    #[error("a plan for epoch {plan} cannot make epoch {context}")]
    Epoch {
        /// The plan's.
        plan: u64,
        /// The context's.
        context: u64,
    },
    /// The plan does not end at the root, or names a child that is none.
    #[error("the plan is not of one tree, or does not change the root")]
    Shape,
}

/// What executing a plan makes. Nothing of it is anywhere else yet, so it can be dropped.
#[derive(Debug)]
pub struct Executed {
    /// To be cut into units and multicast, one or more.
    pub messages: Vec<RekeyMessage>,
    /// Check value of the new root secret.
    pub commitment: Commitment,
    /// Every secret with a new version, each place once: k-nodes, fresh leaves, advanced leaves.
    pub secrets: Vec<(NodeId, NodeSecret)>,
}

/// Executes `plan` in the epoch of `context`. Fresh secrets come from `seed`, so that the same plan, seed and
/// held secrets give the same octets again. Large plans are executed on all cores.
pub fn execute(
    plan: &Plan,
    context: &EpochContext,
    seed: &Seed,
    held: &impl Secrets,
    announcement: Announcement,
) -> Result<Executed, ExecuteError> {
    if plan.epoch != context.epoch {
        return Err(ExecuteError::Epoch { plan: plan.epoch, context: context.epoch });
    }
    if plan.updates.last().is_none_or(|last| last.node != NodeId::ROOT) {
        return Err(ExecuteError::Shape);
    }
    let run = Run { plan, context, held };
    let all = plan.updates.len() + plan.joined.len() + plan.advanced.len();
    let mut secrets = vec![(NodeId::ROOT, NodeSecret::default()); all];
    let (made, leaves) = secrets.split_at_mut(plan.updates.len());
    run.make(seed, made)?;
    let (_, root) = made.last().ok_or(ExecuteError::Shape)?;
    let commitment = context.commit(root);
    let messages = run.messages(made, commitment, announcement)?;
    let (fresh, advanced) = leaves.split_at_mut(plan.joined.len());
    cores::fill(&plan.joined, fresh, |(_, leaf)| Ok((*leaf, context.fresh(seed, *leaf))))?;
    cores::fill(&plan.advanced, advanced, |leaf| {
        let secret = held.secret(leaf.from).ok_or(ExecuteError::Missing { key: leaf.from })?;
        Ok((leaf.to, context.advance_leaf(secret)))
    })?;
    Ok(Executed { messages, commitment, secrets })
}

/// New secrets of k-nodes, in the order of the plan's updates.
type Made = [(NodeId, NodeSecret)];

/// The wraps of all updates, in their order.
struct AllWrapped {
    /// Of each update, where its wraps begin.
    firsts: Vec<usize>,
    wrapped: Vec<Wrapped>,
}

impl AllWrapped {
    fn get(&self, update: usize, number: usize) -> Wrapped {
        self.wrapped[self.firsts[update] + number]
    }
}

struct Run<'a, S> {
    plan: &'a Plan,
    context: &'a EpochContext,
    held: &'a S,
}

impl<S: Secrets> Run<'_, S> {
    /// All new secrets of k-nodes. None needs another of its level, so that a level is made at once.
    fn make(&self, seed: &Seed, made: &mut Made) -> Result<(), ExecuteError> {
        let mut count = 0;
        while let rest @ [_, ..] = &self.plan.updates[count..] {
            let level = &rest[..if rest.len() < cores::MANY { 1 } else { same_level(rest, self.plan) }];
            let (below, rest) = made.split_at_mut(count);
            let one = |update: &Update| Ok((update.node, self.source(update, seed, below)?));
            cores::fill(level, &mut rest[..level.len()], one)?;
            count += level.len();
        }
        Ok(())
    }

    fn source(&self, update: &Update, seed: &Seed, below: &Made) -> Result<NodeSecret, ExecuteError> {
        Ok(match update.source {
            Source::Fresh => self.context.fresh(seed, update.node),
            Source::Advance { from } => {
                let from = KeyRef { node: update.node, version: from };
                self.context.advance(self.newest(from, below)?, from)
            }
            Source::Derive { from } => {
                let from = KeyRef { node: from, version: self.plan.epoch };
                self.context.derive(self.newest(from, below)?, from, update.node)
            }
        })
    }

    fn messages(
        &self,
        made: &Made,
        commitment: Commitment,
        announcement: Announcement,
    ) -> Result<Vec<RekeyMessage>, ExecuteError> {
        let plan = self.plan;
        let mut firsts = Vec::with_capacity(plan.updates.len());
        let mut wraps = Vec::with_capacity(plan.updates.len());
        for (at, update) in plan.updates.iter().enumerate() {
            firsts.push(wraps.len());
            wraps.extend(update.wraps.iter().map(|kek| (at, kek)));
        }
        let mut wrapped = AllWrapped { firsts, wrapped: vec![[0; 32]; wraps.len()] };
        cores::fill(&wraps, &mut wrapped.wrapped, |(at, kek)| self.wrap(made, *at, kek))?;
        let moves = plan.moved.iter().filter(|m| !m.is_found(plan.largest_knode, plan.degree));
        let message = RekeyMessage {
            suite: self.context.suite,
            commitment,
            announcement,
            degree: plan.degree,
            largest_knode: plan.largest_knode,
            audience: None,
            moves: moves.map(|m| (m.from, m.to)).collect(),
            spliced: plan.spliced.clone(),
            entries: Vec::new(),
        };
        if plan.parts.is_empty() {
            let mut entries = Vec::with_capacity(plan.updates.len());
            let spoken = |update: &Update| !update.silent || update.node == NodeId::ROOT;
            for (at, update) in plan.updates.iter().enumerate().filter(|(_, update)| spoken(update)) {
                let wraps = update.wraps.iter().enumerate().map(|(number, wrap)| (wrap, wrapped.get(at, number)));
                entries.push(self.entry(update, wraps, None)?);
            }
            return Ok(vec![RekeyMessage { entries, ..message }]);
        }
        let part = |part: &Part| {
            let index = |child: &NodeId| child_index(*child, plan.degree).ok_or(ExecuteError::Shape);
            let except = part.except.iter().map(index).collect::<Result<_, _>>()?;
            let audience = Some(Audience { below: part.below, except });
            Ok(RekeyMessage { audience, entries: self.part(part, &wrapped)?, ..message.clone() })
        };
        cores::map_all(&plan.parts, plan.updates.len(), part).into_iter().collect()
    }

    /// The entries of one of several messages.
    fn part(&self, part: &Part, wrapped: &AllWrapped) -> Result<Vec<Entry>, ExecuteError> {
        let mut first = None;
        let mut entries = Vec::with_capacity(part.entries.len());
        for (at, numbers) in &part.entries {
            let update = &self.plan.updates[*at];
            let wraps = numbers.iter().map(|number| (&update.wraps[*number], wrapped.get(*at, *number)));
            entries.push(self.entry(update, wraps, first)?);
            first = first.or_else(|| numbers.first().map(|number| update.wraps[*number].kek));
        }
        Ok(entries)
    }

    fn entry<'w>(
        &self,
        update: &Update,
        wraps: impl Iterator<Item = (&'w Wrap, Wrapped)>,
        first: Option<KeyRef>,
    ) -> Result<Entry, ExecuteError> {
        let degree = self.plan.degree;
        let index = |child: NodeId| child_index(child, degree).ok_or(ExecuteError::Shape);
        let origin = match update.source {
            Source::Fresh => Origin::Fresh,
            Source::Advance { .. } => Origin::Advance,
            Source::Derive { from } => {
                let child = child_towards(update.node, from, degree).ok_or(ExecuteError::Shape)?;
                Origin::Derive { child: index(child)? }
            }
        };
        let mut entry = Entry { node: update.node, origin, own: None, children: SmallVec::new(), again: None };
        for (wrap, wrapped) in wraps {
            if first == Some(wrap.kek) {
                entry.again = Some(wrapped);
            } else if wrap.child == update.node {
                entry.own = Some(wrapped);
            } else {
                entry.children.push((index(wrap.child)?, wrapped));
            }
        }
        Ok(entry)
    }

    fn wrap(&self, made: &Made, at: usize, kek: &Wrap) -> Result<Wrapped, ExecuteError> {
        let (node, secret) = &made[at];
        let target = KeyRef { node: *node, version: self.plan.epoch };
        Ok(wrap(self.context, self.newest(kek.kek, made)?, kek.kek, target, secret))
    }

    /// A secret that this plan has made already, or that was held before.
    fn newest<'s>(&'s self, key: KeyRef, made: &'s Made) -> Result<&'s NodeSecret, ExecuteError> {
        let missing = ExecuteError::Missing { key };
        if key.version != self.plan.epoch {
            return self.held.secret(key).ok_or(missing);
        }
        let at = made.binary_search_by(|(node, _)| key.node.cmp(node)).map_err(|_| missing)?;
        Ok(&made[at].1)
    }
}

/// How many of these updates, from the first on, are of one level of the tree: none of them is above another.
fn same_level(updates: &[Update], plan: &Plan) -> usize {
    let Some(first) = updates.first() else {
        return 0;
    };
    let parent = keygraph::ids::parent(first.node, plan.degree);
    // Whatever is above any of them has an id of at most the first's parent.
    updates.iter().take_while(|update| parent.is_none_or(|parent| update.node > parent)).count().max(1)
}
