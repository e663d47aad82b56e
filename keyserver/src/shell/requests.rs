//! The door for clients' requests: Noise under the individual key, one request, one reply.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use net::admission::{Admission, Limits};
use net::noise;
use net::reload::Reloaded;
use protocol::request::{MAX_REQUEST, Preamble};
use protocol::{MemberId, Ration, Rations};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::commands::{Answer, Command, Handle};
use super::subscribers;
use crate::config::keys::Keys;

/// Time for the reply to be made and taken: a write to the store, a queue before it, and a slow reader.
const REPLY: Duration = Duration::from_secs(30);

/// The door's limits, and what it says when it is full.
pub(super) fn admission() -> Admission {
    Admission::with_notice(Limits::default(), noise::notice)
}

/// Requests of one client, of every kind: a start in thousands of groups at once takes some tens, and in the long run nobody needs
/// more than one every few seconds. Ten a second are a four-hundredth of what a core can serve.
const SHARE: Ration = Ration { burst: 100, each: Duration::from_millis(100) };

pub(super) struct Door {
    name: String,
    keys: Reloaded<Keys>,
    engine: Handle,
    admission: Admission,
    /// What clients have used up. Only who has proved its key pays, so nobody can use up another's, and no more enter than are served
    /// in ten seconds.
    shares: Mutex<Rations<MemberId>>,
    started: Instant,
    /// [`REPLY`].
    reply: Duration,
}

pub(super) async fn serve(listener: TcpListener, door: Door) {
    let (admission, door) = (door.admission.clone(), Arc::new(door));
    loop {
        let (stream, from, ticket) = admission.next(&listener).await;
        let (door, admission) = (door.clone(), admission.clone());
        tokio::spawn(async move {
            let session = ticket.during(door.handshake(stream)).await;
            match session {
                Ok(Ok(Some(session))) => {
                    admission.remember(from.ip());
                    match tokio::time::timeout(door.reply, answer(session, &door.engine)).await {
                        Ok(Ok(Some(subscriber))) => {
                            let number = subscriber.number;
                            subscribers::serve(subscriber).await;
                            door.engine.send(Command::SubscriberGone(number)).await;
                        }
                        Ok(Ok(None)) | Err(_) => {}
                        Ok(Err(error)) => tracing::debug!(%from, %error, "a reply was not taken"),
                    }
                }
                Ok(Ok(None)) => tracing::debug!(%from, "a client asks too often"),
                Ok(Err(error)) => tracing::debug!(%from, %error, "a request was refused"),
                Err(error) => tracing::debug!(%from, %error, "a request was refused"),
            }
        });
    }
}

struct Session {
    stream: noise::NoiseStream<TcpStream>,
    preamble: Preamble,
    request: zeroize::Zeroizing<Vec<u8>>,
}

impl Door {
    pub(super) fn new(name: String, keys: Reloaded<Keys>, engine: Handle, admission: Admission) -> Self {
        Self { name, keys, engine, admission, shares: Mutex::default(), started: Instant::now(), reply: REPLY }
    }

    /// Up to the request: all of it is bounded by the time of a handshake. `None`: the client asks too often, and is reset;
    /// that is seen before the handshake, which is what costs.
    async fn handshake(&self, mut stream: TcpStream) -> Result<Option<Session>, noise::NoiseError> {
        let (keys, octets) = (self.keys.get().noise.clone(), noise::read_preamble(&mut stream).await?);
        let preamble = Preamble::decode(&octets).ok().filter(|preamble| preamble.key_server == self.name);
        if preamble.as_ref().is_some_and(|preamble| !self.has_share(preamble.client)) {
            drop(stream.set_zero_linger());
            return Ok(None);
        }
        let psk = match &preamble {
            Some(preamble) => {
                let key = |answer| Command::Key(preamble.client, preamble.registration, answer);
                self.engine.ask(key).await.flatten()
            }
            None => None,
        };
        let (Some(preamble), Some(psk)) = (preamble, psk) else {
            return Err(noise::refuse(stream, &octets, &keys).await);
        };
        let mut stream = noise::accept(stream, &octets, &keys, psk.expose()).await?;
        let request = stream.receive(MAX_REQUEST).await?;
        // Whoever has begun more at once than it has left is served, and comes into debt.
        let now = self.started.elapsed();
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).charge(now, preamble.client, SHARE);
        Ok(Some(Session { stream, preamble, request }))
    }

    fn has_share(&self, client: MemberId) -> bool {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.wait(self.started.elapsed(), &client, SHARE).is_zero()
    }
}

/// Answers; what is left of a session that stays open.
async fn answer(session: Session, engine: &Handle) -> Result<Option<subscribers::Session>, noise::NoiseError> {
    let Session { mut stream, preamble, request } = session;
    match engine.ask(|reply| Command::Request(preamble.client, preamble.registration, request, reply)).await {
        Some(Answer::Reply(reply)) => stream.send(&reply).await.map(|()| None),
        Some(Answer::Subscribed(number, first, pushed)) => {
            Ok(Some(subscribers::Session { number, stream, first, pushed }))
        }
        Some(Answer::Refused) | None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
