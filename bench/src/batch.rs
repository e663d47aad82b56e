//! As many joins as leaves at once, of members drawn at random.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use keygraph::{Change, Degree, MemberId, Plan, Strategy};
use protocol::Reason;
use rayon::prelude::*;

use crate::Failure;
use crate::primitives::{Counts, Primitives};
use crate::server::Server;
use crate::table::Row;

/// Shares of the group in thousandths.
const SHARES: [u32; 4] = [1, 10, 100, 250];
/// Random batches must come within this of what is expected of them.
const NEAR: f64 = 1.01;
/// All cores: at least 0.8 of the speed-up that the primitives alone get.
const SPEED_UP: f64 = 1.25;
/// Units a second: what the key server's ceiling of 12 Mbit/s lets through, unless it is configured otherwise.
const CEILING: f64 = 2_000.0;
/// Changes that are timed in all runs of a case, whose median counts; and runs at the least. A small batch takes a few
/// milliseconds, which a neighbour can double.
const TIMED: u32 = 50_000;
const RUNS: u32 = 3;
/// Seed of the draws.
const SEED: u64 = 2_026;

/// All rows for a group of 2^k members.
pub(crate) fn rows(size: u32) -> Result<Vec<Row>, Failure> {
    println!("seed {SEED}");
    let members = 1u32 << size;
    let mut chain = Server::new(members, Strategy::Chain, Degree::new(2)?)?;
    let mut group = Server::new(members, Strategy::Group, Degree::new(4)?)?;
    let mut rows = Vec::new();
    for share in SHARES {
        let count = (u64::from(members) * u64::from(share) / 1_000).max(1);
        let count = u32::try_from(count)?;
        let changes = draw(members, count);
        let name = |of: &str| format!("batch 2^{size} J=L {}% {of}", f64::from(share) / 10.0);
        let chained = measure(&mut chain, &changes)?;
        let grouped = measure(&mut group, &changes)?;
        let per_change =
            |wraps: usize| -> Result<f64, Failure> { Ok(f64::from(u32::try_from(wraps)?) / f64::from(count)) };
        for (case, sent, expected) in [
            ("chain d=2", &chained, expected(members, count, 2, true)),
            ("group d=4", &grouped, expected(members, count, 4, false)),
        ] {
            let wraps = (per_change(sent.wraps_and_replies)?, "wraps");
            let expected = ("expected, leaf wraps too", expected / f64::from(count));
            rows.push(Row::near(name(&format!("{case} wraps per change")), wraps, expected, NEAR));
        }
        let pairs = [
            (
                "wraps per change",
                "wraps",
                per_change(chained.wraps_and_replies)?,
                per_change(grouped.wraps_and_replies)?,
            ),
            ("octets", "octets", number(chained.octets)?, number(grouped.octets)?),
            ("units", "units", number(chained.units)?, number(grouped.units)?),
            ("messages", "messages", number(chained.messages)?, number(grouped.messages)?),
            ("seconds to send", "s", number(chained.datagrams)? / CEILING, number(grouped.datagrams)? / CEILING),
        ];
        for (of, unit, value, against) in pairs {
            rows.push(Row::new(name(&format!("chain {of}")), (value, unit), ("group-oriented, d=4", against), None));
        }
        rows.extend(times(&mut chain, &changes, count, &name)?);
    }
    Ok(rows)
}

struct Measured {
    wraps_and_replies: usize,
    octets: usize,
    units: usize,
    messages: usize,
    datagrams: usize,
}

fn measure(server: &mut Server, changes: &[Change]) -> Result<Measured, Failure> {
    let sent = server.change(changes, Reason::Batch)?;
    Ok(Measured {
        wraps_and_replies: wraps_and_replies(sent.staged.plan()),
        octets: sent.octets,
        units: sent.units,
        messages: sent.executed.messages.len(),
        datagrams: sent.datagrams.len(),
    })
}

/// Wraps, and those that are spared because a reply brings the secret: what the formulas count.
fn wraps_and_replies(plan: &Plan) -> usize {
    let replied: u32 = plan.updates.iter().map(|update| update.replied).sum();
    plan.wraps() + usize::try_from(replied).unwrap_or(usize::MAX)
}

/// Leaves of members drawn at random from 1 to `members`, and as many joins.
fn draw(members: u32, count: u32) -> Vec<Change> {
    let mut state = SEED;
    let mut leavers = BTreeSet::new();
    while leavers.len() < usize::try_from(count).unwrap_or(usize::MAX) {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        leavers.insert(1 + u32::try_from((z ^ (z >> 31)) % u64::from(members)).unwrap_or(0));
    }
    let leaves = leavers.into_iter().map(|member| Change::Leave(MemberId(member)));
    leaves.chain((1..=count).map(|joiner| Change::Join(MemberId(members + joiner)))).collect()
}

/// Wraps expected of `count` replacements at random among n = d^h leaves. Each of the d^l k-nodes of level l is updated
/// unless none of the n / d^l leaves below it is drawn; each updated one is wrapped for all d children, or, chained, for
/// all but one if a k-node below it is updated too.
fn expected(n: u32, count: u32, d: u32, chained: bool) -> f64 {
    let (mut below, mut updated, mut lowest) = (f64::from(n), 0.0, 0.0);
    while below > 1.5 {
        lowest = f64::from(n) / below * (1.0 - none_of(below, f64::from(count), f64::from(n)));
        updated += lowest;
        below /= f64::from(d);
    }
    let d = f64::from(d);
    if chained { (d - 1.0) * updated + lowest } else { d * updated }
}

/// Probability that none of `m` places is among `l` drawn from `n`: C(n - m, l) / C(n, l).
fn none_of(m: f64, l: f64, n: f64) -> f64 {
    let (few, many) = if m < l { (m, l) } else { (l, m) };
    let (mut product, mut i) = (1.0, 0.0);
    while i < few && product > 1e-12 {
        product *= ((n - many - i) / (n - i)).max(0.0);
        i += 1.0;
    }
    product
}

/// The time of a complete batch on one core and on all, beside its primitives on as many.
fn times(
    server: &mut Server,
    changes: &[Change],
    count: u32,
    name: &dyn Fn(&str) -> String,
) -> Result<Vec<Row>, Failure> {
    let cores = std::thread::available_parallelism()?.get();
    let sent = server.change(changes, Reason::Batch)?;
    let counts = Counts::of(sent.staged.plan(), sent.blocks);
    drop((sent.staged, sent.executed, sent.datagrams));
    let mut medians = Vec::new();
    for threads in [1, cores] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let (mut whole, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..RUNS.max(TIMED / count) {
            let begun = Instant::now();
            let sent = pool.install(|| server.change(changes, Reason::Batch).map_err(|error| error.to_string()))?;
            whole.push(begun.elapsed());
            drop(black_box(sent));
            let begun = Instant::now();
            pool.install(|| primitives(&counts, threads))?;
            bare.push(begun.elapsed());
        }
        medians.push((median(whole), median(bare)));
    }
    let [(one, bare_one), (all, bare_all)] = medians[..] else {
        return Err("two thread counts".into());
    };
    let per_second = |seconds: f64| f64::from(count) / seconds;
    let of = ("sum of its primitives", per_second(bare_one));
    let one_core = Row::new(name("chain changes a second, one core"), (per_second(one), "1/s"), of, None);
    let of = ("sum of its primitives", per_second(bare_all));
    let all_cores =
        Row::new(name(&format!("chain changes a second, {cores} cores")), (per_second(all), "1/s"), of, None);
    let speed_up = (bare_one / bare_all, "times");
    let ours = ("speed-up of a batch", one / all);
    let case = name(&format!("speed-up of the primitives, {cores} cores"));
    Ok(vec![one_core, all_cores, Row::new(case, speed_up, ours, Some(SPEED_UP))])
}

/// The primitives of a batch, divided evenly.
fn primitives(counts: &Counts, threads: usize) -> Result<(), String> {
    let parts = threads * 8;
    let share = |all: usize, part: usize| all / parts + usize::from(part < all % parts);
    (0..parts).into_par_iter().try_for_each(|part| {
        let text = |error: Failure| error.to_string();
        let mut primitives = Primitives::new().map_err(text)?;
        let of = |all| share(all, part);
        primitives.keys(of(counts.fresh), of(counts.advanced), of(counts.derived), of(counts.wraps)).map_err(text)?;
        let blocks: Vec<_> = counts.blocks.iter().skip(part).step_by(parts).copied().collect();
        primitives.blocks(&blocks).map_err(text)
    })
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn number(count: usize) -> Result<f64, Failure> {
    Ok(f64::from(u32::try_from(count)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_those_of_the_literature() {
        // Zhang, Lam, Lee and Yang's setting: N = 4096.
        let table = [
            (2, [24.0, 145.4, 456.4, 1330.6, 3438.6, 5131.1, 7034.5]),
            (4, [24.0, 138.1, 425.1, 1204.1, 2939.1, 4154.5, 5204.4]),
            (8, [32.0, 174.3, 523.7, 1437.4, 3273.9, 4270.9, 4664.1]),
            (16, [48.0, 245.7, 723.7, 1905.7, 3886.4, 4327.3, 4367.9]),
        ];
        for (d, wraps) in table {
            for (count, wraps) in [1, 8, 32, 128, 512, 1024, 2048].into_iter().zip(wraps) {
                let found = expected(4096, count, d, false);
                assert!((found - wraps).abs() < 0.06, "d = {d}, L = {count}: {found} and not {wraps}");
            }
        }
    }

    #[test]
    fn a_batch_is_what_is_expected() {
        let rows = rows(10).unwrap();
        for row in rows.iter().filter(|row| row.case.contains("25% chain d=2 wraps")) {
            assert!((row.ratio - 1.0).abs() < 0.05, "{row:?}");
        }
        assert!(rows.len() > 20 && rows.iter().all(|row| row.ratio.is_finite()));
    }
}
