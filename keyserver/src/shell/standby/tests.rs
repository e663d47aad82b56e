#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use keygraph::Degree;
use net::multicast::SendOptions;
use net::noise::StaticKey;
use net::reload::Reloaded;
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::{Act, Denial, Losses, Operations, Outcome, Reply, Request, RequestId, Resync};
use protocol::{Authentication, Beacon, Entropy, GroupId, IndividualKey, MemberId, SigningKey};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::*;
use crate::config::keys::Keys;
use crate::core::{Access, Admin, AdminReply, Config, GroupConfig, Status};
use crate::shell::commands::{Answer, Command, Handle, commands};
use crate::shell::engine::Ways;
use crate::shell::publisher::Publisher;
use crate::shell::queues::queue;
use crate::shell::relays::Relays;
use crate::shell::turn::{Turn, Waiting};
use crate::store::{Journal, Loaded, MemoryBackend, SiteKey};

struct Count(u64);

impl Entropy for Count {
    fn fill(&mut self, out: &mut [u8]) {
        for octet in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *octet = self.0.to_be_bytes()[0];
        }
    }
}

fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://demo/{name}")).unwrap()
}

pub(in crate::shell) fn config() -> Config {
    let everybody = IdentityPattern::parse("spiffe://demo/member/*").unwrap();
    let group = GroupConfig {
        degree: Degree::new(3).unwrap(),
        compaction: 0,
        max_members: 5,
        // The first of an epoch is the only one in the time of a test.
        beacon: Duration::from_secs(3_600),
        beacon_max: Duration::from_secs(3_600),
        send_delay: Duration::ZERO,
        keep_old_revoked: Duration::ZERO,
        ..GroupConfig::plain(GroupId(1), "g", ([239, 0, 0, 1], 7_000).into(), Access::open([everybody.clone()]))
    };
    Config {
        registrars: vec![(identity("registrar"), vec![(Authentication::Certificate, everybody)])],
        groups: vec![group],
        bits_per_second: 8_000_000,
        ..Config::plain("ks", SigningKey::from_seed(&[1; 32]).unwrap())
    }
}

/// Comes and goes when the test says so.
#[derive(Default)]
struct ByHand {
    mine: watch::Sender<bool>,
    over: watch::Sender<bool>,
    passed: watch::Sender<bool>,
}

impl Turn for Arc<ByHand> {
    fn comes(&mut self) -> Waiting<'_> {
        Box::pin(async { drop(self.mine.subscribe().wait_for(|mine| *mine).await) })
    }

    fn is_over(&mut self) -> Waiting<'_> {
        Box::pin(async { drop(self.over.subscribe().wait_for(|over| *over).await) })
    }

    fn pass(&mut self) -> Waiting<'_> {
        self.passed.send_replace(true);
        Box::pin(std::future::ready(()))
    }
}

pub(in crate::shell) fn journal(backend: &MemoryBackend, seed: u64) -> Journal<MemoryBackend> {
    Journal::open(backend.clone(), SiteKey::in_memory(&[7; 32]), Box::new(Count(seed))).unwrap()
}

/// A key server without sockets.
pub(in crate::shell) struct Server {
    engine: Handle,
    turn: Arc<ByHand>,
    pub(in crate::shell) shutdown: Shutdown,
    ended: JoinHandle<Result<(), RunError>>,
}

impl Server {
    pub(in crate::shell) fn start(backend: &MemoryBackend, seed: u64) -> Self {
        Self::over(Box::new(journal(backend, seed)), seed)
    }

    fn over(mut store: Box<dyn Store>, seed: u64) -> Self {
        let Loaded { snapshot, records } = store.load().unwrap();
        let snapshot = snapshot.as_ref().map(|snapshot| snapshot.as_slice());
        let core = Core::stand_by(Now::ZERO, config(), Box::new(Count(seed)), snapshot, &records).unwrap();
        let (turn, shutdown) = (Arc::<ByHand>::default(), Shutdown::new());
        let relays = Relays::open(&[], 0).unwrap();
        let noise = StaticKey::generate().unwrap().into();
        let keys = Keys { noise, signing: SigningKey::from_seed(&[1; 32]).unwrap(), site: None };
        let (_, keys) = Reloaded::new(keys);
        let ways = Ways { multicast: SendOptions::default(), relays, publisher: Publisher::default() };
        let (commands, stop) = (commands(), shutdown.clone());
        let handle = commands.0.clone();
        let engine = Engine::new(core, store, Box::new(turn.clone()), ways, keys, commands);
        let ended = tokio::task::spawn_local(engine.run(stop, Duration::from_secs(1)));
        Self { engine: handle, turn, shutdown, ended }
    }

    async fn status(&self) -> Status {
        match self.engine.ask(|answer| Command::Admin(Admin::Status, answer)).await {
            Some(Ok(AdminReply::Status(status))) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the status is as wanted.
    async fn until(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        for _ in 0..500 {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never came: {:?}", self.status().await);
    }

    /// The turn comes, and the reign's first rekey is made.
    pub(in crate::shell) async fn reigns(&self, term: u64, before: u64) -> Status {
        self.turn.mine.send_replace(true);
        self.until(|status| !status.standby && status.term == term && status.groups[0].epoch > before).await
    }

    pub(in crate::shell) async fn register(&self) -> (MemberId, u64) {
        let (frames, pushed) = queue(10);
        let mut read = pushed.items;
        self.engine.send(Command::RegistrarUp(1, identity("registrar"), frames)).await;
        let tell = async |frame: FromRegistrar| {
            self.engine.send(Command::FromRegistrar(1, Zeroizing::new(frame.encode().to_vec()))).await;
        };
        tell(FromRegistrar::FetchNumber { tag: 1, kind: Authentication::Certificate, identity: identity("member/m1") })
            .await;
        loop {
            match ToRegistrar::decode(&read.recv().await.unwrap()).unwrap() {
                ToRegistrar::Number { client, registration, .. } => {
                    let key = IndividualKey::new([9; 32]);
                    tell(FromRegistrar::HandOver {
                        tag: 2,
                        client,
                        registration,
                        key,
                        ends: NO_END,
                        credential: vec![1; 33],
                    })
                    .await;
                    while !matches!(ToRegistrar::decode(&read.recv().await.unwrap()), Ok(ToRegistrar::Durable { .. })) {
                    }
                    return (client, registration);
                }
                _ => continue,
            }
        }
    }

    /// The outcome, `None` if there was no answer.
    async fn ask(&self, (client, registration): (MemberId, u64), id: u8, operations: Operations) -> Option<Outcome> {
        let message = Zeroizing::new(Request { id: RequestId([id; 16]), operations }.encode().to_vec());
        let (reply, answered) = oneshot::channel();
        self.engine.send(Command::Request(client, registration, message, reply)).await;
        match answered.await.ok()? {
            Answer::Reply(reply) => Reply::decode(&reply).unwrap().outcomes.pop(),
            _ => None,
        }
    }

    pub(in crate::shell) async fn join(&self, who: (MemberId, u64), id: u8) -> Option<Outcome> {
        self.ask(who, id, Operations::Changes(vec![(Act::Join, "g".into())])).await
    }

    async fn resync(&self, who: (MemberId, u64), id: u8) -> Option<Outcome> {
        let resync = Resync { group: "g".into(), seen: (0, 0), have: 0, losses: Losses::default() };
        self.ask(who, id, Operations::Resyncs(vec![resync])).await
    }

    pub(in crate::shell) async fn end(self) -> Result<(), RunError> {
        let result = tokio::time::timeout(Duration::from_secs(10), self.ended).await.expect("it ends").unwrap();
        assert!(*self.turn.passed.borrow(), "it lets another one take over");
        result
    }
}

/// Engines stay on the thread that starts them.
pub(in crate::shell) fn live(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tokio::task::LocalSet::new().run_until(test));
}

fn beacon(outcome: Option<Outcome>) -> Vec<u8> {
    match outcome {
        Some(Outcome::Granted(membership)) => membership.beacon,
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_follows_answers_takes_its_turn_and_is_deposed() {
    live(async {
        let backend = MemoryBackend::default();
        let first = Server::start(&backend, 1);
        first.reigns(1, 0).await;
        let standby = Server::start(&backend, 2);
        assert!(standby.status().await.standby);
        let who = first.register().await;
        let joined = beacon(first.join(who, 1).await);
        let epoch = Beacon::decode(&joined).unwrap().context.epoch;
        // It has what the other has committed a moment later, answers with the other's beacon, and changes nothing.
        standby.until(|status| status.groups[0].epoch == epoch).await;
        assert_eq!(beacon(standby.resync(who, 2).await), joined);
        assert_eq!(standby.join(who, 3).await, Some(Outcome::Denied(Denial::Standby)));
        assert!(standby.status().await.standby);
        // Its turn comes although the other is alive: the fence decides.
        let status = standby.reigns(2, epoch).await;
        assert_eq!(status.groups[0].epoch, epoch + 1, "one rekey");
        assert_eq!(Beacon::decode(&beacon(standby.resync(who, 4).await)).unwrap().context.term, 2);
        // Whatever the other wants to write now is not answered, and is its end.
        let refresh = first.engine.ask(|answer| Command::Admin(Admin::Refresh { group: "g".into() }, answer)).await;
        assert!(refresh.is_none(), "{refresh:?}");
        assert!(matches!(first.end().await, Err(RunError::Deposed)));
        // The second is told before it writes anything.
        standby.turn.over.send_replace(true);
        assert!(matches!(standby.end().await, Err(RunError::Deposed)));
        // A third one goes on from all of it.
        let third = Server::start(&backend, 3);
        let status = third.reigns(3, epoch + 1).await;
        assert_eq!((status.groups[0].epoch, status.groups[0].members), (epoch + 2, 1));
        third.shutdown.trigger();
        assert!(third.end().await.is_ok());
    });
}

#[test]
fn it_can_be_stopped_while_it_stands_by() {
    live(async {
        let standby = Server::start(&MemoryBackend::default(), 1);
        assert!(standby.status().await.standby);
        standby.shutdown.trigger();
        assert!(standby.end().await.is_ok());
    });
}

/// Somebody else begins a reign, again and again, always a moment before this one.
struct TooLate(Journal<MemoryBackend>, u32);

impl Store for TooLate {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.0.load()
    }
    fn follow(&mut self) -> Result<Followed, StoreError> {
        self.0.follow()
    }
    fn fence(&mut self) -> Result<(), StoreError> {
        match self.1.checked_sub(1) {
            None => self.0.fence(),
            Some(left) => {
                self.1 = left;
                Err(StoreError::Deposed("here".into()))
            }
        }
    }
    fn reigns(&mut self) -> Result<(), StoreError> {
        self.0.reigns()
    }
    fn append(&mut self, records: &[&[u8]]) -> Result<(), StoreError> {
        self.0.append(records)
    }
    fn snapshot(&mut self, snapshot: &[u8]) -> Result<(), StoreError> {
        self.0.snapshot(snapshot)
    }
}

#[test]
fn a_take_over_that_others_disturb_is_tried_again_and_given_up_in_the_end() {
    live(async {
        let late = |times| Server::over(Box::new(TooLate(journal(&MemoryBackend::default(), 1), times)), 1);
        let twice = late(2);
        twice.reigns(1, 0).await;
        let thrice = late(3);
        thrice.turn.mine.send_replace(true);
        assert!(matches!(thrice.end().await, Err(RunError::Deposed)));
    });
}

#[test]
fn it_never_reigns_over_what_a_newer_version_has_written() {
    // It reads of the newer one's reign before its turn comes, or not before.
    for turn_comes in [false, true] {
        live(async {
            let backend = MemoryBackend::default();
            let first = Server::start(&backend, 1);
            first.reigns(1, 0).await;
            first.shutdown.trigger();
            first.end().await.unwrap();
            let standby = Server::start(&backend, 2);
            assert!(standby.status().await.standby);
            let mut newer = journal(&backend, 3);
            let mut record = newer.load().unwrap().records.pop().unwrap();
            let known = record[0];
            record[0] = known + 1;
            newer.fence().unwrap();
            newer.append(&[&record]).unwrap();
            let written = backend.values();
            standby.turn.mine.send_replace(turn_comes);
            let refused = standby.end().await.unwrap_err();
            assert!(matches!(refused, RunError::Restore(RestoreError::Version { .. })), "{refused}");
            let words = format!("a newer Keystone: version {}, and this one knows version {known}", known + 1);
            assert!(refused.to_string().contains(&words), "{refused}");
            assert!(backend.values() == written, "not even the fence is touched");
        });
    }
}
