//! Batches: what waits for a group's next epoch, and what becomes of it.

use std::collections::BTreeMap;

use keygraph::Change;
use protocol::request::{Act, Denial, RequestId};
use protocol::{GroupId, MemberId, Rations, Reason};

use super::admission::{Cause, may_join};
use super::group::Group;
use super::{Core, Now};

/// Changes in one batch: it takes a core some tens of milliseconds, and nobody else waits longer than that for its turn.
pub(super) const MAX_BATCH: usize = 32_768;
/// A tree that is too high and that nothing else changes is compacted at this pace.
const COMPACTION_PAUSE: Now = Now::from_secs(1);

/// One operation of a request, in its group's queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queued {
    /// The session of its request.
    pub(super) session: u64,
    /// Its index among the request's operations.
    pub(super) index: usize,
    pub(super) client: MemberId,
    pub(super) request: RequestId,
    /// `None`: it waits until the client's leaf is new, or the reign is announced.
    pub(super) act: Option<Act>,
}

/// An eviction: by an operator, or because admission has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eviction {
    /// The operator's command.
    pub(super) ticket: Option<u64>,
    pub(super) member: MemberId,
    /// When it was asked for, or due.
    pub(super) since: Now,
    pub(super) cause: Cause,
}

/// Why an operation was not carried out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unserved {
    Denied(Denial),
    /// The client has joined too often: it may again so much later.
    Later(Now),
}

impl From<Denial> for Unserved {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

/// What waits for a group's next epoch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    queue: Vec<Queued>,
    evictions: Vec<Eviction>,
    refresh: Option<Reason>,
    /// Operators who wait for a refresh.
    tickets: Vec<u64>,
    /// When it is due; it stands in the core's list then.
    due: Option<Now>,
    /// When it would be due without evictions.
    wanted: Option<Now>,
    /// How often each client has become a member lately, whether it still is or not. No more enter than become members.
    churn: Rations<MemberId>,
}

/// Everything of a batch but the queue that it came from: what to change, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) changes: Vec<Change>,
    pub(super) by_choice: Vec<(MemberId, RequestId)>,
    /// Whoever else leaves, and why, ascending.
    pub(super) ended: Vec<(MemberId, Cause)>,
    pub(super) reason: Option<Reason>,
    pub(super) served: Vec<Queued>,
    pub(super) denied: Vec<(Queued, Unserved)>,
    pub(super) tickets: Vec<u64>,
    /// Since when the longest-waiting eviction has been asked for.
    pub(super) evicting: Option<Now>,
}

/// What a batch does to one member, whatever the order of its requests was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Net {
    Join,
    Leave(RequestId),
    Rejoin(RequestId),
    Renew,
}

impl Batch {
    /// The reign's own rekey goes along with the next batch.
    pub(super) fn restart(&mut self) {
        self.refresh = Some(Reason::Restart);
    }
}

impl Core {
    /// Queues an operation for its group's next batch.
    pub(super) fn queue(&mut self, now: Now, group: GroupId, operation: Queued) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.batch.queue.push(operation);
        }
        self.schedule(now, group);
    }

    /// Evictions do not wait for the batch interval, and nothing else goes along with them.
    pub(super) fn evict(&mut self, now: Now, group: GroupId, eviction: Eviction) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.batch.evictions.push(eviction);
        }
        self.set_due(now, group);
    }

    /// A new root with the next batch; for an operator, now.
    pub(super) fn refresh(&mut self, now: Now, group: GroupId, ticket: Option<u64>) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.batch.refresh.get_or_insert(Reason::Refresh);
            group.batch.tickets.extend(ticket);
        }
        if ticket.is_some() { self.schedule_at(now, group) } else { self.schedule(now, group) }
    }

    /// A batch one interval from now, if none is due before.
    fn schedule(&mut self, now: Now, group: GroupId) {
        let interval = self.groups.get(&group).map_or(Now::ZERO, |group| group.config.batch);
        self.schedule_at(now + interval, group);
    }

    pub(super) fn schedule_at(&mut self, at: Now, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.batch.wanted = Some(group.batch.wanted.map_or(at, |wanted| wanted.min(at)));
            self.set_due(at, id);
        }
    }

    fn set_due(&mut self, at: Now, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if group.batch.due.is_none_or(|due| at < due) {
            if let Some(due) = group.batch.due.replace(at) {
                self.batches.remove(&(due, id));
            }
            self.batches.insert((at, id));
        }
    }

    /// The group whose batch has been due for the longest time.
    pub(super) fn due_batch(&self, now: Now) -> Option<GroupId> {
        self.batches.first().filter(|(at, _)| *at <= now).map(|(_, group)| *group)
    }

    /// Takes a due batch out of its group.
    pub(super) fn take_batch(&mut self, now: Now, id: GroupId) -> Taken {
        let Some(group) = self.groups.get_mut(&id) else {
            return Taken::default();
        };
        if let Some(due) = group.batch.due.take() {
            self.batches.remove(&(due, id));
        }
        if !group.batch.evictions.is_empty() {
            let taken = group.take_evictions();
            // The others go on waiting for their time.
            if let Some(wanted) = group.batch.wanted {
                self.set_due(wanted, id);
            }
            return taken;
        }
        group.batch.wanted = None;
        let (clients, admission) = (&self.clients, &self.admission);
        let may_join = |group: &Group, client| may_join(admission, now, group, clients.get(client), client);
        let taken = group.take_changes(now, may_join);
        if !group.batch.queue.is_empty() {
            self.schedule_at(now, id);
        }
        taken
    }

    /// After an epoch: what is left to do without being asked.
    pub(super) fn after_batch(&mut self, now: Now, id: GroupId) {
        let Some(group) = self.groups.get(&id) else {
            return;
        };
        if group.config.compaction > 0 && group.tree.is_too_high() {
            self.schedule_at(now + group.config.batch.max(COMPACTION_PAUSE), id);
        } else if !group.unrenewed.is_empty() {
            self.schedule(now, id);
        }
    }
}

impl Group {
    /// Whether an operation of this client waits for a batch of this group.
    pub(super) fn has_waiting(&self, client: MemberId) -> bool {
        self.batch.queue.iter().any(|queued| queued.client == client && queued.act.is_some())
    }

    fn take_evictions(&mut self) -> Taken {
        let mut taken = Taken { reason: Some(Reason::Evict), ..Taken::default() };
        let mut ended = BTreeMap::new();
        for Eviction { ticket, member, since, cause } in std::mem::take(&mut self.batch.evictions) {
            taken.tickets.extend(ticket);
            if self.contains(member) {
                // Of several causes an operator's stands: it keeps the member out.
                let first = ended.entry(member).or_insert(cause);
                *first = cause.min(*first);
                taken.evicting = Some(taken.evicting.map_or(since, |first| first.min(since)));
            }
        }
        taken.changes = ended.keys().map(|member| Change::Leave(*member)).collect();
        taken.ended = ended.into_iter().collect();
        taken
    }

    fn take_changes(&mut self, now: Now, may_join: impl Fn(&Self, MemberId) -> Result<(), Denial>) -> Taken {
        let Batch { queue, refresh, tickets, churn, .. } = &mut self.batch;
        let (refresh, tickets, mut churn) = (refresh.take(), std::mem::take(tickets), std::mem::take(churn));
        let operations: Vec<Queued> = queue.drain(..queue.len().min(MAX_BATCH)).collect();
        let mut taken = Taken { tickets, ..Taken::default() };
        let mut net: BTreeMap<MemberId, Net> =
            self.unrenewed.iter().take(MAX_BATCH).map(|member| (*member, Net::Renew)).collect();
        let mut members = self.tree.len();
        for operation in operations {
            let may_again = |client| churn.spend(now, client, self.config.joins).map_err(Unserved::Later);
            match self.add(operation, &mut net, &mut members, &may_join, may_again) {
                Ok(()) => taken.served.push(operation),
                Err(why) => taken.denied.push((operation, why)),
            }
        }
        self.batch.churn = churn;
        let mut reasons = Vec::new();
        for (member, net) in net {
            let (changes, request, reason): (&[Change], _, _) = match net {
                Net::Join => (&[Change::Join(member)], None, Reason::Join),
                Net::Renew => (&[Change::Renew(member)], None, Reason::Renew),
                Net::Leave(request) => (&[Change::Leave(member)], Some(request), Reason::Leave),
                Net::Rejoin(request) => (&[Change::Leave(member), Change::Join(member)], Some(request), Reason::Batch),
            };
            taken.changes.extend_from_slice(changes);
            taken.by_choice.extend(request.map(|request| (member, request)));
            reasons.push(reason);
        }
        if let Some(reason) = refresh {
            taken.changes.push(Change::Refresh);
            reasons.push(reason);
        }
        if self.config.compaction > 0 && self.tree.is_too_high() {
            taken.changes.push(Change::Compact(self.config.compaction));
        }
        // A reign's first rekey is a restart, whatever goes along.
        taken.reason = Some(match reasons.as_slice() {
            _ if refresh == Some(Reason::Restart) => Reason::Restart,
            [] => Reason::Refresh,
            [first, others @ ..] if others.iter().all(|other| other == first) => *first,
            _ => Reason::Batch,
        });
        taken
    }

    /// Adds an operation to what its client has asked for before in this batch.
    fn add(
        &self,
        operation: Queued,
        net: &mut BTreeMap<MemberId, Net>,
        members: &mut usize,
        may_join: &dyn Fn(&Self, MemberId) -> Result<(), Denial>,
        may_again: impl FnOnce(MemberId) -> Result<(), Unserved>,
    ) -> Result<(), Unserved> {
        let Queued { client, request, act, .. } = operation;
        let before = net.get(&client).copied();
        let after = match (act, before) {
            (None, _) => return Ok(()),
            // Who may join may have changed since it was asked for.
            (Some(Act::Join), Some(Net::Leave(request))) => {
                may_join(self, client)?;
                Some(Net::Rejoin(request))
            }
            (Some(Act::Join), Some(net)) => Some(net),
            (Some(Act::Join), None) if self.contains(client) => return Ok(()),
            (Some(Act::Join), None) => {
                may_join(self, client)?;
                if *members >= self.config.max_members {
                    return Err(Denial::Full.into());
                }
                Some(Net::Join)
            }
            // Who joins and leaves in one batch was never in.
            (Some(Act::Leave), Some(Net::Join)) => None,
            (Some(Act::Leave), Some(Net::Rejoin(request))) => Some(Net::Leave(request)),
            (Some(Act::Leave), Some(Net::Leave(first))) => Some(Net::Leave(first)),
            (Some(Act::Leave), Some(Net::Renew)) => Some(Net::Leave(request)),
            (Some(Act::Leave), None) if self.contains(client) => Some(Net::Leave(request)),
            // A leave that was carried out, and asked for again because its reply was lost.
            (Some(Act::Leave), None) if self.left.get(&client).is_some_and(|(id, _)| *id == request) => return Ok(()),
            (Some(Act::Leave), None) => return Err(Denial::NotMember.into()),
        };
        if after != before && matches!(after, Some(Net::Join | Net::Rejoin(_))) {
            may_again(client)?;
        }
        let is_in = |net: Option<Net>| net.map_or(self.contains(client), |net| !matches!(net, Net::Leave(_)));
        *members = *members + usize::from(is_in(after)) - usize::from(is_in(before));
        match after {
            Some(after) => drop(net.insert(client, after)),
            None => drop(net.remove(&client)),
        }
        Ok(())
    }
}
