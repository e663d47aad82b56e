//! One join and one leave.

use std::hint::black_box;
use std::time::{Duration, Instant};

use keygraph::{Change, Degree, MemberId, Strategy};
use protocol::{Reason, Suite};

use crate::Failure;
use crate::primitives::{Counts, Primitives};
use crate::server::Server;
use crate::table::Row;

/// At most this times the sum of the primitives.
const GOAL: f64 = 1.5;
/// Time for each timed case; building the groups comes on top.
const BUDGET: Duration = Duration::from_secs(3);
/// Different leavers of a case, spread over the group: more than the caches' paths, few enough to see all of them
/// well within the time of a case.
const LEAVERS: u32 = 4096;
/// Step from one leaver to the next: a prime, so that neighbours in time are none in the tree.
const STRIDE: u32 = 7919;
/// Leavers whose messages are counted.
const COUNTED: u32 = 64;
/// Octets of a commitment.
const COMMITMENT: usize = 32;
const DEGREES: [u8; 5] = [2, 3, 4, 8, 16];

/// All rows for groups of 2^k members.
pub(crate) fn rows(sizes: &[u32]) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let mut single_join_units: f64 = 0.0;
    for size in sizes {
        for degree in DEGREES {
            let mut server = Server::new(1 << size, Strategy::Chain, Degree::new(degree)?)?;
            if degree == 2 {
                for kind in [Kind::Leave, Kind::Join] {
                    rows.push(time(&mut server, kind, *size, "")?);
                }
            }
            if degree == 4 {
                server.tree.set_strategy(Strategy::Group);
                rows.push(time(&mut server, Kind::Leave, *size, " group d=4")?);
                rows.push(time(&mut server, Kind::Join, *size, " group d=4")?);
            }
            for strategy in Strategy::ALL {
                server.tree.set_strategy(strategy);
                for kind in [Kind::Leave, Kind::Join] {
                    let units = counts(&mut server, kind, *size, &mut rows)?;
                    if matches!(kind, Kind::Join) && matches!(strategy, Strategy::Chain) {
                        single_join_units = single_join_units.max(units);
                    }
                }
            }
        }
    }
    let case = "single join units, chain, every size, degree and suite, the most".to_owned();
    rows.push(Row::new(case, (single_join_units, "units"), ("one", 1.0), Some(1.0)));
    Ok(rows)
}

#[derive(Clone, Copy)]
enum Kind {
    Leave,
    Join,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Leave => "leave",
            Self::Join => "join",
        }
    }

    /// The `turn`-th change of this kind to a group of members 1 to `members`.
    fn change(self, members: u32, turn: u32) -> Change {
        let leaver = u64::from(turn % LEAVERS) * u64::from(STRIDE) % u64::from(members);
        match self {
            Self::Leave => Change::Leave(MemberId(1 + u32::try_from(leaver).unwrap_or(0))),
            Self::Join => Change::Join(MemberId(members + 1)),
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::Leave => Reason::Leave,
            Self::Join => Reason::Join,
        }
    }

    /// Wraps that are multicast in a full tree of `levels` (h - 1), from the formulas of the literature; h keys a member.
    fn theory(self, strategy: Strategy, degree: f64, levels: f64) -> f64 {
        match (self, strategy) {
            (Self::Leave, Strategy::User) => (degree - 1.0) * levels * (levels + 1.0) / 2.0,
            (Self::Leave, Strategy::Chain) => (degree - 1.0) * levels,
            (Self::Leave, _) => degree * levels - 1.0,
            // One more than in a tree with room: the leaf that is split is wrapped for.
            (Self::Join, Strategy::User) => levels * (levels + 1.0) / 2.0 + levels,
            (Self::Join, Strategy::Chain) => 1.0,
            (Self::Join, _) => levels + 1.0,
        }
    }
}

fn time(server: &mut Server, kind: Kind, size: u32, of: &str) -> Result<Row, Failure> {
    let members = 1 << size;
    let mut primitives = Primitives::new()?;
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    let until = Instant::now() + BUDGET;
    let mut turn = 0;
    // In turns, so that whatever else the machine does befalls both alike.
    while turn < LEAVERS.min(members) || Instant::now() < until {
        let change = kind.change(members, turn);
        let begun = Instant::now();
        let sent = server.change(&[change], kind.reason())?;
        whole.push(begun.elapsed());
        let counts = Counts::of(sent.staged.plan(), sent.blocks);
        let begun = Instant::now();
        primitives.run(&counts)?;
        parts.push(begun.elapsed());
        // Wiped and freed here, when it would have been sent, on nobody's time.
        drop(black_box((sent.executed, sent.datagrams)));
        turn += 1;
    }
    let case = format!("{} 2^{size}{of} time", kind.name());
    Ok(Row::new(case, (micros(whole), "us"), ("sum of its primitives", micros(parts)), Some(GOAL)))
}

/// Wraps, octets and units; returns the units, the most of both suites.
fn counts(server: &mut Server, kind: Kind, size: u32, rows: &mut Vec<Row>) -> Result<f64, Failure> {
    let members = 1 << size;
    let (strategy, degree) = (server.tree.strategy(), server.tree.degree().get());
    let case = |of: &str| format!("{} 2^{size} {strategy} d={degree} {of}", kind.name());
    let samples = match kind {
        Kind::Leave => COUNTED.min(members),
        Kind::Join => 1,
    };
    let mut most: f64 = 0.0;
    for (suite, name, wrap) in [(Suite::Aes256, "aes256", 32), (Suite::Aes128, "aes128", 16)] {
        server.suite = suite;
        let (mut wraps, mut octets, mut units, mut least) = (0, 0, 0, 0);
        for turn in 0..samples {
            let sent = server.change(&[kind.change(members, turn)], kind.reason())?;
            wraps += sent.staged.plan().wraps();
            octets += sent.octets;
            units += sent.units;
            least += sent.staged.plan().wraps() * wrap + COMMITMENT;
        }
        let mean = |sum: usize| u32::try_from(sum).map(|sum| f64::from(sum) / f64::from(samples));
        if suite == Suite::Aes256 {
            let levels = (f64::from(members).log(f64::from(degree)) - 1e-9).ceil();
            let theory = kind.theory(strategy, f64::from(degree), levels);
            rows.push(Row::new(case("wraps"), (mean(wraps)?, "wraps"), ("formula of a full tree", theory), None));
        }
        let floor = ("wraps and one commitment", mean(least)?);
        rows.push(Row::new(case(&format!("{name} octets")), (mean(octets)?, "octets"), floor, None));
        let floor = ("octets of those by 512", (mean(least)? / 512.0).ceil());
        rows.push(Row::new(case(&format!("{name} units")), (mean(units)?, "units"), floor, None));
        most = most.max(mean(units)?);
    }
    server.suite = Suite::Aes256;
    Ok(most)
}

/// Median in microseconds.
fn micros(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_is_sent() {
        for (strategy, degree) in [(Strategy::Chain, 2), (Strategy::Group, 4), (Strategy::User, 3)] {
            let server = Server::new(64, strategy, Degree::new(degree).unwrap()).unwrap();
            for kind in [Kind::Leave, Kind::Join] {
                let sent = server.change(&[kind.change(64, 3)], kind.reason()).unwrap();
                let counts = Counts::of(sent.staged.plan(), sent.blocks);
                let wraps: usize = sent.executed.messages.iter().map(protocol::RekeyMessage::wraps).sum();
                assert_eq!(counts.wraps, wraps);
                assert_eq!(counts.fresh + counts.advanced + counts.derived, sent.executed.secrets.len());
                let units: usize = counts.blocks.iter().map(|shape| usize::from(shape.total())).sum();
                assert_eq!(units, sent.datagrams.len());
            }
        }
    }

    #[test]
    fn a_leave_from_a_full_tree_is_the_formula() {
        let rows = rows(&[6]).unwrap();
        let row = |case: &str| rows.iter().find(|row| row.case == case).unwrap_or_else(|| panic!("no row {case}"));
        // 64 = 2^6 = 4^3: 6 wraps chained, 4 * 3 - 1 without, 3 * (1 + 2 + 3) user-oriented.
        let cases =
            [("chain d=2", 6.0), ("group d=4", 11.0), ("key d=4", 11.0), ("hybrid d=4", 11.0), ("user d=4", 18.0)];
        for (case, wraps) in cases {
            let row = row(&format!("leave 2^6 {case} wraps"));
            assert_eq!(row.value, wraps, "{case}");
            assert!((row.ratio - 1.0).abs() < 1e-9, "{case}: {row:?}");
        }
        assert_eq!(row("leave 2^6 chain d=2 aes128 units").value, 1.0);
        assert_eq!(row("leave 2^6 time").goal, Some(GOAL));
        assert!(rows.iter().all(|row| row.ratio.is_finite() && row.ratio >= 0.0));
    }
}
