//! The shell: owns the clock, the sockets and the individual key, and does what the core wants done.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this is shell: its purpose are tasks, sockets and the clock; the end of every task is waited for in `tasks`"
)]

mod events;
mod multicast;
mod published;
mod register;
mod request;
mod stream;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net::{Exit, OsEntropy, Shutdown};
use protocol::request::RequestId;
use protocol::{GroupId, IndividualKey};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use zeroize::Zeroizing;
use zk::Session;

pub use register::{Registered, RegistrationFailed, register};
pub use request::{RequestFailed, request};

use crate::config::{OnStop, Settings};
use crate::core::{Core, Event, Input, Output};
use crate::feed::{Clock, Command, Feed, FeedError};
use crate::trust::SITE;

/// Datagrams and answers that wait for the core: more than a socket's buffer holds, so the socket is where loss happens.
const MAX_HAPPENED: usize = 4_096;

/// What a client believes of a door that has no place: that it has one in so long a time. Below, asking again would cost more
/// than is won; above, anybody who can answer first could keep clients away.
const BELIEVED: [Duration; 2] = [Duration::from_millis(50), net::line::LONGEST];

fn believed(wait: Duration) -> Duration {
    wait.clamp(BELIEVED[0], BELIEVED[1])
}

/// Why the daemon ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// The feed's socket cannot be served.
    #[error("the feed: {0}")]
    Feed(#[from] FeedError),
    /// The registrars refuse this client for good.
    #[error("every registrar refuses this client; ask the operator which identities may register")]
    Refused,
    /// The system refuses the signal handlers.
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

impl From<&RunError> for Exit {
    fn from(error: &RunError) -> Self {
        match error {
            RunError::Refused => Self::Denied,
            RunError::Feed(_) | RunError::Signals(_) => Self::Failure,
        }
    }
}

/// What the tasks of the shell bring home.
enum Happened {
    Datagram(Vec<u8>),
    Registered(Result<Registered, RegistrationFailed>),
    Replied {
        id: RequestId,
        reply: Result<Zeroizing<Vec<u8>>, RequestFailed>,
    },
    Subscribed {
        id: RequestId,
        message: Zeroizing<Vec<u8>>,
    },
    StreamEnded {
        id: RequestId,
    },
    Now {
        group: GroupId,
        octets: Vec<u8>,
    },
    Read {
        id: u64,
        group: GroupId,
        values: Vec<Option<Vec<u8>>>,
    },
    ReadFailed {
        id: u64,
        group: GroupId,
    },
    /// A site certificate of the key server was taken.
    Trusted,
}

/// Runs the daemon until it is told to end or refused for good. The feed's socket exists as long as it runs.
///
/// # Errors
/// See [`RunError`].
pub async fn run(settings: Settings, shutdown: Shutdown) -> Result<(), RunError> {
    let clock = Clock::start();
    let (commands, mut commanded) = mpsc::channel(crate::feed::MAX_WAITING);
    let feed = Feed::open(&settings.socket, settings.allow_uids.clone(), clock, commands)?;
    let (happens, mut happened) = mpsc::channel(MAX_HAPPENED);
    let mut core = Core::new(settings.core(), Box::new(OsEntropy));
    core.handle(clock.now(), settings.trusted());
    let leave = settings.on_stop == OnStop::Leave;
    tracing::info!(identity = %settings.credential.identity(), socket = %settings.socket.display(), "started");
    if settings.impairment.loss > 0.0 {
        tracing::warn!(loss = settings.impairment.loss, "rekey datagrams are dropped on purpose");
    }
    let published = settings.published.clone().map(|options| Arc::new(Session::new(options)));
    let mut renewed = settings.credential.follow(&settings.reloads).map_err(RunError::Signals)?;
    let _roots = settings.credential.follow_roots(&settings.reloads).map_err(RunError::Signals)?;
    let mut trusted = settings.trust.follow(&settings.reloads).map_err(RunError::Signals)?;
    let mut shell = Shell {
        settings: Arc::new(settings),
        feed,
        happens,
        tasks: JoinSet::new(),
        receivers: BTreeMap::new(),
        stream: None,
        published,
        followers: BTreeMap::new(),
        lost: BTreeMap::new(),
        destinations: BTreeMap::new(),
        individual_key: None,
        is_refused: false,
    };
    let mut is_stopping = false;
    loop {
        while let Some(output) = core.poll_output() {
            if shell.perform(&core, output) {
                return shell.end().await;
            }
        }
        let wake = core.poll_timeout().map(|(at, why)| {
            tracing::trace!(?at, why, "next");
            clock.at(at)
        });
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.wait(), if !is_stopping => {
                is_stopping = true;
                core.handle(clock.now(), Input::Stop { leave });
            }
            Some(command) = commanded.recv() => shell.command(&mut core, clock, command),
            () = renewed.changed(), if !is_stopping => core.handle(clock.now(), Input::Credential),
            () = trusted.changed() => core.handle(clock.now(), shell.settings.trusted()),
            Some(what) = happened.recv() => shell.happened(&mut core, clock, what),
            () = sleep => core.handle(clock.now(), Input::Timeout),
            Some(_) = shell.tasks.join_next() => {}
        }
    }
}

struct Shell {
    settings: Arc<Settings>,
    feed: Feed,
    happens: mpsc::Sender<Happened>,
    tasks: JoinSet<()>,
    receivers: BTreeMap<SocketAddr, AbortHandle>,
    /// What listens to the key server over TCP.
    stream: Option<AbortHandle>,
    /// Where groups are published.
    published: Option<Arc<Session>>,
    /// What follows the newest beacon of each group that is read there.
    followers: BTreeMap<GroupId, AbortHandle>,
    /// Datagrams dropped on purpose, by destination; kept after the end of a membership, for whoever asks then. There are
    /// no more destinations than groups were ever joined, and their number is bounded.
    lost: BTreeMap<SocketAddr, Arc<AtomicU64>>,
    /// The last destination of each group.
    destinations: BTreeMap<String, SocketAddr>,
    individual_key: Option<IndividualKey>,
    is_refused: bool,
}

impl Shell {
    /// Whether the core has stopped.
    fn perform(&mut self, core: &Core, output: Output) -> bool {
        match output {
            Output::Register => {
                let settings = Arc::clone(&self.settings);
                self.begin(async move { Happened::Registered(register(&settings).await) });
            }
            Output::Request { id, message } => {
                let Some((who, key)) = core.registration().zip(self.individual_key.clone()) else {
                    return false;
                };
                let settings = Arc::clone(&self.settings);
                self.begin(async move {
                    let dial = TcpStream::connect::<String>;
                    Happened::Replied { id, reply: request(&settings, dial, who, &key, &message).await }
                });
            }
            Output::Stream { id, message } => {
                self.end_stream();
                let Some((who, key)) = core.registration().zip(self.individual_key.clone()) else {
                    return false;
                };
                let (settings, happens) = (Arc::clone(&self.settings), self.happens.clone());
                let task = stream::listen(settings, who, key, (id, message), happens);
                self.stream = Some(self.tasks.spawn(task));
            }
            Output::EndStream => self.end_stream(),
            Output::Follow(group) => {
                if let Some(session) = &self.published {
                    let task = published::follow(Arc::clone(session), group, self.happens.clone());
                    self.followers.insert(group, self.tasks.spawn(task));
                }
            }
            Output::Unfollow(group) => {
                if let Some(task) = self.followers.remove(&group) {
                    task.abort();
                }
            }
            Output::Read { id, group, names } => {
                if let Some(session) = &self.published {
                    self.begin(published::read(Arc::clone(session), (id, group), names));
                }
            }
            Output::Certificate(octets) => match self.settings.trust.take(octets) {
                Ok(()) => self.begin(async { Happened::Trusted }),
                Err(error) => self.settings.reloads.refused(SITE, &error),
            },
            Output::Subscribe(destination) => {
                let lost = Arc::clone(self.lost.entry(destination).or_default());
                for group in core.status() {
                    self.destinations.extend(group.destination.map(|at| (group.group, at)));
                }
                let task = multicast::receive(Arc::clone(&self.settings), destination, lost, self.happens.clone());
                self.receivers.insert(destination, self.tasks.spawn(task));
            }
            Output::Unsubscribe(destination) => {
                if let Some(task) = self.receivers.remove(&destination) {
                    task.abort();
                }
            }
            Output::Feed { group, snapshot } => self.feed.publish(group, snapshot),
            Output::Event(event) => {
                events::log(&event);
                self.is_refused |= event == Event::RegistrationFailed { is_final: true };
            }
            Output::Stopped => return true,
        }
        false
    }

    fn end_stream(&mut self) {
        if let Some(task) = self.stream.take() {
            task.abort();
        }
    }

    fn begin(&mut self, task: impl Future<Output = Happened> + Send + 'static) {
        let happens = self.happens.clone();
        self.tasks.spawn(async move {
            // Nobody listens any more only when the daemon ends.
            let _ = happens.send(task.await).await;
        });
    }

    fn happened(&mut self, core: &mut Core, clock: Clock, what: Happened) {
        let now = clock.now();
        match what {
            Happened::Datagram(octets) => core.handle(now, Input::Datagram(&octets)),
            Happened::Now { group, octets } => core.handle(now, Input::Now { group, octets: &octets }),
            Happened::Read { id, group, values } => core.handle(now, Input::Read { id, group, values: &values }),
            Happened::ReadFailed { id, group } => core.handle(now, Input::ReadFailed { id, group }),
            Happened::Trusted => core.handle(now, self.settings.trusted()),
            Happened::Registered(Ok(Registered { client, registration, key })) => {
                self.individual_key = Some(key);
                core.handle(now, Input::Registered { client, registration });
            }
            Happened::Registered(Err(RegistrationFailed { retry_after: Some(after), in_line: true, .. })) => {
                core.handle(now, Input::RegistrationLater { after });
            }
            Happened::Registered(Err(RegistrationFailed { retry_after, is_final, .. })) => {
                core.handle(now, Input::RegistrationFailed { retry_after, is_final });
            }
            Happened::Replied { id, reply: Ok(message) } => core.handle(now, Input::Reply { id, message: &message }),
            Happened::Replied { id, reply: Err(RequestFailed { retry_after: Some(after), .. }) } => {
                core.handle(now, Input::RequestLater { id, after });
            }
            Happened::Replied { id, reply: Err(RequestFailed { refused, .. }) } => {
                core.handle(now, Input::RequestFailed { id, refused });
            }
            Happened::Subscribed { id, message } => core.handle(now, Input::Subscribed { id, message: &message }),
            Happened::StreamEnded { id } => core.handle(now, Input::StreamEnded { id }),
        }
    }

    fn command(&self, core: &mut Core, clock: Clock, command: Command) {
        match command {
            Command::Tell(input) => core.handle(clock.now(), input),
            // Who asked may have gone.
            Command::Status(answer) => _ = answer.send(self.status(core)),
        }
    }

    fn status(&self, core: &Core) -> Value {
        let groups: Vec<Value> = core
            .status()
            .into_iter()
            .map(|group| {
                let lost = self.destinations.get(&group.group).and_then(|at| self.lost.get(at));
                let lost = lost.map_or(0, |lost| lost.load(Ordering::Relaxed));
                let mut json = json!(group);
                json["counters"]["units_lost"] = lost.into();
                json
            })
            .collect();
        let (client, registration) = core.registration().unzip();
        let (is_open, ended) = core.stream();
        let site = self.settings.trust.get();
        json!({
            "identity": self.settings.credential.identity().as_str(),
            "client_id": client.map(|client| client.0),
            "registration": registration,
            "foreign_datagrams": core.foreign_datagrams(),
            "site_certificate": { "begins": site.certificate.not_before, "days_left": site.days_left() },
            "files": self.settings.reloads.readings(),
            "tasks": net::local::tasks(),
            "tcp": { "open": is_open, "ended": ended },
            "groups": groups,
        })
    }

    async fn end(mut self) -> Result<(), RunError> {
        self.tasks.shutdown().await;
        if let Some(session) = &self.published {
            session.close().await;
        }
        self.feed.close().await;
        tracing::info!("ended");
        if self.is_refused { Err(RunError::Refused) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
