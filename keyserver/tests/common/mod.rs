//! A key server's core in a shell of a few lines: a store in memory, no network, time that stands until it is moved.
#![allow(dead_code, reason = "every test file uses another part")]

use std::time::Duration;

use keygraph::Degree;
use keyserver::core::{Access, Admin, AdminError, AdminReply, Config, Core, Event, GroupConfig, Input, Output};
use keyserver::store::{Followed, MemoryStore, Store};
use net::noise::{StaticKey, sealed};
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::{Act, Losses, Membership, Operations, Outcome, Reply, Request, RequestId, Resync};
use protocol::{Authentication, Beacon, Entropy, GroupId, IndividualKey, MemberId, SigningKey};
use zeroize::Zeroizing;

pub(crate) struct Counter(pub(crate) u64);

impl Entropy for Counter {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *octet = self.0.to_be_bytes()[0];
        }
    }
}

pub(crate) fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://demo/{name}")).unwrap()
}

pub(crate) fn group(id: u32, name: &str, allow: &str) -> GroupConfig {
    GroupConfig {
        degree: Degree::new(3).unwrap(),
        max_members: 5,
        refresh: Some(Duration::from_secs(100)),
        beacon: Duration::from_secs(2),
        beacon_max: Duration::from_secs(2),
        ..GroupConfig::plain(
            GroupId(id),
            name,
            ([239, 0, 0, 1], 7_000).into(),
            Access::open([IdentityPattern::parse(allow).unwrap()]),
        )
    }
}

pub(crate) struct World<S = MemoryStore> {
    pub(crate) core: Core,
    pub(crate) store: S,
    pub(crate) now: Duration,
    pub(crate) events: Vec<Event>,
    pub(crate) datagrams: Vec<Vec<u8>>,
    pub(crate) pushed: Vec<(Vec<u64>, Vec<u8>)>,
    pub(crate) ended: Vec<u64>,
    pub(crate) to_registrar: Vec<ToRegistrar>,
    pub(crate) replies: Vec<(u64, Option<Reply>)>,
    pub(crate) answers: Vec<Result<AdminReply, AdminError>>,
    pub(crate) halted: bool,
    pub(crate) sessions: u64,
}

/// The key server's static key.
pub(crate) fn noise() -> StaticKey {
    StaticKey::from_private(Zeroizing::new([6; 32])).unwrap()
}

impl World {
    pub(crate) fn start(store: &MemoryStore, seed: u64) -> Self {
        Self::start_with(store, seed, |_| {})
    }

    /// With another configuration of the groups.
    pub(crate) fn start_with(store: &MemoryStore, seed: u64, change: impl Fn(&mut GroupConfig)) -> Self {
        let mut world = Self::stand_by_with(store, seed, change);
        world.reign();
        world
    }

    /// A second key server over the same store.
    pub(crate) fn stand_by_with(store: &MemoryStore, seed: u64, change: impl Fn(&mut GroupConfig)) -> Self {
        Self::stand_by_on(store.clone(), seed, |config| config.groups.iter_mut().for_each(&change))
    }
}

impl<S: Store> World<S> {
    /// Over another store, and with another configuration.
    pub(crate) fn start_on(store: S, seed: u64, change: impl Fn(&mut Config)) -> Self {
        let mut world = Self::stand_by_on(store, seed, change);
        world.reign();
        world
    }

    fn reign(&mut self) {
        self.take_over();
        self.handle(Input::RegistrarUp { link: 1, identity: identity("registrar/r1") });
    }

    pub(crate) fn stand_by_on(mut store: S, seed: u64, change: impl Fn(&mut Config)) -> Self {
        let mut config = Config {
            registrars: vec![(
                identity("registrar/r1"),
                vec![(Authentication::Certificate, IdentityPattern::parse("spiffe://demo/member/*").unwrap())],
            )],
            groups: vec![group(1, "news", "spiffe://demo/member/*"), group(2, "vip", "spiffe://demo/member/m1")],
            bits_per_second: 8_000_000,
            ..Config::plain("ks", SigningKey::from_seed(&[1; 32]).unwrap())
        };
        change(&mut config);
        let loaded = store.load().unwrap();
        let snapshot = loaded.snapshot.as_ref().map(|snapshot| snapshot.as_slice());
        let now = Duration::from_secs(1);
        let core = Core::stand_by(now, config, Box::new(Counter(seed)), snapshot, &loaded.records).unwrap();
        Self {
            core,
            store,
            now,
            events: vec![],
            datagrams: vec![],
            pushed: vec![],
            ended: vec![],
            to_registrar: vec![],
            replies: vec![],
            answers: vec![],
            halted: false,
            sessions: 0,
        }
    }

    /// Reads what the other key server has committed.
    pub(crate) fn follow(&mut self) {
        match self.store.follow().unwrap() {
            Followed::Records(records) => self.core.followed(self.now, &records).unwrap(),
            Followed::Anew(_) => panic!("compacted"),
        }
    }

    pub(crate) fn take_over(&mut self) {
        let before = self.store.fence().and_then(|()| self.store.follow());
        let Ok(Followed::Records(records)) = before else {
            self.halted = true;
            return;
        };
        self.core.followed(self.now, &records).unwrap();
        self.core.reign(self.now).unwrap();
        self.drain();
        // Its groups are rekeyed one after the other.
        self.wait(Duration::from_millis(10));
    }

    pub(crate) fn handle(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Persist(records) => {
                    let done = self.store.append(&slices(&records)).is_ok();
                    self.core.handle(self.now, Input::Persisted(done));
                }
                Output::Snapshot(snapshot) => {
                    let done = self.store.snapshot(&snapshot).is_ok();
                    self.core.handle(self.now, Input::Persisted(done));
                }
                Output::ToRegistrar { frame, .. } => self.to_registrar.push(ToRegistrar::decode(&frame).unwrap()),
                Output::Answer { link, parties, offers, grant } => {
                    let answer = sealed::answer([&noise()], &parties.prologue(), &offers, &grant.encode());
                    let (client, registration) = (grant.client, grant.registration);
                    let answer = answer.ok().map(Box::new);
                    self.core.handle(self.now, Input::Answered { link, client, registration, answer });
                }
                Output::CloseRegistrar { .. } => {}
                Output::Reply { session, message } => {
                    self.replies.push((session, Some(Reply::decode(&message).unwrap())));
                }
                Output::Refuse { session } => self.replies.push((session, None)),
                Output::Subscribed { session, message } => {
                    self.replies.push((session, Some(Reply::decode(&message).unwrap())));
                }
                Output::Push { sessions, octets } => self.pushed.push((sessions, octets)),
                Output::EndSubscription { session } => self.ended.push(session),
                // The world in `tests` reads it.
                Output::Publish(_) => panic!("nothing is published here"),
                Output::Datagram { octets, .. } => self.datagrams.push(octets),
                Output::AdminReply { result, .. } => self.answers.push(result),
                Output::Event(event) => self.events.push(event),
                Output::Halt => self.halted = true,
            }
        }
    }

    pub(crate) fn fetch(&mut self, name: &str) -> ToRegistrar {
        let frame =
            FromRegistrar::FetchNumber { tag: 7, kind: Authentication::Certificate, identity: identity(name) }.encode();
        self.handle(Input::FromRegistrar { link: 1, frame: &frame });
        self.to_registrar.pop().unwrap()
    }

    pub(crate) fn hand_over(&mut self, client: MemberId, registration: u64) -> ToRegistrar {
        let key = IndividualKey::new([9; 32]);
        let frame =
            FromRegistrar::HandOver { tag: 8, client, registration, key, ends: NO_END, credential: vec![1; 33] }
                .encode();
        self.to_registrar.clear();
        self.handle(Input::FromRegistrar { link: 1, frame: &frame });
        self.to_registrar.remove(0)
    }

    pub(crate) fn register(&mut self, name: &str) -> (MemberId, u64) {
        let ToRegistrar::Number { client, registration, .. } = self.fetch(name) else { panic!("no number") };
        assert_eq!(self.hand_over(client, registration), ToRegistrar::Durable { tag: 8 });
        (client, registration)
    }

    /// Registers with this credential, or says why not.
    pub(crate) fn register_with(
        &mut self,
        name: &str,
        kind: Authentication,
        ends: u64,
        credential: Vec<u8>,
    ) -> Result<(MemberId, u64), ToRegistrar> {
        let mut say = |message: FromRegistrar| {
            self.to_registrar.clear();
            self.handle(Input::FromRegistrar { link: 1, frame: &message.encode() });
            self.to_registrar.remove(0)
        };
        let (client, registration) = match say(FromRegistrar::FetchNumber { tag: 7, kind, identity: identity(name) }) {
            ToRegistrar::Number { client, registration, .. } => (client, registration),
            refused => return Err(refused),
        };
        let key = IndividualKey::new([9; 32]);
        match say(FromRegistrar::HandOver { tag: 8, client, registration, key, ends, credential }) {
            ToRegistrar::Durable { .. } => Ok((client, registration)),
            refused => Err(refused),
        }
    }

    /// Sends a request and does not wait for its answer.
    pub(crate) fn send(&mut self, who: (MemberId, u64), id: u8, operations: Operations) -> u64 {
        self.sessions += 1;
        let request = Request { id: RequestId([id; 16]), operations }.encode();
        let (session, (client, registration)) = (self.sessions, who);
        self.handle(Input::Request { session, client, registration, message: &request });
        session
    }

    /// Time passes, timer by timer.
    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.core.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.handle(Input::Timeout);
        }
        self.now = until;
    }

    pub(crate) fn ask(&mut self, who: (MemberId, u64), id: u8, operations: Operations) -> Vec<Outcome> {
        self.sessions += 1;
        let request = Request { id: RequestId([id; 16]), operations }.encode();
        let (session, (client, registration)) = (self.sessions, who);
        self.handle(Input::Request { session, client, registration, message: &request });
        let (answered, reply) = self.replies.pop().expect("an answer");
        assert_eq!(answered, session);
        reply.expect("a reply").outcomes
    }

    pub(crate) fn change(&mut self, who: (MemberId, u64), id: u8, changes: &[(Act, &str)]) -> Vec<Outcome> {
        let changes = changes.iter().map(|(act, group)| (*act, (*group).to_owned())).collect();
        self.ask(who, id, Operations::Changes(changes))
    }

    pub(crate) fn join(&mut self, who: (MemberId, u64), group: &str) -> Membership {
        granted(&self.change(who, 1, &[(Act::Join, group)])[0])
    }

    pub(crate) fn resync(&mut self, who: (MemberId, u64), seen: (u64, u64)) -> Outcome {
        let resync = Resync { group: "news".into(), seen, have: 0, losses: Losses::default() };
        self.ask(who, 2, Operations::Resyncs(vec![resync])).remove(0)
    }

    pub(crate) fn witness(&mut self, who: (MemberId, u64), beacon: Vec<u8>) -> Outcome {
        self.ask(who, 3, Operations::Witnesses(vec![("news".into(), beacon)])).remove(0)
    }

    pub(crate) fn admin(&mut self, command: Admin) -> Result<AdminReply, AdminError> {
        self.handle(Input::Admin { ticket: 1, command });
        self.answers.pop().expect("an answer")
    }

    pub(crate) fn evict(&mut self, name: &str) -> Result<AdminReply, AdminError> {
        self.admin(Admin::Evict { group: "news".into(), identity: identity(name) })
    }

    pub(crate) fn epoch(&mut self) -> u64 {
        let Ok(AdminReply::Status(status)) = self.admin(Admin::Status) else { panic!("no status") };
        status.groups[0].epoch
    }
}

fn slices(records: &[Zeroizing<Vec<u8>>]) -> Vec<&[u8]> {
    records.iter().map(|record| record.as_slice()).collect()
}

pub(crate) fn granted(outcome: &Outcome) -> Membership {
    let Outcome::Granted(membership) = outcome else { panic!("not granted: {outcome:?}") };
    let beacon = Beacon::decode(&membership.beacon).unwrap();
    assert_eq!(membership.path.commitment(&beacon.context), Some(beacon.commitment));
    (**membership).clone()
}
