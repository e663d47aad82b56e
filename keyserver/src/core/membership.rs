//! A membership: what a member is given, and what is left of one that has ended.

use keygraph::{KeyRef, NodeId};
use protocol::rekey::Announcement;
use protocol::request::{Denial, EarlierKey, MAX_EARLIER, Membership, Role};
use protocol::{DataKey, KeyPath, MemberId, NodeSecret};

use super::Now;
use super::admission::Cause;
use super::group::{Group, Recipe};

/// Data keys of past epochs are kept this long, for members that ask late and hold packets that came early.
const KEEP_EARLIER: Now = Now::from_secs(60);
/// A member that asks for an earlier data key gets at least this long to use it on what it holds.
const LEAST_REMAINING: Now = Now::from_secs(2);

/// A data key that is not the newest.
pub(super) struct Earlier {
    pub(super) epoch: u64,
    pub(super) key: DataKey,
    pub(super) superseded: Now,
    pub(super) keep: Now,
}

impl Earlier {
    /// Whether nobody needs it any more.
    pub(super) fn is_over(&self, now: Now) -> bool {
        self.superseded + KEEP_EARLIER.max(self.keep) < now
    }
}

impl Group {
    /// Everything that `member` needs; `None` if it is no member. Earlier data keys only of its own epochs.
    pub(super) fn membership(&mut self, now: Now, member: MemberId, have: u64) -> Option<Membership> {
        let joined_epoch = *self.joined.get(&member)?;
        let keys: Vec<(KeyRef, NodeSecret)> = (self.tree.path(member)?.into_iter())
            .map(|key| Some((key, self.held.get(key.node)?.clone())))
            .collect::<Option<_>>()?;
        let leaf = keys.first()?.0.node;
        let path = KeyPath::new(self.tree.degree(), leaf, keys).ok()?;
        while self.earlier.front().is_some_and(|key| key.is_over(now)) {
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
            role: Role::Both,
            lease_s: 0,
            announcement: self.at.announcement,
            path,
            earlier,
            beacon: self.beacons.newest().to_vec(),
        })
    }

    pub(super) fn evicted(&mut self, member: MemberId, recipe: &Recipe) {
        let at = recipe.ended.binary_search_by_key(&member, |(member, _)| *member);
        let cause = at.map_or(Cause::Operator, |at| recipe.ended[at].1);
        if cause == Cause::Operator {
            self.barred.insert(member);
        }
        self.left.remove(&member);
        self.ended.insert(member, (cause, recipe.epoch));
    }

    /// An operator lets somebody join again.
    pub(super) fn admit(&mut self, client: MemberId) {
        self.barred.remove(&client);
        self.ended.remove(&client);
    }

    /// What a client hears that is no member.
    pub(super) fn outside(&self, client: MemberId) -> Denial {
        self.ended.get(&client).map_or(Denial::NotMember, |(cause, _)| cause.denial())
    }

    pub(super) fn retire_data_key(&mut self, now: Now, next: Announcement) {
        let Some(root) = self.held.get(NodeId::ROOT) else {
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
}
