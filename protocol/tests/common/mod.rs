//! A key server and its members without any network.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;

use keygraph::{Change, Degree, KeyRef, MemberId, NodeId, Plan, Strategy, Tree};
use protocol::execute::{Executed, Secrets, execute};
use protocol::rekey::Announcement;
use protocol::{EpochContext, GroupId, Incarnation, KeyPath, NodeSecret, Reason, Seed, Suite};

/// SplitMix64: small, seeded, and not for keys.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

#[derive(Default)]
pub struct Held(pub BTreeMap<NodeId, (u64, NodeSecret)>);

impl Secrets for Held {
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret> {
        self.0.get(&key.node).filter(|held| held.0 == key.version).map(|held| &held.1)
    }
}

pub struct Server {
    pub suite: Suite,
    pub tree: Tree,
    pub held: Held,
}

pub fn context(epoch: u64) -> EpochContext {
    EpochContext { suite: Suite::Aes256, group: GroupId(7), incarnation: Incarnation([3; 16]), term: 1, epoch }
}

pub fn announcement() -> Announcement {
    Announcement { reason: Reason::Batch, send_delay_ms: 100, keep_old_ms: 1_000 }
}

impl Server {
    pub fn new(degree: u8, strategy: Strategy) -> Self {
        Self::of(Suite::Aes256, Degree::new(degree).unwrap(), strategy)
    }

    pub fn of(suite: Suite, degree: Degree, strategy: Strategy) -> Self {
        let mut server = Self { suite, tree: Tree::new(degree, strategy, 0), held: Held::default() };
        let root = server.context(0).fresh(&Seed::new([0; 32]), NodeId(0));
        server.held.0.insert(NodeId(0), (0, root));
        server
    }

    pub fn context(&self, epoch: u64) -> EpochContext {
        EpochContext { suite: self.suite, ..context(epoch) }
    }

    pub fn epoch(&self) -> u64 {
        self.tree.epoch()
    }

    /// Carries a change out; what it made, and the plan.
    pub fn change(&mut self, changes: &[Change], seed: u8) -> (Executed, Plan) {
        let epoch = self.epoch() + 1;
        let staged = self.tree.stage(changes, epoch).unwrap();
        let executed =
            execute(staged.plan(), &self.context(epoch), &Seed::new([seed; 32]), &self.held, announcement()).unwrap();
        for (node, slot) in staged.touched() {
            if slot.and_then(|slot| slot.version()).is_none() {
                self.held.0.remove(&node);
            }
        }
        let plan = self.tree.merge(staged).unwrap();
        for (node, secret) in &executed.secrets {
            self.held.0.insert(*node, (epoch, secret.clone()));
        }
        (executed, plan)
    }

    /// What a sealed reply would give.
    pub fn path(&self, member: MemberId) -> KeyPath {
        let keys: Vec<_> = (self.tree.path(member).unwrap().into_iter())
            .map(|key| (key, self.held.secret(key).unwrap().clone()))
            .collect();
        KeyPath::new(self.tree.degree(), keys[0].0.node, keys).unwrap()
    }
}
