//! Requests of clients: decoded, decided operation by operation, answered.

use keygraph::KeyRef;
use protocol::request::{Act, Denial, Losses, Operations, Outcome, Reply, Request, RequestId, Resync};
use protocol::{GroupId, MemberId};
use zeroize::Zeroizing;

use super::batch::{Queued, Unserved};
use super::transaction::Intent;
use super::{Core, Event, Now, Output};

/// A client's request on its way to the batches that it needs.
pub(super) struct Ask {
    pub(super) session: u64,
    pub(super) client: MemberId,
    pub(super) registration: u64,
    pub(super) id: RequestId,
    pub(super) operations: Operations,
}

/// A request that waits for batches.
pub(super) struct Waiting {
    client: MemberId,
    id: RequestId,
    operations: Operations,
    /// What was denied so far, by operation.
    denied: Vec<Option<Unserved>>,
    /// Which operations change something.
    changes: Vec<bool>,
    /// Operations that still wait.
    open: usize,
}

/// What an operation needs before it can be answered: a batch of a group, with a change or without; or nothing.
type Need = Option<(GroupId, Option<Act>)>;

impl Core {
    pub(super) fn request(&mut self, now: Now, session: u64, client: MemberId, registration: u64, message: &[u8]) {
        if self.individual_key(client, registration).is_none() {
            // The registration was replaced while the session was being set up.
            return self.outputs.push_back(Output::Refuse { session });
        }
        let Request { id, operations } = match Request::decode(message) {
            Ok(request) => request,
            Err(error) => {
                self.outputs.push_back(Output::Refuse { session });
                return self.misbehaved(format!("client {client}"), format!("its request is malformed: {error}"));
            }
        };
        self.alive(now, client);
        let all = operations.len();
        if self.intend(Intent::Ask(Ask { session, client, registration, id, operations })).is_err() {
            let outcomes = (0..all).map(|_| Outcome::Denied(Denial::Unavailable)).collect();
            self.reply(session, &Reply { id, outcomes });
        }
    }

    /// Queues what needs a batch, and answers at once if nothing does.
    pub(super) fn enqueue(&mut self, now: Now, ask: Ask) {
        let Ask { session, client, id, operations, .. } = ask;
        let all = operations.len();
        let mut waiting =
            Waiting { client, id, denied: vec![None; all], changes: vec![false; all], open: 0, operations };
        let wanted: Vec<Result<Need, Denial>> = match &waiting.operations {
            Operations::Changes(changes) => {
                changes.iter().map(|(act, name)| self.decide(now, *act, name, client, id)).collect()
            }
            Operations::Resyncs(resyncs) => {
                resyncs.iter().map(|resync| Ok(self.not_yet(&resync.group, client).map(|id| (id, None)))).collect()
            }
            Operations::Reports(_)
            | Operations::Subscriptions(_)
            | Operations::Witnesses(_)
            | Operations::Certificate(_) => vec![Ok(None); waiting.denied.len()],
        };
        for (index, wanted) in wanted.into_iter().enumerate() {
            match wanted {
                Err(denial) => waiting.denied[index] = Some(denial.into()),
                Ok(None) => {}
                Ok(Some((group, act))) => {
                    waiting.open += 1;
                    waiting.changes[index] = act.is_some();
                    self.queue(now, group, Queued { session, index, client, request: id, act });
                }
            }
        }
        if waiting.open == 0 {
            self.answer(now, session, &waiting);
        } else {
            self.waiting.insert(session, waiting);
        }
    }

    /// An operation has had its batch.
    pub(super) fn served(&mut self, now: Now, operation: Queued, why: Option<Unserved>) {
        let Some(waiting) = self.waiting.get_mut(&operation.session) else {
            return;
        };
        waiting.denied[operation.index] = why;
        waiting.open -= 1;
        if waiting.open == 0
            && let Some(waiting) = self.waiting.remove(&operation.session)
        {
            self.answer(now, operation.session, &waiting);
        }
    }

    fn answer(&mut self, now: Now, session: u64, waiting: &Waiting) {
        let Waiting { client, id, operations, denied, changes, .. } = waiting;
        let outcomes = match operations {
            Operations::Changes(acts) => (acts.iter().zip(denied).zip(changes))
                .map(|(((act, name), denied), changes)| match (denied, act) {
                    (Some(why), _) => self.unserved(name, *client, *why),
                    (None, Act::Join) if *changes => self.grant(now, name, *client, u64::MAX),
                    // A member already: because a reply was lost, because it has lost its state, or for no reason at all.
                    (None, Act::Join) => {
                        self.rationed(now, name, *client).unwrap_or_else(|| self.grant(now, name, *client, u64::MAX))
                    }
                    (None, Act::Leave) => self.left(name, *client),
                })
                .collect(),
            Operations::Resyncs(resyncs) => (resyncs.iter().zip(denied))
                .map(|(resync, denied)| match denied {
                    Some(why) => self.unserved(&resync.group, *client, *why),
                    None => self.resync(now, *client, resync),
                })
                .collect(),
            Operations::Reports(reports) => {
                reports.iter().map(|(group, losses)| self.lost(group, *client, *losses)).collect()
            }
            Operations::Witnesses(beacons) => {
                beacons.iter().map(|(group, beacon)| self.witness(group, *client, beacon)).collect()
            }
            Operations::Certificate(begins) => vec![self.newer_certificate(*begins)],
            Operations::Subscriptions(groups) => return self.subscribe(session, *client, *id, groups),
        };
        self.reply(session, &Reply { id: *id, outcomes });
    }

    /// What a join or leave needs: a batch of a group, with or without a change; or nothing.
    fn decide(&self, now: Now, act: Act, name: &str, client: MemberId, id: RequestId) -> Result<Need, Denial> {
        let group = self.group_id(name).and_then(|id| self.groups.get(&id)).ok_or(Denial::UnknownGroup)?;
        let queue = Ok(Some((group.id(), Some(act))));
        if group.stopped.is_some() {
            return Err(Denial::Behind);
        }
        let waits = group.has_waiting(client);
        match act {
            // What waits decides together with this what becomes of it.
            _ if waits => queue,
            Act::Leave if group.contains(client) => queue,
            // A leave that was carried out, and asked for again because its reply was lost.
            Act::Leave if group.left.get(&client).is_some_and(|(request, _)| *request == id) => Ok(None),
            Act::Leave => Err(Denial::NotMember),
            Act::Join if group.contains(client) => Ok(self.not_yet(name, client).map(|id| (id, None))),
            Act::Join => self.may_join(now, group, client).and(queue),
        }
    }

    /// The group, if its next batch has to come before it can answer the client: because the client's leaf is to be
    /// renewed, or because the reign has not announced the group yet and cannot vouch for it.
    fn not_yet(&self, name: &str, client: MemberId) -> Option<GroupId> {
        let group = self.groups.get(&self.group_id(name)?)?;
        let waits = !group.is_announced(self.term) || group.unrenewed.contains(&client);
        (waits && group.stopped.is_none()).then(|| group.id())
    }

    pub(super) fn group_id(&self, name: &str) -> Option<GroupId> {
        self.names.get(name).copied()
    }

    /// What a client hears that is no member of a group.
    pub(super) fn outside(&self, name: &str, client: MemberId) -> Denial {
        let group = self.group_id(name).and_then(|id| self.groups.get(&id));
        group.map_or(Denial::UnknownGroup, |group| group.outside(client))
    }

    fn left(&self, name: &str, client: MemberId) -> Outcome {
        let group = self.group_id(name).and_then(|id| self.groups.get(&id));
        match group.and_then(|group| group.left.get(&client)) {
            Some((_, epoch)) => Outcome::Left { epoch: *epoch },
            None => Outcome::Denied(Denial::NotMember),
        }
    }

    /// What a member has lost.
    fn lost(&mut self, name: &str, client: MemberId, losses: Losses) -> Outcome {
        let group = self.group_id(name).and_then(|id| self.groups.get_mut(&id));
        match group.filter(|group| group.contains(client)) {
            Some(group) => {
                group.delivery.report(client, losses);
                Outcome::Noted
            }
            None => {
                let denial = self.outside(name, client);
                self.deny(name, client, denial)
            }
        }
    }

    pub(super) fn resync(&mut self, now: Now, client: MemberId, resync: &Resync) -> Outcome {
        let group = self.group_id(&resync.group).and_then(|id| self.groups.get(&id));
        let denial = match group {
            None => Denial::UnknownGroup,
            Some(group) if !group.contains(client) => group.outside(client),
            // The client holds something that this key server signed and does not remember.
            Some(group) if group.stopped.is_some() => Denial::Behind,
            // Neither terms nor epochs ever fall.
            Some(group) if resync.seen.0 > self.term || resync.seen.1 > group.epoch() => Denial::Behind,
            Some(_) => {
                return self.rationed(now, &resync.group, client).unwrap_or_else(|| {
                    self.lost(&resync.group, client, resync.losses);
                    self.grant(now, &resync.group, client, resync.have)
                });
            }
        };
        self.deny(&resync.group, client, denial)
    }

    /// The answer to a member that is to come again later for what it has a right to; `None` if it may have it now.
    fn rationed(&mut self, now: Now, name: &str, client: MemberId) -> Option<Outcome> {
        let after = self.recovery.admit(now, self.group_id(name)?, client).err()?;
        Some(later(after))
    }

    fn unserved(&mut self, name: &str, client: MemberId, why: Unserved) -> Outcome {
        match why {
            Unserved::Denied(denial) => self.deny(name, client, denial),
            Unserved::Later(after) => later(after),
        }
    }

    /// The individual rekey of one group. `have`: the newest epoch whose data key the client holds.
    pub(super) fn grant(&mut self, now: Now, name: &str, client: MemberId, have: u64) -> Outcome {
        let Some(group) = self.names.get(name).and_then(|id| self.groups.get_mut(id)) else {
            return self.deny(name, client, Denial::UnknownGroup);
        };
        let id = group.id();
        let Some(mut membership) = group.membership(now, client, have) else {
            let denial = group.outside(client);
            return self.deny(name, client, denial);
        };
        (membership.role, membership.lease_s) = self.terms(id, client);
        let keys: Vec<KeyRef> = membership.path.held().collect();
        let earlier = membership.earlier.iter().map(|key| key.epoch).collect();
        self.event(Event::Given { group: id, client, keys, earlier });
        Outcome::Granted(Box::new(membership))
    }

    pub(super) fn deny(&mut self, group: &str, client: MemberId, denial: Denial) -> Outcome {
        self.event(Event::Denied { group: group.to_owned(), client, denial });
        Outcome::Denied(denial)
    }

    pub(super) fn reply(&mut self, session: u64, reply: &Reply) {
        let message = Zeroizing::new(reply.encode());
        self.outputs.push_back(Output::Reply { session, message });
    }
}

/// Rounded up, so that nobody comes back a moment too soon.
fn later(after: Now) -> Outcome {
    Outcome::Later { after_ms: u32::try_from(after.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX) }
}
