//! The tokio shell of the registrar: one task owns the core; the doors talk to it through a channel.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell owns the clock and the sockets")]

use std::collections::BTreeMap;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use net::config::ConfigError;
use net::exit::Exit;
use net::local::Callers;
use net::reload::{Reloaded, Reloads};
use net::seldom::Seldom;
use net::shutdown::Shutdown;
use net::tls::{CredentialFiles, Credentials, TlsError};
use protocol::identity::Identity;
use protocol::registration::{ALPN_CLIENT, ALPN_REGISTRAR, Refusal};
use protocol::{Credential, IndividualKey};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use zeroize::Zeroizing;

use crate::authentication::{ByToken, KeySet, Methods, Rules};
use crate::config::{Checked, TokenKeys, read_keys};
use crate::core::{Core, Event, Input, Output, Tally};

mod clients;
mod fetch;
mod link;
mod status;

/// Why the registrar does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port cannot be had.
    #[error("cannot listen on {what}: {source}")]
    Listen {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Commands that wait for the core.
const QUEUE: usize = 1_024;
/// Commands that are carried out in one go if so many wait.
const TOGETHER: usize = 64;
/// Sessions that are open at a stop get this long.
const DRAIN: Duration = Duration::from_secs(5);
/// Time between lines in the log that say how many were refused.
const TALLY: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The binary `registrar`.
pub fn main(args: net::Args) -> ExitCode {
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
    /// It has proved who it is, and said something.
    Client(u64, (Identity, Credential), Zeroizing<Vec<u8>>, mpsc::Sender<ForClient>),
    /// It did not prove who it is.
    Unproved(u64, Refusal, mpsc::Sender<ForClient>),
    /// A handshake, or the first frame after it, failed.
    Failed,
    /// Somebody on this host asks how it goes.
    Status(oneshot::Sender<Value>),
    Exported(u64, IndividualKey),
    ClientDown(u64),
}

enum ForClient {
    Frame(Vec<u8>, bool),
    Export(Vec<u8>),
}

/// Runs until `shutdown`, then lets open sessions end.
pub async fn run(checked: Checked, shutdown: Shutdown) -> Result<(), RunError> {
    let Checked { core, file, key_server, credentials, token } = checked;
    let own = credentials.identity().clone();
    let reloads = Reloads::default();
    let doors = Doors::follow(file.tls.clone(), credentials, key_server, token.is_some(), &reloads)?;
    let methods = Methods::new(token.map(|token| by_token(token, &reloads)).transpose()?);
    let listener =
        net::listen(file.listen).map_err(|source| RunError::Listen { what: file.listen.to_string(), source })?;
    let told = file.status_socket.as_deref().map(|path| {
        let opened = net::local::Door::open(path, Callers::Anybody);
        opened.map_err(|source| RunError::Listen { what: path.display().to_string(), source })
    });
    let told = told.transpose()?;
    tracing::info!(listen = %file.listen, identity = %own, "registrar is up");
    let (commands, queue) = mpsc::channel(QUEUE);
    let engine = Engine::new(Core::new(core), queue);
    let admission = clients::admission();
    let sources =
        status::Sources { commands: commands.clone(), doors: doors.clone(), reloads, admission: admission.clone() };
    let door = Arc::new(clients::Door { doors: doors.clone(), methods, commands: commands.clone(), admission });
    tokio::select! {
        () = engine.run(shutdown.clone()) => {}
        () = clients::serve(listener, door, shutdown) => {}
        () = status::serve(told, sources) => {}
        () = link::keep([vec![file.key_server_address], file.standby_addresses].concat(), doors, commands) => {}
    }
    Ok(())
}

/// TLS to both sides, from the same credentials.
struct Doors {
    credentials: Credentials,
    for_clients: Arc<ServerConfig>,
    to_key_server: Arc<ClientConfig>,
}

impl Doors {
    fn new(credentials: Credentials, key_server: Identity, open: bool) -> Result<Self, TlsError> {
        let for_clients = match open {
            true => net::tls::open_server_config(&credentials, ALPN_CLIENT)?,
            false => net::tls::server_config(&credentials, ALPN_CLIENT)?,
        };
        let to_key_server = net::tls::client_config(&credentials, key_server, ALPN_REGISTRAR)?;
        Ok(Self { credentials, for_clients, to_key_server })
    }

    fn follow(
        files: CredentialFiles,
        credentials: Credentials,
        key_server: Identity,
        open: bool,
        reloads: &Reloads,
    ) -> Result<Reloaded<Self>, RunError> {
        let doors = Self::new(credentials, key_server.clone(), open)?;
        let watched = files.all();
        let load = move |now: &Self| {
            let fresh = now.credentials.reload(&files).map_err(|error| error.to_string())?;
            Self::new(fresh, key_server.clone(), open).map_err(|error| error.to_string())
        };
        let remind = |doors: &Self| doors.credentials.remind();
        reloads.follow("TLS credentials", doors, watched, load, remind).map_err(signals)
    }
}

fn signals(source: std::io::Error) -> RunError {
    RunError::Listen { what: "signals".into(), source }
}

fn by_token((rules, keys): (Rules, TokenKeys), reloads: &Reloads) -> Result<ByToken, RunError> {
    let keys = match keys {
        TokenKeys::File(path, set) => {
            let files = vec![path.clone()];
            reloads.follow(fetch::KEYS, set, files, move |_| read_keys(&path), |_| {}).map_err(signals)?
        }
        TokenKeys::Address(address, roots, tls) => {
            let (replace, keys) = Reloaded::new(KeySet::default());
            tokio::spawn(fetch::follow(address, (roots, tls), replace, reloads.clone()));
            keys
        }
    };
    Ok(ByToken::new(rules, keys))
}

struct Engine {
    core: Core,
    queue: mpsc::Receiver<Command>,
    key_server: Option<mpsc::Sender<Zeroizing<Vec<u8>>>>,
    sessions: BTreeMap<u64, mpsc::Sender<ForClient>>,
    started: Instant,
    strangers: Seldom,
}

impl Engine {
    fn new(core: Core, queue: mpsc::Receiver<Command>) -> Self {
        let (key_server, sessions) = (None, BTreeMap::new());
        Self { core, queue, key_server, sessions, started: Instant::now(), strangers: Seldom::default() }
    }

    async fn run(mut self, shutdown: Shutdown) {
        let mut stopping: Option<Instant> = None;
        let mut told = (Instant::now(), Tally::default());
        // Timers and wakers cost as much as what a session does here, so they are kept as long as they may: a time-out that comes
        // early finds nothing to do.
        let mut alarm = pin!(tokio::time::sleep(DRAIN));
        let mut stop = pin!(shutdown.wait());
        let mut commands = Vec::new();
        loop {
            // A session ends with its task: only then has its last frame left.
            let over = stopping.is_some_and(|since| self.sessions.is_empty() || since.elapsed() >= DRAIN);
            if over {
                tracing::info!("drained; registrar ends");
                return;
            }
            let timer = self.core.poll_timeout().map(|(at, _)| self.started + at);
            let end = stopping.map(|since| since + DRAIN);
            let wake = timer.into_iter().chain(end).min();
            if let Some(wake) = wake.filter(|wake| *wake < alarm.deadline() || alarm.is_elapsed()) {
                alarm.as_mut().reset(wake);
            }
            tokio::select! {
                count = self.queue.recv_many(&mut commands, TOGETHER) => match count {
                    0 => return,
                    _ => for command in commands.drain(..) {
                        self.command(command);
                        self.drain();
                    },
                },
                () = &mut alarm, if wake.is_some() => self.feed(Input::Timeout),
                () = &mut stop, if stopping.is_none() => stopping = Some(Instant::now()),
            }
            self.drain();
            let tally = self.core.tally();
            if tally != told.1 && told.0.elapsed() >= TALLY {
                let Tally { registered, refused, unproved, failed } = tally;
                tracing::info!(registered, refused, unproved, failed, "clients since the start");
                told = (Instant::now(), tally);
            }
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
            Command::Client(session, (identity, credential), frame, to_client) => {
                self.sessions.insert(session, to_client);
                self.feed(Input::ClientUp { session, identity, credential });
                self.drain();
                self.feed(Input::FromClient { session, frame: &frame });
            }
            Command::Unproved(session, refusal, to_client) => {
                self.sessions.insert(session, to_client);
                self.feed(Input::Unproved { session, refusal });
            }
            Command::Failed => self.feed(Input::Failed),
            // Who asked may have gone.
            Command::Status(answer) => drop(answer.send(status::of(&self.core))),
            Command::Exported(session, key) => self.feed(Input::Exported { session, key }),
            Command::ClientDown(session) => {
                self.sessions.remove(&session);
                self.feed(Input::ClientDown { session });
            }
        }
    }

    fn tell(&self, session: u64, message: ForClient) {
        if let Some(client) = self.sessions.get(&session) {
            // It fails only when the client's task has ended, which is on its way as `ClientDown`.
            let _ = client.try_send(message);
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
                Output::Export { session, context } => self.tell(session, ForClient::Export(context)),
                Output::ToClient { session, frame, close } => self.tell(session, ForClient::Frame(frame, close)),
                Output::Event(Event::ClientList { clients }) => {
                    tracing::info!(clients, "client list received")
                }
                Output::Event(Event::Registered { client, identity }) => {
                    tracing::info!(%client, %identity, "registered");
                }
                Output::Event(Event::Refused { identity, why }) => {
                    tracing::info!(%identity, why, "refused")
                }
                Output::Event(Event::Unproved { why }) => {
                    if let Some(unsaid) = self.strangers.turn() {
                        tracing::info!(why, unsaid, "refused: not known who it is");
                    }
                }
            }
        }
    }
}
