//! Sealed registrations: the key server gives the client a share through a registrar who cannot read it.

use protocol::identity::Identity;
use protocol::registration::{Answer, Grant, Offer, Parties, Refusal, RefusalCode, ToRegistrar};
use protocol::{Credential, MemberId, Share};
use zeroize::Zeroizing;

use super::clients::Registration;
use super::transaction::Intent;
use super::{Core, Event, Output};

/// Registrations of this reign, by how the individual key was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registrations {
    /// Client and key server alone know the key.
    pub sealed: u64,
    /// The registrar knows it too.
    pub exported: u64,
    /// Refused: no offer was for this key server.
    pub unopened: u64,
    /// Refused: exported, by a registrar that may not.
    pub exported_refused: u64,
    /// Refused: by a client that had registered too often.
    pub too_often: u64,
}

/// A registration whose answer is being made.
pub(super) struct Answering {
    tag: u32,
    identity: Identity,
    registration: Registration,
}

impl Core {
    /// Makes a share, and asks for the answer that carries it.
    pub(super) fn grant_share(
        &mut self,
        (link, tag): (u64, u32),
        (client, number): (MemberId, u64),
        (identity, credential): (Identity, Credential),
        offers: Vec<Offer>,
    ) {
        let mut share = Zeroizing::new([0; 32]);
        self.entropy.fill(share.as_mut());
        let Some(registrar) = self.links.get_mut(&link) else {
            return;
        };
        let grant = Grant { client, registration: number, share: Share::new(*share) };
        let (registered_by, key_server) = (registrar.identity.clone(), self.config.name.clone());
        let parties = Parties { client: identity.clone(), registrar: registered_by, key_server };
        let registration = Registration { number, key: grant.individual_key(&parties), credential };
        registrar.answering.insert((client, number), Answering { tag, identity, registration });
        self.outputs.push_back(Output::Answer { link, parties, offers, grant });
    }

    /// There is an answer, or no offer was for this key server.
    pub(super) fn answered(&mut self, link: u64, number: (MemberId, u64), answer: Option<Box<Answer>>) {
        let Some(registrar) = self.links.get_mut(&link) else {
            return;
        };
        let Some(Answering { tag, identity, registration }) = registrar.answering.remove(&number) else {
            return;
        };
        if answer.is_none() {
            let registrar = registrar.identity.clone();
            self.registrations.unopened += 1;
            let text = "sealed for another key server, or for a static key that this one does not have";
            let refusal = Refusal::new(RefusalCode::Key, text, 0);
            self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
            return self.event(Event::Unopened { registrar, identity });
        }
        let intent = Intent::HandOver { link, tag, client: number.0, identity, registration, answer };
        self.hand_over(link, tag, intent);
    }

    /// A registrar that must know no key wants to make one.
    pub(super) fn refuse_exported(&mut self, link: u64, tag: u32) {
        self.registrations.exported_refused += 1;
        let text = "this registrar may register sealed only (`individual_key` of the client)";
        let refusal = Refusal::new(RefusalCode::Key, text, 0);
        self.tell_registrar(link, &ToRegistrar::Refused { tag, refusal });
    }
}
