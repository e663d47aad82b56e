//! One group: its key tree, the secrets in it, and the epoch that it is in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA256, digest};
use keygraph::{Change, ChangeError, KeyRef, NodeId, Plan, Staged, Strategy, Tree};
use protocol::beacon::Beacon;
use protocol::execute::{ExecuteError, Executed, Secrets, execute};
use protocol::rekey::Announcement;
use protocol::request::{EarlierKey, MAX_EARLIER, Membership, RequestId};
use protocol::sign::SigningKey;
use protocol::{
    Commitment, DataKey, DecodeError, EpochContext, EpochHeader, GroupId, HeaderHash, Incarnation, KeyPath, MemberId,
    NodeSecret, Reason, Seed, Suite,
};
use thiserror::Error;

use super::{GroupConfig, Now};

/// Data keys of past epochs are kept this long, for members that ask late and hold packets that came early.
const KEEP_EARLIER: Now = Now::from_secs(60);
/// A member that asks for an earlier data key gets at least this long to use it on what it holds.
const LEAST_REMAINING: Now = Now::from_secs(2);

/// The secrets of all k-nodes and leaves, by id, with the version that each has.
#[derive(Default)]
pub(super) struct Held(pub(super) BTreeMap<NodeId, (u64, NodeSecret)>);

impl Secrets for Held {
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret> {
        self.0.get(&key.node).filter(|(version, _)| *version == key.version).map(|(_, secret)| secret)
    }
}

/// Where a group stands: everything that the next epoch continues.
#[derive(Clone)]
pub(super) struct Position {
    pub(super) context: EpochContext,
    pub(super) header_hash: HeaderHash,
    pub(super) commitment: Commitment,
    pub(super) announcement: Announcement,
    /// Digest of all changes up to here; a replay must come to the same.
    pub(super) digest: [u8; 32],
}

/// A data key that is not the newest.
pub(super) struct Earlier {
    pub(super) epoch: u64,
    pub(super) key: DataKey,
    pub(super) superseded: Now,
    pub(super) keep: Now,
}

/// Why a change could not be staged. The group is untouched.
#[derive(Debug, Error)]
pub(super) enum StageError {
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error("the group has had all epochs that there are")]
    Exhausted,
}

/// What one epoch is made from; with the group before it, this gives the group after it, octet by octet.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) group: GroupId,
    pub(super) incarnation: Incarnation,
    pub(super) term: u64,
    pub(super) epoch: u64,
    pub(super) strategy: Strategy,
    pub(super) changes: Vec<Change>,
    pub(super) announcement: Announcement,
    pub(super) seed: Seed,
    /// The request that asked for it, if one did.
    pub(super) request: Option<RequestId>,
}

/// A change that nobody knows of yet: it can be dropped.
pub(super) struct StagedEpoch {
    pub(super) recipe: Recipe,
    pub(super) header: EpochHeader,
    pub(super) message: Vec<u8>,
    pub(super) digest: [u8; 32],
    staged: Staged,
    executed: Executed,
}

pub(super) struct Group {
    pub(super) config: GroupConfig,
    pub(super) tree: Tree,
    pub(super) held: Held,
    pub(super) at: Position,
    pub(super) joined: BTreeMap<MemberId, u64>,
    /// Evicted members, who may not join again until an operator admits them.
    pub(super) barred: BTreeSet<MemberId>,
    /// Members that left: by which request, and the first epoch without them. Asking again gets the same answer.
    pub(super) left: BTreeMap<MemberId, (RequestId, u64)>,
    pub(super) earlier: VecDeque<Earlier>,
    /// Rekey messages, and units and repair units, that were multicast in this reign.
    pub(super) sent: (u64, u64),
    beacon: Vec<u8>,
    beacon_counter: u64,
    next_beacon: Option<Now>,
    next_refresh: Option<Now>,
}

impl Group {
    /// An empty group in epoch 0, whose root nobody is given: the first reign's rekey follows at once.
    pub(super) fn create(config: GroupConfig, incarnation: Incarnation, term: u64, seed: &Seed) -> Self {
        let context = EpochContext { suite: Suite::Aes256, group: config.id, incarnation, term, epoch: 0 };
        let root = context.fresh(seed, NodeId(0));
        let commitment = context.commit(&root);
        let at = Position {
            context,
            header_hash: HeaderHash::NONE,
            commitment,
            announcement: Announcement { reason: Reason::Restart, send_delay_ms: 0, keep_old_ms: 0 },
            digest: [0; 32],
        };
        let tree = Tree::new(config.degree, config.strategy, 0);
        let held = Held(BTreeMap::from([(NodeId(0), (0, root))]));
        Self::restore(config, tree, held, at)
    }

    /// A group at this point, without its roll: that is filled in by whoever reads a snapshot.
    pub(super) fn restore(config: GroupConfig, tree: Tree, held: Held, at: Position) -> Self {
        Self {
            config,
            tree,
            held,
            at,
            joined: BTreeMap::new(),
            barred: BTreeSet::new(),
            left: BTreeMap::new(),
            earlier: VecDeque::new(),
            sent: (0, 0),
            beacon: Vec::new(),
            beacon_counter: 0,
            next_beacon: None,
            next_refresh: None,
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.config.id
    }

    pub(super) fn destination(&self) -> SocketAddr {
        self.config.destination
    }

    pub(super) fn epoch(&self) -> u64 {
        self.at.context.epoch
    }

    pub(super) fn contains(&self, member: MemberId) -> bool {
        self.joined.contains_key(&member)
    }

    /// What the next epoch would be made from.
    pub(super) fn recipe(
        &self,
        incarnation: Incarnation,
        term: u64,
        changes: Vec<Change>,
        reason: Reason,
        seed: Seed,
        request: Option<RequestId>,
    ) -> Recipe {
        let millis = |time: Now| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let announcement = if reason.revokes() {
            Announcement { reason, send_delay_ms: 0, keep_old_ms: millis(self.config.keep_old_revoked) }
        } else {
            Announcement {
                reason,
                send_delay_ms: millis(self.config.send_delay),
                keep_old_ms: millis(self.config.keep_old),
            }
        };
        Recipe {
            group: self.id(),
            incarnation,
            term,
            // Exhaustion is refused by `stage`, which sees an epoch that does not rise.
            epoch: self.epoch().saturating_add(1),
            strategy: self.config.strategy,
            changes,
            announcement,
            seed,
            request,
        }
    }

    /// Plans and executes a change, and leaves the group as it is.
    pub(super) fn stage(&mut self, recipe: Recipe) -> Result<StagedEpoch, StageError> {
        if recipe.epoch <= self.epoch() {
            return Err(StageError::Exhausted);
        }
        self.tree.set_strategy(recipe.strategy);
        let staged = self.tree.stage(&recipe.changes, recipe.epoch)?;
        let header = EpochHeader {
            suite: self.at.context.suite,
            group: self.id(),
            incarnation: recipe.incarnation,
            term: recipe.term,
            epoch: recipe.epoch,
            previous: self.at.header_hash,
        };
        let plan = staged.plan();
        let executed = execute(plan, &header.context(), &recipe.seed, &self.held, recipe.announcement)?;
        let message = executed.message.encode();
        let digest = self.digest(&header, plan, &message);
        Ok(StagedEpoch { recipe, header, message, digest, staged, executed })
    }

    /// Digest of the tree after a change: of the one before, the header, the members' places and the message.
    fn digest(&self, header: &EpochHeader, plan: &Plan, message: &[u8]) -> [u8; 32] {
        let mut input = b"keystone/1 tree\0".to_vec();
        input.extend_from_slice(&self.at.digest);
        header.encode(&mut input);
        for (kind, places) in [(1u8, &plan.joined), (2, &plan.left)] {
            for (member, leaf) in places {
                input.push(kind);
                input.extend_from_slice(&member.0.to_be_bytes());
                input.extend_from_slice(&leaf.0.to_be_bytes());
            }
        }
        input.extend_from_slice(message);
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &input).as_ref());
        out
    }

    /// Makes a staged change, which the store holds, the state of the group. Returns its plan.
    pub(super) fn merge(&mut self, now: Now, staged: StagedEpoch) -> Result<Plan, keygraph::StaleStage> {
        let StagedEpoch { recipe, header, digest, staged, executed, .. } = staged;
        let plan = self.tree.merge(staged)?;
        self.retire_data_key(now, recipe.announcement);
        for (_, leaf) in &plan.left {
            self.forget(*leaf);
        }
        for moved in &plan.moved {
            if let Some(secret) = self.held.0.remove(&moved.from) {
                self.held.0.insert(moved.to, secret);
            }
        }
        for (node, secret) in executed.secrets {
            self.held.0.insert(node, (recipe.epoch, secret));
        }
        for change in &recipe.changes {
            match change {
                Change::Join(member) => {
                    self.joined.insert(*member, recipe.epoch);
                    self.left.remove(member);
                }
                Change::Leave(member) => {
                    self.joined.remove(member);
                    match recipe.request {
                        Some(request) => drop(self.left.insert(*member, (request, recipe.epoch))),
                        None => drop(self.barred.insert(*member)),
                    }
                }
                Change::Renew(_) | Change::Refresh => {}
            }
        }
        self.at = Position {
            context: header.context(),
            header_hash: header.hash(&executed.commitment),
            commitment: executed.commitment,
            announcement: recipe.announcement,
            digest,
        };
        self.next_refresh = self.config.refresh.map(|period| now + period);
        Ok(plan)
    }

    /// Forgets a leaf and the k-nodes above it that the tree no longer has.
    fn forget(&mut self, leaf: NodeId) {
        let mut at = Some(leaf);
        while let Some(node) = at.filter(|node| self.tree.key(*node).is_none()) {
            self.held.0.remove(&node);
            at = keygraph::ids::parent(node, self.tree.degree());
        }
    }

    fn retire_data_key(&mut self, now: Now, next: Announcement) {
        let Some((_, root)) = self.held.0.get(&NodeId(0)) else {
            return;
        };
        if self.earlier.len() == MAX_EARLIER {
            self.earlier.pop_front();
        }
        self.earlier.push_back(Earlier {
            epoch: self.epoch(),
            key: self.at.context.data(root),
            superseded: now,
            keep: Now::from_millis(next.keep_old_ms.into()),
        });
    }

    /// Everything that `member` needs; `None` if it is no member. Earlier data keys only of its own epochs.
    pub(super) fn membership(&mut self, now: Now, member: MemberId, have: u64) -> Option<Membership> {
        let joined_epoch = *self.joined.get(&member)?;
        let keys: Vec<(KeyRef, NodeSecret)> = (self.tree.path(member)?.into_iter())
            .map(|key| Some((key, self.held.secret(key)?.clone())))
            .collect::<Option<_>>()?;
        let leaf = keys.first()?.0.node;
        let path = KeyPath::new(self.tree.degree(), leaf, keys).ok()?;
        while self.earlier.front().is_some_and(|key| key.superseded + KEEP_EARLIER.max(key.keep) < now) {
            self.earlier.pop_front();
        }
        let wanted = self.earlier.iter().filter(|key| key.epoch >= joined_epoch && key.epoch > have);
        let earlier = wanted
            .map(|key| {
                let remaining = (key.superseded + key.keep).saturating_sub(now).max(LEAST_REMAINING);
                EarlierKey {
                    epoch: key.epoch,
                    remaining_ms: u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX),
                    key: key.key.clone(),
                }
            })
            .collect();
        Some(Membership {
            destination: self.config.destination,
            joined_epoch,
            announcement: self.at.announcement,
            path,
            earlier,
            beacon: self.beacon.clone(),
        })
    }

    /// Whether this reign has signed a beacon for the group.
    pub(super) fn is_announced(&self) -> bool {
        !self.beacon.is_empty()
    }

    pub(super) fn next_beacon(&self) -> Option<Now> {
        self.next_beacon
    }

    pub(super) fn next_refresh(&self) -> Option<Now> {
        self.next_refresh
    }

    /// Whether a refresh is due; if so, its timer starts anew, so that it is asked for once.
    pub(super) fn refresh_due(&mut self, now: Now) -> bool {
        let due = self.next_refresh.is_some_and(|at| at <= now);
        if due {
            self.next_refresh = self.config.refresh.map(|period| now + period);
        }
        due
    }

    /// A beacon, if one is due.
    pub(super) fn beacon_due(&mut self, now: Now, key: &SigningKey) -> Option<Vec<u8>> {
        self.next_beacon.is_some_and(|at| at <= now).then(|| self.new_beacon(now, key))
    }

    /// Signs a beacon of the present epoch and starts the timer of the next.
    pub(super) fn new_beacon(&mut self, now: Now, key: &SigningKey) -> Vec<u8> {
        let millis = |time: Now| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self.beacon_counter += 1;
        let beacon = Beacon {
            context: self.at.context,
            commitment: self.at.commitment,
            header_hash: self.at.header_hash,
            counter: self.beacon_counter,
            interval_ms: millis(self.config.beacon),
            resync_wait_ms: millis(self.config.resync_wait),
        };
        self.beacon = beacon.sign(key);
        self.next_beacon = Some(now + self.config.beacon);
        self.beacon.clone()
    }
}

/// A degree that a snapshot or a record names.
pub(super) fn degree(value: u8) -> Result<keygraph::Degree, DecodeError> {
    keygraph::Degree::new(value).map_err(|_| DecodeError::Value { what: "degree", value: value.into() })
}
