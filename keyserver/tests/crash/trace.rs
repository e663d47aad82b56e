//! A life of a key server on a disk that remembers: requests, compactions, restarts; what was stored after each write, and
//! what was acknowledged when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyserver::core::{Access, Admin, AdminReply, Event, Input};
use keyserver::store::{Followed, Journal, Loaded, MemoryStore, RedbBackend, SiteKey, Store, StoreError};
use protocol::credential::NO_END;
use protocol::identity::IdentityPattern;
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::{Act, Denial, Losses, Operations, Outcome, Request, RequestId, Resync};
use protocol::{IndividualKey, MemberId};

use crate::common::{Counter, World, granted, identity};
use crate::disk::{Disk, Log};

pub(crate) const GROUPS: [&str; 2] = ["news", "vip"];
/// Clients at the most.
const CLIENTS: usize = 30;

/// What a store holds. The octets are shared with the states before and after.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) snapshot: Option<Arc<Vec<u8>>>,
    pub(crate) records: Vec<Arc<Vec<u8>>>,
}

impl Content {
    pub(crate) fn holds(&self, loaded: &Loaded) -> bool {
        self.snapshot.as_ref().map(|octets| octets.as_slice())
            == loaded.snapshot.as_ref().map(|octets| octets.as_slice())
            && self.records.len() == loaded.records.len()
            && self.records.iter().zip(&loaded.records).all(|(ours, theirs)| ours.as_slice() == theirs.as_slice())
    }

    pub(crate) fn store(&self) -> MemoryStore {
        let mut store = MemoryStore::default();
        if let Some(snapshot) = &self.snapshot {
            store.snapshot(snapshot).unwrap();
        }
        let records: Vec<&[u8]> = self.records.iter().map(|record| record.as_slice()).collect();
        store.append(&records).unwrap();
        store
    }
}

/// What the store held when a write was acknowledged to the core.
pub(crate) struct State {
    /// Operations of the disk before.
    pub(crate) at: usize,
    pub(crate) content: Content,
    /// Compactions that were complete.
    pub(crate) generation: u64,
}

/// What somebody outside was told, or saw.
#[derive(Clone, Default)]
pub(crate) struct Facts {
    /// Operations of the disk before.
    pub(crate) at: usize,
    pub(crate) clients: BTreeMap<String, (MemberId, u64)>,
    pub(crate) members: BTreeSet<(usize, String)>,
    pub(crate) barred: BTreeSet<(usize, String)>,
    /// The newest epoch that was announced of each group, and the term.
    pub(crate) epochs: [u64; 2],
    pub(crate) term: u64,
}

#[derive(Default)]
pub(crate) struct Notes {
    pub(crate) states: Vec<State>,
    pub(crate) facts: Vec<Facts>,
    pub(crate) halted: bool,
}

/// Notes what was acknowledged, and when.
struct Noted {
    journal: Box<dyn Store>,
    /// From the journal, for the core.
    loaded: Loaded,
    log: Log,
    notes: Arc<Mutex<Notes>>,
}

impl Noted {
    fn note(&self, compacted: bool, change: impl FnOnce(&mut Content)) {
        let mut notes = self.notes.lock().unwrap();
        let last = notes.states.last().unwrap();
        let (mut content, generation) = (last.content.clone(), last.generation + u64::from(compacted));
        change(&mut content);
        notes.states.push(State { at: self.log.lock().unwrap().len(), content, generation });
    }

    fn note_records(&self, records: &[&[u8]]) {
        self.note(false, |content| content.records.extend(records.iter().map(|record| Arc::new(record.to_vec()))));
    }
}

impl Store for Noted {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        Ok(std::mem::take(&mut self.loaded))
    }

    fn follow(&mut self) -> Result<Followed, StoreError> {
        self.journal.follow()
    }

    fn fence(&mut self) -> Result<(), StoreError> {
        self.journal.fence()
    }

    fn reigns(&mut self) -> Result<(), StoreError> {
        self.journal.reigns()
    }

    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError> {
        self.journal.append(records)?;
        self.note_records(records);
        Ok(())
    }

    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        self.journal.snapshot(snapshot)?;
        self.note(true, |content| {
            *content = Content { snapshot: Some(Arc::new(snapshot.to_vec())), records: Vec::new() };
        });
        Ok(())
    }
}

pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// SplitMix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// How long a trace is.
#[derive(Clone, Copy)]
pub(crate) struct Length {
    pub(crate) requests: usize,
    pub(crate) records_per_snapshot: usize,
    /// Requests from one restart to the next, which are killed and orderly in turns.
    pub(crate) per_restart: usize,
}

/// A key server's world over any store.
pub(crate) fn world<S: Store>(store: S, seed: u64, records_per_snapshot: usize) -> World<S> {
    World::start_on(store, seed, |config| {
        config.records_per_snapshot = records_per_snapshot;
        for group in &mut config.groups {
            group.max_members = 64;
            group.access = Access::open([IdentityPattern::parse("spiffe://demo/member/*").unwrap()]);
        }
    })
}

/// Runs it, until it is over or the store fails. `key` opens the site key before every start.
pub(crate) fn run(disk: &mut Disk, length: Length, seed: u64, key: &dyn Fn(&Disk) -> SiteKey) -> Notes {
    let log = disk.log.clone().unwrap();
    let first = State { at: 0, content: Content::default(), generation: 0 };
    let notes = Arc::new(Mutex::new(Notes { states: vec![first], facts: vec![Facts::default()], ..Notes::default() }));
    let mut dice = Dice(seed);
    for reign in 0..length.requests / length.per_restart {
        let opened = RedbBackend::on(disk.clone())
            .and_then(|backend| Journal::open(backend, key(disk), Box::new(Counter(seed ^ dice.next()))));
        let loaded = opened.and_then(|mut journal| journal.load().map(|loaded| (journal, loaded)));
        let Ok((journal, loaded)) = loaded else {
            notes.lock().unwrap().halted = true;
            break;
        };
        let store = Noted { journal: Box::new(journal), loaded, log: log.clone(), notes: notes.clone() };
        let facts = notes.lock().unwrap().facts.last().unwrap().clone();
        let world = world(store, seed ^ dice.next(), length.records_per_snapshot);
        let mut driver = Driver { world, facts, dice: &mut dice, requests: 0 };
        driver.observe(&log, &notes);
        for _ in 0..length.per_restart {
            if driver.world.halted {
                break;
            }
            driver.request();
            driver.observe(&log, &notes);
        }
        if driver.world.halted {
            notes.lock().unwrap().halted = true;
            break;
        }
        if reign % 2 == 0 {
            *disk = disk.clone().kill();
        }
    }
    std::mem::take(&mut *notes.lock().unwrap())
}

struct Driver<'a> {
    world: World<Noted>,
    facts: Facts,
    dice: &'a mut Dice,
    requests: u128,
}

impl Driver<'_> {
    fn pick<T: Clone>(&mut self, all: impl IntoIterator<Item = T>) -> Option<T> {
        let all: Vec<T> = all.into_iter().collect();
        (!all.is_empty()).then(|| all[self.dice.below(all.len())].clone())
    }

    /// One request of a registrar, a client or an operator; what cannot be asked for is another registration.
    fn request(&mut self) {
        self.world.wait(Duration::from_millis(20));
        let (clients, members, barred) = (self.facts.clients.clone(), self.facts.members.clone(), &self.facts.barred);
        let barred = barred.clone();
        let group = self.dice.below(GROUPS.len());
        match self.dice.below(100) {
            0..40 => match self.pick(clients.keys().cloned()) {
                Some(name) => self.join(group, name),
                None => self.register(),
            },
            40..58 => match self.pick(members) {
                Some(of) => self.leave(of),
                None => self.register(),
            },
            58..68 => match self.pick(members) {
                Some(of) => self.evict(of),
                None => self.register(),
            },
            68..76 => match self.pick(barred) {
                Some((group, name)) => {
                    let admit = Admin::Admit { group: GROUPS[group].into(), identity: identity(&name) };
                    if self.admin(admit).is_some() {
                        self.facts.barred.remove(&(group, name));
                    }
                }
                None => self.register(),
            },
            76..82 => drop(self.admin(Admin::Refresh { group: GROUPS[group].into() })),
            82..88 => match self.pick(members) {
                Some((group, name)) => {
                    let (group, losses) = (GROUPS[group].into(), Losses::default());
                    let resync = Resync { group, seen: (0, 0), have: 0, losses };
                    drop(self.ask(&name, Operations::Resyncs(vec![resync])));
                }
                None => self.register(),
            },
            _ => self.register(),
        }
    }

    fn register(&mut self) {
        let name = format!("member/m{}", self.dice.below(CLIENTS));
        let ToRegistrar::Number { client, registration, .. } = self.world.fetch(&name) else { panic!("no number") };
        let key = IndividualKey::new([9; 32]);
        let frame =
            FromRegistrar::HandOver { tag: 8, client, registration, key, ends: NO_END, credential: vec![1; 33] }
                .encode();
        self.world.to_registrar.clear();
        self.world.handle(Input::FromRegistrar { link: 1, frame: &frame });
        match self.world.to_registrar.first() {
            Some(answer) => {
                assert_eq!(*answer, ToRegistrar::Durable { tag: 8 });
                self.facts.clients.insert(name, (client, registration));
            }
            None => assert!(self.world.halted, "no answer"),
        }
    }

    fn join(&mut self, group: usize, name: String) {
        let outcome = self.ask(&name, Operations::Changes(vec![(Act::Join, GROUPS[group].into())]));
        if let Some(Outcome::Granted(_)) = outcome {
            self.facts.members.insert((group, name));
        }
    }

    fn leave(&mut self, (group, name): (usize, String)) {
        let outcome = self.ask(&name, Operations::Changes(vec![(Act::Leave, GROUPS[group].into())]));
        if let Some(Outcome::Left { .. }) = outcome {
            self.facts.members.remove(&(group, name));
        }
    }

    fn evict(&mut self, (group, name): (usize, String)) {
        let evict = Admin::Evict { group: GROUPS[group].into(), identity: identity(&name) };
        if self.admin(evict).is_some() {
            self.facts.members.remove(&(group, name.clone()));
            self.facts.barred.insert((group, name));
        }
    }

    /// The outcome of a request of one operation, `None` if the store failed meanwhile.
    fn ask(&mut self, name: &str, operations: Operations) -> Option<Outcome> {
        self.requests += 1;
        let id = RequestId((u128::from(self.dice.next()) << 64 | self.requests).to_be_bytes());
        let message = Request { id, operations }.encode();
        let (client, registration) = self.facts.clients[name];
        self.world.handle(Input::Request { session: 1, client, registration, message: &message });
        let Some((_, reply)) = self.world.replies.pop() else {
            assert!(self.world.halted, "no answer");
            return None;
        };
        reply.unwrap().outcomes.pop()
    }

    fn admin(&mut self, command: Admin) -> Option<AdminReply> {
        self.world.handle(Input::Admin { ticket: 1, command });
        match self.world.answers.pop() {
            Some(answer) => Some(answer.unwrap()),
            None => {
                assert!(self.world.halted, "no answer");
                None
            }
        }
    }

    /// Notes what is known outside by now.
    fn observe(&mut self, log: &Log, notes: &Mutex<Notes>) {
        for event in self.world.events.drain(..) {
            match event {
                Event::Reign { term, .. } => self.facts.term = term,
                Event::Epoch(epoch) => self.facts.epochs[usize::try_from(epoch.group.0).unwrap() - 1] = epoch.epoch,
                _ => {}
            }
        }
        self.world.datagrams.clear();
        self.facts.at = log.lock().unwrap().len();
        notes.lock().unwrap().facts.push(self.facts.clone());
    }
}

/// A key server that starts from this content knows all that was acknowledged `before`; what was under way `after` it, it
/// knows or does not know.
pub(crate) fn check(content: &Content, before: &Facts, after: &Facts) {
    let mut world = world(content.store(), 77, usize::MAX);
    let Ok(AdminReply::Status(status)) = world.admin(Admin::Status) else { panic!("no status") };
    assert!(!world.halted && status.term > before.term, "term {} after {}", status.term, before.term);
    for (name, (client, registration)) in &before.clients {
        let same = after.clients.get(name) == Some(&(*client, *registration));
        assert!(!same || world.core.individual_key(*client, *registration).is_some(), "{name} is not registered");
    }
    for (index, group) in GROUPS.iter().enumerate() {
        let (epoch, announced) = (status.groups[index].epoch, before.epochs[index]);
        assert!(epoch > announced || announced == 0, "{group}: epoch {epoch} after {announced}");
        let Ok(AdminReply::Members(seen)) = world.admin(Admin::Members { group: (*group).into() }) else { panic!() };
        let seen: BTreeSet<String> =
            seen.members.iter().map(|member| member.identity.to_string().replace("spiffe://demo/", "")).collect();
        for (name, newest) in &after.clients {
            // The newest registration, unless it is under way.
            let known = |who: &&(MemberId, u64)| world.core.individual_key(who.0, who.1).is_some();
            let Some(who) = [Some(newest), before.clients.get(name)].into_iter().flatten().find(known).copied() else {
                continue;
            };
            let of = (index, name.clone());
            let (was, will) = (before.members.contains(&of), after.members.contains(&of));
            assert!(was != will || seen.contains(name) == was, "{name} in {group}: {was}, {seen:?}");
            if was && will {
                let (group, losses) = ((*group).into(), Losses::default());
                let resync = Resync { group, seen: (before.term, announced), have: 0, losses };
                let outcomes = world.ask(who, 3, Operations::Resyncs(vec![resync]));
                granted(&outcomes[0]);
            }
            if before.barred.contains(&of) && after.barred.contains(&of) {
                let outcomes = world.change(who, 4, &[(Act::Join, group)]);
                assert_eq!(outcomes, [Outcome::Denied(Denial::Evicted)], "{name} was evicted from {group}");
            }
        }
    }
}
