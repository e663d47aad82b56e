//! Intents, transactions, and the pump that turns one into the other: stage, persist, merge, send.

use keygraph::cores;
use protocol::identity::Identity;
use protocol::registration::{Answer, ToRegistrar};
use protocol::request::Denial;
use protocol::{GroupId, MemberId, Seed};
use zeroize::Zeroizing;

use super::admission::Cause;
use super::batch::{Queued, Taken};
use super::clients::Registration;
use super::codec::Record;
use super::group::{Group, StageError, StagedEpoch};
use super::outbox::Eviction as Sent;
use super::requests::Ask;
use super::sealed::Registrations;
use super::sending::{Message, datagrams};
use super::{AdminError, AdminReply, Core, EpochEvent, Event, MAX_INTENTS, Now, Output};

/// Something that was accepted and waits for its turn.
pub(super) enum Intent {
    /// A registrar has handed over an individual key.
    HandOver {
        link: u64,
        tag: u32,
        client: MemberId,
        identity: Identity,
        registration: Registration,
        /// For the client, if the registration is sealed.
        answer: Option<Box<Answer>>,
    },
    /// A client's request.
    Ask(Ask),
    /// A member has shown that this key server has lost something.
    Stop { group: GroupId, seen: (u64, u64), witness: MemberId },
    /// Credentials of live registrations were revoked.
    Revoke,
    /// The policy names a group that the store does not know.
    Create(GroupId),
    /// An operator lets somebody join again.
    Admit { ticket: u64, group: GroupId, member: MemberId },
}

/// Too many intents wait; nothing was changed.
pub(super) struct Full;

/// What is being written. When it is durable it is merged, and only then anybody hears of it.
pub(super) enum Transaction {
    Start,
    Snapshot,
    Register {
        link: u64,
        tag: u32,
        client: MemberId,
        identity: Identity,
        registration: Registration,
        answer: Option<Box<Answer>>,
    },
    Admit {
        ticket: u64,
        group: GroupId,
        member: MemberId,
    },
    Stop {
        group: GroupId,
        seen: (u64, u64),
        witness: MemberId,
    },
    Create(Box<Group>),
    Revoke(Vec<(MemberId, u64)>),
    /// A client has proved a new registration with this request.
    Promote(Ask),
    /// Registrations and first proofs, each of another client.
    Together(Vec<Self>),
    Epoch {
        staged: Box<StagedEpoch>,
        evicting: Option<Now>,
        served: Vec<Queued>,
        tickets: Vec<u64>,
    },
}

impl Core {
    /// Accepts an intent, or says that there are too many.
    pub(super) fn intend(&mut self, intent: Intent) -> Result<(), Full> {
        if self.intents.len() + self.waiting.len() >= MAX_INTENTS {
            return Err(Full);
        }
        self.intents.push_back(intent);
        Ok(())
    }

    /// Takes intents and due batches in turns, until one has to be written.
    pub(super) fn pump(&mut self, now: Now) {
        while self.in_flight.is_none() && !self.halted {
            if self.records >= self.config.records_per_snapshot || self.compact_at <= now {
                (self.records, self.compact_at) = (0, now + self.config.compact_every);
                self.outputs.push_back(Output::Snapshot(self.snapshot(now)));
                self.in_flight = Some(Transaction::Snapshot);
                return;
            }
            // A batch takes whatever has been asked for meanwhile; neither side starves the other.
            self.batch_next = !self.batch_next;
            let batch = self.due_batch(now).filter(|_| self.batch_next || self.intents.is_empty());
            match (batch, self.intents.pop_front()) {
                (Some(group), intent) => {
                    self.intents.extend(intent.into_iter().rev());
                    self.begin_batch(now, group);
                }
                (None, Some(intent)) => self.begin(now, intent),
                (None, None) => return,
            }
        }
    }

    fn begin(&mut self, now: Now, intent: Intent) {
        match intent {
            Intent::Stop { group, seen, witness } => {
                let record = Record::Stopped { group, seen, witness };
                self.write(record, Transaction::Stop { group, seen, witness });
            }
            Intent::Revoke => self.revoke(),
            Intent::Create(group) => self.create(group),
            Intent::Admit { ticket, group, member } => {
                self.write(Record::Admitted { group, member }, Transaction::Admit { ticket, group, member });
            }
            intent @ (Intent::HandOver { .. } | Intent::Ask(_)) => {
                self.intents.push_front(intent);
                self.begin_together(now);
            }
        }
    }

    /// Stages what has come together for a group.
    fn begin_batch(&mut self, now: Now, id: GroupId) {
        let Taken { changes, by_choice, ended, reason, served, denied, tickets, evicting } = self.take_batch(now, id);
        if self.groups.get(&id).is_some_and(|group| group.stopped.is_some()) {
            let all = served.into_iter().chain(denied.into_iter().map(|(operation, _)| operation));
            all.for_each(|operation| self.served(now, operation, Some(Denial::Behind.into())));
            for ticket in tickets {
                self.outputs.push_back(Output::AdminReply { ticket, result: Err(AdminError::Stopped) });
            }
            return;
        }
        for (operation, why) in denied {
            self.served(now, operation, Some(why));
        }
        let mut seed = Zeroizing::new([0; 32]);
        self.entropy.fill(seed.as_mut());
        let (incarnation, term) = (self.incarnation, self.term);
        let staged = match (self.groups.get_mut(&id), reason) {
            (Some(group), Some(reason)) if !changes.is_empty() => {
                let recipe = group.recipe(incarnation, term, changes, (by_choice, ended), reason, Seed::new(*seed));
                group.stage(recipe).map(|mut staged| {
                    staged.beacon = group.sign_first(&staged, &self.config.signing, &self.recovery);
                    staged
                })
            }
            _ => return self.settle(now, id, &served, tickets),
        };
        match staged {
            Ok(staged) => {
                let (recipe, beacon) = (staged.recipe.clone(), staged.beacon.clone());
                let record = Record::Epoch { recipe, digest: staged.digest, beacon };
                let staged = Box::new(staged);
                self.write(record, Transaction::Epoch { staged, evicting, served, tickets });
            }
            // A full tree is the only thing that the policy does not see before; nothing was changed.
            Err(error) => self.fail(now, &error, &served, tickets),
        }
    }

    fn fail(&mut self, now: Now, error: &StageError, served: &[Queued], tickets: Vec<u64>) {
        for ticket in tickets {
            let result = Err(AdminError::Failed(error.to_string()));
            self.outputs.push_back(Output::AdminReply { ticket, result });
        }
        for operation in served {
            self.served(now, *operation, Some(Denial::Unavailable.into()));
        }
        self.misbehaved("key server".into(), error.to_string());
    }

    /// Whoever waited for a batch hears of it.
    fn settle(&mut self, now: Now, id: GroupId, served: &[Queued], tickets: Vec<u64>) {
        for operation in served {
            self.served(now, *operation, None);
        }
        let epoch = self.groups.get(&id).map_or(0, Group::epoch);
        for ticket in tickets {
            self.outputs.push_back(Output::AdminReply { ticket, result: Ok(AdminReply::Epoch(epoch)) });
        }
        self.after_batch(now, id);
    }

    pub(super) fn write(&mut self, record: Record, transaction: Transaction) {
        self.write_all(vec![record.encode()], transaction);
    }

    pub(super) fn write_all(&mut self, records: Vec<Zeroizing<Vec<u8>>>, transaction: Transaction) {
        self.records += records.len();
        self.outputs.push_back(Output::Persist(records));
        self.in_flight = Some(transaction);
    }

    /// The transaction is durable: merge, then tell.
    pub(super) fn persisted(&mut self, now: Now) {
        if let Some(transaction) = self.in_flight.take() {
            self.merge(now, transaction);
        }
    }

    fn merge(&mut self, now: Now, transaction: Transaction) {
        match transaction {
            Transaction::Start => self.event(Event::Reign { term: self.term, incarnation: self.incarnation }),
            Transaction::Snapshot => {}
            Transaction::Register { link, tag, client, identity, registration, answer } => {
                let (number, sealed) = (registration.number, answer.is_some());
                let new = self.clients.register(client, &identity, registration);
                let durable = answer.map(|answer| ToRegistrar::DurableSealed { tag, client, answer });
                self.tell_registrar(link, &durable.unwrap_or(ToRegistrar::Durable { tag }));
                if new {
                    self.announce(client, &identity);
                }
                let Registrations { sealed: by_offer, exported, .. } = &mut self.registrations;
                *(if sealed { by_offer } else { exported }) += 1;
                self.event(Event::Registered { client, identity, registration: number, sealed });
            }
            Transaction::Admit { ticket, group, member } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.admit(member);
                }
                self.outputs.push_back(Output::AdminReply { ticket, result: Ok(AdminReply::Done) });
            }
            Transaction::Stop { group, seen, witness } => self.stop_group(group, seen, witness),
            Transaction::Revoke(registrations) => {
                self.clients.drop_keys(&registrations);
                let clients = registrations.into_iter().map(|(client, _)| client).collect();
                self.event(Event::KeysDropped { clients });
            }
            Transaction::Create(group) => {
                let id = group.id();
                self.groups.insert(id, *group);
                self.configure(id);
                self.begin_group(now, id);
            }
            Transaction::Together(all) => all.into_iter().for_each(|one| self.merge(now, one)),
            Transaction::Promote(ask) => {
                self.promote(ask.client);
                self.look_everywhere(now, ask.client);
                self.enqueue(now, ask);
            }
            Transaction::Epoch { staged, evicting, served, tickets } => {
                let id = staged.recipe.group;
                self.merge_and_send(now, *staged, evicting);
                self.settle(now, id, &served, tickets);
            }
        }
    }

    /// The newest key of a client is the only one from now on, and whoever holds the state of an older registration is out:
    /// its leaves in all its groups are to be renewed.
    pub(super) fn promote(&mut self, client: MemberId) {
        self.clients.promote(client);
        for group in self.groups.values_mut().filter(|group| group.contains(client)) {
            group.unrenewed.insert(client);
        }
    }

    fn merge_and_send(&mut self, now: Now, mut epoch: StagedEpoch, evicting: Option<Now>) {
        let id = epoch.recipe.group;
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let messages = std::mem::take(&mut epoch.messages);
        let tag = epoch.tag.clone();
        let (header, reason, touched) = (epoch.header, epoch.recipe.announcement.reason, epoch.places());
        let by_choice = epoch.recipe.by_choice.iter().map(|(member, _)| (*member, None));
        let ended = epoch.recipe.ended.iter().map(|(member, cause)| (*member, Some(*cause)));
        let ended: Vec<(MemberId, Option<Cause>)> = by_choice.chain(ended).collect();
        let Ok(plan) = group.merge(now, epoch) else {
            // Staged against another tree than the one it is merged into: a fault of ours. The store has it, the
            // memory has not; only a replay brings them together.
            return self.halt();
        };
        let beacon = group.changed(now);
        let (to, members) = (group.audience(), group.tree.len());
        let count = u16::try_from(messages.len()).unwrap_or(u16::MAX);
        let planned = (0..count).zip(&messages).filter_map(|(number, octets)| {
            let plan = group.delivery.plan(&group.config.repair, octets.len()).ok()?;
            Some(Message { octets, number: (number, count), plan })
        });
        let planned: Vec<Message<'_>> = planned.collect();
        let cut = cores::map_all(&planned, plan.updates.len(), |message| {
            datagrams(message, header, &self.coder, (&self.config.signing, &tag))
        });
        let datagrams = cut.iter().flatten().flatten().map(|(_, octets)| octets);
        self.outputs.extend(group.publish_epoch(now, (&plan, touched), datagrams));
        let all: usize = planned.iter().map(|message| message.plan.layout.total_units()).sum();
        let units = planned.iter().map(|message| message.octets.len().div_ceil(fec::UNIT)).sum();
        if members > 0 {
            group.sent.0 += u64::from(count);
            group.sent.1 += u64::try_from(all).unwrap_or(u64::MAX);
            let mut eviction = evicting.map(|since| Sent { group: id, epoch: header.epoch, since });
            let urgent = reason.revokes();
            let mut at = 0;
            for mut datagrams in cut.into_iter().flatten() {
                // One message after the other.
                datagrams.iter_mut().for_each(|(time, _)| *time += at);
                at = datagrams.last().map_or(at, |(time, _)| time + 1);
                self.outbox.push_all(now, to, datagrams, eviction.take(), urgent);
            }
            self.outbox.push_all(now, to, vec![(at, beacon)], None, urgent);
        }
        for (member, _) in plan.left.iter().filter(|(member, _)| !group.contains(*member)) {
            if let Some(session) = self.subscribers.remove(id, *member) {
                self.outputs.push_back(Output::EndSubscription { session });
            }
        }
        self.arm(id);
        let joined: Vec<MemberId> = plan.joined.iter().map(|(member, _)| *member).collect();
        self.event(Event::Epoch(Box::new(EpochEvent {
            group: header.group,
            term: header.term,
            epoch: header.epoch,
            reason,
            members,
            messages: usize::from(count),
            octets: messages.iter().map(Vec::len).sum(),
            plan,
            units,
            repair_units: all - units,
        })));
        for (client, cause) in ended {
            if let Some(group) = self.groups.get_mut(&id) {
                group.endings.count(cause);
            }
            self.event(Event::Ended { group: id, epoch: header.epoch, client, cause });
        }
        joined.into_iter().for_each(|member| self.look(now, id, member));
    }
}
