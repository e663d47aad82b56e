//! Measurements of Keystone, each a ratio in one run against something named.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod batch;
mod blackout;
mod crowd;
mod doors;
mod fill;
mod flood;
mod keyserver;
mod loss;
mod memory;
mod octets;
mod paper;
mod primitives;
mod register;
mod send;
mod server;
mod store;
mod storm;
mod table;
mod tree;
mod zookeeper;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, value_parser};

use crate::table::Row;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// Measures Keystone against the primitives that it is made of, against theory, and against others.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write the rows as JSON.
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// One leave and one join, up to datagrams that are ready to send: time beside the sum of the primitives; wraps,
    /// octets and units of every strategy, degree and suite.
    Tree {
        /// Group sizes as powers of two, 1 to 20 (a million members, the largest group that Keystone is made for).
        #[arg(long, value_name = "K,K,..", value_delimiter = ',', default_value = "10,13,17,20",
              value_parser = value_parser!(u32).range(1..=20))]
        sizes: Vec<u32>,
    },
    /// As many joins as leaves at once: wraps per change beside theory, octets, units, time, all cores.
    Batch {
        /// Group size as a power of two, 4 to 20.
        #[arg(long, value_name = "K", default_value = "20", value_parser = value_parser!(u32).range(4..=20))]
        size: u32,
    },
    /// The paper's tables: encryptions and messages of every strategy; with the cargo feature `paper`, the time of a join or
    /// leave with DES, MD5 and RSA-512 too.
    Paper,
    /// Multicast octets of a change and of a member-hour under churn, beside unicast and group-oriented rekeying.
    Octets,
    /// Bogus units and beacons over loopback, 100,000 a second for eight seconds: what they cost a member.
    Flood,
    /// Floods at every TCP port of a key server and a registrar, on loopback, while 50 members are rekeyed: how late keys are, how long
    /// their own requests take, and what the daemons need.
    Doors {
        /// Seconds of each flood, 2 to 120.
        #[arg(long, value_name = "N", default_value = "10", value_parser = value_parser!(u32).range(2..=120))]
        seconds: u32,
    },
    /// After a blackout: key server, registrar and clients, which have lost their keys, all start at once; real clients on loopback,
    /// and simulated ones.
    Blackout {
        /// Real clients, 10 to 2,500. Each takes up to seven descriptors of this process.
        #[arg(long, value_name = "N", default_value = "2000", value_parser = value_parser!(u32).range(10..=2_500))]
        clients: u32,
        /// Simulated clients, 1,000 to 1,000,000.
        #[arg(long, value_name = "N", default_value = "100000", value_parser = value_parser!(u32).range(1_000..=1_000_000))]
        members: u32,
    },
    /// Everybody misses the same message: the cost of a re-synchronization beside its bare cryptography, a storm of them, and a
    /// storm of real clients on loopback.
    Storm {
        /// Members, 1,000 to 1,000,000.
        #[arg(long, value_name = "N", default_value = "100000", value_parser = value_parser!(u32).range(1_000..=1_000_000))]
        members: u32,
        /// Real clients, 10 to 20,000. Each takes up to three descriptors of this process.
        #[arg(long, value_name = "N", default_value = "2000", value_parser = value_parser!(u32).range(10..=20_000))]
        clients: u32,
    },
    /// Registration: a registrar's processor time beside a bare handshake with client certificate, and registrations per second
    /// with 1, 2 and 4 registrars.
    Register {
        /// Registrations in each case, 100 to 100,000.
        #[arg(long, value_name = "N", default_value = "2000", value_parser = value_parser!(u32).range(100..=100_000))]
        count: u32,
    },
    /// Messages that are not recovered: independent losses beside the paper's equation, bursts with the adaptive repair scheme
    /// beside rs1, and how that scheme follows changes. Takes about a minute on two cores.
    Loss,
    /// Octets of memory for each member.
    Memory {
        /// Group size as a power of two, 4 to 20.
        #[arg(long, value_name = "K", default_value = "20", value_parser = value_parser!(u32).range(4..=20))]
        size: u32,
    },
    /// The store: latency and rate of commits of 1, 10 and 100 records beside a bare write and fdatasync of the same octets, and
    /// a start from a snapshot beside bare reading and decrypting. With a million members about a minute and 2 GB.
    Store {
        /// Members of the snapshot, 1,000 to 1,000,000.
        #[arg(long, value_name = "N", default_value = "1000000", value_parser = value_parser!(u32).range(1_000..=1_000_000))]
        members: u32,
        /// Where to write: the file system that is measured.
        #[arg(long, value_name = "DIR", default_value = ".")]
        folder: PathBuf,
        /// Commits to ZooKeeper too, beside bare transactions; an address as in a key server's configuration. `tests/full/store`
        /// starts one.
        #[arg(long, value_name = "ADDRESS", requires = "digest")]
        zookeeper: Option<zk::Ensemble>,
        /// File of mode 0600 with `user:password` for it.
        #[arg(long, value_name = "FILE")]
        digest: Option<PathBuf>,
    },
    /// Fills the empty store of a configured key server, in ZooKeeper, with members that nobody runs; `tests/full/takeover` does.
    #[command(hide = true)]
    Fill {
        /// The key server's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Members of each of its groups.
        #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
        members: u32,
        /// What their identities begin with; the first registrar may register them.
        #[arg(long, value_name = "URI")]
        prefix: String,
    },
    /// The experiments of the paper on ZooKeeper: availability of one and of two key managers, and keys received of keys sent
    /// through watches, in simulated time with the paper's parameters, and over a real ensemble if there is one.
    Zookeeper {
        /// An address as in a key server's configuration. `tests/full/paper` starts one; it takes six minutes.
        #[arg(long, value_name = "ADDRESS", requires = "digest")]
        zookeeper: Option<zk::Ensemble>,
        /// File of mode 0600 with `user:password` for it.
        #[arg(long, value_name = "FILE")]
        digest: Option<PathBuf>,
    },
    /// A daemon, in this process.
    #[command(subcommand, hide = true)]
    Daemon(Daemon),
    /// Sending units by multicast on loopback: time and units per second of a core beside a loop that does nothing but send
    /// segments; one by one for comparison.
    Send,
}

/// For measurements whose daemons are processes of their own.
#[derive(Subcommand)]
enum Daemon {
    /// The key server.
    Keyserver(::keyserver::Args),
    /// A registrar.
    Registrar(registrar::Args),
}

fn daemon(daemon: Daemon) -> ExitCode {
    // A measurement that is killed takes its daemons along.
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        eprintln!("bench: cannot follow the parent process: {error}");
        return ExitCode::FAILURE;
    }
    match daemon {
        Daemon::Keyserver(args) => ::keyserver::main(args),
        Daemon::Registrar(args) => registrar::main(args),
    }
}

fn main() -> ExitCode {
    let Cli { command, json } = Cli::parse();
    if let Command::Daemon(which) = command {
        return daemon(which);
    }
    let rows = match &command {
        Command::Tree { sizes } => tree::rows(sizes),
        Command::Batch { size } => batch::rows(*size),
        Command::Paper => paper::rows(),
        Command::Octets => octets::rows(),
        Command::Flood => flood::rows(),
        Command::Storm { members, clients } => storm::rows(*members, *clients),
        Command::Register { count } => register::rows(*count),
        Command::Loss => loss::rows(),
        Command::Memory { size } => memory::rows(*size),
        Command::Store { members, folder, zookeeper, digest } => {
            store::rows(*members, folder, zookeeper.as_ref().zip(digest.as_deref()))
        }
        Command::Zookeeper { zookeeper, digest } => zookeeper::rows(zookeeper.as_ref().zip(digest.as_deref())),
        Command::Send => send::rows(),
        Command::Blackout { clients, members } => blackout::rows(*clients, *members),
        Command::Doors { seconds } => doors::rows(*seconds),
        Command::Daemon(_) => Ok(Vec::new()),
        Command::Fill { config, members, prefix } => fill::fill(config, *members, prefix).map(|()| Vec::new()),
    };
    match rows.and_then(|rows| finish(&rows, json.as_deref())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn finish(rows: &[Row], json: Option<&std::path::Path>) -> Result<(), Failure> {
    table::print(rows);
    if let Some(path) = json {
        std::fs::write(path, table::json(rows)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
