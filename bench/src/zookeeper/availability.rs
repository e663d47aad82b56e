//! Availability of one key manager and of two that share their state, in runs of 50 seconds. The paper says that a key manager
//! fails in half of the runs, not when; its figures follow from none of the plain laws, so several are computed.

use fec::SplitMix64;

use crate::Failure;
use crate::table::Row;

const SEED: u64 = 1;
const RUNS: u32 = 1_000_000;
/// Seconds of a run, and until the second key manager has taken over.
const RUN: f64 = 50.0;
const TAKE_OVER: f64 = 5.0;
/// What a take-over of ours takes with a session timeout of 2 s (docs/performance.md).
const OURS: f64 = 2.1;
/// Seconds of a start that make the figure for one key manager the paper's, under the exponential law.
const START: f64 = 3.85;
/// The paper's, of 50 s.
const ONE: f64 = 32.3;
const TWO: f64 = 42.31;

/// When a key manager fails that fails in half of the runs.
#[derive(Clone, Copy)]
enum Law {
    /// At any moment of the run alike, or not at all.
    Uniform,
    /// At any moment alike as long as it runs.
    Exponential,
}

impl Law {
    fn draw(self, random: &mut SplitMix64) -> f64 {
        let one = 1.0 - random.fraction();
        match self {
            Self::Uniform if random.chance(0.5) => one * RUN,
            Self::Uniform => f64::INFINITY,
            Self::Exponential => -one.log2() * RUN,
        }
    }
}

/// All rows.
pub(super) fn rows() -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let cases = [
        ("uniform", Law::Uniform, 0.0),
        ("exponential", Law::Exponential, 0.0),
        ("exponential and a start of 3.85 s", Law::Exponential, START),
    ];
    println!("availability: seed {SEED}");
    for (name, law, start) in cases {
        let mut random = SplitMix64::new(SEED);
        let (mut one, mut two, mut sure, mut ours) = (0.0, 0.0, 0.0, 0.0);
        for _ in 0..RUNS {
            let (first, second) = (law.draw(&mut random), law.draw(&mut random));
            one += available(first, None, start);
            two += available(first, Some((second, TAKE_OVER)), start);
            sure += available(first, Some((f64::INFINITY, TAKE_OVER)), start);
            ours += available(first, Some((second, OURS)), start);
        }
        let mut row = |what: &str, sum: f64, paper| {
            let case = format!("availability, failures {name}: {what}");
            rows.push(Row::new(case, (sum / f64::from(RUNS), "s of 50"), ("the paper", paper), None));
        };
        row("one", one, ONE);
        row("two, 5 s to take over", two, TWO);
        row("two, 5 s, the second never fails", sure, TWO);
        row("two, 2.1 s to take over", ours, TWO);
    }
    Ok(rows)
}

/// Seconds of a run in which a key manager serves: the first until it fails, then the second, which runs from the beginning and may
/// fail too, before or after.
fn available(first: f64, second: Option<(f64, f64)>, start: f64) -> f64 {
    let served = |from: f64, until: f64| (until.min(RUN) - from).max(0.0);
    let then = second.map_or(0.0, |(second, take_over)| served(first.max(start) + take_over, second));
    served(start, first) + then
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_served() {
        assert!((available(10.0, None, 4.0) - 6.0).abs() < 1e-9);
        assert!((available(10.0, Some((f64::INFINITY, 5.0)), 0.0) - 45.0).abs() < 1e-9);
        assert!((available(10.0, Some((12.0, 5.0)), 0.0) - 10.0).abs() < 1e-9);
        assert!((available(60.0, Some((12.0, 5.0)), 0.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn the_mean_of_one_is_what_integration_gives() {
        let mut random = SplitMix64::new(2);
        let mut mean = |law: Law| (0..100_000).map(|_| available(law.draw(&mut random), None, 0.0)).sum::<f64>() / 1e5;
        // 50 (1/2 + 1/4), and 50 (1/2) / ln 2.
        assert!((mean(Law::Uniform) - 37.5).abs() < 0.3);
        assert!((mean(Law::Exponential) - 36.07).abs() < 0.3);
    }
}
