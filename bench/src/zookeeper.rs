//! The experiments of Skeirik, Bobba and Meseguer ("Formal analysis of fault-tolerant group key management using ZooKeeper",
//! CCGrid 2013): availability of key managers, and keys received of keys sent through watches.

mod availability;
mod naive;
mod ours;
mod real;
mod relay;
mod simulated;

use std::path::Path;

use zk::Ensemble;

use crate::Failure;
use crate::table::Row;

/// Joins a second in the paper.
const RATES: [f64; 6] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];
/// Seconds of latency of a hop between ZooKeeper and its clients: uniform.
const HOP: (f64, f64) = (0.05, 0.25);
/// Seconds between key updates, where the paper waits.
const WAIT: f64 = 2.0;

/// All rows; those of an ensemble if there is one, and a digest for it.
pub(crate) fn rows(zookeeper: Option<(&Ensemble, &Path)>) -> Result<Vec<Row>, Failure> {
    let mut rows = [availability::rows()?, simulated::rows()?].concat();
    if let Some((ensemble, digest)) = zookeeper {
        rows.extend(real::rows(ensemble, digest)?);
    }
    Ok(rows)
}
