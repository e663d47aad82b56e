//! Histories by number, each carried out once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Mutant;
use super::engine::{Answer, Call, Values};
use super::member::{self, Happening};
use super::server::{self, End, Ended, Event, Sent};
use super::setup::{SEEDS, Setup};

/// Things by number, equal ones by the same.
pub(super) struct Pool<T> {
    pub(super) items: Vec<T>,
    index: BTreeMap<Vec<u8>, u32>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { items: Vec::new(), index: BTreeMap::new() }
    }
}

impl<T: std::fmt::Debug> Pool<T> {
    pub(super) fn number(&mut self, item: T) -> u32 {
        let next = u32::try_from(self.items.len()).unwrap();
        let number = *self.index.entry(format!("{item:?}").into_bytes()).or_insert(next);
        if number == next {
            self.items.push(item);
        }
        number
    }

    pub(super) fn get(&self, number: u32) -> &T {
        &self.items[usize::try_from(number).unwrap()]
    }
}

/// What an event did beside changing the key server.
#[derive(Default)]
pub(super) struct Effect {
    pub(super) sent: Vec<Sent>,
    pub(super) ended: Option<End>,
    pub(super) broken: Option<String>,
}

/// Where a key server stands.
pub(super) struct Node {
    history: Vec<Event>,
    pub(super) pending: Option<Call>,
    pub(super) is_alive: bool,
    pub(super) stands_by: bool,
    pub(super) listens: bool,
    pub(super) digests: Vec<(u32, u64, [u8; 32])>,
}

/// All histories of one key server.
pub(super) struct Servers {
    pub(super) nodes: Vec<Node>,
    index: BTreeMap<Vec<Event>, u32>,
    next: BTreeMap<(u32, Event), (u32, Arc<Effect>)>,
    seed: u64,
    mutant: Option<Mutant>,
}

impl Servers {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        Self { nodes: Vec::new(), index: BTreeMap::new(), next: BTreeMap::new(), seed, mutant }
    }

    fn carry_out(&self, history: &[Event], world: &World) -> server::Outcome {
        let seed = (self.seed, self.mutant);
        server::carry_out(history, &world.states.items, &world.requests.items, world.setup.members, seed)
    }

    fn node(&mut self, history: Vec<Event>, outcome: server::Outcome) -> u32 {
        let number = u32::try_from(self.nodes.len()).unwrap();
        let server::Outcome { pending, is_alive, stands_by, listens, digests, .. } = outcome;
        self.index.insert(history.clone(), number);
        self.nodes.push(Node { history, pending, is_alive, stands_by, listens, digests });
        number
    }

    pub(super) fn start(&mut self, state: u32, world: &World) -> u32 {
        let history = vec![Event::Start(state)];
        let outcome = self.carry_out(&history, world);
        self.node(history, outcome)
    }

    pub(super) fn get(&self, node: u32) -> &Node {
        &self.nodes[usize::try_from(node).unwrap()]
    }

    pub(super) fn step(&mut self, node: u32, event: Event, world: &World) -> (u32, Arc<Effect>) {
        if let Some((next, effect)) = self.next.get(&(node, event)) {
            return (*next, effect.clone());
        }
        let mut history = self.get(node).history.clone();
        history.push(event);
        let mut outcome = self.carry_out(&history, world);
        let effect =
            Effect { sent: std::mem::take(&mut outcome.sent), ended: outcome.ended, broken: outcome.broken.take() };
        if !outcome.is_alive {
            // All that are dead are alike.
            history = Vec::new();
        } else if let Some(End { how: Ended::Fenced | Ended::Written, since, .. }) = effect.ended
            && self.mutant != Some(Mutant::LostIsRetried)
        {
            let mut place = 0;
            history.retain(|event| {
                place += 1;
                place <= since + 1 || !matches!(event, Event::Answer(_))
            });
            history.push(Event::Answer(Answer::Done));
            if !self.index.contains_key(&history) {
                outcome = self.carry_out(&history, world);
                assert!(outcome.sent == effect.sent, "it matters how the answer came: {history:?}");
            }
        }
        let known = self.index.get(&history).copied();
        let next = known.unwrap_or_else(|| self.node(history, outcome));
        let effect = Arc::new(effect);
        self.next.insert((node, event), (next, effect.clone()));
        (next, effect)
    }
}

/// All histories of one member.
pub(super) struct Members {
    pub(super) nodes: Vec<(Vec<Happening>, member::Outcome)>,
    index: BTreeMap<Vec<Happening>, u32>,
    next: BTreeMap<(u32, Cause), u32>,
    /// Bundles that came since the present key was installed: the same once more is no other case.
    heard: BTreeMap<u32, BTreeSet<u32>>,
    seed: u64,
}

/// What happens to a member, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    Hear(u32),
    Ask,
    Reply(u32),
    Unanswered,
}

impl Members {
    pub(super) fn new(seed: u64, history: Vec<Happening>) -> Self {
        let outcome = member::carry_out(&history, seed);
        let index = BTreeMap::from([(history.clone(), 0)]);
        Self { nodes: vec![(history, outcome)], index, next: BTreeMap::new(), heard: BTreeMap::new(), seed }
    }

    pub(super) fn get(&self, node: u32) -> &member::Outcome {
        &self.nodes[usize::try_from(node).unwrap()].1
    }

    pub(super) fn step(&mut self, node: u32, cause: Cause, world: &World) -> u32 {
        if let Some(next) = self.next.get(&(node, cause)) {
            return *next;
        }
        let mut heard = self.heard.get(&node).cloned().unwrap_or_default();
        if let Cause::Hear(bundle) = cause
            && !heard.insert(bundle)
        {
            return node;
        }
        let mut history = self.nodes[usize::try_from(node).unwrap()].0.clone();
        history.push(match cause {
            Cause::Hear(bundle) => Happening::Hear(world.bundles.get(bundle).clone()),
            Cause::Ask => Happening::Ask,
            Cause::Reply(reply) => Happening::Reply(world.replies.get(reply).clone()),
            Cause::Unanswered => Happening::Unanswered,
        });
        let next = match self.index.get(&history) {
            Some(next) => *next,
            None => {
                let outcome = member::carry_out(&history, self.seed);
                // What is dropped at the door leaves nothing behind but counts.
                if outcome.ignored {
                    node
                } else {
                    let number = u32::try_from(self.nodes.len()).unwrap();
                    if outcome.at == self.get(node).at {
                        self.heard.insert(number, heard);
                    }
                    self.index.insert(history.clone(), number);
                    self.nodes.push((history, outcome));
                    number
                }
            }
        };
        self.next.insert((node, cause), next);
        next
    }
}

/// Everything that steps name by number.
pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) states: Pool<Arc<Values>>,
    pub(super) requests: Pool<Vec<u8>>,
    pub(super) replies: Pool<Vec<u8>>,
    pub(super) bundles: Pool<Vec<Vec<u8>>>,
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let (states, requests) = (Pool::default(), Pool::default());
        Self { setup, states, requests, replies: Pool::default(), bundles: Pool::default() }
    }

    pub(super) fn members(&self) -> [Members; 2] {
        [0, 1].map(|member| Members::new(SEEDS[member], self.setup.histories[member].clone()))
    }
}
