//! What a key server does for a change, without its store and its socket.

use fec::{BlockShape, Layout, ReedSolomon, RepairScheme};
use keygraph::{Change, Degree, KeyRef, MemberId, NodeId, Pages, Staged, Strategy, Tree, cores};
use protocol::execute::{Executed, Secrets, execute};
use protocol::rekey::Announcement;
use protocol::unit::{BlockHeader, sign_block};
use protocol::{
    EpochHeader, GroupId, HeaderHash, Incarnation, NodeSecret, Reason, RekeyMessage, Seed, SigningKey, Suite,
};

use crate::Failure;

/// Tree and secrets of a group, and what it takes to send.
pub(crate) struct Server {
    pub(crate) tree: Tree,
    pub(crate) suite: Suite,
    pub(crate) held: Pages<NodeSecret>,
    pub(crate) signing: SigningKey,
    coder: ReedSolomon,
    pub(crate) repair: RepairScheme,
}

/// Octets, blocks and datagrams of a message.
type Cut = (usize, Vec<BlockShape>, Vec<Vec<u8>>);

struct Named<'a>(&'a Tree, &'a Pages<NodeSecret>);

impl Secrets for Named<'_> {
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret> {
        self.1.get(key.node).filter(|_| self.0.key(key.node) == Some(key))
    }
}

/// A change that was made and not merged, so that the next one finds the same group.
pub(crate) struct Sent {
    pub(crate) staged: Staged,
    pub(crate) executed: Executed,
    /// Of all messages.
    pub(crate) octets: usize,
    /// Units of message.
    pub(crate) units: usize,
    pub(crate) blocks: Vec<BlockShape>,
    pub(crate) datagrams: Vec<Vec<u8>>,
}

impl Server {
    /// Members 1 to `members`, suite `aes256`, repair scheme `rs1`.
    pub(crate) fn new(members: u32, strategy: Strategy, degree: Degree) -> Result<Self, Failure> {
        let tree = Tree::filled(degree, strategy, 1, (1..=members).map(MemberId))?;
        let seed = Seed::new([1; 32]);
        let mut server = Self {
            tree,
            suite: Suite::Aes256,
            held: Pages::default(),
            signing: SigningKey::from_seed(&[2; 32])?,
            coder: ReedSolomon::new(),
            repair: RepairScheme::Rs1,
        };
        let context = server.header(1).context();
        let places: Vec<NodeId> = server.tree.slots().map(|(node, _)| node).collect();
        for node in places {
            server.held.insert(node, context.fresh(&seed, node));
        }
        Ok(server)
    }

    pub(crate) fn header(&self, epoch: u64) -> EpochHeader {
        EpochHeader {
            suite: self.suite,
            group: GroupId(1),
            incarnation: Incarnation([7; 16]),
            term: 1,
            epoch,
            previous: HeaderHash::NONE,
        }
    }

    /// Everything that the key server does for a list of changes, but for the store and the socket.
    pub(crate) fn change(&self, changes: &[Change], reason: Reason) -> Result<Sent, Failure> {
        let header = self.header(self.tree.epoch() + 1);
        let staged = self.tree.stage(changes, header.epoch)?;
        let executed = self.execute(&staged, reason)?;
        let count = u16::try_from(executed.messages.len())?;
        let mut sent = Sent { octets: 0, units: 0, blocks: Vec::new(), datagrams: Vec::new(), staged, executed };
        let numbered: Vec<(u16, &RekeyMessage)> = (0..count).zip(&sent.executed.messages).collect();
        let cut = cores::map_all(&numbered, sent.staged.plan().updates.len(), |(number, message)| {
            self.cut(message, header, (*number, count)).map_err(|error| error.to_string())
        });
        let cut: Vec<Cut> = cut.into_iter().collect::<Result<_, String>>()?;
        for (octets, blocks, datagrams) in cut {
            sent.octets += octets;
            sent.units += blocks.iter().map(|shape| usize::from(shape.s())).sum::<usize>();
            sent.blocks.extend(blocks);
            sent.datagrams.extend(datagrams);
        }
        Ok(sent)
    }

    /// A message to datagrams.
    fn cut(&self, message: &RekeyMessage, epoch: EpochHeader, (number, messages): (u16, u16)) -> Result<Cut, Failure> {
        let message = message.encode();
        let layout = Layout::new(message.len(), &self.repair)?;
        let message_len = u32::try_from(message.len())?;
        let root = self.held.get(NodeId::ROOT).ok_or("a root")?;
        let tag = self.header(self.tree.epoch()).context().tag(root);
        let blocks: Vec<u16> = (0..layout.block_count()).collect();
        // A block is as much work as some tens of secrets.
        let signed = cores::map_all(&blocks, 64 * blocks.len(), |at| {
            let block = fec::encode_block(&message, &layout, *at, &self.coder).map_err(|error| error.to_string())?;
            let header = BlockHeader {
                epoch,
                message: number,
                messages,
                message_len,
                blocks: layout.block_count(),
                block: *at,
                s: block.shape.s(),
                r: block.shape.r(),
            };
            sign_block(&header, &block.units, &self.signing, &tag).map_err(|error| error.to_string())
        });
        let mut datagrams = Vec::with_capacity(layout.total_units());
        for block in signed {
            datagrams.extend(block?);
        }
        Ok((message.len(), layout.blocks().to_vec(), datagrams))
    }

    /// The secrets and wraps of a staged change.
    pub(crate) fn execute(&self, staged: &Staged, reason: Reason) -> Result<Executed, Failure> {
        let header = self.header(staged.plan().epoch);
        let announcement = Announcement { reason, send_delay_ms: 0, keep_old_ms: 0 };
        let held = Named(&self.tree, &self.held);
        Ok(execute(staged.plan(), &header.context(), &Seed::new([3; 32]), &held, announcement)?)
    }
}
