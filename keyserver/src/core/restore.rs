//! Snapshots, and the start from a snapshot and the records after it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

use keygraph::{NodeId, Slot, Tree};
use protocol::codec::{Reader, Write};
use protocol::rekey::Announcement;
use protocol::request::{MAX_EARLIER, RequestId};
use protocol::{
    Commitment, DataKey, DecodeError, Entropy, EpochContext, GroupId, HeaderHash, Incarnation,
    IndividualKey, MemberId, NodeSecret, Reason, Seed, Suite,
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::clients::{Client, Clients};
use super::codec::{Record, STATE_VERSION, identity, strategy, strategy_number};
use super::group::{Earlier, Group, Held, Position, degree};
use super::outbox::Outbox;
use super::transaction::{Intent, Transaction};
use super::{Config, Core, GroupConfig, Now, Output};

/// Why a key server cannot start from what its store holds. The store is untouched.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The snapshot is not one, or of another version.
    #[error("the snapshot cannot be read: {0}")]
    Snapshot(DecodeError),
    /// A record is not one, or of another version.
    #[error("record {number} after the snapshot cannot be read: {error}")]
    Record {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        error: DecodeError,
    },
    /// Carrying a record out again did not give what it gave the first time.
    #[error("record {number} after the snapshot cannot be carried out again: {why}")]
    Replay {
        /// Counted from 1.
        number: usize,
        /// What differs.
        why: String,
    },
    /// The degree of a group is fixed when it is made.
    #[error("group {group} was made with degree {stored}, the configuration says {configured}")]
    Degree {
        /// The group.
        group: GroupId,
        /// In the store.
        stored: u8,
        /// In the configuration.
        configured: u8,
    },
    /// All terms are used up.
    #[error("there is no higher term")]
    Terms,
}

impl Core {
    /// Starts a reign: restores what the store holds, takes a higher term, and rekeys each group once.
    pub fn start(
        config: Config,
        entropy: Box<dyn Entropy>,
        snapshot: Option<&[u8]>,
        records: &[Zeroizing<Vec<u8>>],
    ) -> Result<Self, RestoreError> {
        let outbox = Outbox::new(config.units_per_second);
        let mut core = Self {
            config,
            entropy,
            coder: fec::ReedSolomon::new(),
            term: 0,
            incarnation: Incarnation([0; 16]),
            clients: Clients::default(),
            groups: BTreeMap::new(),
            links: BTreeMap::new(),
            intents: VecDeque::new(),
            in_flight: None,
            records: records.len(),
            halted: false,
            outbox,
            outputs: VecDeque::new(),
        };
        if let Some(snapshot) = snapshot {
            core.restore(snapshot)?;
        }
        for (record, number) in records.iter().zip(1..) {
            core.replay(record, number)?;
        }
        core.begin_reign()?;
        Ok(core)
    }

    fn begin_reign(&mut self) -> Result<(), RestoreError> {
        self.term = self.term.checked_add(1).ok_or(RestoreError::Terms)?;
        self.entropy.fill(&mut self.incarnation.0);
        let mut records = vec![Record::Reign {
            term: self.term,
            incarnation: self.incarnation,
        }];
        for config in self.config.groups.clone() {
            if !self.groups.contains_key(&config.id) {
                let mut seed = Zeroizing::new([0; 32]);
                self.entropy.fill(seed.as_mut());
                let (seed, degree) = (Seed::new(*seed), config.degree.get());
                let (group, strategy) = (config.id, config.strategy);
                self.groups.insert(
                    group,
                    Group::create(config, self.incarnation, self.term, &seed),
                );
                records.push(Record::Created {
                    group,
                    degree,
                    strategy,
                    seed,
                });
            }
        }
        for config in &self.config.groups {
            let intent = Intent::Refresh {
                group: config.id,
                reason: Reason::Restart,
                ticket: None,
            };
            self.intents.push_back(intent);
        }
        self.records += records.len();
        self.outputs.push_back(Output::Persist(
            records.iter().map(Record::encode).collect(),
        ));
        self.in_flight = Some(Transaction::Start);
        Ok(())
    }

    fn replay(&mut self, record: &[u8], number: usize) -> Result<(), RestoreError> {
        let failed = |why: String| RestoreError::Replay { number, why };
        let unknown = |group: GroupId| failed(format!("group {group} was never made"));
        match Record::decode(record).map_err(|error| RestoreError::Record { number, error })? {
            Record::Reign { term, incarnation } => {
                (self.term, self.incarnation) = (term, incarnation)
            }
            Record::Registered {
                client,
                identity,
                registration,
                key,
            } => {
                self.clients.register(client, &identity, registration, key);
            }
            Record::Promoted { client } => self.clients.promote(client),
            Record::Created {
                group,
                degree: made_with,
                strategy,
                seed,
            } => {
                let mut config = self.group_config(group, made_with)?;
                config.strategy = strategy;
                self.groups.insert(
                    group,
                    Group::create(config, self.incarnation, self.term, &seed),
                );
                self.configure(group);
            }
            Record::Epoch { recipe, digest } => {
                let group = self
                    .groups
                    .get_mut(&recipe.group)
                    .ok_or_else(|| unknown(recipe.group))?;
                let epoch = recipe.epoch;
                let staged = group
                    .stage(recipe)
                    .map_err(|error| failed(error.to_string()))?;
                if staged.digest != digest {
                    return Err(failed(format!(
                        "epoch {epoch} of group {} came out different",
                        group.id()
                    )));
                }
                group
                    .merge(Now::ZERO, staged)
                    .map_err(|error| failed(error.to_string()))?;
            }
            Record::Admitted { group, member } => {
                self.groups
                    .get_mut(&group)
                    .ok_or_else(|| unknown(group))?
                    .barred
                    .remove(&member);
            }
        }
        Ok(())
    }

    /// The configuration of a group that the store knows. A group that is no longer configured sleeps: nobody can
    /// name it, nothing is sent, and its number cannot be used again for another group by mistake.
    fn group_config(&self, group: GroupId, stored: u8) -> Result<GroupConfig, RestoreError> {
        if let Some(config) = self.config.groups.iter().find(|config| config.id == group) {
            let configured = config.degree.get();
            if configured != stored {
                return Err(RestoreError::Degree {
                    group,
                    stored,
                    configured,
                });
            }
            return Ok(config.clone());
        }
        Ok(GroupConfig {
            id: group,
            name: String::new(),
            destination: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            degree: degree(stored).map_err(RestoreError::Snapshot)?,
            strategy: keygraph::Strategy::default(),
            repair: fec::RepairScheme::default(),
            allow: Vec::new(),
            max_members: 0,
            refresh: None,
            beacon: Now::ZERO,
            resync_wait: Now::ZERO,
            send_delay: Now::ZERO,
            keep_old: Now::ZERO,
            keep_old_revoked: Now::ZERO,
        })
    }

    /// Gives a group that was made under an earlier configuration the present one.
    fn configure(&mut self, id: GroupId) {
        let configured = self.config.groups.iter().find(|config| config.id == id);
        if let (Some(config), Some(group)) = (configured, self.groups.get_mut(&id)) {
            group.config = config.clone();
        }
    }

    /// The whole state, octet by octet. The store seals it.
    pub(super) fn snapshot(&self, now: Now) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(vec![STATE_VERSION]);
        out.extend_from_slice(&self.term.to_be_bytes());
        out.extend_from_slice(&self.incarnation.0);
        put_len(&mut out, self.clients.len());
        for (id, client) in self.clients.iter() {
            out.extend_from_slice(&id.0.to_be_bytes());
            out.put_text(client.identity.as_str());
            out.extend_from_slice(&client.numbered.to_be_bytes());
            for key in [&client.current, &client.pending] {
                out.push(u8::from(key.is_some()));
                if let Some((registration, key)) = key {
                    out.extend_from_slice(&registration.to_be_bytes());
                    out.extend_from_slice(key.expose());
                }
            }
        }
        put_len(&mut out, self.groups.len());
        self.groups
            .values()
            .for_each(|group| group.encode(now, &mut out));
        out
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let mut r = Reader::new(snapshot);
        self.restore_clients(&mut r)
            .map_err(RestoreError::Snapshot)?;
        let groups = r.u32("groups").map_err(RestoreError::Snapshot)?;
        for _ in 0..groups {
            let (id, stored) = group_head(&mut r).map_err(RestoreError::Snapshot)?;
            let config = self.group_config(id, stored)?;
            let group = Group::decode(config, &mut r).map_err(RestoreError::Snapshot)?;
            self.groups.insert(id, group);
        }
        r.end("snapshot").map_err(RestoreError::Snapshot)
    }

    fn restore_clients(&mut self, r: &mut Reader<'_>) -> Result<(), DecodeError> {
        let version = r.u8("version of the snapshot")?;
        if version != STATE_VERSION {
            return Err(DecodeError::Value {
                what: "version of the snapshot",
                value: version.into(),
            });
        }
        self.term = r.u64("term")?;
        self.incarnation = Incarnation(r.array("incarnation")?);
        for _ in 0..r.u32("clients")? {
            let id = MemberId(r.u32("client")?);
            let identity = identity(r)?;
            let numbered = r.u64("registration")?;
            let mut key = || -> Result<Option<(u64, IndividualKey)>, DecodeError> {
                Ok(match r.u8("key flag")? {
                    0 => None,
                    1 => Some((
                        r.u64("registration")?,
                        IndividualKey::new(r.array("individual key")?),
                    )),
                    other => {
                        return Err(DecodeError::Value {
                            what: "key flag",
                            value: other.into(),
                        });
                    }
                })
            };
            let (current, pending) = (key()?, key()?);
            self.clients.restore(
                id,
                Client {
                    identity,
                    current,
                    pending,
                    numbered,
                },
            );
        }
        Ok(())
    }
}

fn group_head(r: &mut Reader<'_>) -> Result<(GroupId, u8), DecodeError> {
    Ok((GroupId(r.u32("group")?), r.u8("degree")?))
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

impl Group {
    fn encode(&self, now: Now, out: &mut Vec<u8>) {
        let Position {
            context,
            header_hash,
            commitment,
            announcement,
            digest,
        } = &self.at;
        out.extend_from_slice(&self.id().0.to_be_bytes());
        out.push(self.tree.degree().get());
        out.push(strategy_number(self.tree.strategy()));
        out.extend_from_slice(&context.incarnation.0);
        out.extend_from_slice(&context.term.to_be_bytes());
        out.extend_from_slice(&context.epoch.to_be_bytes());
        out.extend_from_slice(&header_hash.0);
        out.extend_from_slice(&commitment.0);
        announcement.encode(out);
        out.extend_from_slice(digest);
        put_len(out, self.held.0.len());
        for (node, slot) in self.tree.slots() {
            out.extend_from_slice(&node.0.to_be_bytes());
            let (version, member) = match slot {
                Slot::KNode { version } => (version, 0),
                Slot::UNode { member, version } => (version, member.0),
            };
            out.extend_from_slice(&version.to_be_bytes());
            // ID numbers begin at 1, so 0 says that this is a k-node.
            out.extend_from_slice(&member.to_be_bytes());
            if let Some((_, secret)) = self.held.0.get(&node) {
                out.extend_from_slice(secret.expose());
            }
        }
        put_len(out, self.joined.len());
        for (member, epoch) in &self.joined {
            out.extend_from_slice(&member.0.to_be_bytes());
            out.extend_from_slice(&epoch.to_be_bytes());
        }
        put_len(out, self.barred.len());
        self.barred
            .iter()
            .for_each(|member| out.extend_from_slice(&member.0.to_be_bytes()));
        put_len(out, self.left.len());
        for (member, (request, epoch)) in &self.left {
            out.extend_from_slice(&member.0.to_be_bytes());
            out.extend_from_slice(&request.0);
            out.extend_from_slice(&epoch.to_be_bytes());
        }
        out.put_count(self.earlier.len());
        for key in &self.earlier {
            out.extend_from_slice(&key.epoch.to_be_bytes());
            let remaining = (key.superseded + key.keep).saturating_sub(now);
            out.extend_from_slice(
                &u32::try_from(remaining.as_millis())
                    .unwrap_or(u32::MAX)
                    .to_be_bytes(),
            );
            out.extend_from_slice(key.key.expose());
        }
    }

    fn decode(config: GroupConfig, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stored_strategy = strategy(r.u8("strategy")?)?;
        let incarnation = Incarnation(r.array("incarnation")?);
        let (term, epoch) = (r.u64("term")?, r.u64("epoch")?);
        let context = EpochContext {
            suite: Suite::Aes256,
            group: config.id,
            incarnation,
            term,
            epoch,
        };
        let at = Position {
            context,
            header_hash: HeaderHash(r.array("header hash")?),
            commitment: Commitment(r.array("commitment")?),
            announcement: Announcement::decode(r)?,
            digest: r.array("digest")?,
        };
        let mut held = Held::default();
        let mut slots = Vec::new();
        for _ in 0..r.u32("slots")? {
            let (node, version) = (NodeId(r.u32("k-node")?), r.u64("version")?);
            slots.push(match r.u32("member")? {
                0 => (node, Slot::KNode { version }),
                member => (
                    node,
                    Slot::UNode {
                        member: MemberId(member),
                        version,
                    },
                ),
            });
            held.0
                .insert(node, (version, NodeSecret::new(r.array("secret")?)));
        }
        let tree = Tree::from_slots(config.degree, stored_strategy, epoch, slots)
            .map_err(|_| DecodeError::Text { what: "key tree" })?;
        let mut group = Self::restore(config, tree, held, at);
        for _ in 0..r.u32("members")? {
            group
                .joined
                .insert(MemberId(r.u32("member")?), r.u64("epoch")?);
        }
        for _ in 0..r.u32("barred")? {
            group.barred.insert(MemberId(r.u32("member")?));
        }
        for _ in 0..r.u32("left")? {
            group.left.insert(
                MemberId(r.u32("member")?),
                (RequestId(r.array("request id")?), r.u64("epoch")?),
            );
        }
        for _ in 0..r.count(MAX_EARLIER, "earlier keys")? {
            group.earlier.push_back(Earlier {
                epoch: r.u64("epoch")?,
                keep: Now::from_millis(r.u32("remaining time")?.into()),
                superseded: Now::ZERO,
                key: DataKey::new(r.array("data key")?),
            });
        }
        Ok(group)
    }
}
