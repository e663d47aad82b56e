//! The search: every step from every state, each state once, and what must hold in each.

mod promises;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyserver::store::Op;

use super::engine::{Answer, Call};
use super::facts::Facts;
use super::server::Event;
use super::setup::setup;
use super::tries::{Cause, Members, Node, Pool, Servers, World};
use super::{Budget, Mutant};

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// States visited.
    pub states: usize,
    /// Steps taken.
    pub transitions: u64,
    /// Steps of the longest way that was gone.
    pub deepest: u32,
    /// Histories of the key servers and of the members that were carried out.
    pub histories: (usize, usize),
    /// What was seen, and how often.
    pub reached: BTreeMap<&'static str, u64>,
    /// A promise that was broken, and the steps that led there.
    pub violation: Option<(String, Vec<String>)>,
}

/// Where a member's request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    None,
    /// At this key server.
    At(usize, u64),
    /// Its reply is on the way.
    Answered(u32),
}

/// All of it, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    servers: [u32; 2],
    engine: u32,
    /// Commits that may land later, and whose they are.
    held: Vec<(usize, u32)>,
    /// Who has fenced last.
    reigns: Option<usize>,
    members: [u32; 2],
    ways: [Way; 2],
    /// Requests of each member so far.
    sessions: [u64; 2],
    /// Bundles of datagrams that were sent: by whom is in them.
    sent: BTreeSet<u32>,
    left: Budget,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Start,
    /// The pending commit of this key server lands and is answered.
    Commit(usize),
    /// It may land later; its writer hears nothing.
    Hold(usize),
    /// A commit that was held back lands.
    Land(usize),
    Again(usize, bool),
    Follow(usize),
    TakeOver(usize),
    Beacon(usize),
    Hear(usize, u32),
    Ask(usize),
    /// A member's request comes to a key server.
    Request(usize, usize),
    Reply(usize),
    Unanswered(usize),
}

struct Search {
    world: World,
    servers: [Servers; 2],
    members: [Members; 2],
    ops: Pool<Vec<Op>>,
    landed: BTreeMap<(u32, u32), Option<u32>>,
    facts: BTreeMap<u32, Arc<Facts>>,
    mutant: Option<Mutant>,
    reached: BTreeMap<&'static str, u64>,
}

/// Visits every state that can be reached; stops at the first broken promise.
pub fn search(budget: Budget, mutant: Option<Mutant>) -> Report {
    let (mut search, first) = Search::new(budget, mutant);
    let mut report =
        Report { states: 1, transitions: 0, deepest: 0, histories: (0, 0), reached: BTreeMap::new(), violation: None };
    let mut visited = BTreeSet::from([first.clone()]);
    let mut trail = vec![(0, Step::Start)];
    let mut open = vec![(first, 0, 0)];
    'all: while let Some((state, at, depth)) = open.pop() {
        report.deepest = report.deepest.max(depth);
        for step in search.steps(&state) {
            report.transitions += 1;
            let next = match search.take(&state, step) {
                Ok(next) => next,
                Err(why) => {
                    let mut steps = vec![format!("{step:?}")];
                    let mut at: usize = at;
                    while at > 0 {
                        steps.push(format!("{:?}", trail[at].1));
                        at = trail[at].0;
                    }
                    steps.reverse();
                    report.violation = Some((why, steps));
                    break 'all;
                }
            };
            if visited.insert(next.clone()) {
                trail.push((at, step));
                open.push((next, trail.len() - 1, depth + 1));
            }
        }
    }
    report.states = visited.len();
    report.histories = (
        search.servers.iter().map(|servers| servers.nodes.len()).sum(),
        search.members.iter().map(|members| members.nodes.len()).sum(),
    );
    report.reached = search.reached;
    report
}

impl Search {
    /// The first key server reigns; the second stands by.
    fn new(budget: Budget, mutant: Option<Mutant>) -> (Self, State) {
        let mut world = World::new(setup());
        let engine = world.states.number(Arc::new(world.setup.values.clone()));
        let mut servers = [Servers::new(41, mutant), Servers::new(51, mutant)];
        let nodes = [servers[0].start(engine, &world), servers[1].start(engine, &world)];
        let members = world.members();
        let mut search = Self {
            world,
            servers,
            members,
            ops: Pool::default(),
            landed: BTreeMap::new(),
            facts: BTreeMap::new(),
            mutant,
            reached: BTreeMap::new(),
        };
        let mut take_overs = budget.take_overs;
        take_overs[0] += 1;
        let mut state = State {
            servers: nodes,
            engine,
            held: Vec::new(),
            reigns: None,
            members: [0; 2],
            ways: [Way::None; 2],
            sessions: [0; 2],
            sent: BTreeSet::new(),
            left: Budget { take_overs, ..budget },
        };
        state = search.take(&state, Step::TakeOver(0)).unwrap();
        while search.server(&state, 0).pending.is_some() {
            state = search.take(&state, Step::Commit(0)).unwrap();
        }
        search.reached.clear();
        (search, state)
    }

    fn server(&self, state: &State, server: usize) -> &Node {
        self.servers[server].get(state.servers[server])
    }

    fn count(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        let left = &state.left;
        for server in [0, 1] {
            let node = self.server(state, server);
            if !node.is_alive {
                continue;
            }
            match &node.pending {
                Some(Call::Commit(_)) => {
                    steps.push(Step::Commit(server));
                    if left.held > 0 {
                        steps.push(Step::Hold(server));
                    }
                }
                Some(Call::Pause) => steps.extend([Step::Again(server, true), Step::Again(server, false)]),
                Some(Call::Read) => panic!("reads are answered at once"),
                None if node.stands_by => {
                    if left.follows[server] > 0 {
                        steps.push(Step::Follow(server));
                    }
                    if left.take_overs[server] > 0 {
                        steps.push(Step::TakeOver(server));
                    }
                }
                None => {}
            }
            if !node.stands_by && left.beacons[server] > 0 {
                steps.push(Step::Beacon(server));
            }
        }
        steps.extend((0..state.held.len()).map(Step::Land));
        for member in [0, 1] {
            let outcome = self.members[member].get(state.members[member]);
            match state.ways[member] {
                Way::None if outcome.asked.is_some() => {
                    let listening = [0, 1].into_iter().filter(|server| self.server(state, *server).listens);
                    steps.extend(listening.map(|server| Step::Request(member, server)));
                }
                Way::None if left.asks[member] > 0 => steps.push(Step::Ask(member)),
                Way::None => {}
                Way::At(..) => {}
                Way::Answered(_) => steps.push(Step::Reply(member)),
            }
            if state.ways[member] != Way::None && left.unanswered > 0 {
                steps.push(Step::Unanswered(member));
            }
            steps.extend(state.sent.iter().map(|bundle| Step::Hear(member, *bundle)));
        }
        steps
    }

    fn take(&mut self, before: &State, step: Step) -> Result<State, String> {
        let mut state = before.clone();
        match step {
            Step::Start => {}
            Step::Commit(server) => {
                let Some(Call::Commit(ops)) = self.server(&state, server).pending.clone() else { panic!("no commit") };
                let ops = self.ops.number(ops);
                let answer = if self.land(&mut state, server, ops)? { Answer::Done } else { Answer::Conflict };
                self.event(&mut state, server, Event::Answer(answer))?;
            }
            Step::Hold(server) => {
                let Some(Call::Commit(ops)) = self.server(&state, server).pending.clone() else { panic!("no commit") };
                state.held.push((server, self.ops.number(ops)));
                state.left.held -= 1;
                self.event(&mut state, server, Event::Answer(Answer::Lost))?;
            }
            Step::Land(index) => {
                let (server, ops) = state.held.remove(index);
                match self.land(&mut state, server, ops)? {
                    true => self.count("a write that was held back lands"),
                    false => self.count("a write that was held back lands in vain"),
                }
            }
            Step::Again(server, again) => {
                self.event(&mut state, server, Event::Answer(Answer::Again(again)))?;
            }
            Step::Follow(server) => {
                state.left.follows[server] -= 1;
                self.event(&mut state, server, Event::Follow)?;
                let committed = self.facts(state.engine)?;
                if self.server(&state, server).digests != committed.digests {
                    return Err("a standby differs from what was committed".into());
                }
            }
            Step::TakeOver(server) => {
                state.left.take_overs[server] -= 1;
                self.event(&mut state, server, Event::TakeOver)?;
            }
            Step::Beacon(server) => {
                state.left.beacons[server] -= 1;
                self.event(&mut state, server, Event::Beacon)?;
            }
            Step::Hear(member, bundle) => self.hear(&mut state, member, bundle)?,
            Step::Ask(member) => {
                state.left.asks[member] -= 1;
                self.member(&mut state, member, Cause::Ask)?;
            }
            Step::Request(member, server) => {
                let asked = self.members[member].get(state.members[member]).asked.clone();
                let request = self.world.requests.number(asked.expect("a request").1);
                state.sessions[member] += 1;
                let session = 1_000 * u64::try_from(member).unwrap() + state.sessions[member];
                state.ways[member] = Way::At(server, session);
                self.event(&mut state, server, Event::Request { member, request, session })?;
            }
            Step::Reply(member) => {
                let Way::Answered(reply) = state.ways[member] else { panic!("no reply") };
                state.ways[member] = Way::None;
                self.member(&mut state, member, Cause::Reply(reply))?;
            }
            Step::Unanswered(member) => {
                state.left.unanswered -= 1;
                state.ways[member] = Way::None;
                self.member(&mut state, member, Cause::Unanswered)?;
            }
        }
        Ok(state)
    }

    /// Something happens to a key server, and all that it then reads it reads at once.
    fn event(&mut self, state: &mut State, server: usize, event: Event) -> Result<(), String> {
        let mut event = event;
        loop {
            let (node, effect) = self.servers[server].step(state.servers[server], event, &self.world);
            state.servers[server] = node;
            self.effect(state, server, &effect)?;
            match self.server(state, server).pending {
                Some(Call::Read) => event = Event::Answer(Answer::Reads(state.engine)),
                _ => return Ok(()),
            }
        }
    }
}
