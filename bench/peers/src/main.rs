//! One removal from a group, by Keystone and by OpenMLS, in one run on one core each.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod keystone;
mod mls;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, value_parser};

use crate::mls::Case;
use crate::table::Row;

type Failure = Box<dyn std::error::Error>;

/// Time for the measurements of one case at one end; building the groups comes on top, and takes most of the time.
const BUDGET: Duration = Duration::from_secs(2);
/// Measurements of the slowest, a server under OpenMLS, that a median needs at least.
const LEAST: usize = 5;

/// Removes a member from a group by Keystone and by OpenMLS: octets on the wire, time at the server, at a receiver.
#[derive(Parser)]
#[command(name = "peers", version)]
struct Cli {
    /// Group sizes, 8 to 32,768 members. All sizes by default take about 4 minutes, 2 of them the largest; beyond it
    /// they quadruple with each doubling, because OpenMLS builds a group in time square in its size.
    #[arg(
        long,
        value_name = "N,N,..",
        value_delimiter = ',',
        default_value = "16,128,1024,4096,8192",
        value_parser = value_parser!(u32).range(8..=32_768)
    )]
    members: Vec<u32>,
    /// What MLS has to work with.
    #[arg(long, value_name = "CASE,..", value_delimiter = ',', default_value = "admin-managed,best")]
    cases: Vec<Case>,
    /// Write the rows as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let mut rows = Vec::new();
    for members in &cli.members {
        rows.extend(compare(*members, &cli.cases, BUDGET)?);
    }
    table::print(&rows);
    if let Some(path) = &cli.json {
        std::fs::write(path, table::json(&rows) + "\n").map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// What one removal costs: octets, and medians of microseconds.
struct Cost {
    /// Octets of everything that is sent, repair units included.
    wire: f64,
    /// Octets of the message alone.
    message: f64,
    /// From the wish to octets that are ready to send.
    server: f64,
    /// From octets received to the keys of the new epoch, in memory.
    receiver: f64,
}

/// All rows of one group size, at most about `budget` for each of their measurements.
fn compare(members: u32, cases: &[Case], budget: Duration) -> Result<Vec<Row>, Failure> {
    let ours = keystone::removal(members, budget)?;
    let mut rows = Vec::new();
    for case in cases {
        let begun = Instant::now();
        let theirs = mls::removal(members, *case, budget)?;
        eprintln!("{members} members, OpenMLS {case}: {:.0} s", begun.elapsed().as_secs_f64());
        let row = |what: &str, unit, value, against| {
            Row::new(format!("remove {members} {what} beside openmls {case}"), (value, unit), against)
        };
        rows.extend([
            row("octets", "octets", ours.wire, theirs.wire),
            row("message octets", "octets", ours.message, theirs.message),
            row("server time", "us", ours.server, theirs.server),
            row("receiver time", "us", ours.receiver, theirs.receiver),
        ]);
    }
    Ok(rows)
}

/// Median in microseconds; 0 of nothing.
fn micros(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_its_rows() {
        let rows = compare(16, &[Case::AdminManaged, Case::Best], Duration::ZERO).unwrap();
        let cases: Vec<&str> = rows.iter().map(|row| row.case.as_str()).collect();
        let mut expected = Vec::new();
        for case in ["admin-managed", "best"] {
            for what in ["octets", "message octets", "server time", "receiver time"] {
                expected.push(format!("remove 16 {what} beside openmls {case}"));
            }
        }
        assert_eq!(cases, expected);
        assert!(rows.iter().all(|row| row.ratio.is_finite() && row.ratio > 0.0), "{rows:?}");
    }
}
