//! Keys received of keys sent over a real ensemble, with latency put between it and its clients.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fec::SplitMix64;
use zk::Ensemble;

use super::relay::Relay;
use super::{WAIT, naive, ours};
use crate::Failure;
use crate::table::Row;

const SEED: u64 = 1;
/// Joins a second.
const RATES: [f64; 3] = [1.0, 4.0, 8.0];
/// How long members join.
pub(super) const RUN: Duration = Duration::from_secs(30);
/// What is under way at the end gets so long.
pub(super) const DRAIN: Duration = Duration::from_secs(5);

/// One member: the key of its join, and when it had which others since the beginning.
pub(super) struct Member {
    pub(super) joined: u64,
    pub(super) got: BTreeMap<u64, Duration>,
    /// How often it asked the key server for keys, beside its join.
    pub(super) asked_again: u64,
}

/// What was seen in a run: when which key was made, and the members.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) made: BTreeMap<u64, Duration>,
    pub(super) members: Vec<Member>,
}

/// When clients ask to join: at random, as a Poisson process.
pub(super) fn arrivals(rate: f64, random: &mut SplitMix64) -> Vec<Duration> {
    let (mut at, mut all) = (0.0, Vec::new());
    loop {
        at -= (1.0 - random.fraction()).ln() / rate;
        if at > RUN.as_secs_f64() {
            return all;
        }
        all.push(Duration::from_secs_f64(at));
    }
}

/// All rows.
pub(super) fn rows(ensemble: &Ensemble, digest: &Path) -> Result<Vec<Row>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("real: seed {SEED}");
    runtime.block_on(async {
        let relay = Relay::open(ensemble, SEED).await?;
        let mut rows = Vec::new();
        for rate in RATES {
            let mut paper = 96.0;
            for (name, pause) in [("naive", 0.0), ("naive, 2 s apart", WAIT)] {
                let root = format!("{}-{rate}-{pause}-{}", ensemble.root().trim_matches('/'), std::process::id());
                let with = (rate, Duration::from_secs_f64(pause));
                rows.extend(of(name, rate, paper, &naive::run(&relay, (&root, digest), with, SEED).await?)?);
                paper = 99.0;
            }
            let root = format!("{}-{rate}-ours-{}", ensemble.root().trim_matches('/'), std::process::id());
            rows.extend(of("ours", rate, paper, &ours::run(&relay, (&root, digest), rate, SEED).await?)?);
        }
        Ok(rows)
    })
}

/// The rows of a run.
fn of(name: &str, rate: f64, paper: f64, seen: &Seen) -> Result<Vec<Row>, Failure> {
    let (mut sent, mut in_time, mut received, mut latencies, mut newest) = (0u32, 0u32, 0u32, Vec::new(), 0u32);
    let made: BTreeMap<u64, Duration> =
        seen.made.iter().filter(|(_, at)| **at <= RUN).map(|(n, at)| (*n, *at)).collect();
    let last = made.last_key_value().map_or(0, |(number, _)| *number);
    for member in &seen.members {
        newest += u32::from(member.joined >= last || member.got.range(last..).next().is_some());
        for (number, made) in made.range(member.joined + 1..) {
            sent += 1;
            if let Some(at) = member.got.get(number) {
                received += 1;
                in_time += u32::from(*at <= RUN);
                latencies.push(at.saturating_sub(*made).as_secs_f64());
            }
        }
    }
    latencies.sort_by(f64::total_cmp);
    let members = f64::from(u32::try_from(seen.members.len())?);
    let again: u64 = seen.members.iter().map(|member| member.asked_again).sum();
    let case = |of: &str| format!("real {name}, {rate} joins a second: {of}");
    let share = |part: u32| (f64::from(part) / f64::from(sent) * 100.0, "%");
    let at = |share: usize| latencies.get((latencies.len().max(1) - 1) * share / 100).copied().unwrap_or(f64::NAN);
    let mean = latencies.iter().sum::<f64>() / f64::from(u32::try_from(latencies.len())?);
    let row = |of: &str, value, against| Row::new(case(of), value, against, None);
    let all = row("received, under way included", share(received), ("the paper", paper));
    let is_ours = name == "ours";
    let rows = vec![
        row("keys", (f64::from(u32::try_from(made.len())?), ""), ("members", members)),
        row("received", share(in_time), ("the paper", paper)),
        Row { goal: is_ours.then_some(100.0 / paper), met: is_ours.then_some(received == sent), ..all },
        row("have the newest key at the end", (f64::from(newest), ""), ("members", members)),
        row("latency", (mean, "s"), ("the paper", 0.5)),
        row("latency, median", (at(50), "s"), ("the paper", 0.5)),
        row("latency, 99 of 100", (at(99), "s"), ("the paper", 0.5)),
        row("asked the key server again", (f64::from(u32::try_from(again)?), ""), ("members", members)),
    ];
    crate::table::print(&rows);
    Ok(rows)
}
