//! The reference model: what happened, in words that a child could check.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client_ctl::core::How;
use keygraph::closure::Knowledge;
use keygraph::{KeyRef, NodeId, Plan, Wrapped};
use protocol::{Commitment, GroupId, MemberId};

/// Everything about one group.
#[derive(Debug, Default)]
pub struct GroupRecord {
    /// Members now.
    pub members: BTreeSet<MemberId>,
    /// Who had a right to which epoch.
    pub rights: BTreeMap<u64, BTreeSet<MemberId>>,
    /// Every plan whose message was multicast.
    pub plans: Vec<Plan>,
    /// What pages ever showed: which secret stood wrapped under which.
    pub pages: BTreeSet<(KeyRef, KeyRef)>,
    /// Path secrets that were given in replies.
    pub given: Vec<(MemberId, KeyRef)>,
    /// Earlier data keys that were given in replies.
    pub given_data: Vec<(MemberId, u64)>,
    /// Data keys that clients held, by epoch.
    pub held: BTreeMap<u64, BTreeMap<MemberId, [u8; 32]>>,
    /// Commitments that were signed, by epoch.
    pub commitments: BTreeMap<u64, BTreeSet<Commitment>>,
    /// When the newest epoch was announced.
    pub newest_at: Duration,
    /// Terms in which each epoch was announced.
    pub terms: BTreeMap<u64, u64>,
}

/// Everything.
#[derive(Debug, Default)]
pub struct Record {
    /// The groups.
    pub groups: BTreeMap<GroupId, GroupRecord>,
    /// What went wrong, in words; empty in a good world.
    pub complaints: Vec<String>,
    /// When and how each client came to the key of each epoch.
    pub installed: BTreeMap<(usize, String, u64), (Duration, How)>,
    /// Re-synchronizations of each client.
    pub resynced: BTreeMap<usize, u64>,
    /// Octets that the key server multicast.
    pub octets: u64,
    /// Forged datagrams that were sent.
    pub forged: u64,
    /// The most octets of rekey messages that a client kept at a time.
    pub most_kept: usize,
    /// How often things happened, so that a test can say that it saw something.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Record {
    /// Counts something.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }
}

impl GroupRecord {
    /// A new epoch, as the key server announced it.
    pub fn epoch(&mut self, plan: &Plan) {
        for (member, _) in &plan.left {
            self.members.remove(member);
        }
        for (member, _) in &plan.joined {
            self.members.insert(*member);
        }
        self.rights.insert(plan.epoch, self.members.clone());
        self.plans.push(plan.clone());
    }

    /// A published page shows `target` wrapped under `kek`.
    pub fn wrapped(&mut self, kek: KeyRef, target: KeyRef) {
        self.pages.insert((kek, target));
    }

    /// The symbolic attacker: epochs whose root all principals without a right to it, together, can compute.
    pub fn broken_epochs(&self) -> Vec<u64> {
        let mut everything = Knowledge::new();
        self.plans.iter().for_each(|plan| everything.observe(plan));
        for (kek, target) in &self.pages {
            everything.observe_wrapped(&Wrapped { kek: *kek, member: None, target: *target });
        }
        let broken = |(epoch, rights): (&u64, &BTreeSet<MemberId>)| {
            let mut attacker = everything.clone();
            for (member, key) in &self.given {
                if !rights.contains(member) {
                    attacker.learn(*key);
                }
            }
            attacker.reaches(KeyRef { node: NodeId(0), version: *epoch }).then_some(*epoch)
        };
        self.rights.iter().filter_map(broken).collect()
    }
}
