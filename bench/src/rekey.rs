//! A join and a leave, from the change to datagrams that are ready to send, persistence apart.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use fec::{Coder, Layout, ReedSolomon, RepairScheme};
use keygraph::{Change, Degree, KeyRef, MemberId, NodeId, Plan, Source, Strategy, Tree};
use protocol::execute::{Executed, Secrets, execute};
use protocol::rekey::Announcement;
use protocol::schedule::expand;
use protocol::unit::{BlockHeader, sign_block};
use protocol::{
    EpochContext, EpochHeader, GroupId, HeaderHash, Incarnation, NodeSecret, Reason, Seed, SigningKey, Suite,
};

use crate::table::Row;

type Failure = Box<dyn std::error::Error>;

/// Time for one case; both sides of a ratio share it in turns.
const BUDGET: Duration = Duration::from_secs(2);
/// At most this times the sum of the primitives.
const GOAL: f64 = 1.5;

struct Held(BTreeMap<NodeId, (u64, NodeSecret)>);

impl Secrets for Held {
    fn secret(&self, key: KeyRef) -> Option<&NodeSecret> {
        self.0.get(&key.node).filter(|held| held.0 == key.version).map(|held| &held.1)
    }
}

struct Server {
    tree: Tree,
    held: Held,
    signing: SigningKey,
    coder: ReedSolomon,
    repair: RepairScheme,
}

struct Sent {
    octets: usize,
    blocks: Vec<(u8, u8)>,
}

pub(crate) fn rows(sizes: &[u32]) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for size in sizes {
        for (strategy, degree) in [(Strategy::Chain, 2), (Strategy::Group, 4)] {
            let mut server = Server::new(*size, strategy, degree)?;
            for change in [Change::Leave(MemberId(size / 2)), Change::Join(MemberId(size + 1))] {
                server.measure(change, *size, &mut rows)?;
            }
        }
    }
    Ok(rows)
}

fn context(epoch: u64) -> EpochContext {
    EpochContext { suite: Suite::Aes256, group: GroupId(1), incarnation: Incarnation([7; 16]), term: 1, epoch }
}

impl Server {
    fn new(members: u32, strategy: Strategy, degree: u8) -> Result<Self, Failure> {
        let tree = Tree::filled(Degree::new(degree)?, strategy, 1, (1..=members).map(MemberId))?;
        let seed = Seed::new([1; 32]);
        let held = tree.slots().map(|(node, slot)| (node, (slot.version(), context(1).fresh(&seed, node)))).collect();
        let signing = SigningKey::from_seed(&[2; 32])?;
        Ok(Self { tree, held: Held(held), signing, coder: ReedSolomon::new(), repair: RepairScheme::default() })
    }

    /// Everything that the key server does for one change, but for the store and the socket.
    fn change(&mut self, change: Change) -> Result<(Plan, Executed, Sent), Failure> {
        let epoch = self.tree.epoch() + 1;
        let staged = self.tree.stage(&[change], epoch)?;
        let announcement = Announcement { reason: Reason::Leave, send_delay_ms: 0, keep_old_ms: 0 };
        let executed = execute(staged.plan(), &context(epoch), &Seed::new([3; 32]), &self.held, announcement)?;
        let message = executed.message.encode();
        let layout = Layout::new(message.len(), &self.repair)?;
        let mut sent = Sent { octets: message.len(), blocks: Vec::new() };
        for (block, number) in fec::encode(&message, &layout, &mut self.coder)?.iter().zip(0u16..) {
            let header = BlockHeader {
                epoch: EpochHeader {
                    suite: Suite::Aes256,
                    group: GroupId(1),
                    incarnation: Incarnation([7; 16]),
                    term: 1,
                    epoch,
                    previous: HeaderHash::NONE,
                },
                message: 0,
                messages: 1,
                message_len: u32::try_from(message.len())?,
                blocks: layout.block_count(),
                block: number,
                s: block.shape.s(),
                r: block.shape.r(),
            };
            black_box(sign_block(&header, &block.units, &self.signing)?);
            sent.blocks.push((header.s, header.r));
        }
        Ok((staged.plan().clone(), executed, sent))
    }

    fn measure(&mut self, change: Change, size: u32, rows: &mut Vec<Row>) -> Result<(), Failure> {
        let (plan, _, sent) = self.change(change)?;
        let counts = Counts::of(&plan, &sent);
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        let until = Instant::now() + BUDGET;
        // In turns, so that whatever else the machine does befalls both alike.
        while Instant::now() < until || whole.len() < 20 {
            let begun = Instant::now();
            black_box(self.change(change)?);
            whole.push(begun.elapsed());
            let begun = Instant::now();
            counts.run(&self.signing, &mut self.coder)?;
            parts.push(begun.elapsed());
        }
        let what = if matches!(change, Change::Leave(_)) { "leave" } else { "join" };
        let (strategy, degree) = (self.tree.strategy(), self.tree.degree().get());
        let case = |of: &str| format!("{what} {size} {strategy} d={degree} {of}");
        let time = (micros(&mut whole), "us");
        rows.push(Row::new(case("time"), time, ("sum of its primitives", micros(&mut parts)), Some(GOAL)));
        // A full tree costs the path of a leave: (d-1)·log_d n, chained, or d·log_d n.
        let levels = f64::from(size).log(f64::from(degree));
        let wraps = f64::from(u32::try_from(counts.wraps)?);
        let theory = match (what, strategy) {
            ("leave", Strategy::Chain) => (f64::from(degree) - 1.0) * levels,
            ("leave", Strategy::Group) => f64::from(degree) * levels,
            (_, Strategy::Group) => levels,
            (_, Strategy::Chain) => 1.0,
        };
        rows.push(Row::new(case("wraps"), (wraps, "wraps"), ("of a full tree", theory), None));
        let units: u32 = sent.blocks.iter().map(|(s, _)| u32::from(*s)).sum();
        rows.push(Row::new(case("units"), (f64::from(units), "units"), ("one", 1.0), None));
        let octets = f64::from(u32::try_from(sent.octets)?);
        rows.push(Row::new(case("octets"), (octets, "octets"), ("wraps alone", (wraps * 32.0).max(32.0)), None));
        Ok(())
    }
}

/// The primitives that a plan names, counted.
struct Counts {
    /// HKDF expansions of 32 octets: fresh, advanced, derived secrets, the commitment.
    secrets: usize,
    /// One-time keys (HKDF, 48 octets) and AES-256-CBC over 32 octets.
    wraps: usize,
    /// Blocks as (s, r).
    blocks: Vec<(u8, u8)>,
}

impl Counts {
    fn of(plan: &Plan, sent: &Sent) -> Self {
        let made = plan.updates.iter().map(|update| match update.source {
            Source::Fresh | Source::Advance { .. } | Source::Derive { .. } => 1,
        });
        Self {
            secrets: made.sum::<usize>() + plan.joined.len() + plan.advanced_leaves.len() + 1,
            wraps: plan.updates.iter().map(|update| update.wraps.len()).sum(),
            blocks: sent.blocks.clone(),
        }
    }

    /// Does them all, on nothing in particular.
    fn run(&self, signing: &SigningKey, coder: &mut ReedSolomon) -> Result<(), Failure> {
        use cbc::cipher::{BlockModeEncrypt, KeyIvInit};
        let secret = black_box([9; 32]);
        for _ in 0..self.secrets {
            black_box(expand::<32>(&secret, b"advance", &[&[0; 37], &[0; 12]]));
        }
        for _ in 0..self.wraps {
            let key = expand::<48>(&secret, b"wrap", &[&[0; 37], &[0; 24]]);
            let (key, iv) = key.split_at(32);
            let mut cipher = cbc::Encryptor::<aes::Aes256>::new_from_slices(key, iv)?;
            for _ in 0..2 {
                let mut block = aes::Block::default();
                cipher.encrypt_block(&mut block);
                black_box(block);
            }
        }
        for (s, r) in &self.blocks {
            let units = vec![[5; 512]; usize::from(*s)];
            black_box(coder.repair(fec::BlockShape::new(*s, *r)?, &units)?);
            let leaves = if *s == 1 { 1 } else { usize::from(s + r) };
            for _ in 0..leaves {
                black_box(digest(&SHA256, &[0; 597]));
            }
            for _ in 0..leaves.next_power_of_two() - 1 {
                black_box(digest(&SHA256, &[0; 33]));
            }
            black_box(signing.sign(&[0; 116]));
        }
        Ok(())
    }
}

/// Median in microseconds.
fn micros(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primitives_of_a_leave_are_counted() {
        let mut server = Server::new(8, Strategy::Chain, 2).unwrap();
        let (plan, executed, sent) = server.change(Change::Leave(MemberId(8))).unwrap();
        let counts = Counts::of(&plan, &sent);
        // Three k-nodes; the lowest is wrapped under the leaf beside, each above under its other child.
        assert_eq!((plan.updates.len(), counts.wraps, plan.advanced_leaves.len()), (3, 3, 1));
        assert_eq!((counts.secrets, counts.blocks.as_slice()), (3 + 1 + 1, &[(1, 2)][..]));
        assert_eq!(executed.message.entries.len(), 3);
    }
}
