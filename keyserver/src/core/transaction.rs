//! Intents, transactions, and the pump that turns one into the other: stage, persist, merge, send.

use keygraph::Change;
use protocol::identity::Identity;
use protocol::registration::ToRegistrar;
use protocol::request::{Act, Denial, Outcome, Reply, RequestId, Resync};
use protocol::unit::{BlockHeader, sign_block};
use protocol::{GroupId, IndividualKey, MemberId, Reason, Seed};
use zeroize::Zeroizing;

use super::codec::Record;
use super::group::{StageError, StagedEpoch};
use super::registrars::refusal;
use super::{AdminError, AdminReply, Config, Core, EpochEvent, Event, MAX_INTENTS, Now, Output, RECORDS_PER_SNAPSHOT};

/// Something that was accepted and waits for its turn.
pub(super) enum Intent {
    /// A registrar has handed over an individual key.
    HandOver { link: u64, tag: u32, client: MemberId, identity: Identity, registration: u64, key: IndividualKey },
    /// Joins and leaves of one request, in its order.
    Changes { session: u64, client: MemberId, registration: u64, id: RequestId, changes: Vec<(Act, String)> },
    /// Re-synchronizes that prove a new registration: its leaves are rekeyed first.
    Resyncs { session: u64, client: MemberId, registration: u64, id: RequestId, resyncs: Vec<Resync> },
    /// An operator's eviction.
    Evict { ticket: u64, group: GroupId, member: MemberId },
    /// An operator lets somebody join again.
    Admit { ticket: u64, group: GroupId, member: MemberId },
    /// The root new: a period is over, a reign has begun, or an operator wants it.
    Refresh { group: GroupId, reason: Reason, ticket: Option<u64> },
}

/// What is being written. When it is durable it is merged, and only then anybody hears of it.
pub(super) enum Transaction {
    Start,
    Snapshot,
    Register { link: u64, tag: u32, client: MemberId, identity: Identity, registration: u64, key: IndividualKey },
    Admit { ticket: u64, group: GroupId, member: MemberId },
    Epochs { promote: Option<MemberId>, staged: Vec<StagedEpoch>, then: Then },
}

/// Who waits for the epochs of a transaction.
pub(super) enum Then {
    Nobody,
    Reply { session: u64, client: MemberId, id: RequestId, changes: Vec<(Act, String)>, denied: Vec<Option<Denial>> },
    Resyncs { session: u64, client: MemberId, id: RequestId, resyncs: Vec<Resync> },
    Operator { ticket: u64, group: GroupId },
}

impl Core {
    /// Accepts an intent, or says that there are too many.
    pub(super) fn intend(&mut self, intent: Intent) -> Result<(), Intent> {
        if self.intents.len() >= MAX_INTENTS {
            return Err(intent);
        }
        match intent {
            // An eviction overtakes everything that waits.
            Intent::Evict { .. } => self.intents.push_front(intent),
            _ => self.intents.push_back(intent),
        }
        Ok(())
    }

    /// Stages intents until one has to be written.
    pub(super) fn pump(&mut self, now: Now) {
        while self.in_flight.is_none() && !self.halted {
            if self.records >= RECORDS_PER_SNAPSHOT {
                self.records = 0;
                self.outputs.push_back(Output::Snapshot(self.snapshot(now)));
                self.in_flight = Some(Transaction::Snapshot);
                return;
            }
            let Some(intent) = self.intents.pop_front() else {
                return;
            };
            self.begin(now, intent);
        }
    }

    fn begin(&mut self, now: Now, intent: Intent) {
        match intent {
            Intent::HandOver { link, tag, client, identity, registration, key } => {
                if !self.clients.accepts(client, &identity, registration) {
                    let refusal = refusal("an individual key with this or a later number is stored already");
                    return self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
                }
                let record = Record::Registered { client, identity: identity.clone(), registration, key: key.clone() };
                let transaction = Transaction::Register { link, tag, client, identity, registration, key };
                self.write(vec![record], transaction);
            }
            Intent::Admit { ticket, group, member } => {
                self.write(vec![Record::Admitted { group, member }], Transaction::Admit { ticket, group, member });
            }
            Intent::Resyncs { session, client, registration, id, resyncs } => {
                let promote = self.clients.is_first_proof(client, registration).then_some(client);
                let renewed = self.renewals(promote, &[]);
                self.begin_epochs(now, promote, renewed, None, Then::Resyncs { session, client, id, resyncs });
            }
            Intent::Changes { session, client, registration, id, changes } => {
                self.begin_changes(now, session, client, registration, id, changes);
            }
            Intent::Evict { ticket, group, member } => {
                if !self.groups.get(&group).is_some_and(|group| group.contains(member)) {
                    let result = Err(AdminError::NotMember);
                    return self.outputs.push_back(Output::AdminReply { ticket, result });
                }
                let changes = vec![(group, vec![Change::Leave(member)], Reason::Evict)];
                self.begin_epochs(now, None, changes, None, Then::Operator { ticket, group });
            }
            Intent::Refresh { group, reason, ticket } => {
                let then = ticket.map_or(Then::Nobody, |ticket| Then::Operator { ticket, group });
                self.begin_epochs(now, None, vec![(group, vec![Change::Refresh], reason)], None, then);
            }
        }
    }

    /// Decides each join and leave on its own.
    fn begin_changes(
        &mut self,
        now: Now,
        session: u64,
        client: MemberId,
        registration: u64,
        id: RequestId,
        changes: Vec<(Act, String)>,
    ) {
        let promote = self.clients.is_first_proof(client, registration).then_some(client);
        let mut denied = Vec::with_capacity(changes.len());
        let mut wanted = Vec::new();
        let mut named = Vec::new();
        for (act, name) in &changes {
            let decision = self.decide(*act, name, client, id);
            denied.push(decision.as_ref().err().copied());
            if let Ok((group, change)) = decision {
                named.push(group);
                if let Some(change) = change {
                    let reason = if *act == Act::Join { Reason::Join } else { Reason::Leave };
                    wanted.push((group, vec![change], reason));
                }
            }
        }
        // A group that is left needs no renewal; one that is joined again by a member does.
        let leaving: Vec<GroupId> = wanted.iter().map(|(group, ..)| *group).collect();
        wanted.extend(self.renewals(promote, &leaving));
        self.begin_epochs(now, promote, wanted, Some(id), Then::Reply { session, client, id, changes, denied });
    }

    /// What a join or leave means: the group, and the change if there is one.
    fn decide(
        &self,
        act: Act,
        name: &str,
        client: MemberId,
        id: RequestId,
    ) -> Result<(GroupId, Option<Change>), Denial> {
        let group = self.groups.values().find(|group| group.config.name == name).ok_or(Denial::UnknownGroup)?;
        let member = group.contains(client);
        match act {
            Act::Leave if member => Ok((group.id(), Some(Change::Leave(client)))),
            // A leave that was carried out, and asked for again because its reply was lost.
            Act::Leave if group.left.get(&client).is_some_and(|(request, _)| *request == id) => Ok((group.id(), None)),
            Act::Leave => Err(Denial::NotMember),
            Act::Join if member => Ok((group.id(), None)),
            Act::Join => {
                let identity = self.clients.get(client).map(|client| &client.identity);
                let allowed =
                    identity.is_some_and(|identity| group.config.allow.iter().any(|rule| rule.matches(identity)));
                if !allowed || group.barred.contains(&client) {
                    Err(Denial::Policy)
                } else if group.tree.len() >= group.config.max_members {
                    Err(Denial::Full)
                } else {
                    Ok((group.id(), Some(Change::Join(client))))
                }
            }
        }
    }

    /// Whoever holds the state of an older registration is out: new leaves in all groups of the client.
    fn renewals(&self, promote: Option<MemberId>, except: &[GroupId]) -> Vec<(GroupId, Vec<Change>, Reason)> {
        let Some(client) = promote else {
            return Vec::new();
        };
        let member_of = self.groups.values().filter(|group| group.contains(client) && !except.contains(&group.id()));
        member_of.map(|group| (group.id(), vec![Change::Renew(client)], Reason::Renew)).collect()
    }

    fn begin_epochs(
        &mut self,
        now: Now,
        promote: Option<MemberId>,
        changes: Vec<(GroupId, Vec<Change>, Reason)>,
        request: Option<RequestId>,
        then: Then,
    ) {
        let mut staged = Vec::with_capacity(changes.len());
        for (group, changes, reason) in changes {
            match self.stage(group, changes, reason, request) {
                Ok(epoch) => staged.push(epoch),
                // A full tree is the only thing that the policy does not see before; nothing was changed.
                Err(error) => return self.fail(&error, then),
            }
        }
        let mut records: Vec<Record> = promote.map(|client| Record::Promoted { client }).into_iter().collect();
        records.extend(staged.iter().map(|epoch| Record::Epoch { recipe: epoch.recipe.clone(), digest: epoch.digest }));
        let transaction = Transaction::Epochs { promote, staged, then };
        if records.is_empty() {
            self.finish(now, transaction);
        } else {
            self.write(records, transaction);
        }
    }

    fn stage(
        &mut self,
        id: GroupId,
        changes: Vec<Change>,
        reason: Reason,
        request: Option<RequestId>,
    ) -> Result<StagedEpoch, StageError> {
        let mut seed = Zeroizing::new([0; 32]);
        self.entropy.fill(seed.as_mut());
        let group = self.groups.get_mut(&id).ok_or(StageError::Exhausted)?;
        let recipe = group.recipe(self.incarnation, self.term, changes, reason, Seed::new(*seed), request);
        group.stage(recipe)
    }

    fn fail(&mut self, error: &StageError, then: Then) {
        match then {
            Then::Nobody => self.misbehaved("key server".into(), error.to_string()),
            Then::Operator { ticket, .. } => {
                let result = Err(AdminError::Failed(error.to_string()));
                self.outputs.push_back(Output::AdminReply { ticket, result });
            }
            Then::Reply { session, id, changes, .. } => self.unavailable(session, id, changes.len(), error),
            Then::Resyncs { session, id, resyncs, .. } => self.unavailable(session, id, resyncs.len(), error),
        }
    }

    fn unavailable(&mut self, session: u64, id: RequestId, operations: usize, error: &StageError) {
        let outcomes = (0..operations).map(|_| Outcome::Denied(Denial::Unavailable)).collect();
        self.reply(session, &Reply { id, outcomes });
        self.misbehaved("key server".into(), error.to_string());
    }

    fn write(&mut self, records: Vec<Record>, transaction: Transaction) {
        self.records += records.len();
        self.outputs.push_back(Output::Persist(records.iter().map(Record::encode).collect()));
        self.in_flight = Some(transaction);
    }

    pub(super) fn persisted(&mut self, now: Now) {
        if let Some(transaction) = self.in_flight.take() {
            self.finish(now, transaction);
        }
    }

    /// The transaction is durable: merge, then tell.
    fn finish(&mut self, now: Now, transaction: Transaction) {
        match transaction {
            Transaction::Start => self.event(Event::Reign { term: self.term, incarnation: self.incarnation }),
            Transaction::Snapshot => {}
            Transaction::Register { link, tag, client, identity, registration, key } => {
                let new = self.clients.register(client, &identity, registration, key);
                self.tell_registrar(link, &ToRegistrar::Durable { tag });
                if new {
                    self.announce(client, &identity);
                }
                self.event(Event::Registered { client, identity, registration });
            }
            Transaction::Admit { ticket, group, member } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.barred.remove(&member);
                }
                self.outputs.push_back(Output::AdminReply { ticket, result: Ok(AdminReply::Done) });
            }
            Transaction::Epochs { promote, staged, then } => {
                promote.iter().for_each(|client| self.clients.promote(*client));
                for epoch in staged {
                    self.merge_and_send(now, epoch);
                }
                self.tell(now, then);
            }
        }
    }

    fn merge_and_send(&mut self, now: Now, mut epoch: StagedEpoch) {
        let Some(group) = self.groups.get_mut(&epoch.recipe.group) else {
            return;
        };
        let message = std::mem::take(&mut epoch.message);
        let (header, reason) = (epoch.header, epoch.recipe.announcement.reason);
        let Ok(plan) = group.merge(now, epoch) else {
            // Staged against another tree than the one it is merged into: a fault of ours. The store has it, the
            // memory has not; only a replay brings them together.
            return self.halt();
        };
        let beacon = group.new_beacon(now, &self.config.signing);
        let (destination, members) = (group.destination(), group.tree.len());
        let datagrams = datagrams(&message, header, &group.config.repair, &mut self.coder, &self.config);
        let (datagrams, units, repair_units) = datagrams.unwrap_or_default();
        if members > 0 {
            group.sent.0 += 1;
            group.sent.1 += u64::try_from(datagrams.len()).unwrap_or(u64::MAX);
            for datagram in datagrams.into_iter().chain([beacon]) {
                match reason.revokes() {
                    true => self.outbox.push_urgent(destination, datagram),
                    false => self.outbox.push(destination, datagram),
                }
            }
        }
        self.event(Event::Epoch(Box::new(EpochEvent {
            group: header.group,
            term: header.term,
            epoch: header.epoch,
            reason,
            members,
            octets: message.len(),
            plan,
            units,
            repair_units,
        })));
    }

    fn tell(&mut self, now: Now, then: Then) {
        match then {
            Then::Nobody => {}
            Then::Resyncs { session, client, id, resyncs } => self.resyncs(now, session, client, id, &resyncs),
            Then::Operator { ticket, group } => {
                let epoch = self.groups.get(&group).map_or(0, super::Group::epoch);
                self.outputs.push_back(Output::AdminReply { ticket, result: Ok(AdminReply::Epoch(epoch)) });
            }
            Then::Reply { session, client, id, changes, denied } => {
                let outcomes = changes
                    .iter()
                    .zip(denied)
                    .map(|((act, name), denied)| match (denied, act) {
                        (Some(denial), _) => self.deny(name, client, denial),
                        (None, Act::Join) => self.grant(now, name, client, u64::MAX),
                        (None, Act::Leave) => self.left(name, client),
                    })
                    .collect();
                self.reply(session, &Reply { id, outcomes });
            }
        }
    }

    fn left(&self, name: &str, client: MemberId) -> Outcome {
        let group = self.groups.values().find(|group| group.config.name == name);
        match group.and_then(|group| group.left.get(&client)) {
            Some((_, epoch)) => Outcome::Left { epoch: *epoch },
            None => Outcome::Denied(Denial::NotMember),
        }
    }
}

/// Cuts a message into units, adds repair units, signs each block: the datagrams in the order of sending, with the
/// numbers of units and repair units.
fn datagrams(
    message: &[u8],
    epoch: protocol::EpochHeader,
    repair: &fec::RepairScheme,
    coder: &mut fec::ReedSolomon,
    config: &Config,
) -> Option<(Vec<Vec<u8>>, usize, usize)> {
    let layout = fec::Layout::new(message.len(), repair).ok()?;
    let blocks = fec::encode(message, &layout, coder).ok()?;
    let (mut signed, mut units, mut repair_units) = (Vec::with_capacity(blocks.len()), 0, 0);
    for (block, number) in blocks.iter().zip(0u16..) {
        let header = BlockHeader {
            epoch,
            message: 0,
            messages: 1,
            message_len: u32::try_from(message.len()).ok()?,
            blocks: layout.block_count(),
            block: number,
            s: block.shape.s(),
            r: block.shape.r(),
        };
        units += usize::from(header.s);
        repair_units += usize::from(header.r);
        signed.push(sign_block(&header, &block.units, &config.signing).ok()?);
    }
    let order = layout.send_order();
    let datagrams =
        order.map(|(block, index)| std::mem::take(&mut signed[usize::from(block)][usize::from(index)])).collect();
    Some((datagrams, units, repair_units))
}
