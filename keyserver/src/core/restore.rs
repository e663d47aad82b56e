//! The start from a snapshot and the records after it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

use protocol::codec::Reader;
use protocol::{DecodeError, Entropy, GroupId, Incarnation, MemberId, Rations, Seed, Suite};
use thiserror::Error;
use zeroize::Zeroizing;

use super::admission::Admission;
use super::clients::{Client, Clients, Registration};
use super::codec::{Record, STATE_VERSION, Shape, foreign_version, identity};
use super::group::Group;
use super::outbox::Outbox;
use super::recovery::Recovery;
use super::subscribers::Subscribers;
use super::tokens::Tokens;
use super::transaction::Transaction;
use super::{Access, Config, Core, GroupConfig, Now, Output, Registrations, SETTLED, TOO_MANY};
use crate::store::age;

/// Why a key server cannot start from what its store holds. The store is untouched.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// It was written by another version of Keystone; its planner may have made another tree of it.
    #[error(
        "{what} was written by {} Keystone: version {found}, and this one knows version {STATE_VERSION}; nothing was changed",
        age((*found).into(), STATE_VERSION.into())
    )]
    Version {
        /// The snapshot, or which record.
        what: String,
        /// Its version.
        found: u8,
    },
    /// The snapshot is not one.
    #[error("the snapshot cannot be read: {0}")]
    Snapshot(DecodeError),
    /// A record is not one.
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
    /// The degree and the suite of a group are fixed when it is made.
    #[error("group {group} was made with {stored}, the configuration says {configured}")]
    Shape {
        /// The group.
        group: GroupId,
        /// In the store.
        stored: String,
        /// In the configuration.
        configured: String,
    },
    /// A group's messages cannot be signed.
    #[error("group {group} has suite {suite}, and there is no signing key for it")]
    NoKey {
        /// The group.
        group: GroupId,
        /// Its suite.
        suite: Suite,
    },
    /// All terms are used up.
    #[error("there is no higher number")]
    Terms,
    /// Others may have seen more than a backup knows.
    #[error("the store was restored from a backup: `keystone recover` says from where it may go on")]
    Backup,
}

/// Groups that are rekeyed in the first second of a reign, and in each after it: members of ten thousand groups have the
/// new reign's keys within twenty seconds, and neither the store nor the network is flooded. A group in which something
/// happens does not wait for its turn.
const TAKE_OVER_RATE: u32 = 500;

impl Core {
    /// Starts a reign: restores what the store holds, takes a higher term, and rekeys each group once.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn start(
        config: Config,
        entropy: Box<dyn Entropy>,
        snapshot: Option<&[u8]>,
        records: &[Zeroizing<Vec<u8>>],
    ) -> Result<Self, RestoreError> {
        let mut core = Self::stand_by(Now::ZERO, config, entropy, snapshot, records)?;
        core.reign(Now::ZERO)?;
        Ok(core)
    }

    /// A standby of nothing yet.
    pub(super) fn empty(config: Config, entropy: Box<dyn Entropy>) -> Result<Self, RestoreError> {
        if let Some(group) = config.groups.iter().find(|group| !config.signing.signs(group.suite)) {
            return Err(RestoreError::NoKey { group: group.id, suite: group.suite });
        }
        let outbox = Outbox::new(config.bits_per_second);
        let recovery = Recovery::new(config.resyncs_per_second);
        let names = config.groups.iter().map(|group| (group.name.clone(), group.id)).collect();
        Ok(Self {
            config,
            entropy,
            coder: fec::ReedSolomon::new(),
            recovery,
            admission: Admission::default(),
            subscribers: Subscribers::default(),
            issued: None,
            term: 0,
            incarnation: Incarnation([0; 16]),
            clients: Clients::default(),
            groups: BTreeMap::new(),
            links: BTreeMap::new(),
            registrations: Registrations::default(),
            registering: Rations::default(),
            names,
            intents: VecDeque::new(),
            waiting: BTreeMap::new(),
            timers: BTreeSet::new(),
            batches: BTreeSet::new(),
            batch_next: false,
            in_flight: None,
            records: 0,
            loaded: 0,
            compact_at: Now::ZERO,
            halted: false,
            clock: Now::ZERO,
            standing_by: true,
            must_recover: false,
            outbox,
            refused: (0, 0),
            outputs: VecDeque::new(),
        })
    }

    /// Takes over: a higher term, and one rekey for each group, 500 groups a second at the most.
    ///
    /// # Errors
    /// [`RestoreError::Terms`] or [`RestoreError::Backup`]; nothing was changed.
    pub fn reign(&mut self, now: Now) -> Result<(), RestoreError> {
        if self.must_recover {
            return Err(RestoreError::Backup);
        }
        self.clock = self.clock.max(now);
        let now = self.clock;
        self.term = self.term.checked_add(1).ok_or(RestoreError::Terms)?;
        self.entropy.fill(&mut self.incarnation.0);
        let mut records = vec![Record::Reign { term: self.term, incarnation: self.incarnation }];
        for config in self.config.groups.clone() {
            if !self.groups.contains_key(&config.id) {
                let mut seed = Zeroizing::new([0; 32]);
                self.entropy.fill(seed.as_mut());
                let (seed, shape) = (Seed::new(*seed), Shape::of(&config));
                let (group, strategy) = (config.id, config.strategy);
                self.groups.insert(group, Group::create(config, self.incarnation, self.term, &seed));
                records.push(Record::Created { group, shape, strategy, seed });
            }
        }
        self.standing_by = false;
        let goes_on = |id: &GroupId| self.groups.get(id).is_some_and(|group| group.stopped.is_none());
        let configured: Vec<GroupId> = self.config.groups.iter().map(|group| group.id).filter(goes_on).collect();
        for (id, turn) in configured.into_iter().zip(0..) {
            if let Some(group) = self.groups.get_mut(&id) {
                group.batch.restart();
            }
            self.schedule_at(now + Now::from_secs(1) / TAKE_OVER_RATE * turn, id);
        }
        self.begin_admission(now);
        let first = if self.records > 0 { SETTLED.min(self.config.compact_every) } else { self.config.compact_every };
        self.compact_at = now + first;
        // A take-over is not held up by a snapshot that comes in a minute anyway.
        let limit = self.config.records_per_snapshot.saturating_mul(TOO_MANY);
        self.records = records.len() + if self.loaded < limit { 0 } else { self.loaded };
        self.outputs.push_back(Output::Persist(records.iter().map(Record::encode).collect()));
        self.in_flight = Some(Transaction::Start);
        Ok(())
    }

    pub(super) fn replay(&mut self, now: Now, record: &[u8], number: usize) -> Result<(), RestoreError> {
        let failed = |why: String| RestoreError::Replay { number, why };
        let unknown = |group: GroupId| failed(format!("group {group} was never made"));
        if let Some(found) = foreign_version(record) {
            return Err(RestoreError::Version { what: format!("record {number} after the snapshot"), found });
        }
        match Record::decode(record).map_err(|error| RestoreError::Record { number, error })? {
            Record::Reign { term, incarnation } => (self.term, self.incarnation) = (term, incarnation),
            Record::Registered { client, identity, registration } => {
                self.clients.register(client, &identity, registration);
            }
            Record::Promoted { client } => self.promote(client),
            Record::Created { group, shape, strategy, seed } => {
                let mut config = self.group_config(group, shape)?;
                config.strategy = strategy;
                self.groups.insert(group, Group::create(config, self.incarnation, self.term, &seed));
                self.configure(group);
            }
            Record::Epoch { recipe, digest, beacon } => {
                let group = self.groups.get_mut(&recipe.group).ok_or_else(|| unknown(recipe.group))?;
                let epoch = recipe.epoch;
                let mut staged = group.stage(recipe).map_err(|error| failed(error.to_string()))?;
                staged.beacon = beacon;
                if staged.digest != digest {
                    return Err(failed(format!("epoch {epoch} of group {} came out different", group.id())));
                }
                group.merge(now, staged).map_err(|error| failed(error.to_string()))?;
            }
            Record::Admitted { group, member } => {
                self.groups.get_mut(&group).ok_or_else(|| unknown(group))?.admit(member);
            }
            Record::Recovered { term, epochs } => self.recovered(term, &epochs),
            Record::Stopped { group, seen, witness } => self.stop_group(group, seen, witness),
            Record::Revoked { registrations } => self.clients.drop_keys(&registrations),
            Record::Restored => self.must_recover = true,
        }
        Ok(())
    }

    /// The configuration of a group that the store knows. A group that is no longer configured sleeps: nobody can
    /// name it, nothing is sent, and its number cannot be used again for another group by mistake.
    fn group_config(&self, group: GroupId, stored: Shape) -> Result<GroupConfig, RestoreError> {
        if let Some(config) = self.config.groups.iter().find(|config| config.id == group) {
            let configured = Shape::of(config);
            if configured != stored {
                let text = |shape: Shape| format!("degree {} and suite {}", shape.degree, shape.suite);
                return Err(RestoreError::Shape { group, stored: text(stored), configured: text(configured) });
            }
            return Ok(config.clone());
        }
        Ok(GroupConfig {
            degree: stored.degree,
            suite: stored.suite,
            batch: Now::ZERO,
            compaction: 0,
            max_members: 0,
            beacon: Now::ZERO,
            beacon_max: Now::ZERO,
            resync_wait: Now::ZERO,
            send_delay: Now::ZERO,
            keep_old: Now::ZERO,
            keep_old_revoked: Now::ZERO,
            ..GroupConfig::plain(group, "", SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), Access::default())
        })
    }

    /// Gives a group that was made under an earlier configuration the present one.
    pub(super) fn configure(&mut self, id: GroupId) {
        let configured = self.config.groups.iter().find(|config| config.id == id);
        if let (Some(config), Some(group)) = (configured, self.groups.get_mut(&id)) {
            group.config = config.clone();
        }
    }

    pub(super) fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        if let Some(found) = foreign_version(snapshot) {
            return Err(RestoreError::Version { what: "the snapshot".into(), found });
        }
        let mut r = Reader::new(snapshot);
        self.restore_clients(&mut r).map_err(RestoreError::Snapshot)?;
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
        r.u8("version of the snapshot")?;
        self.term = r.u64("term")?;
        self.incarnation = Incarnation(r.array("incarnation")?);
        self.must_recover = r.flag("restored from a backup")?;
        for _ in 0..r.u32("clients")? {
            let id = MemberId(r.u32("client")?);
            let identity = identity(r)?;
            let numbered = r.u64("registration")?;
            let mut live = || r.flag("key flag")?.then(|| Registration::decode(r)).transpose();
            let (current, pending) = (live()?, live()?);
            self.clients.restore(id, Client { identity, current, pending, numbered });
        }
        self.clients.tokens = Tokens::decode(r)?;
        Ok(())
    }
}

fn group_head(r: &mut Reader<'_>) -> Result<(GroupId, Shape), DecodeError> {
    Ok((GroupId(r.u32("group")?), Shape::decode(r)?))
}
