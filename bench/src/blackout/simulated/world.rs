//! The world of a blackout: who is told what, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use ::tests::dice::Dice;
use client_ctl::core as client;
use keyserver::core as server;
use net::admission::Limits;
use net::line::Line;
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{FromClient, RefusalCode, ToClient};
use protocol::request::RequestId;
use protocol::{Authentication, Credential, IndividualKey, MemberId, SigningKey};
use registrar::core as door;

use crate::Failure;
use crate::keyserver::{GROUP, KeyServer, PREFIX, REGISTRAR, config};

use super::{COMMIT, Desk, GIVE_UP, HANDSHAKE, REQUEST, RESET, SAMPLE, SEED, Tally};

enum Happening {
    Client(u32),
    Registrar(usize),
    Server,
    Committed,
    /// A client's handshake with its registrar is done.
    Proved(u32),
    /// A client was told to register so much later.
    SentAway(u32, Duration),
    Asked {
        number: u32,
        id: RequestId,
        message: Vec<u8>,
    },
    /// A client was told to ask so much later.
    AskedAway {
        number: u32,
        id: RequestId,
        after: Duration,
    },
}

struct Client {
    core: client::Core,
    /// The latest timer that is on its way.
    timer: Option<Duration>,
    epoch: Option<u64>,
}

pub(super) struct World {
    now: Duration,
    happenings: BTreeMap<(Duration, u64), Happening>,
    number: u64,
    server: server::Core,
    server_timer: Option<Duration>,
    requests: (Desk, Line),
    registrars: Vec<(door::Core, Desk, Line)>,
    /// By number; `None`: back, and not of the sample.
    clients: Vec<Option<Client>>,
    /// What they were told by their registrar.
    numbers: BTreeMap<u32, (MemberId, u64)>,
    sessions: BTreeMap<u64, (u32, RequestId)>,
    pub(super) back: usize,
    pub(super) last: Duration,
    pub(super) tally: Tally,
}

impl World {
    /// All is on, and nobody has done anything yet.
    pub(super) fn dark(members: u32, registrars: usize) -> Result<Self, Failure> {
        let settings = || config(server::RECORDS_PER_SNAPSHOT);
        let snapshot = KeyServer::snapshot(members, settings()?, PREFIX)?;
        let core = server::Core::start(settings()?, Box::new(Dice::new(SEED)), Some(&snapshot), &[])?;
        let of_registrar = door::Config {
            identity: Identity::parse(REGISTRAR)?,
            clients: vec![IdentityPattern::parse(&format!("{PREFIX}*"))?],
        };
        let signing = vec![SigningKey::from_seed(&[1; 32])?.public()];
        let one = |number: u32| {
            let carriers = client::Carriers::default();
            let config = client::Config { groups: vec![GROUP.into()], signing: signing.clone(), carriers };
            let dice = Dice::new(SEED << 32 | u64::from(number));
            Some(Client { core: client::Core::new(config, Box::new(dice)), timer: None, epoch: None })
        };
        let mut world = Self {
            now: Duration::from_secs(1),
            happenings: BTreeMap::new(),
            number: 0,
            server: core,
            server_timer: None,
            requests: (Desk::default(), Line::new(Limits::default().in_flight)),
            registrars: (0..registrars)
                .map(|_| {
                    (door::Core::new(of_registrar.clone()), Desk::default(), Line::new(Limits::default().in_flight))
                })
                .collect(),
            clients: (0..members).map(one).collect(),
            numbers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            back: 0,
            last: Duration::ZERO,
            tally: Tally::default(),
        };
        for link in 0..registrars {
            world.registrars[link].0.handle(world.now, door::Input::LinkUp);
            let identity = Identity::parse(REGISTRAR)?;
            world.tell_server(server::Input::RegistrarUp { link: u64::try_from(link)?, identity });
        }
        for number in 0..members {
            world.tell_client(number, client::Input::Timeout);
        }
        Ok(world)
    }

    /// Until all are back and hold the present key; when the last came.
    pub(super) fn live(&mut self) -> Result<Duration, Failure> {
        let begun = self.now;
        while self.back < self.clients.len() {
            let Some(((at, _), happening)) = self.happenings.pop_first() else {
                return Err("nothing will happen any more".into());
            };
            self.now = at;
            self.happen(happening);
            if self.now - begun > GIVE_UP {
                return Err(format!("{} of {} clients are back", self.back, self.clients.len()).into());
            }
        }
        let last = self.last - begun;
        // What the last one has changed goes to those who follow.
        let until = self.now + Duration::from_secs(5);
        while let Some(((at, _), happening)) = self.happenings.pop_first().filter(|((at, _), _)| *at < until) {
            self.now = at;
            self.happen(happening);
        }
        self.handle_server(server::Input::Admin { ticket: 1, command: server::Admin::Status });
        let Some(Ok(server::AdminReply::Status(status))) = self.drain_server() else {
            return Err("no status".into());
        };
        let (members, epoch) = (status.groups[0].members, status.groups[0].epoch);
        let missing = self.clients.len().abs_diff(members) + self.clients.len().abs_diff(status.clients);
        let behind = self.clients.iter().flatten().filter(|one| one.epoch != Some(epoch)).count();
        self.tally.lost += u32::try_from(missing + behind)?;
        Ok(last)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Client(number) => {
                let now = self.now;
                let due = |one: &mut Client| one.timer.take_if(|at| *at <= now).is_some();
                if self.clients[index(number)].as_mut().is_some_and(due) {
                    self.tell_client(number, client::Input::Timeout);
                }
            }
            Happening::Registrar(link) => self.tell_registrar(link, door::Input::Timeout),
            Happening::Server => {
                if self.server_timer.take_if(|at| *at <= self.now).is_some() {
                    self.tell_server(server::Input::Timeout);
                }
            }
            Happening::Committed => self.tell_server(server::Input::Persisted(true)),
            Happening::Proved(number) => self.proved(number),
            Happening::SentAway(number, after) => {
                self.tell_client(number, client::Input::RegistrationLater { after });
            }
            Happening::Asked { number, id, message } => self.asked(number, id, &message),
            Happening::AskedAway { number, id, after } => {
                self.tell_client(number, client::Input::RequestLater { id, after });
            }
        }
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.number += 1;
        self.happenings.insert((self.now + after, self.number), happening);
    }

    fn proved(&mut self, number: u32) {
        let link = index(number) % self.registrars.len();
        self.registrars[link].2.left(self.now);
        let Ok(identity) = Identity::parse(&format!("{PREFIX}m{number}")) else { return };
        let credential = Credential {
            kind: Authentication::Certificate,
            ends: NO_END,
            name: [&[1; 32][..], &number.to_be_bytes()].concat(),
        };
        let session = u64::from(number);
        self.registrars[link].0.handle(self.now, door::Input::ClientUp { session, identity, credential });
        self.drain_registrar(link);
        let frame = FromClient::Register { key_server: "ks".into(), offers: Vec::new() }.encode();
        self.tell_registrar(link, door::Input::FromClient { session, frame: &frame });
    }

    fn asked(&mut self, number: u32, id: RequestId, message: &[u8]) {
        self.requests.1.left(self.now);
        let Some(&(client, registration)) = self.numbers.get(&number) else { return };
        if self.server.individual_key(client, registration).is_none() {
            return self.tell_client(number, client::Input::RequestFailed { id, refused: true });
        }
        self.number += 1;
        let session = self.number;
        self.sessions.insert(session, (number, id));
        self.tell_server(server::Input::Request { session, client, registration, message });
    }

    fn tell_client(&mut self, number: u32, input: client::Input<'_>) {
        let Some(one) = &mut self.clients[index(number)] else { return };
        one.core.handle(self.now, input);
        let mut outputs = Vec::new();
        while let Some(output) = one.core.poll_output() {
            outputs.push(output);
        }
        let was_back = one.epoch.is_some();
        for output in &outputs {
            if let client::Output::Feed { snapshot, .. } = output {
                one.epoch = snapshot.keys.last().map(|key| key.epoch).or(one.epoch);
            }
        }
        let is_back = one.epoch.is_some();
        for output in outputs {
            match output {
                client::Output::Register => self.registers(number),
                client::Output::Request { id, message } => self.asks(number, id, message),
                client::Output::Stopped => self.tally.lost += 1,
                _ => {}
            }
        }
        if is_back && !was_back {
            self.back += 1;
            self.last = self.now;
            if !number.is_multiple_of(SAMPLE) {
                self.clients[index(number)] = None;
            }
        }
        let Some(one) = &mut self.clients[index(number)] else { return };
        let wake = one.core.poll_timeout().map(|(at, _)| at.max(self.now));
        if let Some(at) = wake.filter(|at| one.timer.is_none_or(|timer| *at < timer)) {
            one.timer = Some(at);
            self.later(at - self.now, Happening::Client(number));
        }
    }

    fn registers(&mut self, number: u32) {
        self.tally.registrations += 1;
        let link = index(number) % self.registrars.len();
        let (_, desk, line) = &mut self.registrars[link];
        let source = crate::crowd::client::host(number).into();
        let inside = desk.inside(self.now);
        let may_enter = line.may_enter(self.now, source, inside);
        match may_enter.then(|| desk.take(self.now, HANDSHAKE, &mut self.tally.queue)).flatten() {
            Some(done) => self.later(done - self.now, Happening::Proved(number)),
            None => {
                let after = line.send_away(self.now, source);
                self.tally.turned_away += 1;
                self.later(RESET, Happening::SentAway(number, after));
            }
        }
    }

    fn asks(&mut self, number: u32, id: RequestId, message: Vec<u8>) {
        self.tally.requests += 1;
        let (desk, line) = &mut self.requests;
        let source = crate::crowd::client::host(number).into();
        let may_enter = line.may_enter(self.now, source, desk.inside(self.now));
        match may_enter.then(|| desk.take(self.now, REQUEST, &mut self.tally.waiting)).flatten() {
            Some(done) => self.later(done - self.now, Happening::Asked { number, id, message }),
            None => {
                let after = line.send_away(self.now, source);
                self.tally.requests_away += 1;
                self.later(RESET, Happening::AskedAway { number, id, after });
            }
        }
    }

    fn tell_registrar(&mut self, link: usize, input: door::Input<'_>) {
        self.registrars[link].0.handle(self.now, input);
        self.drain_registrar(link);
        if let Some((at, _)) = self.registrars[link].0.poll_timeout() {
            // Its first timer only falls with time: one look a second is enough.
            let at = at.max(self.now + Duration::from_secs(1));
            if self.number.is_multiple_of(64) {
                self.later(at - self.now, Happening::Registrar(link));
            }
        }
    }

    fn drain_registrar(&mut self, link: usize) {
        while let Some(output) = self.registrars[link].0.poll_output() {
            match output {
                door::Output::ToKeyServer(frame) => {
                    let of = u64::try_from(link).unwrap_or(0);
                    self.tell_server(server::Input::FromRegistrar { link: of, frame: &frame });
                }
                door::Output::Export { session, .. } => {
                    let mut key = [9; 32];
                    key[..8].copy_from_slice(&session.to_be_bytes());
                    let key = IndividualKey::new(key);
                    self.registrars[link].0.handle(self.now, door::Input::Exported { session, key });
                }
                door::Output::ToClient { session, frame, close } => {
                    if close {
                        self.registrars[link].0.handle(self.now, door::Input::ClientDown { session });
                    }
                    self.hears(u32::try_from(session).unwrap_or(0), &frame);
                }
                door::Output::CutKeyServer | door::Output::Event(_) => {}
            }
        }
    }

    /// A client hears its registrar.
    fn hears(&mut self, number: u32, frame: &[u8]) {
        match ToClient::decode(frame) {
            Ok(ToClient::Number { client, registration }) => {
                self.numbers.insert(number, (client, registration));
            }
            Ok(ToClient::Registered) => {
                let Some(&(client, registration)) = self.numbers.get(&number) else { return };
                self.tell_client(number, client::Input::Registered { client, registration });
            }
            Ok(ToClient::Refused(refusal)) => {
                self.tally.refused += 1;
                let after = (refusal.retry_after_ms > 0).then(|| Duration::from_millis(refusal.retry_after_ms.into()));
                let is_final = after.is_none() && refusal.code == RefusalCode::Identity;
                self.tell_client(number, client::Input::RegistrationFailed { retry_after: after, is_final });
            }
            // It offers nothing.
            Ok(ToClient::RegisteredSealed(_)) | Err(_) => self.tally.lost += 1,
        }
    }

    fn tell_server(&mut self, input: server::Input<'_>) {
        self.handle_server(input);
        drop(self.drain_server());
    }

    fn handle_server(&mut self, input: server::Input<'_>) {
        self.server.handle(self.now, input);
    }

    /// Carries out what the key server wants; the answer to an operator, if there was one.
    fn drain_server(&mut self) -> Option<Result<server::AdminReply, server::AdminError>> {
        let mut answer = None;
        while let Some(output) = self.server.poll_output() {
            match output {
                server::Output::Persist(_) | server::Output::Snapshot(_) => self.later(COMMIT, Happening::Committed),
                server::Output::ToRegistrar { link, frame } => {
                    let link = usize::try_from(link).unwrap_or(0);
                    self.tell_registrar(link, door::Input::FromKeyServer(&frame));
                }
                server::Output::Reply { session, message } => {
                    if let Some((number, id)) = self.sessions.remove(&session) {
                        self.tally.later += u32::from(crate::crowd::client::says_later(&message));
                        self.tell_client(number, client::Input::Reply { id, message: &message });
                    }
                }
                server::Output::Refuse { session } => {
                    if let Some((number, id)) = self.sessions.remove(&session) {
                        self.tell_client(number, client::Input::RequestFailed { id, refused: false });
                    }
                }
                server::Output::Datagram { octets, .. } => {
                    for number in (0..u32::try_from(self.clients.len()).unwrap_or(0)).step_by(index(SAMPLE)) {
                        if self.clients[index(number)].as_ref().is_some_and(|one| one.epoch.is_some()) {
                            self.tell_client(number, client::Input::Datagram(&octets));
                        }
                    }
                }
                server::Output::AdminReply { result, .. } => answer = Some(result),
                server::Output::Halt => self.tally.lost += 1,
                _ => {}
            }
        }
        let wake = self.server.poll_timeout().map(|(at, _)| at.max(self.now));
        if let Some(at) = wake.filter(|at| self.server_timer.is_none_or(|timer| *at < timer)) {
            self.server_timer = Some(at);
            self.later(at - self.now, Happening::Server);
        }
        answer
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
