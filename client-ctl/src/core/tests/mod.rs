//! The core against a key server made by hand from the same parts as the real one.

mod answers;
mod clocks;
mod floods;
mod life;
mod memory;
mod requests;
mod stream;
mod truth;

use std::collections::BTreeMap;

use fec::{Layout, ReedSolomon, RepairScheme};
use keygraph::{Change, Degree, KeyRef, NodeId, Strategy, Tree};
use protocol::execute::{Secrets, execute};
use protocol::rekey::Announcement;
use protocol::request::{EarlierKey, Membership, Operations, Outcome, Reply, Request, RequestId, Role};
use protocol::unit::{BlockHeader, sign_block};
use protocol::{
    Commitment, EpochContext, EpochHeader, HeaderHash, Incarnation, KeyPath, NodeSecret, Reason, RekeyMessage, Seed,
    SigningKey, Suite, TagKey,
};

use super::*;

pub(crate) const ME: MemberId = MemberId(1_000);
pub(crate) const INTERVAL_MS: u32 = 1_000;
pub(crate) const WAIT_MS: u32 = 500;

/// SplitMix64: enough for tests, and the same every time.
pub(crate) struct Dice(pub(crate) u64);

impl Entropy for Dice {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let octets = (z ^ (z >> 31)).to_be_bytes();
            chunk.copy_from_slice(&octets[..chunk.len()]);
        }
    }
}

struct Held(BTreeMap<NodeId, (u64, NodeSecret)>);

impl Secrets for Held {
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret> {
        self.0.get(&key.node).filter(|(version, _)| *version == key.version).map(|(_, secret)| secret)
    }
}

/// One group of a key server.
pub(crate) struct Server {
    pub(crate) key: SigningKey,
    pub(crate) context: EpochContext,
    pub(crate) hash: HeaderHash,
    pub(crate) commitment: Commitment,
    pub(crate) counter: u64,
    pub(crate) joined_epoch: u64,
    pub(crate) lease_s: u32,
    /// Of those who hold the present group key.
    pub(crate) tag: TagKey,
    pub(crate) earlier: Vec<EarlierKey>,
    announcement: Announcement,
    tree: Tree,
    held: Held,
}

impl Server {
    /// `members` members besides this client, from ID number 1.
    pub(crate) fn new(id: u32, degree: u8, members: u32) -> Self {
        let degree = Degree::new(degree).unwrap();
        let context = EpochContext {
            suite: Suite::Aes256,
            group: GroupId(id),
            incarnation: Incarnation([1; 16]),
            term: 1,
            epoch: 0,
        };
        let root = NodeSecret::new([9; 32]);
        let mut server = Self {
            key: SigningKey::from_seed(&[3; 32]).unwrap(),
            commitment: context.commit(&root),
            tag: context.tag(&root),
            context,
            hash: HeaderHash::NONE,
            counter: 0,
            joined_epoch: 0,
            lease_s: 0,
            earlier: Vec::new(),
            announcement: Announcement { reason: Reason::Restart, send_delay_ms: 0, keep_old_ms: 0 },
            tree: Tree::new(degree, Strategy::Chain, 0),
            held: Held(BTreeMap::from([(NodeId(0), (0, root))])),
        };
        let joins: Vec<Change> = (1..=members).map(|m| Change::Join(MemberId(m))).collect();
        if !joins.is_empty() {
            server.change(Reason::Batch, &joins);
        }
        server
    }

    pub(crate) fn set_strategy(&mut self, strategy: Strategy) {
        self.tree.set_strategy(strategy);
    }

    /// The datagrams of the epoch that these changes make.
    pub(crate) fn change(&mut self, reason: Reason, changes: &[Change]) -> Vec<Vec<u8>> {
        let epoch = self.context.epoch + 1;
        let header = EpochHeader {
            suite: Suite::Aes256,
            group: self.context.group,
            incarnation: self.context.incarnation,
            term: self.context.term,
            epoch,
            previous: self.hash,
        };
        let send_delay_ms = if reason.revokes() { 0 } else { 250 };
        let announcement = Announcement { reason, send_delay_ms, keep_old_ms: 4_000 };
        let staged = self.tree.stage(changes, epoch).unwrap();
        let seed = Seed::new([u8::try_from(epoch).unwrap(); 32]);
        let made = execute(staged.plan(), &header.context(), &seed, &self.held, announcement).unwrap();
        self.tree.merge(staged).unwrap();
        for (node, secret) in made.secrets {
            self.held.0.insert(node, (epoch, secret));
        }
        self.context = header.context();
        self.commitment = made.commitment;
        self.hash = header.hash(&made.commitment);
        self.announcement = announcement;
        if changes.iter().any(|change| matches!(change, Change::Join(ME))) {
            self.joined_epoch = epoch;
        }
        let messages = u16::try_from(made.messages.len()).unwrap();
        let cut = |(message, number): (&RekeyMessage, u16)| {
            cut(&header, &message.encode(), (number, messages), (&self.key, &self.tag))
        };
        let datagrams = made.messages.iter().zip(0..).flat_map(cut).collect();
        self.tag = self.context.tag(&self.held.0[&NodeId(0)].1);
        datagrams
    }

    pub(crate) fn refresh(&mut self) -> Vec<Vec<u8>> {
        self.change(Reason::Refresh, &[Change::Refresh])
    }

    pub(crate) fn describe(&self) -> Beacon {
        Beacon {
            context: self.context,
            commitment: self.commitment,
            header_hash: self.hash,
            counter: self.counter,
            interval_ms: INTERVAL_MS,
            resync_wait_ms: WAIT_MS,
            report_one_in: 0,
        }
    }

    pub(crate) fn beacon(&mut self) -> Vec<u8> {
        self.counter += 1;
        self.describe().sign(&self.key, &self.tag).unwrap()
    }

    pub(crate) fn data_key(&self) -> DataKey {
        let (_, root) = &self.held.0[&NodeId(0)];
        self.context.data(root)
    }

    pub(crate) fn membership(&mut self) -> Membership {
        let path = self.tree.path(ME).unwrap();
        let keys = path.iter().map(|key| (*key, self.held.secret(*key).unwrap().clone())).collect();
        Membership {
            destination: ([239, 1, 1, 1], 5000 + u16::try_from(self.context.group.0).unwrap()).into(),
            joined_epoch: self.joined_epoch,
            role: Role::Both,
            lease_s: self.lease_s,
            announcement: self.announcement,
            path: KeyPath::new(self.tree.degree(), path[0].node, keys).unwrap(),
            earlier: self.earlier.clone(),
            beacon: self.beacon(),
        }
    }

    pub(crate) fn granted(&mut self) -> Outcome {
        Outcome::Granted(Box::new(self.membership()))
    }
}

fn cut(
    header: &EpochHeader,
    message: &[u8],
    (number, messages): (u16, u16),
    (key, tag): (&SigningKey, &TagKey),
) -> Vec<Vec<u8>> {
    let layout = Layout::new(message.len(), &RepairScheme::default()).unwrap();
    let blocks = fec::encode(message, &layout, &ReedSolomon::new()).unwrap();
    let sign = |(block, at): (&fec::Block, u16)| {
        let header = BlockHeader {
            epoch: *header,
            message: number,
            messages,
            message_len: u32::try_from(message.len()).unwrap(),
            blocks: layout.block_count(),
            block: at,
            s: block.shape.s(),
            r: block.shape.r(),
        };
        sign_block(&header, &block.units, key, tag).unwrap()
    };
    blocks.iter().zip(0u16..).flat_map(sign).collect()
}

/// A client with everything that it has put out.
pub(crate) struct Client {
    pub(crate) core: Core,
    pub(crate) now: Now,
    pub(crate) events: Vec<Event>,
    pub(crate) requests: Vec<Request>,
    pub(crate) feeds: BTreeMap<String, Snapshot>,
    pub(crate) subscribed: BTreeSet<SocketAddr>,
    pub(crate) streams: Vec<Request>,
    pub(crate) streams_ended: usize,
    pub(crate) certificates: Vec<Vec<u8>>,
    pub(crate) registers: usize,
    pub(crate) is_stopped: bool,
}

impl Client {
    pub(crate) fn new(groups: &[&str]) -> Self {
        Self::with(groups, Carriers::default())
    }

    pub(crate) fn with(groups: &[&str], carriers: Carriers) -> Self {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let signing = vec![SigningKey::from_seed(&[3; 32]).unwrap().public()];
        let mut client = Self {
            core: Core::new(Config { groups, signing, carriers }, Box::new(Dice(7))),
            now: ms(1),
            events: Vec::new(),
            requests: Vec::new(),
            feeds: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            streams: Vec::new(),
            streams_ended: 0,
            certificates: Vec::new(),
            registers: 0,
            is_stopped: false,
        };
        client.handle(Input::Timeout);
        client
    }

    /// A member of group `g`, whose key server has `members` others.
    pub(crate) fn member(degree: u8, members: u32) -> (Self, Server) {
        let mut server = Server::new(1, degree, members);
        let mut client = Self::new(&["g"]);
        client.register();
        server.change(Reason::Join, &[Change::Join(ME)]);
        client.answer(vec![server.granted()]);
        assert_eq!(client.status(), Status::Member);
        client.agrees(&server);
        (client, server)
    }

    pub(crate) fn register(&mut self) {
        self.handle(Input::Registered { client: ME, registration: 1 });
    }

    pub(crate) fn handle(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Register => self.registers += 1,
                Output::Request { message, .. } => self.requests.push(Request::decode(&message).unwrap()),
                Output::Stream { message, .. } => self.streams.push(Request::decode(&message).unwrap()),
                Output::EndStream => self.streams_ended += 1,
                // The world in `tests` reads what is published.
                Output::Follow(_) | Output::Unfollow(_) | Output::Read { .. } => panic!("nothing is published here"),
                Output::Subscribe(to) => assert!(self.subscribed.insert(to), "subscribed twice"),
                Output::Unsubscribe(to) => {
                    assert!(self.subscribed.remove(&to), "was not subscribed")
                }
                Output::Feed { group, snapshot } => _ = self.feeds.insert(group, snapshot),
                Output::Event(event) => self.events.push(event),
                Output::Certificate(octets) => self.certificates.push(octets),
                Output::Stopped => self.is_stopped = true,
            }
        }
    }

    pub(crate) fn datagrams(&mut self, datagrams: &[Vec<u8>]) {
        datagrams.iter().for_each(|datagram| self.handle(Input::Datagram(datagram)));
    }

    /// Lets time pass, with every time-out at its time.
    pub(crate) fn pass(&mut self, for_ms: u64) {
        let end = self.now + ms(for_ms);
        let mut steps = 0;
        while let Some((at, why)) = self.core.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.handle(Input::Timeout);
            steps += 1;
            assert!(steps < 1_000, "time-outs without end: {why}");
        }
        self.now = end;
    }

    /// Answers the last request.
    pub(crate) fn answer(&mut self, outcomes: Vec<Outcome>) {
        let id = self.requests.last().expect("a request").id;
        let message = Reply { id, outcomes }.encode();
        self.handle(Input::Reply { id, message: &message });
    }

    /// Until a request is sent, for `for_ms` at the most.
    pub(crate) fn resyncs_within(&mut self, for_ms: u64) -> bool {
        let before = self.requests.len();
        self.pass(for_ms);
        assert!(self.requests.len() <= before + 1, "more than one request: {:?}", &self.requests[before..]);
        self.requests[before..].iter().any(|request| matches!(request.operations, Operations::Resyncs(_)))
    }

    pub(crate) fn group(&self) -> GroupStatus {
        self.core.status().into_iter().find(|group| group.group == "g").unwrap()
    }

    pub(crate) fn status(&self) -> Status {
        assert_eq!(self.feeds["g"].status, self.group().status, "the feed says what is");
        self.group().status
    }

    pub(crate) fn agrees(&self, server: &Server) {
        let epoch = server.context.epoch;
        assert_eq!(self.group().epoch, Some(epoch));
        assert_eq!(self.core.danger_data_key("g", epoch), Some(&server.data_key()), "the same key");
        assert_eq!(self.feeds["g"].keys.last().map(|live| live.epoch), Some(epoch), "and it is in the feed");
    }

    pub(crate) fn has_event(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(wanted)
    }
}

pub(crate) fn ms(ms: u64) -> Now {
    Duration::from_millis(ms)
}
