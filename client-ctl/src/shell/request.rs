//! One request and its reply, sealed by Noise under the individual key.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use net::frame::FrameError;
use net::noise::{self, NoiseError, NoiseStream};
use protocol::request::{Denial, MAX_REPLY, Outcome, Preamble, Reply};
use protocol::{IndividualKey, MemberId};
use thiserror::Error;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::believed;
use crate::config::Settings;

/// Time for all of it: less than the core waits, so that it hears why.
const LIMIT: Duration = Duration::from_secs(9);

/// A request found no answer.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct RequestFailed {
    /// Why: an input or output error of kind `TimedOut` if there was no answer in time.
    pub error: NoiseError,
    /// The key server was there and refused the handshake; otherwise it was not reached, had no place, or did not answer.
    pub refused: bool,
    /// It had no place, and said when it has one.
    pub retry_after: Option<Duration>,
}

impl From<NoiseError> for RequestFailed {
    fn from(error: NoiseError) -> Self {
        let retry_after = if let NoiseError::Busy(wait) = error { Some(believed(wait)) } else { None };
        Self { error, refused: false, retry_after }
    }
}

/// Asks on behalf of the client and registration `who`, whose individual key is `key`: the reply to the encoded request
/// `message`. `dial` makes a connection to an address. Takes at most 9 s.
///
/// # Errors
/// See [`RequestFailed`]; whether the request was carried out is then unknown, and asking again with the same name is safe.
pub async fn request<D: Future<Output = io::Result<TcpStream>>>(
    settings: &Settings,
    dial: impl Fn(String) -> D,
    who: (MemberId, u64),
    key: &IndividualKey,
    message: &[u8],
) -> Result<Zeroizing<Vec<u8>>, RequestFailed> {
    let reply = converse(settings, dial, who, key, message).await.map(|(_, reply)| reply);
    reply.inspect_err(|failed: &RequestFailed| tracing::debug!(%failed, refused = failed.refused, "request failed"))
}

/// Asks one key server after the other, the one that answered last first, until one does not only stand by. The session, and
/// the reply in it.
pub(super) async fn converse<D: Future<Output = io::Result<TcpStream>>>(
    settings: &Settings,
    dial: impl Fn(String) -> D,
    (client, registration): (MemberId, u64),
    key: &IndividualKey,
    message: &[u8],
) -> Result<(NoiseStream<TcpStream>, Zeroizing<Vec<u8>>), RequestFailed> {
    let key_server = settings.trust.get().certificate.key_server.clone();
    let preamble = Preamble { key_server, client, registration }.encode();
    let servers = &settings.key_servers;
    let first = settings.preferred.load(Ordering::Relaxed);
    let mut failed: Option<RequestFailed> = None;
    let mut standby = None;
    for index in (0..servers.len()).map(|turn| (first + turn) % servers.len()) {
        let exchange = async {
            let mut stream = connect(settings, || dial(servers[index].clone()), &preamble, key).await?;
            stream.send(message).await?;
            let reply = stream.receive(MAX_REPLY).await?;
            Ok((stream, reply))
        };
        // One that is gone without a trace leaves time for the others.
        let share = LIMIT / u32::try_from(servers.len()).unwrap_or(1);
        let late = FrameError::Io(io::ErrorKind::TimedOut.into());
        let timed_out = |_| Err(RequestFailed::from(NoiseError::from(late)));
        match tokio::time::timeout(share, exchange).await.unwrap_or_else(timed_out) {
            Ok(session) if stands_by(&session.1) => standby = Some(session),
            Ok(session) => {
                settings.preferred.store(index, Ordering::Relaxed);
                return Ok(session);
            }
            // A standby may not have heard of this registration yet, so only all of them together can refuse it.
            Err(error) => {
                let refused = error.refused && failed.as_ref().is_none_or(|before| before.refused);
                let before = failed.as_ref().and_then(|before| before.retry_after);
                let retry_after = [before, error.retry_after].into_iter().flatten().min();
                failed = Some(RequestFailed { refused, retry_after, ..error });
            }
        }
    }
    let failed = failed.unwrap_or_else(|| RequestFailed::from(NoiseError::Closed));
    // The one that has no place may be the one that others stand by for.
    match standby {
        Some(session) if failed.retry_after.is_none() => Ok(session),
        _ => Err(failed),
    }
}

fn stands_by(reply: &[u8]) -> bool {
    let standby = |outcome: &Outcome| *outcome == Outcome::Denied(Denial::Standby);
    Reply::decode(reply).is_ok_and(|reply| reply.outcomes.iter().any(standby))
}

/// Each static key that the site certificate names is tried: key servers have keys of their own, and may be rolling them.
async fn connect<D: Future<Output = io::Result<TcpStream>>>(
    settings: &Settings,
    dial: impl Fn() -> D,
    preamble: &[u8],
    key: &IndividualKey,
) -> Result<NoiseStream<TcpStream>, RequestFailed> {
    let mut failed = RequestFailed::from(NoiseError::Closed);
    for server_key in &settings.trust.get().certificate.noise {
        let stream = dial().await.map_err(FrameError::Io);
        let stream = stream.map_err(NoiseError::from)?;
        stream.set_nodelay(true).map_err(FrameError::Io).map_err(NoiseError::from)?;
        match noise::connect(stream, preamble, server_key, key.expose()).await {
            Ok(stream) => return Ok(stream),
            // A reset is a door without a place for now, and no verdict on any key.
            Err(error @ (NoiseError::Frame(FrameError::Io(_)) | NoiseError::Busy(_))) => return Err(error.into()),
            Err(error) => failed = RequestFailed { error, refused: true, retry_after: None },
        }
    }
    Err(failed)
}
