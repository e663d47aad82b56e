//! A key server's core with members, driven as its shell drives it, without a network and with a store that forgets.

use std::time::Duration;

use keyserver::core::{Access, Admin, Config, Core, GroupConfig, Input, Output, RECORDS_PER_SNAPSHOT};
use keyserver::store::Loaded;
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::{Act, Losses, Operations, Outcome, Preamble, Reply, Request, RequestId, Resync};
use protocol::{Authentication, Entropy, GroupId, IndividualKey, MemberId, SigningKey};
use zeroize::Zeroizing;

use crate::Failure;

/// Name of the only group.
pub(crate) const GROUP: &str = "g";
/// Joins that one batch takes.
const BATCH: usize = 9_000;
pub(crate) const REGISTRAR: &str = "spiffe://bench/registrar";
/// Of members.
pub(crate) const PREFIX: &str = "spiffe://bench/member/";

/// Not random, so that a run can be repeated.
pub(crate) struct Count(pub(crate) u64);

impl Entropy for Count {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 += 1;
            chunk.copy_from_slice(&self.0.to_be_bytes()[..chunk.len()]);
        }
    }
}

/// One group, strategy `chain`, degree 2, and the defaults of the configuration.
pub(crate) fn config(records_per_snapshot: usize) -> Result<Config, Failure> {
    let registrar = Identity::parse(REGISTRAR)?;
    let everybody = || IdentityPattern::parse("spiffe://bench/member/*");
    let group = GroupConfig {
        batch: Duration::from_secs(1),
        beacon: Duration::from_secs(1),
        beacon_max: Duration::from_secs(8),
        ..GroupConfig::plain(GroupId(1), GROUP, ([239, 0, 0, 1], 7_000).into(), Access::open([everybody()?]))
    };
    Ok(Config {
        registrars: vec![(registrar, vec![(Authentication::Certificate, everybody()?)])],
        groups: vec![group],
        records_per_snapshot,
        ..Config::plain("ks", SigningKey::from_seed(&[1; 32])?)
    })
}

pub(crate) struct KeyServer {
    core: Core,
    now: Duration,
    sessions: u64,
    number: Option<(MemberId, u64)>,
    replies: Vec<Zeroizing<Vec<u8>>>,
    /// The newest.
    beacon: Vec<u8>,
    /// Of rekey messages, since they were taken.
    units: Vec<Vec<u8>>,
    members: Vec<(MemberId, u64)>,
    /// What was written since and with the last snapshot.
    stored: Loaded,
}

impl KeyServer {
    /// One group with so many members, strategy `chain`, degree 2, and the defaults of the configuration.
    pub(crate) fn with_members(count: u32) -> Result<Self, Failure> {
        Self::filled(count, config(RECORDS_PER_SNAPSHOT)?, PREFIX)
    }

    /// What the store of such a key server holds: a snapshot that was taken when the last members had joined or were about
    /// to, and the records after it.
    pub(crate) fn stored(count: u32) -> Result<Loaded, Failure> {
        // Every member leaves two records, of its registration and of the proof that it has the key.
        Ok(Self::filled(count, config(2 * usize::try_from(count)?)?, PREFIX)?.stored)
    }

    /// A snapshot of a key server of this configuration, with so many members in each of its groups. Their identities begin with
    /// `prefix`, and the first registrar may register them.
    pub(crate) fn snapshot(members: u32, config: Config, prefix: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let groups = u32::try_from(config.groups.len())?;
        let count = members.checked_mul(groups).ok_or("too many members")?;
        // None on the way.
        let config = Config { records_per_snapshot: usize::MAX, ..config };
        let server = Self::filled(count, config, prefix)?;
        Ok(server.core.snapshot(server.now))
    }

    /// So many members, of each group in turn.
    fn filled(count: u32, config: Config, prefix: &str) -> Result<Self, Failure> {
        let groups: Vec<String> = config.groups.iter().map(|group| group.name.clone()).collect();
        let registrar = config.registrars.first().ok_or("no registrar")?.0.clone();
        let mut server = Self {
            core: Core::start(config, Box::new(Count(0)), None, &[])?,
            now: Duration::from_secs(1),
            sessions: 0,
            number: None,
            replies: Vec::new(),
            beacon: Vec::new(),
            units: Vec::new(),
            members: Vec::new(),
            stored: Loaded::default(),
        };
        server.drain();
        server.handle(Input::RegistrarUp { link: 1, identity: registrar });
        server.settle();
        for number in 0..count {
            let client = server.register(&format!("{prefix}m{number}"))?;
            server.members.push(client);
        }
        for at in 0..server.members.len() {
            let group = groups[at % groups.len()].as_str();
            server.ask(server.members[at], Operations::Changes(vec![(Act::Join, group.into())]));
            if (at + 1).is_multiple_of(BATCH) {
                server.settle();
            }
        }
        server.settle();
        server.replies.clear();
        server.units.clear();
        Ok(server)
    }

    /// The client with this number; the first again after the last.
    pub(crate) fn client(&self, number: usize) -> (MemberId, u64) {
        self.members[number % self.members.len()]
    }

    pub(crate) fn key(&self, preamble: &Preamble) -> IndividualKey {
        self.core.individual_key(preamble.client, preamble.registration).unwrap_or_else(|| IndividualKey::new([0; 32]))
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn advance_to(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.core.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
            self.handle(Input::Timeout);
        }
    }

    /// A change of the group's key. Its beacon.
    pub(crate) fn change(&mut self) -> Result<Vec<u8>, Failure> {
        self.handle(Input::Admin { ticket: 1, command: Admin::Refresh { group: GROUP.into() } });
        self.settle();
        if self.beacon.is_empty() { Err("no beacon".into()) } else { Ok(self.beacon.clone()) }
    }

    /// The units that were sent since the last time.
    pub(crate) fn take_units(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.units)
    }

    /// A re-synchronize request, encoded.
    pub(crate) fn resync(&mut self, have: u64) -> Vec<u8> {
        let resync = Resync { group: GROUP.into(), seen: (0, 0), have, losses: Losses::default() };
        self.request(Operations::Resyncs(vec![resync])).encode()
    }

    /// Answers a request as the shell of a key server would, that is not in a hurry.
    pub(crate) fn answer(&mut self, preamble: &Preamble, message: &[u8]) -> Zeroizing<Vec<u8>> {
        self.now += Duration::from_millis(10);
        self.sessions += 1;
        let (session, client, registration) = (self.sessions, preamble.client, preamble.registration);
        self.handle(Input::Request { session, client, registration, message });
        self.replies.pop().unwrap_or_default()
    }

    /// The answer to a re-synchronize request of this client.
    pub(crate) fn ask_resync(&mut self, number: usize) -> Result<Option<Outcome>, Failure> {
        let resync = Resync { group: GROUP.into(), seen: (0, 0), have: u64::MAX, losses: Losses::default() };
        self.ask(self.client(number), Operations::Resyncs(vec![resync]));
        let Some(message) = self.replies.pop() else {
            return Ok(None);
        };
        Ok(Reply::decode(&message)?.outcomes.pop())
    }

    fn request(&mut self, operations: Operations) -> Request {
        self.sessions += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.sessions.to_be_bytes());
        Request { id: RequestId(id), operations }
    }

    fn ask(&mut self, (client, registration): (MemberId, u64), operations: Operations) {
        let message = self.request(operations).encode();
        self.handle(Input::Request { session: self.sessions, client, registration, message: &message });
    }

    fn register(&mut self, identity: &str) -> Result<(MemberId, u64), Failure> {
        let identity = Identity::parse(identity)?;
        self.handle(Input::FromRegistrar {
            link: 1,
            frame: &FromRegistrar::FetchNumber { tag: 1, kind: Authentication::Certificate, identity }.encode(),
        });
        let (client, registration) = self.number.take().ok_or("no number")?;
        let frame = FromRegistrar::HandOver {
            tag: 2,
            client,
            registration,
            key: IndividualKey::new([9; 32]),
            ends: NO_END,
            credential: vec![1; 33],
        }
        .encode();
        self.handle(Input::FromRegistrar { link: 1, frame: &frame });
        Ok((client, registration))
    }

    /// Time passes until nothing waits.
    fn settle(&mut self) {
        while !self.core.is_idle()
            && let Some((at, _)) = self.core.poll_timeout()
        {
            self.now = self.now.max(at);
            self.handle(Input::Timeout);
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Persist(records) => {
                    // Before the first snapshot nobody asks for them.
                    if self.stored.snapshot.is_some() {
                        self.stored.records.extend(records);
                    }
                    self.core.handle(self.now, Input::Persisted(true));
                }
                Output::Snapshot(snapshot) => {
                    self.stored = Loaded { snapshot: Some(snapshot), records: Vec::new() };
                    self.core.handle(self.now, Input::Persisted(true));
                }
                Output::ToRegistrar { frame, .. } => {
                    if let Ok(ToRegistrar::Number { client, registration, .. }) = ToRegistrar::decode(&frame) {
                        self.number = Some((client, registration));
                    }
                }
                Output::Reply { message, .. } => self.replies.push(message),
                Output::Datagram { octets, .. } if protocol::Beacon::decode(&octets).is_ok() => self.beacon = octets,
                Output::Datagram { octets, .. } => self.units.push(octets),
                _ => {}
            }
        }
    }
}
