//! A new policy while the key server runs: taken as a whole, or refused as a whole.

use std::collections::BTreeMap;

use protocol::{GroupId, Seed};
use thiserror::Error;
use zeroize::Zeroizing;

use super::codec::{Record, Shape};
use super::group::Group;
use super::transaction::{Intent, Transaction};
use super::{Core, Event, GroupConfig, Now};

/// Why a policy cannot be taken by a key server that runs. Nothing was changed: the policy before is in force.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("group `{group}`: {why}")]
pub struct PolicyError {
    /// The group.
    pub group: String,
    /// What cannot be.
    pub why: &'static str,
}

impl Core {
    /// Whether a policy, which is right by itself, can follow the one that is in force.
    ///
    /// # Errors
    /// [`PolicyError`]: the first group that cannot change so.
    pub fn check_policy(&self, groups: &[GroupConfig]) -> Result<(), PolicyError> {
        let by_id: BTreeMap<GroupId, &GroupConfig> = groups.iter().map(|group| (group.id, group)).collect();
        let refuse = |group: &GroupConfig, why| Err(PolicyError { group: group.name.clone(), why });
        for old in &self.config.groups {
            let Some(new) = by_id.get(&old.id) else {
                return refuse(
                    old,
                    "it cannot be given up while the key server runs, its members would never hear of it; let nobody in \
                     (`allow = []`), which evicts them, and take it away before a start",
                );
            };
            if new.name != old.name {
                return refuse(old, "another name for its number needs a start: members ask by name");
            }
            if Shape::of(new) != Shape::of(old) {
                return refuse(old, "degree and suite are fixed when a group is made");
            }
            if new.destination != old.destination {
                return refuse(old, "another address needs a start: its members listen at this one");
            }
        }
        for new in groups {
            if !self.config.signing.signs(new.suite) {
                return refuse(new, "there is no signing key for its suite");
            }
            let stored = self.groups.get(&new.id).map(|group| Shape::of(&group.config));
            if stored.is_some_and(|stored| stored != Shape::of(new)) {
                return refuse(new, "its number was another group's, of another degree or suite");
            }
        }
        Ok(())
    }

    pub(super) fn new_policy(&mut self, now: Now, groups: Vec<GroupConfig>) {
        if let Err(error) = self.check_policy(&groups) {
            return self.event(Event::PolicyRefused { why: error.to_string() });
        }
        let new = groups.iter().filter(|group| !self.names.contains_key(&group.name));
        let new: Vec<GroupId> = new.map(|group| group.id).collect();
        self.event(Event::PolicyTaken { groups: groups.len() });
        self.names = groups.iter().map(|group| (group.name.clone(), group.id)).collect();
        self.config.groups = groups;
        for config in self.config.groups.clone() {
            let id = config.id;
            if let Some(group) = self.groups.get_mut(&id) {
                group.configure(now, config);
                self.arm(id);
            }
        }
        if self.standing_by {
            return;
        }
        let (asleep, missing): (Vec<_>, Vec<_>) = new.into_iter().partition(|id| self.groups.contains_key(id));
        asleep.into_iter().for_each(|id| self.begin_group(now, id));
        // No outsider can make these: they go before whatever waits.
        missing.into_iter().for_each(|id| self.intents.push_front(Intent::Create(id)));
        self.review(now);
    }

    /// Writes down a group that the policy names and the store does not know.
    pub(super) fn create(&mut self, id: GroupId) {
        let Some(config) = self.config.groups.iter().find(|group| group.id == id) else {
            return;
        };
        let mut seed = Zeroizing::new([0; 32]);
        self.entropy.fill(seed.as_mut());
        let (shape, strategy, seed) = (Shape::of(config), config.strategy, Seed::new(*seed));
        let group = Group::create(config.clone(), self.incarnation, self.term, &seed);
        self.write(Record::Created { group: id, shape, strategy, seed }, Transaction::Create(Box::new(group)));
    }

    /// A group's first rekey in this reign comes with its next batch, which is due now.
    pub(super) fn begin_group(&mut self, now: Now, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.batch.restart();
            self.schedule_at(now, id);
        }
    }
}
