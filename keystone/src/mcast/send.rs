//! `keystone mcast send`: the shell around [`Sender`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use net::multicast::{self, Interface, SendOptions};
use net::{Exit, OsEntropy, Shutdown};
use protocol::Entropy;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::feed::State;
use super::pacer::Pacer;
use super::packet::{HEADER, MAX_PAYLOAD, TAG};
use super::sender::{SendError, Sender};
use super::watch::Feed;
use super::{Clock, JsonLines, KeyArgs, fail};

/// Time between end markers.
const END_EVERY: Duration = Duration::from_millis(100);

/// Time for which a signal lets end markers go out.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Options of `send`.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct SendArgs {
    /// Where the keys come from.
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// Multicast address and port to send to
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) to: SocketAddr,
    /// Interface to send from, by name or by an address of it; 0.0.0.0 is the system's choice
    #[arg(long, value_name = "NAME|IP", default_value = "127.0.0.1")]
    pub(crate) interface: Interface,
    /// How many hops far, 1 to 255; 1 stays on the link
    #[arg(long, value_name = "HOPS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) ttl: u8,
    /// Differentiated services code point, 0 to 63
    #[arg(long, value_name = "CODE", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=63))]
    pub(crate) dscp: u8,
    /// Rate of the packets, UDP and IP headers aside
    #[arg(long, value_name = "BITS/S", default_value_t = 8_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub(crate) rate: u64,
    /// Octets of the stream in a packet, 1 to 1200
    #[arg(long, value_name = "OCTETS", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=1200))]
    pub(crate) payload: u16,
    /// File for a JSON line for each epoch used: epoch, from_octet, to_octet
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// How long the end of the stream is announced, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 3000)]
    pub(crate) linger_ms: u64,
}

/// Why the stream ended early.
#[derive(Debug, Error)]
enum Stop {
    #[error("{0}")]
    Out(String),
    #[error("the policy means this member to receive only")]
    Role,
    #[error("cannot read standard input: {0}")]
    Input(std::io::Error),
    #[error("cannot send: {0}")]
    Network(std::io::Error),
    #[error("cannot write the log: {0}")]
    Log(std::io::Error),
    #[error(transparent)]
    Core(#[from] SendError),
    #[error("a signal")]
    Signal,
}

struct Run {
    sender: Sender,
    feed: Feed,
    connected: bool,
    clock: Clock,
    pacer: Pacer,
    socket: multicast::Sender,
    log: JsonLines,
    shutdown: Shutdown,
    epoch: Option<u64>,
}

/// Sends `input` to its end.
pub(super) async fn run(args: SendArgs, mut input: impl AsyncRead + Unpin, shutdown: Shutdown) -> Exit {
    let options = SendOptions { interface: args.interface, ttl: args.ttl, dscp: args.dscp };
    let socket = match multicast::Sender::open(args.to, &options) {
        Ok(socket) => socket,
        Err(why @ multicast::MulticastError::Socket { .. }) => return fail(Exit::Failure, why),
        Err(why) => return fail(Exit::Usage, why),
    };
    let log = match JsonLines::create(args.log.as_deref()) {
        Ok(log) => log,
        Err(why) => return fail(Exit::Usage, format_args!("cannot create the log: {why}")),
    };
    let clock = Clock::start();
    let consumer = format!("mcast-send-{}", std::process::id());
    let mut run = Run {
        sender: Sender::new(OsEntropy.array()),
        feed: Feed::open(args.keys.socket, args.keys.group, consumer, clock),
        connected: false,
        clock,
        pacer: Pacer::new(args.rate),
        socket,
        log,
        shutdown,
        epoch: None,
    };
    let mut ended = run.stream(&mut input, usize::from(args.payload)).await;
    let linger = match ended {
        Err(Stop::Signal) => LAST_WORDS,
        _ => Duration::from_millis(args.linger_ms),
    };
    if matches!(ended, Ok(()) | Err(Stop::Signal)) {
        ended = run.end(linger).await;
    }
    if let Some(range) = run.sender.last_range()
        && let Err(why) = run.log.line(&range)
    {
        ended = ended.and(Err(Stop::Log(why)));
    }
    let (octets, packets) = (run.sender.octets(), run.sender.packets());
    match ended {
        Ok(()) | Err(Stop::Signal) => {
            tracing::info!("sent {octets} octets in {packets} packets");
            Exit::Ok
        }
        Err(why) => {
            let exit = match why {
                Stop::Out(_) => Exit::NotMember,
                Stop::Role => Exit::Denied,
                _ => Exit::Failure,
            };
            fail(exit, format_args!("{why}; stopped after {octets} octets in {packets} packets"))
        }
    }
}

impl Run {
    async fn stream(&mut self, input: &mut (impl AsyncRead + Unpin), payload: usize) -> Result<(), Stop> {
        let mut buffer = [0; MAX_PAYLOAD];
        loop {
            // Without a key nothing is taken from the input: somebody else may want to read it.
            self.turn(0).await?;
            let shutdown = self.shutdown.clone();
            let read = loop {
                tokio::select! {
                    biased;
                    () = shutdown.wait() => return Err(Stop::Signal),
                    () = self.feed.changed() => self.news()?,
                    read = input.read(&mut buffer[..payload]) => break read.map_err(Stop::Input)?,
                }
            };
            if read == 0 {
                return Ok(());
            }
            let now = self.turn(HEADER + read + TAG).await?;
            let (packet, range) = self.sender.data(now, &buffer[..read])?;
            if let Some(range) = range {
                self.log.line(&range).map_err(Stop::Log)?;
            }
            self.socket.send(&packet).await.map_err(Stop::Network)?;
        }
    }

    async fn end(&mut self, linger: Duration) -> Result<(), Stop> {
        let until = self.clock.now() + linger;
        loop {
            let signalled = self.shutdown.is_triggered();
            let now = match signalled {
                false => self.turn(0).await?,
                // A signal does not wait for a key.
                true => {
                    self.news()?;
                    let now = self.clock.now();
                    if !self.connected || self.sender.epoch(now).is_none() {
                        return Ok(());
                    }
                    now
                }
            };
            let packet = self.sender.end(now)?;
            self.socket.send(&packet).await.map_err(Stop::Network)?;
            let next = self.clock.now() + END_EVERY;
            if next > until {
                return Ok(());
            }
            let (clock, shutdown) = (self.clock, self.shutdown.clone());
            tokio::select! {
                () = clock.sleep_until(Some(next)) => {}
                () = shutdown.wait(), if !signalled => return Err(Stop::Signal),
            }
        }
    }

    /// Waits until a packet of so many octets may leave: there is a key, the feed is being read, and the rate allows it.
    /// Without the feed a revocation would not be heard, so nothing leaves then.
    /// Returns the time for which that holds.
    async fn turn(&mut self, octets: usize) -> Result<Duration, Stop> {
        let (clock, shutdown) = (self.clock, self.shutdown.clone());
        loop {
            if self.feed.has_changed() {
                self.news()?;
            }
            let now = clock.now();
            let epoch = self.sender.epoch(now).filter(|_| self.connected);
            let paced = self.pacer.next();
            let wake = match epoch {
                Some(epoch) if paced <= now || octets == 0 => {
                    self.uses(epoch);
                    if octets > 0 {
                        self.pacer.sent(now, octets);
                    }
                    return Ok(now);
                }
                Some(_) => Some(paced),
                None => self.sender.timeout(now),
            };
            tokio::select! {
                biased;
                () = shutdown.wait() => return Err(Stop::Signal),
                () = self.feed.changed() => self.news()?,
                () = clock.sleep_until(wake) => {}
            }
        }
    }

    /// Takes what the feed says now.
    fn news(&mut self) -> Result<(), Stop> {
        let link = self.feed.link();
        self.connected = link.connected;
        let Some(state) = link.state else {
            return Ok(());
        };
        if state.status.is_over() {
            return Err(Stop::Out(out_of_group(&state)));
        }
        if !state.may_send {
            return Err(Stop::Role);
        }
        self.sender.feed(&state);
        Ok(())
    }

    fn uses(&mut self, epoch: u64) {
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.feed.applied(epoch);
            tracing::info!("epoch {epoch} in use from octet {}", self.sender.octets());
        }
    }
}

/// Says that the member is out, and why.
pub(super) fn out_of_group(state: &State) -> String {
    let status = format!("{:?}", state.status).to_lowercase();
    match state.detail.as_str() {
        "" => format!("no longer a member of the group: {status}"),
        detail => format!("no longer a member of the group: {status} ({detail})"),
    }
}
