//! `keystone mcast recv`: the shell around [`Receiver`].

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use net::multicast::{self, Interface, ReceiveOptions};
use net::{Exit, Shutdown};
use thiserror::Error;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::packet::{MAX_PACKET, octets_of};
use super::receiver::{Limits, Receiver};
use super::report::Ranges;
use super::send::out_of_group;
use super::stream::Output;
use super::watch::Feed;
use super::{Clock, JsonLines, KeyArgs, fail};

/// Octets that a packet takes beside its own while it waits for the first word of the feed.
const EARLY: usize = 64;
/// How long a reader that does not read may delay the end after a signal.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Options of `recv`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct RecvArgs {
    /// Where the keys come from.
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// Multicast address and port to receive from
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// Interface to receive on, by name or by an address of it; 0.0.0.0 is the system's choice
    #[arg(long, value_name = "NAME|IP", default_value = "127.0.0.1")]
    pub(crate) interface: Interface,
    /// Receive from this sender only, may be given up to 10 times (default: from all; IPv4 groups only)
    #[arg(long = "source", value_name = "IP")]
    pub(crate) sources: Vec<IpAddr>,
    /// File for a JSON line for each range written: stream, sender, epoch, from_octet, to_octet
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Octets of packets that may wait for their key, and again for an earlier packet (default: 16 s at 8 Mbit/s)
    #[arg(long, value_name = "OCTETS", default_value_t = 16 << 20)]
    pub(crate) hold_octets: usize,
    /// Streams tracked at a time, 1 to 4096; a start of a sender makes one (default: some senders, each started a few times
    /// while keys of the older streams are alive)
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) streams: u16,
    /// For demonstrations: go on after leaving or eviction with the keys held, and count what cannot be read
    #[arg(long)]
    pub(crate) keep_listening: bool,
    /// File for a JSON summary at the end
    #[arg(long, value_name = "FILE")]
    pub(crate) output_stats: Option<PathBuf>,
    /// End when nothing came for so many milliseconds after the first packet; 0 is never
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) idle_ms: u64,
}

/// Why receiving ended early.
#[derive(Debug, Error)]
enum Stop {
    #[error("{0}")]
    Out(String),
    #[error("cannot receive: {0}")]
    Network(io::Error),
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("cannot write the log: {0}")]
    Log(io::Error),
    #[error("ended by a signal before the feed told the group's number")]
    NoFeed,
}

struct Run<W> {
    output: W,
    log: JsonLines,
    ranges: Ranges,
    feed: Feed,
    clock: Clock,
    shutdown: Shutdown,
    keep_listening: bool,
    idle: Option<Duration>,
}

/// Receives until every stream has ended, a signal, silence, or the member is out.
pub(super) async fn run(args: RecvArgs, output: impl AsyncWrite + Unpin, shutdown: Shutdown) -> Exit {
    let options = ReceiveOptions { interface: args.interface, sources: args.sources };
    let mut socket = match multicast::Receiver::open(args.listen, &options) {
        Ok(socket) => socket,
        Err(why @ multicast::MulticastError::Socket { .. }) => return fail(Exit::Failure, why),
        Err(why) => return fail(Exit::Usage, why),
    };
    let files = JsonLines::create(args.log.as_deref())
        .and_then(|log| Ok((log, JsonLines::create(args.output_stats.as_deref())?)));
    let (log, mut stats) = match files {
        Ok(files) => files,
        Err(why) => {
            return fail(Exit::Usage, format_args!("cannot create the log or summary: {why}"));
        }
    };
    let clock = Clock::start();
    let consumer = format!("mcast-recv-{}", std::process::id());
    let mut run = Run {
        output,
        log,
        ranges: Ranges::default(),
        feed: Feed::open(args.keys.socket, args.keys.group, consumer, clock),
        clock,
        shutdown,
        keep_listening: args.keep_listening,
        idle: (args.idle_ms > 0).then(|| Duration::from_millis(args.idle_ms)),
    };
    let (group, early) = match run.group(&mut socket, args.hold_octets).await {
        Ok(found) => found,
        Err(why @ Stop::Out(_)) => return fail(Exit::NotMember, why),
        Err(why) => return fail(Exit::Unreachable, why),
    };
    let limits = Limits { hold_octets: args.hold_octets, streams: args.streams.into() };
    let mut receiver = Receiver::new(group, limits);
    let mut ended = run.news(&mut receiver);
    for datagram in early {
        receiver.datagram(clock.now(), &datagram);
    }
    if ended.is_ok() {
        ended = run.receive(&mut receiver, &mut socket).await;
    }
    receiver.close();
    // What can still be written is; the first fault is the one to tell.
    ended = ended.and(run.write(&mut receiver).await);
    for range in run.ranges.close() {
        ended = ended.and(run.log.line(&range).map_err(Stop::Log));
    }
    let report = receiver.report();
    ended = ended.and(stats.line(&report).map_err(Stop::Log));
    eprintln!("keystone: {report}");
    match ended {
        Err(why @ Stop::Out(_)) => fail(Exit::NotMember, why),
        Err(why) => fail(Exit::Failure, why),
        Ok(()) if report.complete => Exit::Ok,
        Ok(()) => Exit::Failure,
    }
}

impl<W: AsyncWrite + Unpin> Run<W> {
    /// The number of the group, once the feed says it, and what came in the meantime: the newest `hold` octets of it,
    /// because a member that joins needs what is sent from its join on, and the socket's own buffer keeps the oldest.
    async fn group(&mut self, socket: &mut multicast::Receiver, hold: usize) -> Result<(u32, VecDeque<Vec<u8>>), Stop> {
        let shutdown = self.shutdown.clone();
        let (mut early, mut held, mut buffer) = (VecDeque::new(), 0, [0; MAX_PACKET + 1]);
        loop {
            if let Some(state) = self.feed.link().state {
                match state.group {
                    Some(group) => {
                        // The state is news to the receiver too.
                        self.feed.unseen();
                        return Ok((group, early));
                    }
                    None if state.status.is_over() => return Err(Stop::Out(out_of_group(&state))),
                    None => {}
                }
            }
            tokio::select! {
                () = shutdown.wait() => return Err(Stop::NoFeed),
                () = self.feed.changed() => {}
                received = socket.recv(&mut buffer) => {
                    let (length, _) = received.map_err(Stop::Network)?;
                    early.push_back(buffer[..length].to_vec());
                    held += EARLY + length;
                    while held > hold && let Some(oldest) = early.pop_front() {
                        held -= EARLY + oldest.len();
                    }
                }
            }
        }
    }

    async fn receive(&mut self, receiver: &mut Receiver, socket: &mut multicast::Receiver) -> Result<(), Stop> {
        // One more octet than a packet has, so that one that is too long does not pass for one that fits.
        let mut buffer = [0; MAX_PACKET + 1];
        let (clock, shutdown) = (self.clock, self.shutdown.clone());
        let mut idle_at = None;
        loop {
            self.write(receiver).await?;
            if receiver.is_finished() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = shutdown.wait() => {
                    return self.drain(receiver, socket, &mut buffer).await;
                }
                () = self.feed.changed() => self.news(receiver)?,
                received = socket.recv(&mut buffer) => {
                    let (length, _) = received.map_err(Stop::Network)?;
                    let now = clock.now();
                    receiver.datagram(now, &buffer[..length]);
                    self.feed.missing(receiver.missing());
                    idle_at = self.idle.map(|idle| now + idle);
                }
                () = clock.sleep_until(receiver.timeout()) => receiver.tick(clock.now()),
                () = clock.sleep_until(idle_at) => {
                    tracing::info!("nothing came for {} ms", self.idle.unwrap_or_default().as_millis());
                    return Ok(());
                }
            }
        }
    }

    /// Reads what the system holds for us already; what comes later is not waited for.
    async fn drain(
        &mut self,
        receiver: &mut Receiver,
        socket: &mut multicast::Receiver,
        buffer: &mut [u8],
    ) -> Result<(), Stop> {
        let until = self.clock.now() + LAST_WRITE;
        while self.clock.now() < until {
            let soon = tokio::time::timeout(Duration::from_millis(1), socket.recv(buffer));
            let Ok(received) = soon.await else { break };
            let (length, _) = received.map_err(Stop::Network)?;
            receiver.datagram(self.clock.now(), &buffer[..length]);
            self.write(receiver).await?;
        }
        Ok(())
    }

    /// Takes what the feed says now.
    fn news(&mut self, receiver: &mut Receiver) -> Result<(), Stop> {
        let Some(state) = self.feed.link().state else {
            return Ok(());
        };
        match (state.status.is_over(), self.keep_listening) {
            (true, false) => return Err(Stop::Out(out_of_group(&state))),
            (true, true) => {
                tracing::warn!("{}; listening on with the keys held", out_of_group(&state));
                receiver.freeze();
            }
            (false, _) => receiver.feed(self.clock.now(), &state),
        }
        if let Some(epoch) = receiver.epoch() {
            self.feed.applied(epoch);
        }
        Ok(())
    }

    /// Writes what is readable.
    async fn write(&mut self, receiver: &mut Receiver) -> Result<(), Stop> {
        let mut wrote = false;
        while let Some(output) = receiver.output() {
            match output {
                Output::Data { stream, epoch, offset, octets } => {
                    write(&self.shutdown, self.output.write_all(&octets)).await?;
                    wrote = true;
                    if let Some(range) = self.ranges.add(stream, epoch, offset, octets_of(octets.len())) {
                        self.log.line(&range).map_err(Stop::Log)?;
                    }
                }
                Output::Gap { stream, counters, octets } => {
                    let (id, packets) = (hex::encode(stream.id), counters.end - counters.start);
                    let (from, to) = (octets.start, octets.end);
                    tracing::warn!("stream {id}: {packets} packets are missing, octets {from} to {to}");
                }
            }
        }
        match wrote {
            true => write(&self.shutdown, self.output.flush()).await,
            false => Ok(()),
        }
    }
}

/// Waits for a write, but not for ever once a signal came.
async fn write(shutdown: &Shutdown, write: impl Future<Output = io::Result<()>>) -> Result<(), Stop> {
    let patience = async {
        shutdown.wait().await;
        tokio::time::sleep(LAST_WRITE).await;
    };
    tokio::select! {
        biased;
        written = write => written.map_err(Stop::Output),
        () = patience => Err(Stop::Output(io::ErrorKind::TimedOut.into())),
    }
}
