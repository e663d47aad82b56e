//! What is genuine: a key server in memory whose groups live a little, and everything that it sent meanwhile. All set-up of
//! the entries is here; the keys are fixed, so that every run makes the same octets.

use std::time::Duration;

use client_ctl::core as client;
use fec::RepairScheme;
use keygraph::{Degree, Strategy};
use keyserver::core as server;
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{ANSWER, FromRegistrar, Offer, ToRegistrar};
use protocol::request::{Act, Operations, Request, RequestId};
use protocol::{Authentication, GroupId, IndividualKey, MemberId, SigningKey, Suite, VerifyingKey};

use crate::dice::Dice;

/// The group that the client of the entries joins.
pub(super) const GROUP: &str = "news";
/// A group that none of the clients may join.
pub(super) const CLOSED: &str = "closed";
/// The registrar's connection.
pub(super) const LINK: u64 = 1;
/// When the client of the entries begins.
pub(super) const START: Duration = Duration::from_secs(1);

/// An identity of the site.
pub(super) fn identity(path: &str) -> Identity {
    Identity::parse(&format!("spiffe://site/{path}")).unwrap()
}

/// The identities that a registrar may register.
pub(super) fn members() -> IdentityPattern {
    IdentityPattern::parse("spiffe://site/member/*").unwrap()
}

/// The key server's signing key.
pub(super) fn signing() -> SigningKey {
    SigningKey::from_seed(&[5; 32]).unwrap()
}

/// The key that verifies what it signs.
pub(super) fn trusted() -> Vec<VerifyingKey> {
    vec![signing().public()]
}

/// How a site's groups are rekeyed.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) strategy: Strategy,
    pub(super) degree: Degree,
    pub(super) suite: Suite,
    pub(super) batch: Duration,
}

/// Every change at once.
pub(super) const SIMPLE: Kind =
    Kind { strategy: Strategy::Chain, degree: Degree::STAR, suite: Suite::Aes256, batch: Duration::ZERO };

fn group(id: u32, name: &str, allow: IdentityPattern, kind: Kind) -> server::GroupConfig {
    server::GroupConfig {
        published: true,
        degree: kind.degree,
        suite: kind.suite,
        strategy: kind.strategy,
        splicing: true,
        batch: kind.batch,
        compaction: 4,
        repair: RepairScheme::Alpha(0.5),
        max_members: 100,
        beacon: Duration::from_secs(1),
        beacon_max: Duration::from_secs(1),
        resync_wait: Duration::from_millis(500),
        send_delay: Duration::from_millis(200),
        keep_old: Duration::from_secs(3),
        ..server::GroupConfig::plain(GroupId(id), name, ([239, 0, 0, 1], 7_000).into(), server::Access::open([allow]))
    }
}

/// A key server without a network, whose writes are durable at once.
pub(super) struct Site {
    pub(super) core: server::Core,
    pub(super) now: Duration,
    pub(super) datagrams: Vec<Vec<u8>>,
    pub(super) published: Vec<server::Publication>,
    pub(super) to_registrar: Vec<Vec<u8>>,
    /// By session; `None` if the request was refused as none.
    pub(super) replies: Vec<(u64, Option<Vec<u8>>)>,
    pub(super) events: Vec<server::Event>,
    /// The registrar's connection was closed.
    pub(super) closed: bool,
    sessions: u64,
}

impl Site {
    pub(super) fn new(kind: Kind) -> Self {
        let config = server::Config {
            registrars: vec![(identity("registrar/r"), vec![(Authentication::Certificate, members())])],
            groups: vec![
                group(1, GROUP, members(), kind),
                group(2, CLOSED, IdentityPattern::Exact(identity("member/nobody")), kind),
            ],
            bits_per_second: 800_000_000,
            ..server::Config::plain("ks", signing())
        };
        let mut site = Self {
            core: server::Core::start(config, Box::new(Dice::new(1)), None, &[]).unwrap(),
            now: START,
            datagrams: Vec::new(),
            published: Vec::new(),
            to_registrar: Vec::new(),
            replies: Vec::new(),
            events: Vec::new(),
            closed: false,
            sessions: 0,
        };
        site.drain();
        site.handle(server::Input::RegistrarUp { link: LINK, identity: identity("registrar/r") });
        site
    }

    pub(super) fn handle(&mut self, input: server::Input<'_>) {
        self.core.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                server::Output::Persist(_) | server::Output::Snapshot(_) => {
                    self.core.handle(self.now, server::Input::Persisted(true));
                }
                server::Output::ToRegistrar { frame, .. } => self.to_registrar.push(frame),
                // Of the shell's key agreement only whether it comes to something matters here: an odd octet says so.
                server::Output::Answer { link, offers, grant, .. } => {
                    let opens = offers.iter().any(|offer| offer[0] % 2 == 1);
                    let answer = opens.then(|| Box::new([7; ANSWER]));
                    let (client, registration) = (grant.client, grant.registration);
                    self.core.handle(self.now, server::Input::Answered { link, client, registration, answer });
                }
                server::Output::CloseRegistrar { .. } => self.closed = true,
                server::Output::Reply { session, message } | server::Output::Subscribed { session, message } => {
                    self.replies.push((session, Some(message.to_vec())));
                }
                server::Output::Push { sessions, .. } => assert!(!sessions.is_empty(), "pushed to nobody"),
                server::Output::EndSubscription { .. } => {}
                server::Output::Publish(publication) => self.published.push(*publication),
                server::Output::Refuse { session } => self.replies.push((session, None)),
                server::Output::Datagram { octets, .. } => self.datagrams.push(octets),
                server::Output::AdminReply { result, .. } => _ = result.expect("a command is carried out"),
                server::Output::Event(event) => self.events.push(event),
                server::Output::Halt => panic!("the key server gave up"),
            }
        }
    }

    /// Time passes, timer by timer.
    pub(super) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some((at, _)) = self.core.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.handle(server::Input::Timeout);
        }
        self.now = until;
    }

    pub(super) fn registrar_says(&mut self, frame: &[u8]) {
        self.handle(server::Input::FromRegistrar { link: LINK, frame });
    }

    /// Registers a client, as a registrar does; returns the frames of both sides.
    pub(super) fn register(&mut self, path: &str) -> Registration {
        let fetch =
            FromRegistrar::FetchNumber { tag: 0, kind: Authentication::Certificate, identity: identity(path) }.encode();
        self.registrar_says(&fetch);
        let number = self.to_registrar.pop().unwrap();
        let Ok(ToRegistrar::Number { client, registration, .. }) = ToRegistrar::decode(&number) else {
            panic!("no number");
        };
        let key = IndividualKey::new([9; 32]);
        let hand_over =
            FromRegistrar::HandOver { tag: 1, client, registration, key, ends: NO_END, credential: vec![1; 33] }
                .encode();
        let durable = self.durable(&hand_over);
        let (question, answer) = (vec![fetch, hand_over], vec![number, durable]);
        Registration { client, registration, question, answer }
    }

    /// Registers a client sealed, with offers of which an odd one is there: question and answer.
    pub(super) fn register_sealed(&mut self, path: &str, offers: Vec<Offer>) -> (Vec<u8>, Vec<u8>) {
        let (kind, identity, credential) = (Authentication::Certificate, identity(path), vec![1; 33]);
        let question =
            FromRegistrar::RegisterSealed { tag: 0, kind, identity, offers, ends: NO_END, credential }.encode();
        let answer = self.durable(&question);
        (question, answer)
    }

    /// What the key server says to that: it is durable.
    fn durable(&mut self, question: &[u8]) -> Vec<u8> {
        let before = self.to_registrar.len();
        self.registrar_says(question);
        let said = self.to_registrar.split_off(before);
        let is_durable = |frame: &Vec<u8>| {
            let answer = ToRegistrar::decode(frame);
            matches!(answer, Ok(ToRegistrar::Durable { .. } | ToRegistrar::DurableSealed { .. }))
        };
        said.into_iter().find(is_durable).unwrap()
    }

    /// A request of a registered client; the answer is the last of `replies` once it is there.
    pub(super) fn request(&mut self, client: MemberId, registration: u64, message: &[u8]) -> u64 {
        self.sessions += 1;
        let session = self.sessions;
        self.handle(server::Input::Request { session, client, registration, message });
        session
    }

    pub(super) fn change(&mut self, who: &Registration, act: Act) {
        let operations = Operations::Changes(vec![(act, GROUP.into())]);
        self.request(who.client, who.registration, &Request { id: RequestId([2; 16]), operations }.encode());
    }

    pub(super) fn admin(&mut self, command: server::Admin) {
        self.handle(server::Input::Admin { ticket: 0, command });
    }
}

/// A registered client, with what registrar and key server said to each other.
pub(super) struct Registration {
    pub(super) client: MemberId,
    pub(super) registration: u64,
    pub(super) question: Vec<Vec<u8>>,
    pub(super) answer: Vec<Vec<u8>>,
}

/// A client of the site with one group, registered or not yet; it always draws the same.
pub(super) fn client() -> client::Core {
    client_by(client::Carrier::Multicast)
}

/// The same, whose datagrams come by this carrier.
pub(super) fn client_by(others: client::Carrier) -> client::Core {
    let carriers = client::Carriers { others, ..client::Carriers::default() };
    let config = client::Config { groups: vec![GROUP.to_owned()], signing: trusted(), carriers };
    client::Core::new(config, Box::new(Dice::new(7)))
}
