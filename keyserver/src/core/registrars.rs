//! Registrars: who may register whom, the client list, and hand-overs.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::identity::Identity;
use protocol::registration::{ClientEntry, FromRegistrar, LIST_CHUNK, Refusal, RefusalCode, ToRegistrar};
use protocol::{Authentication, Credential, MemberId};

use super::Prefixes;
use super::clients::Registration;
use super::sealed::Answering;
use super::transaction::Intent;
use super::{Core, Output};

/// Numbers that a registrar has fetched and not used: ten times the sessions that one serves at once.
const MAX_ISSUED: usize = 10_000;
/// Connections of one registrar: it needs one, and makes another before this end has noticed that the old one is gone. Beyond that the
/// oldest is cut.
const MAX_LINKS: usize = 4;
/// What a registrar is told to wait when a limit is reached.
const BUSY_RETRY_MS: u32 = 1_000;

/// A registrar's connection.
pub(super) struct Link {
    pub(super) identity: Identity,
    prefixes: Prefixes,
    /// Registrations whose numbers this connection has fetched; a hand-over must be one of them.
    issued: BTreeMap<(MemberId, u64), (Identity, Authentication)>,
    /// Sealed registrations that are being answered.
    pub(super) answering: BTreeMap<(MemberId, u64), Answering>,
}

impl Core {
    pub(super) fn registrar_up(&mut self, link: u64, identity: &Identity) {
        let Some((_, prefixes)) = self.config.registrars.iter().find(|(known, _)| known == identity) else {
            self.outputs.push_back(Output::CloseRegistrar { link });
            return self.misbehaved(identity.to_string(), "it is not a registrar of this key server".into());
        };
        let (prefixes, issued, answering) = (prefixes.clone(), BTreeMap::new(), BTreeMap::new());
        let mut same = self.links.iter().filter(|(_, link)| link.identity == *identity).map(|(number, _)| *number);
        if let Some(oldest) = same.next().filter(|_| same.count() + 1 >= MAX_LINKS) {
            self.links.remove(&oldest);
            self.outputs.push_back(Output::CloseRegistrar { link: oldest });
        }
        self.links.insert(link, Link { identity: identity.clone(), prefixes, issued, answering });
        let clients: Vec<ClientEntry> = (self.clients.iter())
            .map(|(client, known)| ClientEntry { client, identity: known.identity.clone() })
            .collect();
        let parts = clients.len().div_ceil(LIST_CHUNK).max(1);
        for part in 0..parts {
            let entries = clients.iter().skip(part * LIST_CHUNK).take(LIST_CHUNK).cloned().collect();
            let key_server = self.config.name.clone();
            let message = ToRegistrar::ClientList { key_server, first: part == 0, last: part + 1 == parts, entries };
            self.tell_registrar(link, &message);
        }
    }

    pub(super) fn on_registrar(&mut self, link: u64, frame: &[u8]) {
        let Some(registrar) = self.links.get_mut(&link) else {
            return;
        };
        let message = match FromRegistrar::decode(frame) {
            Ok(message) => message,
            Err(error) => {
                let peer = registrar.identity.to_string();
                self.links.remove(&link);
                self.outputs.push_back(Output::CloseRegistrar { link });
                return self.misbehaved(peer, format!("its frame is malformed: {error}"));
            }
        };
        match message {
            FromRegistrar::FetchNumber { tag, .. } if self.config.sealed_only.contains(&registrar.identity) => {
                self.refuse_exported(link, tag);
            }
            FromRegistrar::FetchNumber { tag, kind, identity } => {
                let Some((client, registration)) = self.number(link, tag, kind, &identity) else {
                    return;
                };
                if let Some(registrar) = self.links.get_mut(&link) {
                    registrar.issued.insert((client, registration), (identity, kind));
                }
                self.tell_registrar(link, &ToRegistrar::Number { tag, client, registration });
            }
            FromRegistrar::RegisterSealed { tag, kind, identity, offers, ends, credential } => {
                if let Some(number) = self.number(link, tag, kind, &identity) {
                    let credential = Credential { kind, ends, name: credential };
                    self.grant_share((link, tag), number, (identity, credential), offers);
                }
            }
            FromRegistrar::HandOver { tag, client, registration, key, ends, credential } => {
                let Some((identity, kind)) = registrar.issued.remove(&(client, registration)) else {
                    let peer = registrar.identity.to_string();
                    let refusal = refusal("this registration's number was not fetched on this connection");
                    self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
                    return self.misbehaved(peer, "it handed over a key for a number that it had not fetched".into());
                };
                let credential = Credential { kind, ends, name: credential };
                let registration = Registration { number: registration, key, credential };
                let intent = Intent::HandOver { link, tag, client, identity, registration, answer: None };
                self.hand_over(link, tag, intent);
            }
        }
    }

    /// The number of a registration by this registrar, if it may and there is place; otherwise it is told why not.
    fn number(&mut self, link: u64, tag: u32, kind: Authentication, identity: &Identity) -> Option<(MemberId, u64)> {
        let registrar = self.links.get(&link)?;
        if !registrar.prefixes.iter().any(|(of, prefix)| *of == kind && prefix.matches(identity)) {
            let refusal = Refusal::new(
                RefusalCode::Identity,
                "this registrar may not register this identity by this kind of authentication",
                0,
            );
            let peer = registrar.identity.to_string();
            self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
            self.misbehaved(peer, format!("it asked to register {identity} by {kind}"));
            return None;
        }
        // A first registration is nobody's second one.
        let share = self.config.registrations;
        let known = self.clients.find(identity);
        let wait = known.map_or(Duration::ZERO, |client| self.registering.wait(self.clock, &client, share));
        if !wait.is_zero() {
            self.registrations.too_often += 1;
            let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
            let refusal = Refusal::new(RefusalCode::Busy, "this client registers too often", wait);
            self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
            return None;
        }
        let has_place = registrar.issued.len() + registrar.answering.len() < MAX_ISSUED;
        let number = if has_place { self.clients.number(identity) } else { None };
        match number {
            Some((client, _)) => self.registering.charge(self.clock, client, share),
            None => {
                let refusal = Refusal::new(RefusalCode::Busy, "too many registrations under way", BUSY_RETRY_MS);
                self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
            }
        }
        number
    }

    /// Queues a hand-over, the question `tag` of a link.
    pub(super) fn hand_over(&mut self, link: u64, tag: u32, intent: Intent) {
        if self.intend(intent).is_err() {
            let refusal = Refusal::new(RefusalCode::Busy, "too many changes are waiting", BUSY_RETRY_MS);
            self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
        }
    }

    /// Tells all registrars of a new client.
    pub(super) fn announce(&mut self, client: MemberId, identity: &Identity) {
        let frame = ToRegistrar::ClientAdded(ClientEntry { client, identity: identity.clone() }).encode();
        for link in self.links.keys() {
            self.outputs.push_back(Output::ToRegistrar { link: *link, frame: frame.clone() });
        }
    }

    pub(super) fn tell_registrar(&mut self, link: u64, message: &ToRegistrar) {
        if self.links.contains_key(&link) {
            self.outputs.push_back(Output::ToRegistrar { link, frame: message.encode() });
        }
    }
}

pub(super) fn refusal(text: &str) -> Refusal {
    Refusal::new(RefusalCode::Malformed, text, 0)
}
