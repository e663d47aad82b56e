//! The relay's sockets and clock.
#![allow(
    clippy::disallowed_methods,
    reason = "this is shell: its purpose are tasks, sockets and the clock; the tasks end with their set"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use net::Shutdown;
use net::local::{Callers, Door};
use net::multicast::{MulticastError, Receiver, Sender};
use net::reload::{Readings, Reloads};
use protocol::unit::MAX_DATAGRAM;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::config::{Input, Output, Settings, keys};
use super::core::{Core, Counters};
use super::status;

/// Datagrams of all inputs that wait for the core. The socket before it is where loss happens.
const MAX_WAITING: usize = 1_024;
/// Datagrams taken at a time; those of them that pass leave in few system calls.
const BATCH: usize = 128;
/// Pause after an input that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the relay ended.
#[derive(Debug, Error)]
pub(super) enum RunError {
    /// An input or output cannot be opened.
    #[error(transparent)]
    Multicast(#[from] MulticastError),
    /// The socket for the status cannot be had.
    #[error("cannot listen on the status socket: {0}")]
    Status(io::Error),
    /// The system refuses the signal handlers.
    #[error("signals: {0}")]
    Signals(io::Error),
}

/// What is told of a running relay.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) counters: Counters,
    /// Days for which the site certificate still holds.
    pub(super) site_certificate_days: u64,
    /// What became of files that were read again.
    pub(super) files: BTreeMap<&'static str, Readings>,
    /// Groups and blocks remembered.
    pub(super) groups: usize,
    pub(super) blocks: usize,
    pub(super) inputs: Vec<Traffic>,
    pub(super) outputs: Vec<Traffic>,
}

/// Datagrams of one input or output.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Traffic {
    address: SocketAddr,
    datagrams: u64,
    /// Times that the system refused to receive or send.
    errors: u64,
}

/// A datagram, by which input it came, and from where.
type Arrived = (usize, SocketAddr, Vec<u8>);

struct Way {
    sender: Sender,
    output: Output,
    leaving: Vec<Vec<u8>>,
    traffic: Traffic,
    /// The last datagram could not be sent; said once.
    fails: bool,
}

/// Runs until `shutdown`.
///
/// # Errors
/// See [`RunError`].
pub(super) async fn run(settings: Settings, shutdown: Shutdown) -> Result<(), RunError> {
    let mut ways: Vec<Way> = settings.outputs.iter().map(Way::open).collect::<Result<_, _>>()?;
    let receivers: Vec<Receiver> = settings.inputs.iter().map(open).collect::<Result<_, _>>()?;
    let inputs: Arc<[Input]> = settings.inputs.into();
    let (arrives, mut arrived) = mpsc::channel(MAX_WAITING);
    let (report, reports) = watch::channel(Report::default());
    let errors: Arc<[AtomicU64]> = inputs.iter().map(|_| AtomicU64::new(0)).collect();
    let mut received = vec![0u64; inputs.len()];
    let mut tasks = JoinSet::new();
    for (at, receiver) in receivers.into_iter().enumerate() {
        tasks.spawn(receive(Arc::clone(&inputs), at, receiver, arrives.clone(), Arc::clone(&errors)));
    }
    if let Some(path) = &settings.status_socket {
        let door = Door::open(path, Callers::Anybody).map_err(RunError::Status)?;
        tasks.spawn(status::serve(door, reports));
    }
    let mut core = Core::new(keys(&settings.site));
    let reloads = Reloads::default();
    let mut site = settings.site_files.follow(settings.site, &reloads).map_err(RunError::Signals)?;
    let started = Instant::now();
    let mut log = tokio::time::interval_at((started + settings.report).into(), settings.report);
    log.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tracing::info!(inputs = inputs.len(), outputs = ways.len(), "relay is up");
    let mut batch: Vec<Arrived> = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            () = shutdown.wait() => break,
            _ = log.tick() => tell(&core),
            () = site.changed() => core.trust(keys(&site.get())),
            _ = arrived.recv_many(&mut batch, BATCH) => {}
        }
        for (input, from, datagram) in batch.drain(..) {
            received[input] += 1;
            if core.handle(started.elapsed(), from, &datagram).is_ok() {
                let ways = ways.iter_mut().filter(|way| !way.output.leads_back_to(&inputs[input]));
                ways.for_each(|way| way.leaving.push(datagram.clone()));
            }
        }
        for way in &mut ways {
            way.send().await;
        }
        let (groups, blocks) = core.remembered();
        let traffic = inputs.iter().zip(&received).zip(errors.iter()).map(|((input, datagrams), errors)| Traffic {
            address: input.address,
            datagrams: *datagrams,
            errors: errors.load(Ordering::Relaxed),
        });
        let (inputs, outputs) = (traffic.collect(), ways.iter().map(|way| way.traffic.clone()).collect());
        let site_certificate_days = site.get().days_left();
        report.send_replace(Report {
            counters: core.counters(),
            site_certificate_days,
            files: reloads.readings(),
            groups,
            blocks,
            inputs,
            outputs,
        });
    }
    tasks.shutdown().await;
    tell(&core);
    tracing::info!("ended");
    Ok(())
}

fn tell(core: &Core) {
    let Counters { passed, malformed, old, duplicate, forged, unchecked, crowded, signatures } = core.counters();
    let (groups, blocks) = core.remembered();
    tracing::info!(
        passed,
        malformed,
        old,
        duplicate,
        forged,
        unchecked,
        crowded,
        signatures,
        groups,
        blocks,
        "datagrams since the start"
    );
}

fn open(input: &Input) -> Result<Receiver, MulticastError> {
    match &input.multicast {
        Some(options) => Receiver::open(input.address, options),
        None => Receiver::unicast(input.address),
    }
}

/// Until it is aborted.
async fn receive(
    inputs: Arc<[Input]>,
    at: usize,
    mut receiver: Receiver,
    arrives: mpsc::Sender<Arrived>,
    errors: Arc<[AtomicU64]>,
) {
    // One octet more than any datagram of ours, so that a longer one is not taken for one of ours.
    let mut buf = [0; MAX_DATAGRAM + 1];
    loop {
        match receiver.recv(&mut buf).await {
            Ok((length, from)) => {
                let datagram = buf.get(..length).unwrap_or_default().to_vec();
                if arrives.send((at, from, datagram)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                errors[at].fetch_add(1, Ordering::Relaxed);
                tracing::warn!(input = %inputs[at].address, %error, "cannot receive");
                tokio::time::sleep(PAUSE).await;
                // An interface may have come back.
                if let Ok(again) = open(&inputs[at]) {
                    receiver = again;
                }
            }
        }
    }
}

impl Way {
    fn open(output: &Output) -> Result<Self, MulticastError> {
        let address = output.address;
        let sender = match &output.multicast {
            Some(options) => Sender::open(address, options)?,
            None => Sender::unicast(address, output.dscp)?,
        };
        let traffic = Traffic { address, datagrams: 0, errors: 0 };
        Ok(Self { sender, output: output.clone(), leaving: Vec::new(), traffic, fails: false })
    }

    /// What is lost here is lost like any datagram: members notice.
    async fn send(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let output = self.traffic.address;
        let failed = self.sender.send_all(&self.leaving).await.err();
        match &failed {
            Some(error) if !self.fails => tracing::warn!(%output, %error, "cannot send"),
            None if self.fails => tracing::info!(%output, "can send again"),
            _ => {}
        }
        self.fails = failed.is_some();
        self.traffic.errors += u64::from(self.fails);
        self.traffic.datagrams += u64::try_from(self.leaving.len()).unwrap_or(0);
        self.leaving.clear();
    }
}
