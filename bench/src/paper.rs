//! The papers' tables: encryptions and messages per operation (Wong, Gouda, Lam), and time per operation (Keystone, Table 4).

use std::hint::black_box;
use std::time::{Duration, Instant};

use fec::RepairScheme;
use keygraph::{Change, Degree, MemberId, Strategy, Tree};
use protocol::{Reason, Suite};

use crate::Failure;
use crate::server::Server;
use crate::table::Row;

/// Means over random operations must come within this of the model's.
const NEAR: f64 = 1.05;
const SEED: u64 = 1;
/// Members at first, and operations.
const MEMBERS: u32 = 8_192;
const OPERATIONS: u32 = 4_000;

/// A simulation of the strategies by their definitions, n = 8192, joins and leaves alike: degree; user-oriented messages and
/// encryptions of a join, messages and encryptions of a leave; encryptions of a join and a leave otherwise.
const MODEL: [(u8, [f64; 6]); 7] = [
    (2, [14.09, 105.37, 13.02, 90.23, 26.18, 24.03]),
    (3, [9.33, 47.27, 16.62, 77.59, 16.65, 23.93]),
    (4, [7.69, 32.52, 20.05, 77.35, 13.38, 25.73]),
    (5, [6.80, 25.57, 23.16, 78.94, 11.59, 27.95]),
    (6, [6.12, 20.83, 25.31, 76.84, 10.24, 29.37]),
    (8, [5.60, 17.60, 32.13, 90.67, 9.20, 35.72]),
    (16, [4.55, 11.75, 53.06, 122.26, 7.10, 55.60]),
];

/// All rows.
pub(crate) fn rows() -> Result<Vec<Row>, Failure> {
    println!("seed {SEED}");
    let mut rows = Vec::new();
    for (degree, [join_messages, join_user, leave_messages, leave_user, join, leave]) in MODEL {
        for strategy in Strategy::ALL {
            let counts = operations(degree, strategy)?;
            let name = |of: &str| format!("counts n=8192 d={degree} {strategy} {of}");
            let of = ("simulation", 0.0);
            let mut push = |what: &str, value: f64, against: f64, unit| {
                rows.push(Row::near(name(what), (value, unit), (of.0, against), NEAR));
            };
            match strategy {
                Strategy::User => {
                    push("join messages", counts.join_messages, join_messages, "messages");
                    push("join encryptions", counts.join, join_user, "encryptions");
                    push("leave messages", counts.leave_messages, leave_messages, "messages");
                    push("leave encryptions", counts.leave, leave_user, "encryptions");
                }
                Strategy::Key | Strategy::Group | Strategy::Hybrid => {
                    push("join encryptions", counts.join, join, "encryptions");
                    push("leave encryptions", counts.leave, leave, "encryptions");
                }
                Strategy::Chain => {
                    let group = ("group-oriented", join);
                    rows.push(Row::new(name("join encryptions"), (counts.join, "encryptions"), group, None));
                    let group = ("group-oriented", leave);
                    rows.push(Row::new(name("leave encryptions"), (counts.leave, "encryptions"), group, None));
                }
            }
        }
    }
    rows.extend(table_4()?);
    Ok(rows)
}

/// Means per operation; a joiner's reply counts as a message, and an encryption for each k-node above its leaf.
struct Means {
    join: f64,
    join_messages: f64,
    leave: f64,
    leave_messages: f64,
}

fn operations(degree: u8, strategy: Strategy) -> Result<Means, Failure> {
    let mut tree = Tree::filled(Degree::new(degree)?, strategy, 1, (0..MEMBERS).map(MemberId))?;
    tree.set_splicing(true);
    let mut members: Vec<u32> = (0..MEMBERS).collect();
    let (mut joins, mut leaves) = ([0, 0, 0], [0, 0, 0]);
    let mut dice = Dice(SEED);
    for next in MEMBERS..MEMBERS + OPERATIONS {
        let member = if dice.below(2) == 0 {
            members.push(next);
            Change::Join(MemberId(next))
        } else {
            let at = dice.below(members.len());
            Change::Leave(MemberId(members.swap_remove(at)))
        };
        let staged = tree.stage(&[member], tree.epoch() + 1)?;
        let plan = tree.merge(staged)?;
        let (sums, own) = match member {
            Change::Join(member) => (&mut joins, tree.path(member).map_or(0, |path| path.len() - 1)),
            _ => (&mut leaves, 0),
        };
        sums[0] += 1;
        sums[1] += plan.wraps() + own;
        sums[2] += plan.messages() + usize::from(own > 0);
    }
    let mean = |sums: [usize; 3], at: usize| -> Result<f64, Failure> {
        Ok(f64::from(u32::try_from(sums[at])?) / f64::from(u32::try_from(sums[0])?))
    };
    Ok(Means {
        join: mean(joins, 1)?,
        join_messages: mean(joins, 2)?,
        leave: mean(leaves, 1)?,
        leave_messages: mean(leaves, 2)?,
    })
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(bound).unwrap_or(1)).unwrap_or(0)
    }
}

/// Milliseconds for a join or leave on the paper's machine (Ultra 1; group-oriented, DES-CBC, MD5, RSA-512), by repair scheme
/// and group size.
const TABLE_4: [(RepairScheme, [f64; 6]); 5] = [
    (RepairScheme::Alpha(0.0), [50.7, 51.0, 51.0, 51.2, 51.3, 51.4]),
    (RepairScheme::Alpha(0.5), [50.9, 51.3, 51.4, 51.5, 51.6, 51.7]),
    (RepairScheme::Alpha(1.0), [50.8, 51.4, 51.4, 51.5, 51.7, 52.0]),
    (RepairScheme::Rs1, [50.9, 51.5, 51.6, 51.8, 51.9, 52.0]),
    (RepairScheme::Rs2, [51.2, 51.9, 52.1, 52.3, 52.4, 52.5]),
];
/// Milliseconds of one signature there.
const SIGNATURE: f64 = 46.6;
const SIZES: [u32; 6] = [256, 512, 1_024, 2_048, 4_096, 8_192];
/// Time for each cell.
const BUDGET: Duration = Duration::from_millis(400);

fn table_4() -> Result<Vec<Row>, Failure> {
    let Some(paper) = Suite::named("paper") else {
        println!("without the cargo feature `paper`: Table 4 is left out");
        return Ok(Vec::new());
    };
    let mut rows = Vec::new();
    let (mut ours, mut modern) = (Vec::new(), Vec::new());
    for (column, size) in SIZES.iter().enumerate() {
        let mut server = Server::new(*size, Strategy::Group, Degree::new(4)?)?;
        #[cfg(feature = "paper")]
        {
            let key = protocol::paper::SigningKey::generate().ok_or("no RSA-512 key")?;
            server.signing = protocol::SigningKey::from_seed(&[2; 32])?.with_paper(key);
        }
        for (scheme, theirs) in TABLE_4 {
            server.repair = scheme;
            let name = |of: &str| format!("table 4 n={size} {scheme} {of}");
            server.suite = paper;
            let time = operation(&mut server, *size)?;
            rows.push(Row::new(name("paper"), (time, "us"), ("the paper's machine", theirs[column] * 1e3), None));
            ours.push(time);
            server.suite = Suite::Aes256;
            let now = operation(&mut server, *size)?;
            rows.push(Row::new(name("aes256"), (now, "us"), ("suite paper", time), None));
            modern.push(now);
        }
        if column + 1 == SIZES.len() {
            server.suite = paper;
            let signature = signature(&server)?;
            let share = (100.0 * signature / ours[ours.len() - 5], "%");
            let theirs = ("the paper's", 100.0 * SIGNATURE / TABLE_4[0].1[column]);
            rows.push(Row::new(format!("table 4 n={size} share of the signature, alpha=0"), share, theirs, None));
        }
    }
    // The shape: what repair units add, and what a group 32 times larger does.
    let last = ours.len() - 5;
    for (name, times, theirs) in [("paper", &ours, true), ("aes256", &modern, false)] {
        let repair = 100.0 * (times[last + 4] - times[last]) / times[last];
        let growth = 100.0 * (times[last] - times[0]) / times[0];
        let (repair_there, growth_there) = (
            100.0 * (TABLE_4[4].1[5] - TABLE_4[0].1[5]) / TABLE_4[0].1[5],
            100.0 * (TABLE_4[0].1[5] - TABLE_4[0].1[0]) / TABLE_4[0].1[0],
        );
        let against = if theirs { "the paper's" } else { "the paper's, other ciphers" };
        let case = format!("table 4 {name} repair units by rs2 add");
        rows.push(Row::new(case, (repair, "%"), (against, repair_there), None));
        let case = format!("table 4 {name} n=8192 takes more than n=256 by");
        rows.push(Row::new(case, (growth, "%"), (against, growth_there), None));
    }
    Ok(rows)
}

/// Mean of a join's and a leave's median, in microseconds.
fn operation(server: &mut Server, size: u32) -> Result<f64, Failure> {
    let mut sum = 0.0;
    for (change, reason) in
        [(Change::Leave(MemberId(1 + size / 3)), Reason::Leave), (Change::Join(MemberId(size + 1)), Reason::Join)]
    {
        let mut times = Vec::new();
        let until = Instant::now() + BUDGET / 2;
        while times.len() < 20 || Instant::now() < until {
            let begun = Instant::now();
            black_box(server.change(&[change], reason)?);
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        sum += times[times.len() / 2].as_secs_f64() * 1e6;
    }
    Ok(sum / 2.0)
}

/// Median of a signature of the server's suite over what a block signs, in microseconds.
fn signature(server: &Server) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for _ in 0..1_000 {
        let begun = Instant::now();
        black_box(server.signing.sign(server.suite, &[0; 116])?);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2].as_secs_f64() * 1e6)
}
