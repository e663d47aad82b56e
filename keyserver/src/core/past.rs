//! What of the past opens to whoever has everything that was ever written to the store, the site key of now, and everything
//! that was ever multicast or published: computed from the plans, and tried on octets.

mod octets;
mod small;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keygraph::closure::Knowledge;
use keygraph::ids::path_to_root;
use keygraph::{Degree, KeyRef, NodeId, Plan, Source, Strategy};
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern};
use protocol::pages::{Digest, Rewritten, places};
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::rekey::Wrapped;
use protocol::request::{Act, Operations, Request, RequestId};
use protocol::{
    Authentication, Entropy, EpochContext, GroupId, Incarnation, IndividualKey, MemberId, SigningKey, Suite,
};

use self::octets::{Attacker, Octets, Oracle, Sealed};
use self::small::{Dice, ranges};
use super::codec::Record;
use super::{Access, Admin, COMPACT_EVERY, Config, Core, Event, GroupConfig, Input, Now, Output, Published};
use crate::store::{Journal, MemoryBackend, SiteKey, Store, attacker};

const GROUP: GroupId = GroupId(1);
const NAME: &str = "g";
const CLIENTS: usize = 9;

fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://past/{name}")).unwrap()
}

/// How a group is kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    strategy: Strategy,
    degree: Degree,
    suite: Suite,
    splicing: bool,
    published: bool,
    records_per_snapshot: usize,
}

impl Kept {
    fn config(self) -> Config {
        let everybody = IdentityPattern::parse("spiffe://past/member/*").unwrap();
        let group = GroupConfig {
            published: self.published,
            degree: self.degree,
            suite: self.suite,
            strategy: self.strategy,
            splicing: self.splicing,
            compaction: 4,
            max_members: CLIENTS,
            beacon: COMPACT_EVERY,
            beacon_max: COMPACT_EVERY,
            send_delay: Duration::ZERO,
            keep_old_revoked: Duration::ZERO,
            ..GroupConfig::plain(GROUP, NAME, ([239, 0, 0, 1], 7_000).into(), Access::open([everybody.clone()]))
        };
        Config {
            registrars: vec![(identity("registrar"), vec![(Authentication::Certificate, everybody)])],
            groups: vec![group],
            records_per_snapshot: self.records_per_snapshot,
            ..Config::plain("ks", SigningKey::from_seed(&[1; 32]).unwrap())
        }
    }
}

/// A key server with one group, and everything that happened to it.
struct History {
    kept: Kept,
    dice: Dice,
    core: Core,
    journal: Journal<MemoryBackend>,
    now: Now,
    number: Option<(MemberId, u64)>,
    clients: BTreeMap<MemberId, u64>,
    plans: Vec<Plan>,
    datagrams: Vec<Vec<u8>>,
    /// The pages that stand.
    pages: BTreeMap<Digest, Vec<u8>>,
    /// What pages ever showed: a secret, the one that stood wrapped under it, and the wrap.
    wrapped: BTreeSet<(KeyRef, KeyRef, Wrapped)>,
    /// Every snapshot, as it was before it was sealed.
    snapshots: Vec<Vec<u8>>,
    /// Context and data key of every epoch.
    epochs: BTreeMap<u64, (EpochContext, Octets)>,
    secrets: BTreeSet<Octets>,
    nodes: BTreeSet<NodeId>,
}

impl History {
    fn live(seed: u64, kept: Kept, steps: usize) -> Self {
        let mut dice = Dice(seed);
        let key = SiteKey::in_memory(&[7; 32]);
        let journal = Journal::open(MemoryBackend::default(), key, Box::new(Dice(dice.roll()))).unwrap();
        let core = Core::empty(kept.config(), Box::new(Dice(dice.roll()))).unwrap();
        let mut history = Self {
            kept,
            dice,
            core,
            journal,
            now: Now::ZERO,
            number: None,
            clients: BTreeMap::new(),
            plans: Vec::new(),
            datagrams: Vec::new(),
            pages: BTreeMap::new(),
            wrapped: BTreeSet::new(),
            snapshots: Vec::new(),
            epochs: BTreeMap::new(),
            secrets: BTreeSet::new(),
            nodes: BTreeSet::new(),
        };
        history.reign();
        (0..CLIENTS).for_each(|number| history.register(number));
        for _ in 0..steps {
            history.step();
        }
        history
    }

    fn reign(&mut self) {
        let loaded = self.journal.load().unwrap();
        let snapshot = loaded.snapshot.as_ref().map(|snapshot| snapshot.as_slice());
        let entropy = Box::new(Dice(self.dice.roll()));
        self.core = Core::stand_by(self.now, self.kept.config(), entropy, snapshot, &loaded.records).unwrap();
        self.journal.fence().unwrap();
        self.core.reign(self.now).unwrap();
        // The first reign makes the group.
        self.witness();
        self.drain();
        self.handle(Input::RegistrarUp { link: 1, identity: identity("registrar") });
    }

    fn handle(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Persist(records) => {
                    let records: Vec<&[u8]> = records.iter().map(|record| record.as_slice()).collect();
                    self.journal.append(&records).unwrap();
                    self.core.handle(self.now, Input::Persisted(true));
                }
                Output::Snapshot(snapshot) => {
                    self.journal.snapshot(&snapshot).unwrap();
                    self.snapshots.push(snapshot.to_vec());
                    self.core.handle(self.now, Input::Persisted(true));
                }
                Output::Datagram { octets, .. } => self.datagrams.push(octets),
                Output::Publish(publication) => {
                    if let Published::Pages { rewritten, is_whole, .. } = publication.part {
                        self.read_pages(rewritten, is_whole);
                    }
                }
                Output::Event(Event::Epoch(epoch)) => {
                    self.plans.push(epoch.plan);
                    self.witness();
                }
                Output::ToRegistrar { frame, .. } => {
                    if let Ok(ToRegistrar::Number { client, registration, .. }) = ToRegistrar::decode(&frame) {
                        self.number = Some((client, registration));
                    }
                }
                Output::Halt => panic!("halted"),
                _ => {}
            }
        }
    }

    /// Remembers what the key server holds.
    fn witness(&mut self) {
        let group = &self.core.groups[&GROUP];
        let context = group.at.context;
        let root = group.held.get(NodeId::ROOT).unwrap();
        self.epochs.insert(context.epoch, (context, *context.data(root).expose()));
        for (node, secret) in group.held.iter() {
            self.secrets.insert(*secret.expose());
            self.nodes.insert(node);
        }
    }

    /// Notes who stands wrapped under whom.
    fn read_pages(&mut self, rewritten: Rewritten, is_whole: bool) {
        if is_whole {
            self.pages.clear();
        }
        rewritten.gone.iter().for_each(|digest| drop(self.pages.remove(digest)));
        self.pages.extend(rewritten.added);
        let (suite, degree) = (self.kept.suite, self.kept.degree);
        let standing: BTreeMap<NodeId, (KeyRef, Wrapped)> = (self.pages.values())
            .flat_map(|octets| places(octets, suite).unwrap())
            .map(|place| (place.0.node, place))
            .collect();
        let root = KeyRef { node: NodeId::ROOT, version: self.core.groups[&GROUP].epoch() };
        for (kek, wrapped) in standing.values() {
            let above = path_to_root(kek.node, degree).skip(1).find_map(|node| standing.get(&node));
            self.wrapped.insert((*kek, above.map_or(root, |(above, _)| *above), *wrapped));
        }
    }

    fn register(&mut self, number: usize) {
        let frame = FromRegistrar::FetchNumber {
            tag: 1,
            kind: Authentication::Certificate,
            identity: identity(&format!("member/m{number}")),
        }
        .encode();
        self.handle(Input::FromRegistrar { link: 1, frame: &frame });
        let (client, registration) = self.number.take().unwrap();
        let key = IndividualKey::new([9; 32]);
        let frame =
            FromRegistrar::HandOver { tag: 2, client, registration, key, ends: NO_END, credential: vec![1; 33] }
                .encode();
        self.handle(Input::FromRegistrar { link: 1, frame: &frame });
        self.clients.insert(client, registration);
    }

    fn ask(&mut self, client: MemberId, act: Act) {
        let mut id = [0; 16];
        self.dice.fill(&mut id);
        let operations = Operations::Changes(vec![(act, NAME.into())]);
        let message = Request { id: RequestId(id), operations }.encode();
        let registration = self.clients[&client];
        self.handle(Input::Request { session: 1, client, registration, message: &message });
    }

    fn step(&mut self) {
        let number = self.dice.number(CLIENTS);
        let client = *self.clients.keys().nth(number).unwrap();
        let identity = identity(&format!("member/m{}", client.0 - 1));
        let is_in = self.core.groups[&GROUP].contains(client);
        let operator = |command| Input::Admin { ticket: 1, command };
        match (self.dice.number(16), is_in) {
            (0, _) => self.handle(operator(Admin::Refresh { group: NAME.into() })),
            (1, _) => self.reign(),
            (2, _) => {
                self.now += COMPACT_EVERY;
                self.handle(Input::Timeout);
            }
            (3, _) => self.now += Duration::from_secs(100),
            (4, true) => {
                self.handle(operator(Admin::Evict { group: NAME.into(), identity: identity.clone() }));
                self.handle(operator(Admin::Admit { group: NAME.into(), identity }));
            }
            (5, true) => {
                // A new registration: the first request that proves it renews the leaf.
                self.register(usize::try_from(client.0).unwrap() - 1);
                self.ask(client, Act::Join);
            }
            (6..10, true) => self.ask(client, Act::Leave),
            (_, true) => self.now += Duration::from_secs(1),
            (_, false) => self.ask(client, Act::Join),
        }
        // Everything leaves that is to be sent.
        while let Some((at, _)) = self.core.poll_timeout().filter(|(at, _)| *at <= self.now + Duration::from_secs(1)) {
            self.now = self.now.max(at);
            self.handle(Input::Timeout);
        }
    }

    /// What follows from the plans for whoever has these snapshots and records: the epochs whose group key it knows.
    fn computed(&self, snapshots: &[&[u8]], records: &[Vec<u8>]) -> BTreeSet<u64> {
        let mut knowledge = Knowledge::new();
        self.plans.iter().for_each(|plan| knowledge.observe(plan));
        for (kek, target, _) in &self.wrapped {
            knowledge.observe_wrapped(&keygraph::Wrapped { kek: *kek, member: None, target: *target });
        }
        let mut open = BTreeSet::new();
        for snapshot in snapshots {
            let core = Core::stand_by(Now::ZERO, self.kept.config(), Box::new(Dice(0)), Some(snapshot), &[]).unwrap();
            let group = &core.groups[&GROUP];
            group.tree.slots().filter_map(|(node, _)| group.tree.key(node)).for_each(|key| knowledge.learn(key));
            open.extend(group.earlier.iter().map(|key| key.epoch));
        }
        for record in records {
            match Record::decode(record).unwrap() {
                Record::Created { .. } => knowledge.learn(KeyRef { node: NodeId::ROOT, version: 0 }),
                Record::Epoch { recipe, .. } => {
                    let plan = self.plans.iter().find(|plan| plan.epoch == recipe.epoch).unwrap();
                    let fresh = plan.updates.iter().filter(|update| update.source == Source::Fresh);
                    let fresh = fresh.map(|update| update.node).chain(plan.joined.iter().map(|(_, leaf)| *leaf));
                    fresh.for_each(|node| knowledge.learn(KeyRef { node, version: plan.epoch }));
                }
                _ => {}
            }
        }
        let root = |epoch: &&u64| knowledge.reaches(KeyRef { node: NodeId::ROOT, version: **epoch });
        open.extend(self.epochs.keys().filter(root));
        open
    }

    /// The same for whoever sees only octets.
    fn tried(&self, snapshots: &[&[u8]], records: &[Vec<u8>]) -> BTreeSet<u64> {
        let oracle = Oracle { secrets: &self.secrets, nodes: &self.nodes };
        let mut attacker = Attacker::new(self.epochs.values().map(|(context, _)| *context).collect());
        attacker.hears(&self.datagrams);
        attacker.sees(self.wrapped.iter().map(|(_, target, octets)| {
            let context = EpochContext {
                suite: self.kept.suite,
                group: GROUP,
                incarnation: Incarnation([0; 16]),
                term: 0,
                epoch: target.version,
            };
            Sealed { context, target: *target, octets: *octets }
        }));
        snapshots.iter().for_each(|snapshot| attacker.reads_snapshot(snapshot, &oracle));
        records.iter().for_each(|record| attacker.reads_record(record, &oracle));
        let mut keys = attacker.computes(&oracle);
        // A data key may stand there as it is.
        let all = snapshots.iter().copied().chain(records.iter().map(Vec::as_slice));
        keys.extend(all.flat_map(|octets| octets.windows(32)).map(|window| <Octets>::try_from(window).unwrap()));
        self.epochs.iter().filter(|(_, (_, key))| keys.contains(key)).map(|(epoch, _)| *epoch).collect()
    }
}

/// Epoch of the group in a snapshot.
fn epoch_of(kept: Kept, snapshot: &[u8]) -> u64 {
    Core::stand_by(Now::ZERO, kept.config(), Box::new(Dice(0)), Some(snapshot), &[]).unwrap().groups[&GROUP].epoch()
}

#[test]
fn of_earlier_epochs_exactly_those_open_that_the_present_snapshot_reaches() {
    let seed = std::env::var("KEYSTONE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("KEYSTONE_SEED={seed}");
    let rounds: u64 = std::env::var("KEYSTONE_HISTORIES").map_or(1, |text| text.parse().unwrap());
    let (mut dice, mut shut, mut open, mut without) = (Dice(seed), 0, 0, 0);
    for _ in 0..rounds {
        for strategy in Strategy::ALL {
            for degrees in [[2, 3], [4, 0]] {
                let degree = Degree::from_code(degrees[dice.number(2)]).unwrap();
                let suite = if dice.number(2) == 0 { Suite::Aes128 } else { Suite::Aes256 };
                let (splicing, records_per_snapshot) = (dice.number(2) == 0, 15 + dice.number(15));
                let published = degrees[0] == 2;
                let kept = Kept { strategy, degree, suite, splicing, published, records_per_snapshot };
                let mut history = History::live(dice.roll(), kept, 60);
                let case = format!("{strategy}, degree {degree}, {suite}, splicing {splicing}, pages {published}");
                // Of all that was ever written to the store, this opens.
                let (snapshot, records) = attacker::contents(&history.journal);
                let stored = history.journal.load().unwrap();
                assert!(snapshot == *stored.snapshot.unwrap(), "{case}: not the present snapshot alone");
                assert!(records.iter().eq(stored.records.iter().map(|record| &**record)), "{case}: other records");
                assert!(history.snapshots.len() > 1, "{case}: {} snapshots", history.snapshots.len());
                let computed = history.computed(&[&snapshot], &records);
                let (at, last) = (epoch_of(kept, &snapshot), *history.epochs.keys().last().unwrap());
                println!("{case}: the snapshot is of epoch {at} of {last}; open are {}", ranges(&computed));
                let tried = history.tried(&[&snapshot], &records);
                assert_eq!(ranges(&tried), ranges(&computed), "{case}: on octets");
                assert!((at..=last).all(|epoch| computed.contains(&epoch)), "{case}: all since the snapshot");
                let earlier = |epochs: &BTreeSet<u64>| epochs.range(..at).count();
                let known = earlier(&computed);
                (open, shut) = (open + known, shut + history.epochs.range(..at).count() - known);
                let all: Vec<&[u8]> = history.snapshots.iter().map(Vec::as_slice).collect();
                without += earlier(&history.computed(&all, &records)) - known;
            }
        }
    }
    println!(
        "of the epochs before a snapshot {open} open and {shut} do not; {without} of these would without the ratchet"
    );
    assert!(open > 0 && shut > open && without > 0);
}
