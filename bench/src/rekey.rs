//! A join and a leave, from the change to datagrams that are ready to send, persistence apart.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use fec::{BlockShape, Layout, ReedSolomon, RepairScheme, UNIT};
use keygraph::{Change, Degree, KeyRef, MemberId, NodeId, Staged, Strategy, Tree};
use protocol::execute::{Executed, Secrets, execute};
use protocol::rekey::{Announcement, WRAP};
use protocol::unit::{BlockHeader, sign_block};
use protocol::{EpochHeader, GroupId, HeaderHash, Incarnation, NodeSecret, Reason, Seed, SigningKey, Suite};

use crate::primitives::{Counts, Primitives};
use crate::table::Row;

type Failure = Box<dyn std::error::Error>;

/// At most this times the sum of the primitives.
const GOAL: f64 = 1.5;
/// Different leavers of a case, spread over the group: more than the caches' paths, few enough to see all of them
/// well within the time of a case.
const LEAVERS: u32 = 4096;
/// Step from one leaver to the next: a prime, so that neighbours in time are none in the tree.
const STRIDE: u32 = 7919;
/// Measurements that a median needs at least.
const LEAST: u32 = 20;
/// Octets of a commitment.
const COMMITMENT: usize = 32;

/// All rows of all sizes (2 members at least), in about `budget` and the time to build the groups.
pub(crate) fn rows(sizes: &[u32], budget: Duration) -> Result<Vec<Row>, Failure> {
    let cases = u32::try_from(sizes.len() * 4)?.max(1);
    let mut rows = Vec::new();
    for size in sizes {
        for (strategy, degree) in [(Strategy::Chain, 2), (Strategy::Group, 4)] {
            let mut server = Server::new(*size, strategy, degree)?;
            rows.extend(measure(&mut server, Kind::Leave, *size, budget / cases)?);
            rows.extend(measure(&mut server, Kind::Join, *size, budget / cases)?);
        }
    }
    Ok(rows)
}

#[derive(Clone, Copy)]
enum Kind {
    Leave,
    Join,
}

impl Kind {
    /// The `turn`-th change of this kind to a group of members 1 to `size`.
    fn change(self, size: u32, turn: u32) -> Change {
        let leaver = u64::from(turn % LEAVERS) * u64::from(STRIDE) % u64::from(size);
        match self {
            Self::Leave => Change::Leave(MemberId(1 + u32::try_from(leaver).unwrap_or(0))),
            Self::Join => Change::Join(MemberId(size + 1)),
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::Leave => Reason::Leave,
            Self::Join => Reason::Join,
        }
    }

    /// Wraps in a full tree of `levels`. A leave: every k-node of the path for all its children, less the one that
    /// left, and under chain less the one that each k-node above the lowest is derived from. A join: every k-node
    /// under its own old secret; under chain they are advanced, and only a leaf that a split moves needs a wrap.
    fn theory(self, strategy: Strategy, degree: f64, levels: f64) -> f64 {
        match (self, strategy) {
            (Self::Leave, Strategy::Chain) => (degree - 1.0) * levels,
            (Self::Leave, Strategy::Group) => degree * levels - 1.0,
            (Self::Join, Strategy::Chain) => 1.0,
            (Self::Join, Strategy::Group) => levels,
        }
    }
}

fn measure(server: &mut Server, kind: Kind, size: u32, budget: Duration) -> Result<[Row; 4], Failure> {
    let mut primitives = Primitives::new()?;
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    let (mut wraps, mut octets, mut units, mut least_octets, mut least_units) = (0, 0, 0, 0, 0);
    let samples = size.clamp(LEAST, LEAVERS);
    let until = Instant::now() + budget;
    let mut turn = 0;
    // In turns, so that whatever else the machine does befalls both alike.
    while turn < samples || Instant::now() < until {
        let change = kind.change(size, turn);
        let begun = Instant::now();
        let sent = server.change(change, kind.reason())?;
        whole.push(begun.elapsed());
        let counts = Counts::of(sent.staged.plan(), sent.blocks);
        let begun = Instant::now();
        primitives.run(&counts)?;
        parts.push(begun.elapsed());
        // Wiped and freed here, when it would have been sent, on nobody's time.
        drop(black_box((sent.executed, sent.datagrams)));
        // Means over the same changes in every run, however fast the machine is.
        if turn < samples {
            let least = counts.wraps * WRAP + COMMITMENT;
            wraps += counts.wraps;
            octets += sent.octets;
            least_octets += least;
            units += sent.octets.div_ceil(UNIT);
            least_units += least.div_ceil(UNIT);
        }
        turn += 1;
    }
    let mean = |sum: usize| u32::try_from(sum).map(|sum| f64::from(sum) / f64::from(samples));
    let name = match kind {
        Kind::Leave => "leave",
        Kind::Join => "join",
    };
    let (strategy, degree) = (server.tree.strategy(), server.tree.degree().get());
    let theory = kind.theory(strategy, degree.into(), f64::from(size).log(degree.into()));
    let case = |of: &str| format!("{name} {size} {strategy} d={degree} {of}");
    let floor = "wraps and commitment";
    Ok([
        Row::new(case("time"), (micros(whole), "us"), ("sum of its primitives", micros(parts)), Some(GOAL)),
        Row::new(case("wraps"), (mean(wraps)?, "wraps"), ("theory of a full tree", theory), None),
        Row::new(case("octets"), (mean(octets)?, "octets"), (floor, mean(least_octets)?), None),
        Row::new(case("units"), (mean(units)?, "units"), (floor, mean(least_units)?), None),
    ])
}

/// Median in microseconds.
fn micros(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

struct Held(BTreeMap<NodeId, (u64, NodeSecret)>);

impl Secrets for Held {
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret> {
        self.0.get(&key.node).filter(|held| held.0 == key.version).map(|held| &held.1)
    }
}

/// What a key server holds of a group.
struct Server {
    tree: Tree,
    held: Held,
    signing: SigningKey,
    coder: ReedSolomon,
    repair: RepairScheme,
}

/// A change that was made and not merged, so that the next one finds the same group.
struct Sent {
    staged: Staged,
    executed: Executed,
    octets: usize,
    blocks: Vec<BlockShape>,
    datagrams: Vec<Vec<u8>>,
}

impl Server {
    fn new(members: u32, strategy: Strategy, degree: u8) -> Result<Self, Failure> {
        let tree = Tree::filled(Degree::new(degree)?, strategy, 1, (1..=members).map(MemberId))?;
        let (seed, context) = (Seed::new([1; 32]), header(1).context());
        let held = tree.slots().map(|(node, slot)| (node, (slot.version(), context.fresh(&seed, node)))).collect();
        let signing = SigningKey::from_seed(&[2; 32])?;
        Ok(Self { tree, held: Held(held), signing, coder: ReedSolomon::new(), repair: RepairScheme::default() })
    }

    /// Everything that the key server does for one change, but for the store and the socket.
    fn change(&mut self, change: Change, reason: Reason) -> Result<Sent, Failure> {
        let epoch = header(self.tree.epoch() + 1);
        let staged = self.tree.stage(&[change], epoch.epoch)?;
        let announcement = Announcement { reason, send_delay_ms: 0, keep_old_ms: 0 };
        let executed = execute(staged.plan(), &epoch.context(), &Seed::new([3; 32]), &self.held, announcement)?;
        let message = executed.message.encode();
        let layout = Layout::new(message.len(), &self.repair)?;
        let mut datagrams = Vec::with_capacity(layout.total_units());
        for (block, number) in fec::encode(&message, &layout, &mut self.coder)?.iter().zip(0u16..) {
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
            datagrams.extend(sign_block(&header, &block.units, &self.signing)?);
        }
        Ok(Sent { staged, executed, octets: message.len(), blocks: layout.blocks().to_vec(), datagrams })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_is_sent() {
        for (strategy, degree) in [(Strategy::Chain, 2), (Strategy::Group, 4)] {
            let mut server = Server::new(64, strategy, degree).unwrap();
            for kind in [Kind::Leave, Kind::Join] {
                let sent = server.change(kind.change(64, 3), kind.reason()).unwrap();
                let counts = Counts::of(sent.staged.plan(), sent.blocks);
                let entries = &sent.executed.message.entries;
                let wraps: usize = entries.iter().map(|e| e.children.len() + usize::from(e.own.is_some())).sum();
                assert_eq!(counts.wraps, wraps);
                assert_eq!(counts.fresh + counts.advanced + counts.derived, sent.executed.secrets.len());
                let units: usize = counts.blocks.iter().map(|shape| usize::from(shape.total())).sum();
                assert_eq!(units, sent.datagrams.len());
            }
        }
    }

    #[test]
    fn a_leave_from_a_full_tree_is_the_theory() {
        // 64 = 2^6 = 4^3: 6 wraps chained, 4 * 3 - 1 without.
        let rows = rows(&[64], Duration::ZERO).unwrap();
        let row = |case: &str| rows.iter().find(|row| row.case == case).unwrap();
        for (case, wraps) in [("leave 64 chain d=2 wraps", 6.0), ("leave 64 group d=4 wraps", 11.0)] {
            assert_eq!(row(case).value, wraps, "{case}");
            assert!((row(case).ratio - 1.0).abs() < 1e-9, "{case}: {:?}", row(case));
        }
        assert_eq!((rows.len(), row("join 64 group d=4 time").goal), (16, Some(GOAL)));
        assert!(rows.iter().all(|row| row.ratio.is_finite() && row.ratio > 0.0));
    }
}
