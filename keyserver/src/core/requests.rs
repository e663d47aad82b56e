//! Requests of clients: decoded, decided operation by operation, answered.

use keygraph::KeyRef;
use protocol::MemberId;
use protocol::request::{Denial, Operations, Outcome, Reply, Request, RequestId, Resync};
use zeroize::Zeroizing;

use super::transaction::Intent;
use super::{Core, Event, Now, Output};

impl Core {
    pub(super) fn request(&mut self, now: Now, session: u64, client: MemberId, registration: u64, message: &[u8]) {
        if self.clients.key(client, registration).is_none() {
            // The registration was replaced while the session was being set up.
            return self.outputs.push_back(Output::Refuse { session });
        }
        let request = match Request::decode(message) {
            Ok(request) => request,
            Err(error) => {
                self.outputs.push_back(Output::Refuse { session });
                return self.misbehaved(format!("client {client}"), format!("its request is malformed: {error}"));
            }
        };
        let id = request.id;
        match request.operations {
            // The first proof of a new registration renews the leaves first; and what a reign has not announced yet, it
            // cannot vouch for: the answer waits behind the reign's own rekeys.
            Operations::Resyncs(resyncs)
                if self.clients.is_first_proof(client, registration)
                    || resyncs.iter().any(|resync| self.is_unannounced(&resync.group)) =>
            {
                let count = resyncs.len();
                self.ask(session, id, count, Intent::Resyncs { session, client, registration, id, resyncs });
            }
            Operations::Resyncs(resyncs) => self.resyncs(now, session, client, id, &resyncs),
            Operations::Changes(changes) => {
                let count = changes.len();
                self.ask(session, id, count, Intent::Changes { session, client, registration, id, changes });
            }
        }
    }

    fn is_unannounced(&self, name: &str) -> bool {
        self.groups.values().any(|group| group.config.name == name && !group.is_announced())
    }

    fn ask(&mut self, session: u64, id: RequestId, operations: usize, intent: Intent) {
        if self.intend(intent).is_err() {
            let outcomes = (0..operations).map(|_| Outcome::Denied(Denial::Unavailable)).collect();
            self.reply(session, &Reply { id, outcomes });
        }
    }

    pub(super) fn resyncs(&mut self, now: Now, session: u64, client: MemberId, id: RequestId, resyncs: &[Resync]) {
        let outcomes = resyncs.iter().map(|resync| self.resync(now, client, resync)).collect();
        self.reply(session, &Reply { id, outcomes });
    }

    fn resync(&mut self, now: Now, client: MemberId, resync: &Resync) -> Outcome {
        let group = self.groups.values().find(|group| group.config.name == resync.group);
        let denial = match group {
            None => Denial::UnknownGroup,
            Some(group) if !group.contains(client) => Denial::NotMember,
            // The client holds something that this key server signed and does not remember.
            Some(group) if resync.seen > (self.term, group.epoch()) => Denial::Behind,
            Some(_) => return self.grant(now, &resync.group, client, resync.have),
        };
        self.deny(&resync.group, client, denial)
    }

    /// The individual rekey of one group. `have`: the newest epoch whose data key the client holds.
    pub(super) fn grant(&mut self, now: Now, name: &str, client: MemberId, have: u64) -> Outcome {
        let Some(group) = self.groups.values_mut().find(|group| group.config.name == name) else {
            return self.deny(name, client, Denial::UnknownGroup);
        };
        let id = group.id();
        let Some(membership) = group.membership(now, client, have) else {
            return self.deny(name, client, Denial::NotMember);
        };
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
