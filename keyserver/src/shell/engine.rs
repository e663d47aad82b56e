//! One task owns the core. Everything else talks to it through a [`Handle`].

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use net::multicast::{MulticastError, SendOptions, Sender};
use net::noise::sealed;
use net::reload::Reloaded;
use net::shutdown::Shutdown;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::RunError;
use super::commands::{Answer, Command, Handle, Reply};
use super::events::log;
use super::publisher::Publisher;
use super::queues::{Cut, Queues, queue};
use super::relays::Relays;
use super::subscribers;
use super::turn::Turn;
use crate::config::keys;
use crate::core::{AdminError, AdminReply, Core, Event, GroupConfig, Input, Keys, Output};
use crate::store::{Store, StoreError};

/// A call of the store on a thread of its own; it brings the store back.
pub(super) type Call<T> = JoinHandle<(Box<dyn Store>, Result<T, StoreError>)>;
type Write = Call<()>;

pub(super) struct Engine {
    pub(super) core: Core,
    /// Away while a write is under way.
    pub(super) store: Option<Box<dyn Store>>,
    write: Option<Write>,
    pub(super) started: Instant,
    senders: BTreeMap<SocketAddr, Sender>,
    /// When the core is told the wall clock's time next.
    next_clock: Instant,
    ways: Ways,
    registrars: Queues<Vec<u8>>,
    subscribers: Queues<Arc<[u8]>>,
    replies: BTreeMap<u64, Reply>,
    answers: BTreeMap<u64, oneshot::Sender<Result<AdminReply, AdminError>>>,
    numbers: u64,
    handle: Handle,
    pub(super) queue: mpsc::Receiver<Command>,
    halted: bool,
    pub(super) turn: Box<dyn Turn>,
    /// The static key, for sealed registrations.
    keys: Reloaded<keys::Keys>,
}

/// Where goes what is for everybody.
pub(super) struct Ways {
    pub(super) multicast: SendOptions,
    pub(super) relays: Relays,
    pub(super) publisher: Publisher,
}

impl Engine {
    pub(super) fn new(
        core: Core,
        store: Box<dyn Store>,
        turn: Box<dyn Turn>,
        ways: Ways,
        keys: Reloaded<keys::Keys>,
        (handle, queue): (Handle, mpsc::Receiver<Command>),
    ) -> Self {
        Self {
            core,
            store: Some(store),
            write: None,
            started: Instant::now(),
            senders: BTreeMap::new(),
            next_clock: Instant::now(),
            ways,
            registrars: Queues::default(),
            subscribers: Queues::default(),
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            numbers: 0,
            handle,
            queue,
            halted: false,
            turn,
            keys,
        }
    }

    pub(super) fn add_destination(&mut self, destination: SocketAddr) -> Result<(), MulticastError> {
        if let Entry::Vacant(place) = self.senders.entry(destination) {
            place.insert(Sender::open(destination, &self.ways.multicast)?);
        }
        Ok(())
    }

    /// Stands by until it is this key server's turn, then reigns, until `shutdown`.
    pub(super) async fn run(mut self, shutdown: Shutdown, drain: Duration) -> Result<(), RunError> {
        let result = match self.stand_by(&shutdown).await {
            Ok(true) => self.reign(shutdown, drain).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        self.turn.pass().await;
        result
    }

    /// Reigns until `shutdown` and all that was accepted is done, at most `drain` longer.
    async fn reign(&mut self, shutdown: Shutdown, drain: Duration) -> Result<(), RunError> {
        self.drain().await;
        let mut stopping: Option<Instant> = None;
        loop {
            if self.halted {
                return Err(RunError::Halted);
            }
            let over = stopping.is_some_and(|since| since.elapsed() >= drain);
            if stopping.is_some() && (over || (self.core.is_idle() && self.write.is_none())) {
                self.ways.publisher.flush().await;
                tracing::info!(complete = !over, "drained; key server ends");
                return Ok(());
            }
            let timer = self.core.poll_timeout().map(|(at, _)| self.started + at);
            let wake = timer.map_or(self.next_clock, |at| at.min(self.next_clock));
            let wake = stopping.map_or(wake, |since| wake.min(since + drain));
            tokio::select! {
                result = finished(&mut self.write) => self.written(result)?,
                command = self.queue.recv(), if stopping.is_none() => match command {
                    Some(command) => self.command(command),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(wake) => self.woken(),
                () = self.turn.is_over() => return Err(RunError::Deposed),
                () = shutdown.wait(), if stopping.is_none() => {
                    tracing::info!("stopping: no more requests are taken, what was accepted is finished");
                    stopping = Some(Instant::now());
                }
            }
            self.drain().await;
        }
    }

    fn woken(&mut self) {
        match self.next_clock <= Instant::now() {
            true => self.tell_clock(),
            false => self.feed(Input::Timeout),
        }
    }

    /// Tells the core what the wall clock says, every second.
    pub(super) fn tell_clock(&mut self) {
        self.next_clock = Instant::now() + Duration::from_secs(1);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        self.feed(Input::Clock { seconds });
    }

    fn take_policy(&mut self, groups: Vec<GroupConfig>) -> Result<(), String> {
        // A policy that is refused opens nothing.
        self.core.check_policy(&groups).map_err(|error| error.to_string())?;
        for group in &groups {
            let opened = self.add_destination(group.destination);
            opened.map_err(|error| format!("group `{}`: {error}", group.name))?;
        }
        self.feed(Input::Policy(groups));
        Ok(())
    }

    pub(super) fn take_keys(&mut self, keys: Keys) -> Result<(), String> {
        self.core.check_keys(&keys).map_err(|error| error.to_string())?;
        self.feed(Input::Keys(keys));
        Ok(())
    }

    fn feed(&mut self, input: Input<'_>) {
        self.core.handle(self.started.elapsed(), input);
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Key(client, registration, answer) => {
                drop(answer.send(self.core.individual_key(client, registration)));
            }
            Command::Request(client, registration, message, reply) => {
                let session = self.number();
                self.replies.insert(session, reply);
                self.feed(Input::Request { session, client, registration, message: &message });
            }
            Command::Admin(command, answer) => {
                let ticket = self.number();
                self.answers.insert(ticket, answer);
                self.feed(Input::Admin { ticket, command });
            }
            Command::RegistrarUp(link, identity, frames) => {
                tracing::info!(%identity, "registrar is connected");
                self.registrars.insert(link, frames);
                self.feed(Input::RegistrarUp { link, identity });
            }
            Command::RegistrarDown(link) => {
                self.registrars.close(link);
                self.feed(Input::RegistrarDown { link });
            }
            Command::FromRegistrar(link, frame) => self.feed(Input::FromRegistrar { link, frame: &frame }),
            Command::Answered(link, (client, registration), answer) => {
                self.feed(Input::Answered { link, client, registration, answer });
            }
            // Who asked goes only with the process.
            Command::Policy(groups, verdict) => drop(verdict.send(self.take_policy(groups))),
            Command::Keys(keys, verdict) => drop(verdict.send(self.take_keys(keys))),
            Command::Revoked(names) => self.feed(Input::Revoked(names)),
            Command::SubscriberGone(session) => {
                self.subscribers.close(session);
                self.feed(Input::SubscriberGone { session, too_slow: false });
            }
        }
    }

    fn written(&mut self, result: Option<(Box<dyn Store>, Result<(), StoreError>)>) -> Result<(), RunError> {
        self.write = None;
        let ok = match result {
            Some((_, Err(StoreError::Deposed(_)))) => return Err(RunError::Deposed),
            Some((store, result)) => {
                self.store = Some(store);
                result.inspect_err(|error| tracing::error!(%error, "the store failed")).is_ok()
            }
            None => false,
        };
        self.feed(Input::Persisted(ok));
        Ok(())
    }

    pub(super) async fn drain(&mut self) {
        // What may leave at once leaves in few system calls.
        let mut leaving: BTreeMap<SocketAddr, Vec<Vec<u8>>> = BTreeMap::new();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Persist(records) => self.start_write(move |store| store.append(&slices(&records))),
                Output::Snapshot(snapshot) => self.start_write(move |store| store.snapshot(&snapshot)),
                Output::ToRegistrar { link, frame } => {
                    if self.registrars.push(link, frame) == Err(Cut::TooSlow) {
                        tracing::warn!(link, "a registrar does not read; its connection is cut");
                    }
                }
                Output::Answer { link, parties, offers, grant } => {
                    let (noise, handle) = (self.keys.get().noise.clone(), self.handle.clone());
                    // Some public-key cryptography, which the engine has no time for.
                    tokio::spawn(async move {
                        let answer = sealed::answer(noise.as_ref(), &parties.prologue(), &offers, &grant.encode());
                        let answer = answer.ok().map(Box::new);
                        handle.send(Command::Answered(link, (grant.client, grant.registration), answer)).await;
                    });
                }
                Output::CloseRegistrar { link } => self.registrars.close(link),
                Output::Reply { session, message } => {
                    // A client that went away asks again, and gets the same answer.
                    self.replies.remove(&session).map(|reply| reply.send(Answer::Reply(message)));
                }
                Output::Refuse { session } => {
                    self.replies.remove(&session).map(|reply| reply.send(Answer::Refused));
                }
                Output::Subscribed { session, message } => {
                    let (queue, pushed) = queue(subscribers::WAITING);
                    self.subscribers.insert(session, queue);
                    let answer = Answer::Subscribed(session, message, pushed);
                    let taken = self.replies.remove(&session).is_some_and(|reply| reply.send(answer).is_ok());
                    if !taken {
                        self.command(Command::SubscriberGone(session));
                    }
                }
                Output::Push { sessions, octets } => self.push(&sessions, octets),
                Output::EndSubscription { session } => self.subscribers.close(session),
                Output::Datagram { destination, octets } => leaving.entry(destination).or_default().push(octets),
                Output::AdminReply { ticket, result } => {
                    self.answers.remove(&ticket).map(|answer| answer.send(result));
                }
                Output::Publish(publication) => self.ways.publisher.publish(*publication),
                Output::Event(event) => {
                    if let Event::Reign { term, .. } = event {
                        self.ways.publisher.reign(term);
                    }
                    log(&event);
                }
                Output::Halt => self.halted = true,
            }
        }
        for (destination, datagrams) in leaving {
            self.multicast(destination, &datagrams).await;
            self.ways.relays.send(&datagrams).await;
        }
    }

    fn push(&mut self, sessions: &[u64], octets: Vec<u8>) {
        let octets: Arc<[u8]> = octets.into();
        for session in sessions.iter().copied() {
            let Err(cut) = self.subscribers.push(session, Arc::clone(&octets)) else {
                continue;
            };
            let too_slow = cut == Cut::TooSlow;
            if too_slow {
                tracing::warn!(session, "a subscriber does not read fast enough; its connection is cut");
            }
            self.feed(Input::SubscriberGone { session, too_slow });
        }
    }

    fn start_write(&mut self, work: impl FnOnce(&mut dyn Store) -> Result<(), StoreError> + Send + 'static) {
        let Some(mut store) = self.store.take() else {
            return;
        };
        self.write = Some(tokio::task::spawn_blocking(move || {
            let result = work(store.as_mut());
            (store, result)
        }));
    }

    async fn multicast(&self, destination: SocketAddr, datagrams: &[Vec<u8>]) {
        if let Some(sender) = self.senders.get(&destination)
            && let Err(error) = sender.send_all(datagrams).await
        {
            // Lost like any datagram: members notice by the next beacon.
            tracing::warn!(%destination, %error, "cannot multicast");
        }
    }
}

fn slices(records: &[Zeroizing<Vec<u8>>]) -> Vec<&[u8]> {
    records.iter().map(|record| record.as_slice()).collect()
}

/// The end of a task, if one is under way; `None` if it died.
pub(super) async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    match task {
        Some(task) => task.await.ok(),
        None => std::future::pending().await,
    }
}
