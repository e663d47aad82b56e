//! Registrations: who is which ID number, and which individual keys are live.

use std::collections::{BTreeMap, BTreeSet};

use protocol::identity::Identity;
use protocol::{Credential, IndividualKey, MemberId};

use super::tokens::Tokens;

/// One client.
pub(super) struct Client {
    pub(super) identity: Identity,
    /// The one whose key the client has proved last.
    pub(super) current: Option<Registration>,
    /// A newer one whose key it has not proved yet; it replaces the current one when it does.
    pub(super) pending: Option<Registration>,
    /// Highest registration number that was given out.
    pub(super) numbered: u64,
}

/// A registration of a client.
#[derive(Clone)]
pub(super) struct Registration {
    pub(super) number: u64,
    pub(super) key: IndividualKey,
    /// What the client has authenticated itself with.
    pub(super) credential: Credential,
}

impl Client {
    fn newest(&self) -> u64 {
        self.live().map(|registration| registration.number).max().unwrap_or(0)
    }

    /// What it has authenticated itself with, as far as it has proved that.
    pub(super) fn credential(&self) -> Option<&Credential> {
        self.current.as_ref().map(|one| &one.credential)
    }

    /// Its registrations whose keys are live.
    pub(super) fn live(&self) -> impl Iterator<Item = &Registration> {
        [&self.current, &self.pending].into_iter().flatten()
    }
}

/// All clients. The list grows only by completed registrations of identities that the configuration allows.
#[derive(Default)]
pub(super) struct Clients {
    by_id: BTreeMap<MemberId, Client>,
    by_identity: BTreeMap<Identity, MemberId>,
    /// Numbers of identities whose first registration is under way; forgotten at a restart.
    reserved: BTreeMap<Identity, (MemberId, u64)>,
    next_id: u32,
    pub(super) tokens: Tokens,
}

/// First registrations under way: far more than handshakes can be, and 30 MB at the most.
const MAX_RESERVED: usize = 100_000;

impl Clients {
    pub(super) fn get(&self, client: MemberId) -> Option<&Client> {
        self.by_id.get(&client)
    }

    pub(super) fn find(&self, identity: &Identity) -> Option<MemberId> {
        self.by_identity.get(identity).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (MemberId, &Client)> {
        self.by_id.iter().map(|(id, client)| (*id, client))
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The live key of this registration, unless its credential was revoked.
    pub(super) fn key(
        &self,
        client: MemberId,
        registration: u64,
        revoked: &BTreeSet<Vec<u8>>,
    ) -> Option<&IndividualKey> {
        let mut live = self.by_id.get(&client)?.live();
        let one = live.find(|one| one.number == registration)?;
        (!revoked.contains(&one.credential.name)).then_some(&one.key)
    }

    /// Live registrations with one of these credentials.
    pub(super) fn registered_with(&self, revoked: &BTreeSet<Vec<u8>>) -> Vec<(MemberId, u64)> {
        let of = |(id, client): (&MemberId, &Client)| {
            let live = client.live().filter(|one| revoked.contains(&one.credential.name));
            live.map(|one| (*id, one.number)).collect::<Vec<_>>()
        };
        self.by_id.iter().flat_map(of).collect()
    }

    /// Drops the individual keys of these registrations.
    pub(super) fn drop_keys(&mut self, registrations: &[(MemberId, u64)]) {
        for (id, number) in registrations {
            if let Some(client) = self.by_id.get_mut(id) {
                client.current.take_if(|one| one.number == *number);
                client.pending.take_if(|one| one.number == *number);
            }
        }
    }

    /// Whether using this registration is the first proof of a newer key.
    pub(super) fn is_first_proof(&self, client: MemberId, registration: u64) -> bool {
        self.by_id
            .get(&client)
            .and_then(|client| client.pending.as_ref())
            .is_some_and(|pending| pending.number == registration)
    }

    /// Gives out the next registration number; a new identity gets an ID number too. `None` when a limit is reached.
    pub(super) fn number(&mut self, identity: &Identity) -> Option<(MemberId, u64)> {
        if let Some(id) = self.by_identity.get(identity) {
            let client = self.by_id.get_mut(id)?;
            client.numbered = client.numbered.checked_add(1)?;
            return Some((*id, client.numbered));
        }
        if let Some((id, number)) = self.reserved.get_mut(identity) {
            *number = number.checked_add(1)?;
            return Some((*id, *number));
        }
        if self.reserved.len() >= MAX_RESERVED {
            return None;
        }
        // ID numbers begin at 1, so that 0 in a log is always a mistake.
        self.next_id = self.next_id.checked_add(1)?;
        let given = (MemberId(self.next_id), 1);
        self.reserved.insert(identity.clone(), given);
        Some(given)
    }

    /// Whether a key with this number may still be stored: a replayed hand-over must not bring back an old key.
    pub(super) fn accepts(&self, client: MemberId, identity: &Identity, registration: u64) -> bool {
        match self.by_id.get(&client) {
            Some(known) => known.identity == *identity && registration > known.newest(),
            None => !self.by_identity.contains_key(identity),
        }
    }

    /// Stores a key that the client has to prove. Whether the client is new.
    pub(super) fn register(&mut self, id: MemberId, identity: &Identity, registration: Registration) -> bool {
        let reserved = self.reserved.remove(identity).map_or(0, |(_, number)| number);
        self.next_id = self.next_id.max(id.0);
        let new = self.by_identity.insert(identity.clone(), id).is_none();
        let client = self.by_id.entry(id).or_insert_with(|| Client {
            identity: identity.clone(),
            current: None,
            pending: None,
            numbered: 0,
        });
        self.tokens.used(&registration.credential);
        client.numbered = client.numbered.max(registration.number).max(reserved);
        client.pending = Some(registration);
        new
    }

    /// The client has proved its newer key; the old one is worth nothing from here on.
    pub(super) fn promote(&mut self, id: MemberId) {
        if let Some(client) = self.by_id.get_mut(&id)
            && let Some(pending) = client.pending.take()
        {
            client.current = Some(pending);
        }
    }

    /// Puts back a client of a snapshot.
    pub(super) fn restore(&mut self, id: MemberId, client: Client) {
        self.next_id = self.next_id.max(id.0);
        self.by_identity.insert(client.identity.clone(), id);
        self.by_id.insert(id, client);
    }
}
