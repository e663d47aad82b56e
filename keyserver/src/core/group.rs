//! One group: its key tree, the secrets in it, and the epoch that it is in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};
use keygraph::{Change, ChangeError, KeyRef, NodeId, Pages, Plan, Staged, Strategy, Tree};
use protocol::execute::{ExecuteError, Executed, Secrets, execute};
use protocol::rekey::Announcement;
use protocol::request::RequestId;
use protocol::{
    Commitment, DecodeError, EpochContext, EpochHeader, GroupId, HeaderHash, Incarnation, MemberId, NodeSecret, Reason,
    RekeyMessage, Seed, TagKey,
};
use thiserror::Error;

use super::admin::Endings;
use super::admission::Cause;
use super::batch::Batch;
use super::beacons::Beacons;
use super::left::{MAX_LEFT, forget_oldest};
pub(super) use super::membership::Earlier;
use super::outbox::Audience;
use super::publish::Publishing;
use super::sending::Delivery;
use super::{GroupConfig, Now};

/// The secrets of all k-nodes and leaves, by place; the tree knows their versions.
pub(super) type Held = Pages<NodeSecret>;

/// Secrets under the names that the tree has for them.
pub(super) struct Named<'a> {
    pub(super) tree: &'a Tree,
    pub(super) held: &'a Held,
}

impl Secrets for Named<'_> {
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret> {
        self.held.get(key.node).filter(|_| self.tree.key(key.node) == Some(key))
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

/// Who leaves by choice, and who else, both ascending.
pub(super) type Leavers = (Vec<(MemberId, RequestId)>, Vec<(MemberId, Cause)>);

/// What one epoch is made from; with the group before it, this gives the group after it, octet by octet.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) group: GroupId,
    pub(super) incarnation: Incarnation,
    pub(super) term: u64,
    pub(super) epoch: u64,
    pub(super) strategy: Strategy,
    pub(super) splicing: bool,
    pub(super) changes: Vec<Change>,
    /// Members who leave by choice, with the request that says so, ascending.
    pub(super) by_choice: Vec<(MemberId, RequestId)>,
    /// Why everybody else leaves, ascending.
    pub(super) ended: Vec<(MemberId, Cause)>,
    pub(super) announcement: Announcement,
    pub(super) seed: Seed,
}

/// A change that nobody knows of yet: it can be dropped.
pub(super) struct StagedEpoch {
    pub(super) recipe: Recipe,
    pub(super) header: EpochHeader,
    pub(super) messages: Vec<Vec<u8>>,
    pub(super) digest: [u8; 32],
    /// Of the epoch before: for the units.
    pub(super) tag: TagKey,
    /// The first beacon of the epoch, signed. It stands in the record, so that a standby can vouch for the epoch with it.
    pub(super) beacon: Vec<u8>,
    staged: Staged,
    pub(super) executed: Executed,
}

impl StagedEpoch {
    /// The places that it touches.
    pub(super) fn places(&self) -> Vec<NodeId> {
        self.staged.places()
    }
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
    /// Members whose admission ended: why, and the first epoch without them.
    pub(super) ended: BTreeMap<MemberId, (Cause, u64)>,
    /// Memberships that ended in this reign, by cause.
    pub(super) endings: Endings,
    /// Members whose newest registration is proved and whose leaves are not new yet: the next batch renews them.
    pub(super) unrenewed: BTreeSet<MemberId>,
    /// What waits for the next batch.
    pub(super) batch: Batch,
    /// From an operator's eviction to the first datagram without the member: the last time, and the longest of this reign.
    pub(super) eviction: Option<(Now, Now)>,
    pub(super) earlier: VecDeque<Earlier>,
    /// Rekey messages, and units and repair units, that were multicast in this reign.
    pub(super) sent: (u64, u64),
    pub(super) beacons: Beacons,
    /// How messages are cut and spaced.
    pub(super) delivery: Delivery,
    pub(super) publishing: Publishing,
    /// The next epoch is no lower than this.
    pub(super) floor: u64,
    /// A (term, epoch) that a member has shown and that this key server does not know: nothing is issued.
    pub(super) stopped: Option<(u64, u64)>,
    next_refresh: Option<Now>,
    /// What stands in the core's list of timers.
    pub(super) armed: Option<Now>,
}

impl Group {
    /// An empty group in epoch 0, whose root nobody is given: the first reign's rekey follows at once.
    pub(super) fn create(config: GroupConfig, incarnation: Incarnation, term: u64, seed: &Seed) -> Self {
        let context = EpochContext { suite: config.suite, group: config.id, incarnation, term, epoch: 0 };
        let root = context.fresh(seed, NodeId::ROOT);
        let commitment = context.commit(&root);
        let at = Position {
            context,
            header_hash: HeaderHash::NONE,
            commitment,
            announcement: Announcement { reason: Reason::Restart, send_delay_ms: 0, keep_old_ms: 0 },
            digest: [0; 32],
        };
        let tree = Tree::new(config.degree, config.strategy, 0);
        let mut held = Held::default();
        held.insert(NodeId::ROOT, root);
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
            ended: BTreeMap::new(),
            endings: Endings::default(),
            unrenewed: BTreeSet::new(),
            batch: Batch::default(),
            eviction: None,
            earlier: VecDeque::new(),
            sent: (0, 0),
            beacons: Beacons::default(),
            delivery: Delivery::default(),
            publishing: Publishing::default(),
            floor: 0,
            stopped: None,
            next_refresh: None,
            armed: None,
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.config.id
    }

    pub(super) fn audience(&self) -> Audience {
        Audience { group: self.config.id, destination: self.config.destination }
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
        (by_choice, ended): Leavers,
        reason: Reason,
        seed: Seed,
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
            epoch: self.epoch().saturating_add(1).max(self.floor),
            strategy: self.config.strategy,
            splicing: self.config.splicing,
            changes,
            by_choice,
            ended,
            announcement,
            seed,
        }
    }

    /// Plans and executes a change, and leaves the group as it is.
    pub(super) fn stage(&mut self, recipe: Recipe) -> Result<StagedEpoch, StageError> {
        if recipe.epoch <= self.epoch() {
            return Err(StageError::Exhausted);
        }
        self.tree.set_strategy(recipe.strategy);
        self.tree.set_splicing(recipe.splicing);
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
        let named = Named { tree: &self.tree, held: &self.held };
        let executed = execute(plan, &header.context(), &recipe.seed, &named, recipe.announcement)?;
        let messages: Vec<Vec<u8>> = executed.messages.iter().map(RekeyMessage::encode).collect();
        let digest = self.digest(&header, plan, &messages);
        let tag = self.tag();
        Ok(StagedEpoch { recipe, header, messages, digest, tag, beacon: Vec::new(), staged, executed })
    }

    /// What those who hold the present group key check multicasts by.
    pub(super) fn tag(&self) -> TagKey {
        // The root always stands.
        self.at.context.tag(self.held.get(NodeId::ROOT).unwrap_or(&NodeSecret::default()))
    }

    /// Digest of the tree after a change: of the one before, the header, the members' places and the messages.
    fn digest(&self, header: &EpochHeader, plan: &Plan, messages: &[Vec<u8>]) -> [u8; 32] {
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
        messages.iter().for_each(|message| input.extend_from_slice(message));
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &input).as_ref());
        out
    }

    /// Makes a staged change, which the store holds, the state of the group. Returns its plan.
    pub(super) fn merge(&mut self, now: Now, staged: StagedEpoch) -> Result<Plan, keygraph::StaleStage> {
        let StagedEpoch { recipe, header, digest, beacon, staged, executed, .. } = staged;
        let gone: Vec<NodeId> = (staged.touched())
            .filter(|(_, slot)| slot.and_then(|slot| slot.version()).is_none())
            .map(|(node, _)| node)
            .collect();
        let plan = self.tree.merge(staged)?;
        self.retire_data_key(now, recipe.announcement);
        for node in gone {
            self.held.remove(node);
        }
        for (node, secret) in executed.secrets {
            self.held.insert(node, secret);
        }
        for change in &recipe.changes {
            match change {
                Change::Join(member) => {
                    self.joined.insert(*member, recipe.epoch);
                    self.left.remove(member);
                    self.ended.remove(member);
                }
                Change::Leave(member) => {
                    self.joined.remove(member);
                    self.delivery.forget(*member);
                    self.unrenewed.remove(member);
                    match recipe.by_choice.binary_search_by_key(member, |(member, _)| *member) {
                        Ok(at) => drop(self.left.insert(*member, (recipe.by_choice[at].1, recipe.epoch))),
                        Err(_) => self.evicted(*member, &recipe),
                    }
                }
                Change::Renew(member) => drop(self.unrenewed.remove(member)),
                Change::Refresh | Change::Compact(_) => {}
            }
        }
        forget_oldest(&mut self.left, MAX_LEFT);
        forget_oldest(&mut self.ended, MAX_LEFT);
        self.at = Position {
            context: header.context(),
            header_hash: header.hash(&executed.commitment),
            commitment: executed.commitment,
            announcement: recipe.announcement,
            digest,
        };
        self.beacons.announce(recipe.term, beacon);
        self.next_refresh = self.config.refresh.map(|period| now + period);
        Ok(plan)
    }

    /// Goes on under another configuration of the same group.
    pub(super) fn configure(&mut self, now: Now, config: GroupConfig) {
        if config.refresh != self.config.refresh {
            self.next_refresh = config.refresh.map(|period| now + period);
        }
        if config.published != self.config.published {
            self.publishing = Publishing::anew(config.published.then_some(now));
        }
        self.config = config;
    }

    /// When something is due by itself: a beacon, a refresh, pages.
    pub(super) fn next_due(&self) -> Option<Now> {
        [self.beacons.next(), self.next_refresh, self.publishing.due].into_iter().flatten().min()
    }

    /// Whether a refresh is due; if so, its timer starts anew, so that it is asked for once.
    pub(super) fn refresh_due(&mut self, now: Now) -> bool {
        let due = self.next_refresh.is_some_and(|at| at <= now);
        if due {
            self.next_refresh = self.config.refresh.map(|period| now + period);
        }
        due
    }
}

/// A degree that a snapshot or a record names.
pub(super) fn degree(value: u8) -> Result<keygraph::Degree, DecodeError> {
    keygraph::Degree::from_code(value).map_err(|_| DecodeError::Value { what: "degree", value: value.into() })
}
