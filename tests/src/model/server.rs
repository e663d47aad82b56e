//! One key server: what it does is a function of what has happened to it, so it is carried out once for each history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keyserver::core::{Access, Config, Core, GroupConfig, Input, Output};
use keyserver::store::{Backend, Followed, Journal, SiteKey, Store, StoreError};
use protocol::identity::{Identity, IdentityPattern};
use protocol::{Authentication, GroupId, MemberId, SigningKey, Suite};
use zeroize::Zeroizing;

use super::engine::{Answer, Call, Scripted, Values};
use super::{GROUP, Mutant};
use crate::dice::Dice;

/// Datagrams of one rekey leave within this time; beacons come later.
const BURST: Duration = Duration::from_millis(200);

/// What happens to a key server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// It starts as a standby over this state of the engine.
    Start(u32),
    Follow,
    TakeOver,
    Answer(Answer),
    /// A member's request, by its number, in a session.
    Request {
        member: usize,
        request: u32,
        session: u64,
    },
    /// Its next beacon is due.
    Beacon,
}

/// What it sends, in words of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// Datagrams that leave together.
    Datagrams(Vec<Vec<u8>>),
    Reply {
        session: u64,
        message: Vec<u8>,
    },
    /// A frame for the registrar.
    Frame(Vec<u8>),
}

/// How an operation on the store ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Fenced,
    Followed,
    Written,
    Deposed,
    /// It was too late to reign, and goes on standing by.
    Late,
    Failed,
}

/// Where a history leads.
pub(super) struct Outcome {
    /// What it asks of the engine.
    pub(super) pending: Option<Call>,
    /// What the last event made it send.
    pub(super) sent: Vec<Sent>,
    /// The operation that the last event ended.
    pub(super) ended: Option<End>,
    /// What it could not do and must be able to.
    pub(super) broken: Option<String>,
    pub(super) is_alive: bool,
    pub(super) stands_by: bool,
    /// Whether it answers requests now.
    pub(super) listens: bool,
    pub(super) digests: Vec<(u32, u64, [u8; 32])>,
}

/// The end of an operation on the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) how: Ended,
    /// An answer of it was lost.
    pub(super) lost: bool,
    /// The engine said at last that it was done.
    pub(super) done: bool,
    /// Place of the event that began it.
    pub(super) since: usize,
}

pub(super) fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://model/{name}")).unwrap()
}

pub(super) fn config() -> Config {
    let members = vec![IdentityPattern::parse("spiffe://model/member/*").unwrap()];
    let group = GroupConfig {
        suite: Suite::Aes128,
        compaction: 0,
        max_members: 10,
        beacon: Duration::from_secs(2),
        beacon_max: Duration::from_secs(2),
        resync_wait: Duration::from_millis(100),
        send_delay: Duration::from_millis(100),
        keep_old: Duration::from_secs(100),
        ..GroupConfig::plain(GroupId(1), GROUP, ([239, 0, 0, 1], 7_000).into(), Access::open(members.clone()))
    };
    Config {
        registrars: vec![(
            identity("registrar/r"),
            members.into_iter().map(|of| (Authentication::Certificate, of)).collect(),
        )],
        groups: vec![group],
        bits_per_second: 80_000_000,
        ..Config::plain("ks", SigningKey::from_seed(&[5; 32]).unwrap())
    }
}

pub(super) fn journal<B: Backend>(backend: B, seed: u64) -> Result<Journal<B>, StoreError> {
    Journal::open(backend, SiteKey::in_memory(&[7; 32]), Box::new(Dice::new(seed)))
}

/// Takes everything that the core wants done and that is due within a burst; the write comes back.
pub(super) fn drain(core: &mut Core, now: &mut Duration, sent: &mut Vec<Sent>) -> Option<Vec<Zeroizing<Vec<u8>>>> {
    let (mut write, mut datagrams) = (None, Vec::new());
    let until = *now + BURST;
    loop {
        while let Some(output) = core.poll_output() {
            match output {
                Output::Persist(records) => write = Some(records),
                Output::Datagram { octets, .. } => datagrams.push(octets),
                Output::Reply { session, message } => sent.push(Sent::Reply { session, message: message.to_vec() }),
                Output::ToRegistrar { frame, .. } => sent.push(Sent::Frame(frame)),
                Output::Halt | Output::Event(_) => {}
                other => panic!("not expected: {other:?}"),
            }
        }
        match core.poll_timeout().filter(|(at, _)| *at <= until) {
            Some((at, _)) => *now = at.max(*now),
            None => break,
        }
        core.handle(*now, Input::Timeout);
    }
    if !datagrams.is_empty() {
        sent.push(Sent::Datagrams(datagrams));
    }
    write
}

enum Work {
    Follow,
    Fence,
    /// After the fence: what was written before it.
    CatchUp,
    Write(Vec<Zeroizing<Vec<u8>>>),
}

enum Read {
    Followed(Followed),
    Nothing,
}

/// An operation on the store: how it ends, the place of the event that began it, and of the one that ends it.
struct UnderWay {
    work: Work,
    result: Result<Read, StoreError>,
    since: usize,
    ends: Option<usize>,
}

struct Server<'a> {
    history: &'a [Event],
    states: &'a [Arc<Values>],
    mutant: Option<Mutant>,
    members: [(MemberId, u64); 2],
    requests: &'a [Vec<u8>],
    backend: Scripted,
    journal: Journal<Scripted>,
    core: Core,
    now: Duration,
    work: Option<UnderWay>,
    out: Outcome,
}

/// Carries out a history from its start.
pub(super) fn carry_out(
    history: &[Event],
    states: &[Arc<Values>],
    requests: &[Vec<u8>],
    members: [(MemberId, u64); 2],
    (seed, mutant): (u64, Option<Mutant>),
) -> Outcome {
    let Some(Event::Start(state)) = history.first().copied() else { panic!("no start") };
    let backend = Scripted::new(mutant);
    let state = states[usize::try_from(state).unwrap()].clone();
    backend.script(VecDeque::from([(0, Answer::Reads(0), Some(state))]));
    let mut journal = journal(backend.clone(), seed).unwrap();
    let loaded = journal.load().unwrap();
    let now = Duration::from_secs(100);
    let core = Core::stand_by(now, config(), Box::new(Dice::new(seed + 1)), None, &loaded.records).unwrap();
    let out = Outcome {
        pending: None,
        sent: Vec::new(),
        ended: None,
        is_alive: true,
        stands_by: true,
        listens: true,
        digests: Vec::new(),
        broken: None,
    };
    let mut server =
        Server { history, states, mutant, members, requests, backend, journal, core, now, work: None, out };
    for place in 1..history.len() {
        server.event(place);
    }
    let Server { mut out, core, work, backend, .. } = server;
    out.pending = if work.is_some() { backend.pending() } else { None };
    // Between the fence and the reign nobody is served: the shell waits for the store.
    let taking_over = matches!(work, Some(UnderWay { work: Work::Fence | Work::CatchUp, .. }));
    (out.stands_by, out.listens) = (core.stands_by(), out.is_alive && !taking_over);
    out.digests = core.digests();
    out
}

impl Server<'_> {
    fn event(&mut self, place: usize) {
        self.out.sent.clear();
        self.out.ended = None;
        if !self.out.is_alive {
            return;
        }
        match self.history[place] {
            Event::Start(_) => panic!("a second start"),
            Event::Follow => self.begin(place, Work::Follow),
            Event::TakeOver => self.begin(place, Work::Fence),
            Event::Request { member, request, session } => {
                let (client, registration) = self.members[member];
                let message = &self.requests[usize::try_from(request).unwrap()];
                self.core.handle(self.now, Input::Request { session, client, registration, message });
                self.served(place);
            }
            Event::Beacon => {
                if let Some((at, _)) = self.core.poll_timeout() {
                    self.now = at.max(self.now);
                    self.core.handle(self.now, Input::Timeout);
                    self.served(place);
                }
            }
            Event::Answer(_) => self.end(place),
        }
    }

    fn served(&mut self, place: usize) {
        if let Some(records) = drain(&mut self.core, &mut self.now, &mut self.out.sent) {
            self.begin(place, Work::Write(records));
        }
    }

    /// Carries the operation out with all answers that the history still has for it: they come after this place.
    fn begin(&mut self, place: usize, work: Work) {
        let state = |answer: Answer| match answer {
            Answer::Reads(state) => Some(self.states[usize::try_from(state).unwrap()].clone()),
            _ => None,
        };
        let answers = self.history.iter().enumerate().skip(place + 1).filter_map(|(place, event)| match event {
            Event::Answer(answer) => Some((place, *answer, state(*answer))),
            _ => None,
        });
        self.backend.script(answers.collect());
        let result = match &work {
            Work::Follow | Work::CatchUp => self.journal.follow().map(Read::Followed),
            Work::Fence => self.journal.fence().map(|()| Read::Nothing),
            Work::Write(records) => self.append(records).map(|()| Read::Nothing),
        };
        let ends = if self.backend.pending().is_some() { None } else { self.backend.used().0.or(Some(place)) };
        self.work = Some(UnderWay { work, result, since: place, ends });
        self.end(place);
    }

    fn append(&mut self, records: &[Zeroizing<Vec<u8>>]) -> Result<(), StoreError> {
        let records: Vec<&[u8]> = records.iter().map(|record| record.as_slice()).collect();
        match self.journal.append(&records) {
            // "It was not done": so it is written once more.
            Err(StoreError::Unsettled { .. }) if self.mutant == Some(Mutant::LostIsRetried) => {
                self.journal.load()?;
                self.journal.fence()?;
                self.journal.follow()?;
                self.journal.append(&records)
            }
            result => result,
        }
    }

    /// Ends the operation that is under way, if this is its place.
    fn end(&mut self, place: usize) {
        let Some(UnderWay { work, result, since, .. }) = self.work.take_if(|work| work.ends == Some(place)) else {
            return;
        };
        let (_, lost, done) = self.backend.used();
        let mut ended = match &work {
            Work::Fence => Ended::Fenced,
            Work::Follow | Work::CatchUp => Ended::Followed,
            Work::Write(_) => Ended::Written,
        };
        match (work, result) {
            (Work::Fence, Ok(_)) => self.begin(place, Work::CatchUp),
            (work, Ok(Read::Followed(Followed::Records(records)))) => {
                if let Err(error) = self.core.followed(self.now, &records) {
                    self.out.broken = Some(format!("a standby cannot follow: {error}"));
                    self.out.is_alive = false;
                } else if matches!(work, Work::CatchUp) {
                    self.core.reign(self.now).unwrap();
                    self.served(place);
                }
            }
            (_, Ok(Read::Followed(Followed::Anew(_)))) => panic!("nobody compacts here"),
            (_, Ok(Read::Nothing)) => {
                self.core.handle(self.now, Input::Persisted(true));
                self.served(place);
            }
            // Somebody else was faster: it goes on standing by.
            (Work::Fence, Err(StoreError::Deposed(_))) => {
                ended = Ended::Late;
                self.begin(place, Work::Follow);
            }
            // The process ends.
            (_, Err(error)) => {
                if let StoreError::Damaged { .. }
                | StoreError::DamagedRecord { .. }
                | StoreError::RolledBack { .. }
                | StoreError::Stopped(_) = error
                {
                    self.out.broken = Some(error.to_string());
                }
                let deposed = matches!(error, StoreError::Deposed(_));
                ended = if deposed { Ended::Deposed } else { Ended::Failed };
                self.core.handle(self.now, Input::Persisted(false));
                self.out.is_alive = false;
            }
        }
        self.out.ended = Some(End { how: ended, lost, done, since });
    }
}
