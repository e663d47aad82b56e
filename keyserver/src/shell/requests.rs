//! The door for clients' requests: Noise under the individual key, one request, one reply.

use std::sync::Arc;
use std::time::Duration;

use net::admission::Admission;
use net::noise::{self, StaticKey};
use protocol::request::{MAX_REQUEST, Preamble};
use tokio::net::{TcpListener, TcpStream};

use super::engine::{Answer, Command, Handle};
use super::subscribers;

/// Time for the reply to be made and taken: a write to the store, a queue before it, and a slow reader.
const REPLY: Duration = Duration::from_secs(30);

pub(super) async fn serve(listener: TcpListener, name: String, key: StaticKey, engine: Handle) {
    let admission = Admission::default();
    let (name, key) = (Arc::<str>::from(name), Arc::new(key));
    loop {
        let (stream, from, ticket) = admission.next(&listener).await;
        let (name, key, engine, door) = (name.clone(), key.clone(), engine.clone(), admission.clone());
        tokio::spawn(async move {
            let session = ticket.during(handshake(stream, &name, &key, &engine)).await;
            match session {
                Ok(Ok(session)) => {
                    door.remember(from.ip());
                    match tokio::time::timeout(REPLY, answer(session, &engine)).await {
                        Ok(Ok(Some(subscriber))) => {
                            let number = subscriber.number;
                            subscribers::serve(subscriber).await;
                            engine.send(Command::SubscriberGone(number)).await;
                        }
                        Ok(Ok(None)) | Err(_) => {}
                        Ok(Err(error)) => tracing::debug!(%from, %error, "a reply was not taken"),
                    }
                }
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

/// Up to the request: all of it is bounded by the time of a handshake.
async fn handshake(
    mut stream: TcpStream,
    name: &str,
    key: &StaticKey,
    engine: &Handle,
) -> Result<Session, noise::NoiseError> {
    let octets = noise::read_preamble(&mut stream).await?;
    let preamble = Preamble::decode(&octets).ok().filter(|preamble| preamble.key_server == name);
    let psk = match &preamble {
        Some(preamble) => {
            engine.ask(|answer| Command::Key(preamble.client, preamble.registration, answer)).await.flatten()
        }
        None => None,
    };
    let (Some(preamble), Some(psk)) = (preamble, psk) else {
        return Err(noise::refuse(stream, &octets, key).await);
    };
    let mut stream = noise::accept(stream, &octets, key, psk.expose()).await?;
    let request = stream.receive(MAX_REQUEST).await?;
    Ok(Session { stream, preamble, request })
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
