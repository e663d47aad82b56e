//! The tokio shell of the registrar.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell owns the clock and the sockets")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use net::admission::{Admission, Ticket};
use net::config::ConfigError;
use net::entropy::OsEntropy;
use net::exit::Exit;
use net::frame::{FrameError, read_frame, write_frame};
use net::shutdown::Shutdown;
use protocol::identity::Identity;
use protocol::registration::{ALPN_CLIENT, ALPN_REGISTRAR, MAX_FRAME};
use protocol::{Credential, Entropy, IndividualKey};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use crate::config::Checked;
use crate::core::{Core, Event, Input, Output};

/// Arguments of the registrar.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration and all files that it names, and stop.
    #[arg(long)]
    pub check: bool,
    /// Log as JSON lines.
    #[arg(long)]
    pub log_json: bool,
}

/// Why the registrar does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] net::tls::TlsError),
    /// A port cannot be had.
    #[error("cannot listen on {what}: {source}")]
    Listen {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Octets of a client's frame: a name of 64 octets and its head.
const MAX_CLIENT_FRAME: usize = 128;
/// Commands that wait for the core.
const QUEUE: usize = 1_024;
/// Sessions that are open at a stop get this long.
const DRAIN: Duration = Duration::from_secs(5);
/// After the last frame the client has this long to close its end.
const LINGER: Duration = Duration::from_secs(1);
/// Time to connect to the key server and shake hands.
const CONNECT: Duration = Duration::from_secs(10);
/// Bounds of the wait between attempts to reach the key server.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The binary `registrar`.
pub fn main(args: Args) -> ExitCode {
    let checked = match net::logs::init(args.log_json).and_then(|()| Checked::load(&args.config)) {
        Ok(checked) => checked,
        Err(error) => {
            eprintln!("registrar: {error}");
            return Exit::Usage.into();
        }
    };
    if args.check {
        println!("{}: ok", args.config.display());
        return Exit::Ok.into();
    }
    let result = tokio::runtime::Runtime::new()
        .map_err(|source| RunError::Listen { what: "the runtime".into(), source })
        .and_then(|runtime| {
            runtime.block_on(async {
                let shutdown =
                    Shutdown::on_signals().map_err(|source| RunError::Listen { what: "signals".into(), source })?;
                run(checked, shutdown).await
            })
        });
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("registrar: {error}");
            Exit::Failure.into()
        }
    }
}

enum Command {
    LinkUp(mpsc::Sender<Zeroizing<Vec<u8>>>),
    LinkDown,
    FromKeyServer(Vec<u8>),
    ClientUp(u64, (Identity, Credential), mpsc::Sender<ForClient>),
    FromClient(u64, Vec<u8>),
    Exported(u64, IndividualKey),
    ClientDown(u64),
}

enum ForClient {
    Frame(Vec<u8>, bool),
    Export(Vec<u8>, oneshot::Sender<IndividualKey>),
}

/// Runs until `shutdown`, then lets open sessions end.
pub async fn run(checked: Checked, shutdown: Shutdown) -> Result<(), RunError> {
    let Checked { core, file, key_server, credentials } = checked;
    let for_clients = net::tls::server_config(&credentials, ALPN_CLIENT)?;
    let for_key_server = net::tls::client_config(&credentials, key_server, ALPN_REGISTRAR)?;
    let listener = TcpListener::bind(file.listen)
        .await
        .map_err(|source| RunError::Listen { what: file.listen.to_string(), source })?;
    tracing::info!(listen = %file.listen, identity = %credentials.identity(), "registrar is up");
    let (commands, queue) = mpsc::channel(QUEUE);
    let engine = Engine::new(Core::new(core), commands.clone(), queue);
    tokio::select! {
        () = engine.run(shutdown.clone()) => {}
        () = clients(listener, for_clients, commands.clone(), shutdown) => {}
        () = link([vec![file.key_server_address], file.standby_addresses].concat(), for_key_server, commands) => {}
    }
    Ok(())
}

struct Engine {
    core: Core,
    commands: mpsc::Sender<Command>,
    queue: mpsc::Receiver<Command>,
    key_server: Option<mpsc::Sender<Zeroizing<Vec<u8>>>>,
    sessions: BTreeMap<u64, mpsc::Sender<ForClient>>,
    started: Instant,
}

impl Engine {
    fn new(core: Core, commands: mpsc::Sender<Command>, queue: mpsc::Receiver<Command>) -> Self {
        let (key_server, sessions) = (None, BTreeMap::new());
        Self { core, commands, queue, key_server, sessions, started: Instant::now() }
    }

    async fn run(mut self, shutdown: Shutdown) {
        let mut stopping: Option<Instant> = None;
        loop {
            // A session ends with its task: only then has its last frame left.
            let over = stopping.is_some_and(|since| self.sessions.is_empty() || since.elapsed() >= DRAIN);
            if over {
                tracing::info!("drained; registrar ends");
                return;
            }
            let timer = self.core.poll_timeout().map(|(at, _)| self.started + at);
            let end = stopping.map(|since| since + DRAIN);
            let wake = timer.into_iter().chain(end).min().unwrap_or_else(|| Instant::now() + DRAIN);
            tokio::select! {
                command = self.queue.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => self.feed(Input::Timeout),
                () = shutdown.wait(), if stopping.is_none() => stopping = Some(Instant::now()),
            }
            self.drain();
        }
    }

    fn feed(&mut self, input: Input<'_>) {
        self.core.handle(self.started.elapsed(), input);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::LinkUp(frames) => {
                self.key_server = Some(frames);
                self.feed(Input::LinkUp);
            }
            Command::LinkDown => {
                self.key_server = None;
                self.feed(Input::LinkDown);
            }
            Command::FromKeyServer(frame) => self.feed(Input::FromKeyServer(&frame)),
            Command::ClientUp(session, (identity, credential), to_client) => {
                self.sessions.insert(session, to_client);
                self.feed(Input::ClientUp { session, identity, credential });
            }
            Command::FromClient(session, frame) => self.feed(Input::FromClient { session, frame: &frame }),
            Command::Exported(session, key) => self.feed(Input::Exported { session, key }),
            Command::ClientDown(session) => {
                self.sessions.remove(&session);
                self.feed(Input::ClientDown { session });
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::ToKeyServer(frame) => {
                    let sent = self.key_server.as_ref().map(|frames| frames.try_send(frame));
                    if !matches!(sent, Some(Ok(()))) {
                        // A link that does not take frames is none.
                        self.key_server = None;
                    }
                }
                Output::CutKeyServer => {
                    tracing::warn!("the key server broke the protocol or answers nothing; connecting anew");
                    self.key_server = None;
                }
                Output::Export { session, context } => self.export(session, context),
                Output::ToClient { session, frame, close } => {
                    if let Some(client) = self.sessions.get(&session) {
                        // It fails only when the client's task has ended, which is on its way as `ClientDown`.
                        let _ = client.try_send(ForClient::Frame(frame, close));
                    }
                }
                Output::Event(Event::ClientList { clients }) => {
                    tracing::info!(clients, "client list received")
                }
                Output::Event(Event::Registered { client, identity }) => {
                    tracing::info!(%client, %identity, "registered");
                }
                Output::Event(Event::Refused { identity, why }) => {
                    tracing::info!(%identity, why, "refused")
                }
            }
        }
    }

    fn export(&self, session: u64, context: Vec<u8>) {
        let (answer, answered) = oneshot::channel();
        if let Some(client) = self.sessions.get(&session)
            && client.try_send(ForClient::Export(context, answer)).is_ok()
        {
            let commands = self.commands.clone();
            tokio::spawn(async move {
                if let Ok(key) = answered.await {
                    drop(commands.send(Command::Exported(session, key)).await);
                }
            });
        }
    }
}

async fn clients(listener: TcpListener, tls: Arc<ServerConfig>, commands: mpsc::Sender<Command>, shutdown: Shutdown) {
    let admission = Admission::default();
    let mut session = 0;
    loop {
        let (stream, from, ticket) = tokio::select! {
            next = admission.next(&listener) => next,
            // Sessions that are open end in the engine's time; no new ones come.
            () = shutdown.wait() => {
                drop(listener);
                return std::future::pending().await;
            }
        };
        session += 1;
        let (tls, commands) = (tls.clone(), commands.clone());
        tokio::spawn(async move {
            if let Err(error) = client(stream, tls, ticket, session, &commands).await {
                tracing::debug!(%from, %error, "a client's session ended");
            }
            drop(commands.send(Command::ClientDown(session)).await);
        });
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn client(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    ticket: Ticket,
    session: u64,
    commands: &mpsc::Sender<Command>,
) -> Result<(), Failure> {
    let (mut stream, identity) = net::tls::accept(stream, tls, ticket).await?;
    let (to_client, mut for_client) = mpsc::channel(8);
    let credential = net::tls::peer_credential(stream.get_ref().1)?;
    commands.send(Command::ClientUp(session, (identity, credential), to_client)).await?;
    // A client says one thing. What it sends after that is not looked at; the core's deadline bounds the wait.
    let frame = tokio::select! {
        frame = read_frame(&mut stream, MAX_CLIENT_FRAME) => frame,
        early = for_client.recv() => return last(stream, early).await,
    };
    let frame = match frame {
        Ok(Some(frame)) => frame,
        Ok(None) => return Ok(()),
        // No message has such a length: the core is told of none, and refuses.
        Err(FrameError::Oversized { .. } | FrameError::Empty) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    commands.send(Command::FromClient(session, frame)).await?;
    while let Some(message) = for_client.recv().await {
        match message {
            ForClient::Export(context, answer) => {
                let key = net::tls::individual_key_from(stream.get_ref().1, &context)?;
                drop(answer.send(key));
            }
            ForClient::Frame(frame, false) => write_frame(&mut stream, &frame).await?,
            end @ ForClient::Frame(_, true) => return last(stream, Some(end)).await,
        }
    }
    Ok(())
}

/// Sends the last frame, and closes when the client has or after [`LINGER`]: closing with octets unread resets the
/// connection, and the reset can overtake the frame.
async fn last(mut stream: TlsStream<TcpStream>, message: Option<ForClient>) -> Result<(), Failure> {
    if let Some(ForClient::Frame(frame, _)) = message {
        write_frame(&mut stream, &frame).await?;
        stream.shutdown().await?;
        let mut unread = [0; 512];
        let rest = async { while stream.read(&mut unread).await.is_ok_and(|octets| octets > 0) {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
    Ok(())
}

/// Keeps one connection to the key server for ever. One that only stands by cuts it, and the next is asked; the pause grows
/// once a round.
async fn link(addresses: Vec<std::net::SocketAddr>, tls: Arc<ClientConfig>, commands: mpsc::Sender<Command>) {
    let mut wait = BACK_OFF.0;
    for (turn, address) in (1..).zip(addresses.iter().copied().cycle()) {
        let since = Instant::now();
        match connection(address, tls.clone(), &commands).await {
            Ok(()) => tracing::warn!(%address, "the key server closed the connection"),
            Err(error) => tracing::warn!(%address, %error, "no connection to the key server"),
        }
        drop(commands.send(Command::LinkDown).await);
        if since.elapsed() > BACK_OFF.1 {
            wait = BACK_OFF.0;
        }
        let jitter = OsEntropy.below(u64::try_from(wait.as_millis()).unwrap_or(0));
        tokio::time::sleep(wait / 2 + Duration::from_millis(jitter)).await;
        if turn % addresses.len() == 0 {
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }
}

async fn connection(
    address: std::net::SocketAddr,
    tls: Arc<ClientConfig>,
    commands: &mpsc::Sender<Command>,
) -> Result<(), Failure> {
    let stream = net::tls::connect(address, tls, CONNECT).await?;
    tracing::info!(%address, "connected to the key server");
    let (frames, mut to_send) = mpsc::channel::<Zeroizing<Vec<u8>>>(QUEUE);
    commands.send(Command::LinkUp(frames)).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        // The engine drops its end to cut the connection.
        while let Some(frame) = to_send.recv().await {
            write_frame(&mut writer, &frame).await?;
        }
        Ok::<_, Failure>(())
    };
    let read = async {
        while let Some(frame) = read_frame(&mut reader, MAX_FRAME).await? {
            commands.send(Command::FromKeyServer(frame)).await?;
        }
        Ok::<_, Failure>(())
    };
    tokio::select! {
        result = write => result,
        result = read => result,
    }
}
