//! How it begins: a reign that is over, in which both members registered and the first joined.

use std::time::Duration;

use keyserver::core::{Core, Input};
use keyserver::store::{Followed, Journal, MemoryBackend, Store};
use protocol::credential::NO_END;
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::{Losses, Operations, Request, RequestId, Resync};
use protocol::{Authentication, IndividualKey, MemberId};

use super::GROUP;
use super::engine::Values;
use super::member::{self, Happening};
use super::server::{Sent, config, drain, identity, journal};
use crate::dice::Dice;

/// Seeds of what the members draw.
pub(super) const SEEDS: [u64; 2] = [31, 32];

pub(super) struct Setup {
    pub(super) values: Values,
    pub(super) members: [(MemberId, u64); 2],
    pub(super) histories: [Vec<Happening>; 2],
}

struct First {
    core: Core,
    journal: Journal<MemoryBackend>,
    now: Duration,
}

impl First {
    fn settle(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        while let Some(records) = drain(&mut self.core, &mut self.now, &mut sent) {
            let records: Vec<&[u8]> = records.iter().map(|record| record.as_slice()).collect();
            self.journal.append(&records).unwrap();
            self.core.handle(self.now, Input::Persisted(true));
        }
        sent
    }

    fn handle(&mut self, input: Input<'_>) -> Vec<Sent> {
        self.core.handle(self.now, input);
        self.settle()
    }

    fn frame(&mut self, frame: &FromRegistrar) -> ToRegistrar {
        let sent = self.handle(Input::FromRegistrar { link: 1, frame: &frame.encode() });
        let frames = sent.iter().filter_map(|sent| if let Sent::Frame(frame) = sent { Some(frame) } else { None });
        ToRegistrar::decode(frames.into_iter().next().unwrap()).unwrap()
    }

    fn register(&mut self, name: &str) -> (MemberId, u64) {
        let number = self.frame(&FromRegistrar::FetchNumber {
            tag: 1,
            kind: Authentication::Certificate,
            identity: identity(name),
        });
        let ToRegistrar::Number { client, registration, .. } = number else { panic!("no number") };
        let key = IndividualKey::new([9; 32]);
        let told = self.frame(&FromRegistrar::HandOver {
            tag: 2,
            client,
            registration,
            key,
            ends: NO_END,
            credential: vec![1; 33],
        });
        assert!(matches!(told, ToRegistrar::Durable { .. }), "{told:?}");
        (client, registration)
    }

    fn request(&mut self, (client, registration): (MemberId, u64), message: &[u8]) -> Vec<u8> {
        let sent = self.handle(Input::Request { session: 1, client, registration, message });
        let mut replies = sent.into_iter().filter_map(|sent| match sent {
            Sent::Reply { message, .. } => Some(message),
            _ => None,
        });
        replies.next().expect("a reply")
    }
}

pub(super) fn setup() -> Setup {
    let backend = MemoryBackend::default();
    let mut journal = journal(backend.clone(), 1).unwrap();
    let loaded = journal.load().unwrap();
    let now = Duration::from_secs(1);
    let core = Core::stand_by(now, config(), Box::new(Dice::new(2)), None, &loaded.records).unwrap();
    let mut first = First { core, journal, now };
    first.journal.fence().unwrap();
    assert!(matches!(first.journal.follow(), Ok(Followed::Records(records)) if records.is_empty()));
    first.core.reign(now).unwrap();
    first.settle();
    first.handle(Input::RegistrarUp { link: 1, identity: identity("registrar/r") });
    let members = [first.register("member/m1"), first.register("member/m2")];
    let mut histories =
        members.map(|(id, registration)| vec![Happening::Registered(id, registration), Happening::Join]);
    // The first one joins; the second one proves its key, and its join is on its way.
    let (_, message) = member::carry_out(&histories[0], SEEDS[0]).asked.expect("a join");
    let reply = first.request(members[0], &message);
    histories[0].push(Happening::Reply(reply));
    let resync = Resync { group: GROUP.into(), seen: (0, 0), have: 0, losses: Losses::default() };
    let proof = Request { id: RequestId([1; 16]), operations: Operations::Resyncs(vec![resync]) };
    first.request(members[1], &proof.encode());
    Setup { values: backend.values(), members, histories }
}
