//! Group commit: registrations and first proofs that have queued while a write was under way go into one transaction.

use std::collections::BTreeSet;

use protocol::identity::Identity;
use protocol::registration::{Refusal, RefusalCode, ToRegistrar};
use protocol::{Authentication, MemberId};
use zeroize::Zeroizing;

use super::clients::Registration;
use super::codec::Record;
use super::registrars::refusal;
use super::transaction::{Intent, Transaction};
use super::{Core, Now};

/// What a client is told to wait before it comes with another credential, in milliseconds.
const ANOTHER_MS: u32 = 5_000;
/// Records in one write: at some 500 octets each it stays far below what ZooKeeper takes in one transaction, 1 MiB; and at
/// 4 ms a write they are more than all registrars together can send.
const MAX_TOGETHER: usize = 256;

/// What goes into one transaction, each of another client and with another token: so each is judged by a state that the others do
/// not change.
#[derive(Default)]
struct Together {
    records: Vec<Zeroizing<Vec<u8>>>,
    transactions: Vec<Transaction>,
    clients: BTreeSet<MemberId>,
    tokens: BTreeSet<Vec<u8>>,
}

impl Together {
    fn may_add(&self, intent: &Intent) -> bool {
        match intent {
            Intent::HandOver { client, registration, .. } => {
                let is_used = |token: &Vec<u8>| self.tokens.contains(token);
                !self.clients.contains(client) && !token(registration).is_some_and(is_used)
            }
            Intent::Ask(ask) => !self.clients.contains(&ask.client),
            _ => false,
        }
    }

    fn add(&mut self, client: MemberId, record: &Record, transaction: Transaction) {
        self.records.push(record.encode());
        self.transactions.push(transaction);
        self.clients.insert(client);
    }
}

fn token(registration: &Registration) -> Option<&Vec<u8>> {
    let credential = &registration.credential;
    (credential.kind == Authentication::Token).then_some(&credential.name)
}

impl Core {
    /// Takes hand-overs and requests in their order, up to one that has to wait for what is written now.
    pub(super) fn begin_together(&mut self, now: Now) {
        let mut together = Together::default();
        while together.records.len() < MAX_TOGETHER
            && self.intents.front().is_some_and(|intent| together.may_add(intent))
            && let Some(intent) = self.intents.pop_front()
        {
            match intent {
                Intent::HandOver { link, tag, client, identity, registration, answer } => {
                    if let Some(refusal) = self.rejects(now, client, &identity, &registration) {
                        self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
                        continue;
                    }
                    together.tokens.extend(token(&registration).cloned());
                    let record =
                        Record::Registered { client, identity: identity.clone(), registration: registration.clone() };
                    let transaction = Transaction::Register { link, tag, client, identity, registration, answer };
                    together.add(client, &record, transaction);
                }
                Intent::Ask(ask) if self.clients.is_first_proof(ask.client, ask.registration) => {
                    let client = ask.client;
                    together.add(client, &Record::Promoted { client }, Transaction::Promote(ask));
                }
                Intent::Ask(ask) => self.enqueue(now, ask),
                other => {
                    self.intents.push_front(other);
                    break;
                }
            }
        }
        if !together.records.is_empty() {
            self.write_all(together.records, Transaction::Together(together.transactions));
        }
    }

    /// Why an individual key is not stored.
    fn rejects(&mut self, now: Now, client: MemberId, identity: &Identity, one: &Registration) -> Option<Refusal> {
        if !self.clients.accepts(client, identity, one.number) {
            return Some(refusal("an individual key with this or a later number is stored already"));
        }
        if let Some(why) = self.admission.rejects(now, &one.credential) {
            return Some(Refusal::new(RefusalCode::Credential, why, ANOTHER_MS));
        }
        self.clients.tokens.reject(self.admission.wall.at(now), &one.credential)
    }
}
