//! Messages that loss leaves unrecovered: independent losses beside the paper's equation, bursts beside the promise, and the
//! controller over time.

use ::tests::binomial::two_sided_tail;
use fec::{
    Assembly, BlockShape, Channel, Controller, Layout, Plan, Progress, ReedSolomon, RepairScheme, Schedule, SplitMix64,
    UNIT, Unit, encode, miss_probability,
};
use protocol::unit::{BlockHeader, DIGEST, PAYLOAD};
use rayon::prelude::*;

use crate::Failure;
use crate::table::Row;

const SEED: u64 = 1;
/// Arrival patterns of a cell, and how many of them are really decoded.
const PATTERNS: u32 = 1_000_000;
const DECODED: u32 = 1_000;
/// Probability that the test of all cells together refuses what is right.
const SIGNIFICANCE: f64 = 0.001;
const LOSSES: [f64; 4] = [0.05, 0.1, 0.2, 0.3];
const SCHEMES: [RepairScheme; 5] = [
    RepairScheme::Alpha(0.0),
    RepairScheme::Alpha(0.5),
    RepairScheme::Alpha(1.0),
    RepairScheme::Rs1,
    RepairScheme::Rs2,
];

/// Channels with bursts: average loss, mean lengths of bursts, units of the messages.
const LOSS: f64 = 0.1;
const BURSTS: [f64; 3] = [2.0, 5.0, 10.0];
const UNITS: [u32; 6] = [1, 5, 8, 10, 16, 64];
/// Messages measured, receivers of each, and how many of those report.
const MESSAGES: u32 = 1_000;
const RECEIVERS: u32 = 1_000;
const MEMBERS: u32 = 64;
/// Unit-times between two messages.
const PAUSE: u32 = 1_000;
/// What a member may miss, in a million.
const PROMISE: f64 = 1_000.0;
const PER_MILLION: &str = "in 10^6";

/// All rows.
pub(crate) fn rows() -> Result<Vec<Row>, Failure> {
    let mut rows = independent()?;
    rows.extend(bursts()?);
    rows.extend(over_time()?);
    Ok(rows)
}

/// The seed of a case, printed.
fn seed(case: &str, number: usize) -> Result<u64, Failure> {
    let seed = SEED + u64::try_from(number)?;
    println!("{case}: seed {seed}");
    Ok(SplitMix64::new(seed).bits())
}

fn independent() -> Result<Vec<Row>, Failure> {
    let shapes = SCHEMES.iter().flat_map(|scheme| (1..=15).filter_map(move |s| Some((scheme, scheme.shape(s, 1)?))));
    let all = || LOSSES.iter().flat_map(|p| shapes.clone().map(|(scheme, shape)| (*p, scheme, shape)));
    let name = |p: f64, scheme: &RepairScheme, shape: BlockShape| format!("loss {p} s={} {scheme}", shape.s());
    let cells: Vec<(f64, BlockShape, String, u64)> = all()
        .zip(0..)
        .map(|((p, scheme, shape), number)| {
            let case = name(p, scheme, shape);
            Ok((p, shape, format!("{case} unrecovered"), seed(&case, number)?))
        })
        .collect::<Result<_, Failure>>()?;
    let counts: Vec<(u32, u32)> = cells
        .par_iter()
        .map(|(p, shape, _, seed)| count(*p, *shape, *seed).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    let cells_in_all = f64::from(u32::try_from(cells.len())?);
    let (mut rows, mut least, mut wrong) = (Vec::new(), 1.0f64, 0);
    for ((p, shape, case, _), (missed, differently)) in cells.into_iter().zip(counts) {
        let expected = miss_probability(shape.s(), shape.r(), p);
        let tail = (two_sided_tail(missed, PATTERNS, expected) * cells_in_all).min(1.0);
        let value = f64::from(missed) / f64::from(PATTERNS) * 1e6;
        let row = Row::new(case, (value, PER_MILLION), ("P_m(s, r, p)", expected * 1e6), None);
        rows.push(Row { met: Some(tail >= SIGNIFICANCE), ..row });
        least = least.min(tail);
        wrong += differently;
    }
    let level = ("least tail of all cells, times cells", least);
    rows.push(Row::new("loss exact binomial test".into(), (SIGNIFICANCE, ""), level, Some(1.0)));
    let decoded = ("patterns decoded", cells_in_all * f64::from(DECODED));
    rows.push(Row::new("loss decoded otherwise than counted".into(), (wrong.into(), ""), decoded, Some(0.0)));
    Ok(rows)
}

/// Of [`PATTERNS`] messages of one block, those of which too few units arrive; and those of [`DECODED`] that decode otherwise.
fn count(p: f64, shape: BlockShape, seed: u64) -> Result<(u32, u32), Failure> {
    let mut random = SplitMix64::new(seed);
    let mut channel = Channel::independent(p, random.bits());
    let message: Vec<u8> = (0..usize::from(shape.s()) * UNIT - 7).map(|_| random.bits().to_be_bytes()[0]).collect();
    let layout = Layout::with_blocks(message.len(), vec![shape])?;
    let coder = ReedSolomon::new();
    let blocks = encode(&message, &layout, &coder)?;
    let (mut missed, mut otherwise) = (0, 0);
    for pattern in 0..PATTERNS {
        let arrived = (0..shape.total()).fold(0u32, |units, at| units | u32::from(!channel.lost(1.0)) << at);
        let recovered = arrived.count_ones() >= shape.s().into();
        missed += u32::from(!recovered);
        if pattern < DECODED {
            let mut assembly = Assembly::new(message.len(), 1)?;
            let mut whole = false;
            for (payload, index) in blocks[0].units.iter().zip(0..).filter(|(_, index)| arrived >> index & 1 == 1) {
                let unit = Unit { block: 0, index, s: shape.s(), r: shape.r(), payload };
                let progress = assembly.insert(unit, &coder)?;
                whole |= matches!(progress, Progress::Complete { message: got, .. } if got == message);
            }
            otherwise += u32::from(whole != recovered);
        }
    }
    Ok((missed, otherwise))
}

/// What sending messages of one size cost, and how many of a million were missed.
struct Outcome {
    unrecovered: f64,
    octets: f64,
}

fn bursts() -> Result<Vec<Row>, Failure> {
    let mut cases = Vec::new();
    for burst in BURSTS {
        for units in UNITS {
            cases.push((burst, units, seed(&format!("burst {burst} s={units}"), cases.len())?));
        }
    }
    let outcomes: Vec<[Outcome; 2]> = cases
        .par_iter()
        .map(|(burst, units, seed)| {
            let run = |adaptive| send(*burst, *units, *seed, adaptive).map_err(|error| error.to_string());
            Ok::<_, String>([run(true)?, run(false)?])
        })
        .collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    for (cases, outcomes) in cases.chunks(UNITS.len()).zip(outcomes.chunks(UNITS.len())) {
        let first = rows.len();
        for ((burst, units, _), [adaptive, rs1]) in cases.iter().zip(outcomes) {
            let name = |what: &str| format!("burst {burst} s={units} {what}");
            let promise = ("promise", PROMISE);
            let value = |outcome: &Outcome| (outcome.unrecovered, PER_MILLION);
            rows.push(Row::new(name("adaptive unrecovered"), value(adaptive), promise, Some(1.0)));
            let rs1_octets = ("rs1", rs1.octets);
            let goal = (*units >= 5).then_some(1.5);
            rows.push(Row::new(name("adaptive octets"), (adaptive.octets, "octets"), rs1_octets, goal));
            rows.push(Row::new(name("rs1 unrecovered"), value(rs1), promise, None));
        }
        // The worst of all sizes; of the octets, the worst of those with a goal.
        for what in ["adaptive unrecovered", "adaptive octets", "rs1 unrecovered"] {
            let of_all = rows[first..].iter().filter(|row| row.case.ends_with(what));
            let with_goal = of_all.filter(|row| what != "adaptive octets" || row.goal.is_some());
            if let Some(worst) = with_goal.max_by(|a, b| a.ratio.total_cmp(&b.ratio)).cloned() {
                rows.push(Row { case: format!("burst {} {what}", cases[0].0), ..worst });
            }
        }
    }
    Ok(rows)
}

/// Sends messages of `units` units to receivers with bursts of losses: as the controller plans once it has learnt, while
/// members go on to report, or by rs1 back to back.
fn send(burst: f64, units: u32, seed: u64, adaptive: bool) -> Result<Outcome, Failure> {
    let message_len = usize::try_from(units)? * UNIT;
    let mut random = SplitMix64::new(seed);
    let mut receivers: Vec<Channel> = (0..RECEIVERS).map(|_| Channel::bursts(LOSS, burst, random.bits())).collect();
    let mut controller = Controller::new();
    let mut next = |receivers: &mut [Channel]| -> Result<(u32, f64), Failure> {
        let Plan { layout, gap } = if adaptive {
            controller.plan(message_len, u16::MAX)?
        } else {
            Plan { layout: Layout::new(message_len, &RepairScheme::Rs1)?, gap: 1 }
        };
        let schedule = Schedule::new(&layout, gap);
        let mut missed = 0;
        for (receiver, number) in receivers.iter_mut().zip(0..) {
            let reception = receiver.receive(&schedule, PAUSE);
            missed += u32::from(reception.missed > 0);
            if number < MEMBERS {
                controller.report(number, reception.report);
            }
        }
        Ok((missed, octets(&layout)?))
    };
    // Until each member has reported some 2,000 units.
    let learning = if adaptive { 200 + 400 / units } else { 0 };
    for _ in 0..learning {
        next(&mut receivers[..usize::try_from(MEMBERS)?])?;
    }
    let (mut missed, mut octets) = (0, 0.0);
    for _ in 0..MESSAGES {
        let message = next(&mut receivers)?;
        (missed, octets) = (missed + message.0, octets + message.1);
    }
    let share = f64::from(missed) / (f64::from(MESSAGES) * f64::from(RECEIVERS));
    Ok(Outcome { unrecovered: share * 1e6, octets: octets / f64::from(MESSAGES) })
}

/// Octets of a message's datagrams, signed with Ed25519: header, signature, digest path and payload of each.
fn octets(layout: &Layout) -> Result<f64, Failure> {
    let datagrams = |shape: &BlockShape| {
        let total = usize::from(shape.total());
        let path = if shape.s() == 1 { 0 } else { total.next_power_of_two().ilog2() };
        Ok(total * (4 + BlockHeader::LEN + 1 + 64 + DIGEST * usize::try_from(path)? + PAYLOAD))
    };
    let sum = layout.blocks().iter().map(datagrams).sum::<Result<usize, Failure>>()?;
    Ok(f64::from(u32::try_from(sum)?))
}

/// The controller through steps and a ramp of loss and bursts: what it estimates, and the units that it sends.
fn over_time() -> Result<Vec<Row>, Failure> {
    const LENGTH: usize = 10 * UNIT;
    let steps = [(0.01, 1.01), (0.2, 1.25), (0.05, 1.05), (0.1, 10.0), (0.1, 1.11)].map(|step| [step; 10]);
    let ramp = (0..20).map(|at| (0.01 * f64::from(if at < 10 { 1 + 2 * at } else { 40 - 2 * at }), 2.0));
    let mut random = SplitMix64::new(seed("controller", 0)?);
    let mut controller = Controller::new();
    let mut rows = Vec::new();
    let rs1 = f64::from(u32::try_from(Layout::new(LENGTH, &RepairScheme::Rs1)?.total_units())?);
    for ((loss, burst), number) in steps.concat().into_iter().chain(ramp).zip((10..).step_by(10)) {
        let mut members: Vec<Channel> = (0..MEMBERS).map(|_| Channel::bursts(loss, burst, random.bits())).collect();
        let mut missed = 0;
        let mut units = 0;
        for _ in 0..10 {
            let Plan { layout, gap } = controller.plan(LENGTH, u16::MAX)?;
            units += u32::try_from(layout.total_units())?;
            for (member, channel) in (0..).zip(&mut members) {
                let reception = channel.receive(&Schedule::new(&layout, gap), PAUSE);
                missed += u32::from(reception.missed > 0);
                controller.report(member, reception.report);
            }
        }
        let name = |what: &str| format!("controller message {number} {what}");
        let estimate = controller.estimate();
        rows.push(Row::new(name("loss"), (estimate.loss() * 100.0, "%"), ("channel", loss * 100.0), None));
        rows.push(Row::new(name("burst"), (estimate.burst(), "units"), ("channel", burst), None));
        rows.push(Row::new(name("units"), (f64::from(units) / 10.0, "units"), ("rs1", rs1), None));
        let share = f64::from(missed) / f64::from(10 * MEMBERS);
        rows.push(Row::new(name("unrecovered"), (share * 1e6, PER_MILLION), ("promise", PROMISE), None));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_of_datagrams() {
        let layout = |s, r| Layout::with_blocks(usize::from(s) * UNIT, vec![BlockShape::new(s, r).unwrap()]).unwrap();
        assert_eq!(octets(&layout(1, 2)).unwrap(), 3.0 * 664.0);
        assert_eq!(octets(&layout(5, 4)).unwrap(), 9.0 * (664.0 + 64.0));
    }
}
