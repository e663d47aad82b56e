//! Keystone's side: a leave from a full binary tree under `chain`, suite `aes256`, the default repair scheme.

use std::hint::black_box;
use std::time::{Duration, Instant};

use fec::{Layout, Progress, Reassembly, ReedSolomon, RepairScheme};
use keygraph::{Change, Degree, KeyRef, MemberId, NodeId, Pages, Strategy, Tree};
use protocol::execute::{Executed, Secrets, execute};
use protocol::member::KeyPath;
use protocol::rekey::{Announcement, RekeyMessage};
use protocol::unit::{BlockHeader, Unit, UnitVerifier, sign_block};
use protocol::{EpochHeader, GroupId, HeaderHash, Incarnation, NodeSecret, Reason, Seed, SigningKey, Suite};

use crate::{Cost, Failure, micros};

/// Different leavers, spread over the group.
const LEAVERS: u32 = 1024;
/// Step from one leaver to the next: a prime, so that neighbours in time are none in the tree.
const STRIDE: u32 = 7919;

/// The cost of a removal from a group of `members`: octets are means over leavers, the receivers are spread as they are.
pub(crate) fn removal(members: u32, budget: Duration) -> Result<Cost, Failure> {
    let mut server = Server::new(members)?;
    let (mut at_server, mut at_receiver) = (Vec::new(), Vec::new());
    let (mut wire, mut message) = (0, 0);
    let samples = members.min(LEAVERS);
    let until = Instant::now() + budget;
    let mut turn = 0;
    while turn < samples || Instant::now() < until {
        let place = u64::from(turn % LEAVERS) * u64::from(STRIDE) % u64::from(members);
        let leaver = u32::try_from(place)?;
        // Never the leaver itself; its neighbours in some turns, the other half of the tree in half of them.
        let receiver = (leaver + 1 + turn % (members - 1)) % members;

        let begun = Instant::now();
        let sent = server.remove(MemberId(1 + leaver))?;
        at_server.push(begun.elapsed());

        let mut receiver = server.receiver(MemberId(1 + receiver))?;
        let begun = Instant::now();
        let next = receiver.receive(&sent.datagrams)?;
        at_receiver.push(begun.elapsed());
        let root = sent.executed.secrets.iter().find(|(node, _)| *node == NodeId::ROOT);
        if next.root() != root.map(|(_, secret)| secret) {
            return Err("a receiver has another key than the server".into());
        }
        if turn < samples {
            wire += sent.datagrams.iter().map(Vec::len).sum::<usize>();
            message += sent.message;
        }
        turn += 1;
        drop(black_box(sent));
    }
    let mean = |sum: usize| u32::try_from(sum).map(|sum| f64::from(sum) / f64::from(samples));
    Ok(Cost { wire: mean(wire)?, message: mean(message)?, server: micros(at_server), receiver: micros(at_receiver) })
}

/// Secrets under the names that the tree has for them.
struct Named<'a>(&'a Tree, &'a Pages<NodeSecret>);

impl Secrets for Named<'_> {
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret> {
        self.1.get(key.node).filter(|_| self.0.key(key.node) == Some(key))
    }
}

/// What a key server holds of a group.
struct Server {
    tree: Tree,
    held: Pages<NodeSecret>,
    signing: SigningKey,
    coder: ReedSolomon,
    repair: RepairScheme,
}

/// A removal that was made and not merged, so that the next one finds the same group.
struct Sent {
    executed: Executed,
    /// Octets of the message.
    message: usize,
    datagrams: Vec<Vec<u8>>,
}

impl Server {
    fn new(members: u32) -> Result<Self, Failure> {
        let tree = Tree::filled(Degree::new(2)?, Strategy::Chain, 1, (1..=members).map(MemberId))?;
        let (seed, context) = (Seed::new([1; 32]), header(1).context());
        let mut held = Pages::default();
        for (node, _) in tree.slots() {
            held.insert(node, context.fresh(&seed, node));
        }
        let signing = SigningKey::from_seed(&[2; 32])?;
        Ok(Self { tree, held, signing, coder: ReedSolomon::new(), repair: RepairScheme::default() })
    }

    /// Everything that the key server does to remove a member, but for the store and the socket.
    fn remove(&mut self, member: MemberId) -> Result<Sent, Failure> {
        let epoch = header(self.tree.epoch() + 1);
        let staged = self.tree.stage(&[Change::Leave(member)], epoch.epoch)?;
        let announcement = Announcement { reason: Reason::Leave, send_delay_ms: 0, keep_old_ms: 0 };
        let executed = execute(staged.plan(), &epoch.context(), &Seed::new([3; 32]), &self.named(), announcement)?;
        let [message] = executed.messages.as_slice() else {
            return Err("a leave is one message under chain".into());
        };
        let message = message.encode();
        let layout = Layout::new(message.len(), &self.repair)?;
        let tag = header(self.tree.epoch()).context().tag(self.held.get(NodeId::ROOT).ok_or("a root")?);
        let mut datagrams = Vec::with_capacity(layout.total_units());
        for (block, number) in fec::encode(&message, &layout, &self.coder)?.iter().zip(0u16..) {
            let header = BlockHeader {
                epoch,
                message: 0,
                messages: 1,
                message_len: u32::try_from(message.len())?,
                blocks: layout.block_count(),
                block: number,
                s: block.shape.s(),
                r: block.shape.r(),
            };
            datagrams.extend(sign_block(&header, &block.units, &self.signing, &tag)?);
        }
        Ok(Sent { executed, message: message.len(), datagrams })
    }

    fn named(&self) -> Named<'_> {
        Named(&self.tree, &self.held)
    }

    /// A member as it is before the removal.
    fn receiver(&self, member: MemberId) -> Result<Receiver, Failure> {
        let path = self.tree.path(member).ok_or("no such member")?;
        let leaf = path.first().ok_or("no leaf")?.node;
        let keys = path
            .into_iter()
            .map(|key| Ok((key, self.held.get(key.node).ok_or("a secret is missing")?.clone())))
            .collect::<Result<_, Failure>>()?;
        Ok(Receiver {
            path: KeyPath::new(self.tree.degree(), leaf, keys)?,
            verifier: UnitVerifier::new(vec![self.signing.public()]),
            reassembly: Reassembly::new(1),
        })
    }
}

struct Receiver {
    path: KeyPath,
    verifier: UnitVerifier,
    reassembly: Reassembly<u64>,
}

impl Receiver {
    /// Verifies and decodes datagrams until the message is whole, and follows it.
    fn receive(&mut self, datagrams: &[Vec<u8>]) -> Result<KeyPath, Failure> {
        for datagram in datagrams {
            let unit = self.verifier.verify(&Unit::decode(datagram)?, || true)?;
            let BlockHeader { epoch, message_len, blocks, block, s, r, .. } = unit.header;
            let piece = fec::Unit { block, index: unit.index, s, r, payload: unit.payload };
            let progress = self.reassembly.insert(epoch.epoch, usize::try_from(message_len)?, blocks, piece)?;
            if let Progress::Complete { message, .. } = progress {
                return Ok(self.path.apply(&epoch.context(), &RekeyMessage::decode(&message, epoch.suite)?)?);
            }
        }
        Err("the message is not whole".into())
    }
}

fn header(epoch: u64) -> EpochHeader {
    EpochHeader {
        suite: Suite::Aes256,
        group: GroupId(1),
        incarnation: Incarnation([7; 16]),
        term: 1,
        epoch,
        previous: HeaderHash::NONE,
    }
}
