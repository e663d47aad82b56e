//! A client: the core of `client-ctl`, its registration and requests, and a multicast socket of its own; no feed.
#![allow(clippy::disallowed_types, reason = "this is a shell: its sockets are what is measured")]

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use client_ctl::core::{Core, Event, How, Input, LiveKey, Output};
use client_ctl::{Registered, RegistrationFailed, RequestFailed, Settings};
use net::OsEntropy;
use net::multicast::{Interface, ReceiveOptions, Receiver};
use protocol::request::{Outcome, Reply, RequestId};
use protocol::unit::{MAX_DATAGRAM, Unit};
use protocol::{DataKey, IndividualKey};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::Crowd;

/// How long a client without anything to do sleeps.
const LONG: Duration = Duration::from_secs(3_600);

/// A key that a client has got.
pub(crate) struct News {
    pub(crate) number: u32,
    pub(crate) epoch: u64,
    pub(crate) key: DataKey,
    pub(crate) how: How,
    /// When, on the crowd's clock.
    pub(crate) at: Duration,
}

enum Home {
    Registered(Result<Registered, RegistrationFailed>),
    Replied(RequestId, Result<Zeroizing<Vec<u8>>, RequestFailed>),
}

pub(super) struct Client {
    crowd: Arc<Crowd>,
    number: u32,
    settings: Arc<Settings>,
    core: Core,
    key: Option<IndividualKey>,
    receiver: Option<Receiver>,
    tasks: JoinSet<Home>,
    /// How the newest keys came.
    how: VecDeque<(u64, How)>,
    epoch: u64,
    /// Held until it is registered.
    turn: Option<OwnedSemaphorePermit>,
    is_registered: bool,
}

impl Client {
    pub(super) fn new(crowd: Arc<Crowd>, number: u32, settings: Settings, turn: Option<OwnedSemaphorePermit>) -> Self {
        let core = Core::new(settings.core(), Box::new(OsEntropy));
        let (settings, tasks) = (Arc::new(settings), JoinSet::new());
        let (key, receiver, how, epoch) = (None, None, VecDeque::new(), 0);
        Self { crowd, number, settings, core, key, receiver, tasks, how, epoch, turn, is_registered: false }
    }

    /// Lives until it is aborted, or its core stops.
    pub(super) async fn live(mut self) -> Result<(), String> {
        let mut datagram = [0; MAX_DATAGRAM];
        loop {
            while let Some(output) = self.core.poll_output() {
                self.perform(output)?;
            }
            let wake = self.core.poll_timeout().map_or(self.crowd.now() + LONG, |(at, _)| at);
            let wake = tokio::time::sleep_until(self.crowd.begun + wake);
            tokio::select! {
                length = hear(&mut self.receiver, &mut datagram) => {
                    let octets = &datagram[..length?];
                    if !self.misses(octets) {
                        self.core.handle(self.crowd.now(), Input::Datagram(octets));
                    }
                }
                Some(home) = self.tasks.join_next() => self.come_home(home.map_err(|error| error.to_string())?),
                () = wake => self.core.handle(self.crowd.now(), Input::Timeout),
            }
        }
    }

    fn host(&self) -> Ipv4Addr {
        host(self.number)
    }

    fn misses(&self, octets: &[u8]) -> bool {
        Unit::decode(octets).is_ok_and(|unit| unit.header.epoch.epoch == self.crowd.missed())
    }

    fn perform(&mut self, output: Output) -> Result<(), String> {
        match output {
            Output::Register => {
                let settings = Arc::clone(&self.settings);
                self.tasks.spawn(async move { Home::Registered(client_ctl::register(&settings).await) });
            }
            Output::Request { id, message } => {
                let Some((who, key)) = self.core.registration().zip(self.key.clone()) else {
                    return Ok(());
                };
                let (crowd, settings, from) = (Arc::clone(&self.crowd), Arc::clone(&self.settings), self.host());
                self.tasks.spawn(async move {
                    crowd.opened();
                    let dial = |_| dial(from, crowd.key_server);
                    let reply = client_ctl::request(&settings, dial, who, &key, &message).await;
                    crowd.closed(&reply, is_later(&reply));
                    Home::Replied(id, reply)
                });
            }
            Output::Subscribe(destination) => self.receiver = Some(open(destination)?),
            Output::Unsubscribe(_) => self.receiver = None,
            Output::Event(Event::Installed { epoch, how, .. }) => self.how.push_back((epoch, how)),
            Output::Event(Event::Registered { .. }) => {
                drop(self.turn.take());
                if std::mem::replace(&mut self.is_registered, true) {
                    self.crowd.registered_again();
                }
            }
            Output::Feed { snapshot, .. } => self.tell(snapshot.keys.last()),
            Output::Event(_) | Output::Stream { .. } | Output::EndStream => {}
            // All of the crowd hear multicast.
            Output::Follow(_) | Output::Unfollow(_) | Output::Read { .. } | Output::Certificate(_) => {}
            Output::Stopped => return Err(format!("client {} has stopped", self.number)),
        }
        Ok(())
    }

    /// Tells the newest key, once.
    fn tell(&mut self, newest: Option<&LiveKey>) {
        let Some(LiveKey { epoch, key, .. }) = newest.filter(|key| key.epoch > self.epoch) else {
            return;
        };
        self.epoch = *epoch;
        let how = self.how.iter().rev().find(|(of, _)| of == epoch).map_or(How::Reply, |(_, how)| *how);
        self.how.clear();
        let (number, at) = (self.number, self.crowd.now());
        self.crowd.tell(News { number, epoch: *epoch, key: key.clone(), how, at });
    }

    fn come_home(&mut self, home: Home) {
        let now = self.crowd.now();
        if let Home::Registered(result) = &home {
            self.crowd.registration(result.is_ok());
        }
        match home {
            Home::Registered(Ok(Registered { client, registration, key })) => {
                self.key = Some(key);
                self.core.handle(now, Input::Registered { client, registration });
            }
            Home::Registered(Err(RegistrationFailed { retry_after: Some(after), in_line: true, .. })) => {
                self.core.handle(now, Input::RegistrationLater { after });
            }
            Home::Registered(Err(RegistrationFailed { retry_after, is_final, .. })) => {
                self.core.handle(now, Input::RegistrationFailed { retry_after, is_final });
            }
            Home::Replied(id, Ok(message)) => self.core.handle(now, Input::Reply { id, message: &message }),
            Home::Replied(id, Err(RequestFailed { retry_after: Some(after), .. })) => {
                self.core.handle(now, Input::RequestLater { id, after });
            }
            Home::Replied(id, Err(RequestFailed { refused, .. })) => {
                self.core.handle(now, Input::RequestFailed { id, refused });
            }
        }
    }
}

/// An address of a client's own, as if it were a host of its own: the key server bounds what comes from one address.
pub(crate) fn host(number: u32) -> Ipv4Addr {
    let [.., high, low] = (number + 1).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// Whether the reply says when to come back.
fn is_later(reply: &Result<Zeroizing<Vec<u8>>, RequestFailed>) -> bool {
    reply.as_ref().is_ok_and(|message| says_later(message))
}

/// The same of a reply that came.
pub(crate) fn says_later(message: &[u8]) -> bool {
    let is_later = |outcome: &Outcome| matches!(outcome, Outcome::Later { .. });
    Reply::decode(message).is_ok_and(|reply| reply.outcomes.iter().any(is_later))
}

pub(crate) async fn dial(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

fn open(destination: SocketAddr) -> Result<Receiver, String> {
    let loopback = ReceiveOptions { interface: Interface::Address(Ipv4Addr::LOCALHOST.into()), sources: Vec::new() };
    Receiver::open(destination, &loopback).map_err(|error| error.to_string())
}

/// The length of the next datagram; never, while nothing is joined.
async fn hear(receiver: &mut Option<Receiver>, into: &mut [u8]) -> Result<usize, String> {
    match receiver {
        Some(receiver) => receiver.recv(into).await.map(|(length, _)| length).map_err(|error| error.to_string()),
        None => std::future::pending().await,
    }
}
