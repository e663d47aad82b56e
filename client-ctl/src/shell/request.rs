//! One request and its reply, sealed by Noise under the individual key.

use std::io;
use std::time::Duration;

use net::frame::FrameError;
use net::noise::{self, NoiseError, NoiseStream};
use protocol::request::{MAX_REPLY, Preamble};
use protocol::{IndividualKey, MemberId};
use thiserror::Error;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

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
}

impl From<NoiseError> for RequestFailed {
    fn from(error: NoiseError) -> Self {
        Self { error, refused: false }
    }
}

/// Asks the key server on behalf of the client and registration `who`, whose individual key is `key`: the reply to the encoded
/// request `message`. `dial` makes a connection to the key server, once for each static key that is tried. Takes at most 9 s.
///
/// # Errors
/// See [`RequestFailed`]; whether the request was carried out is then unknown, and asking again with the same name is safe.
pub async fn request<D: Future<Output = io::Result<TcpStream>>>(
    settings: &Settings,
    dial: impl Fn() -> D,
    (client, registration): (MemberId, u64),
    key: &IndividualKey,
    message: &[u8],
) -> Result<Zeroizing<Vec<u8>>, RequestFailed> {
    let preamble = Preamble { key_server: settings.site.key_server.clone(), client, registration }.encode();
    let exchange = async {
        let mut stream = connect(settings, dial, &preamble, key).await?;
        stream.send(message).await?;
        Ok(stream.receive(MAX_REPLY).await?)
    };
    let timed_out = |_| Err(NoiseError::from(FrameError::Io(io::ErrorKind::TimedOut.into())).into());
    let reply = tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(timed_out);
    reply.inspect_err(|failed: &RequestFailed| tracing::debug!(%failed, refused = failed.refused, "request failed"))
}

/// Each static key that the site certificate names is tried: the key server may be rolling it.
async fn connect<D: Future<Output = io::Result<TcpStream>>>(
    settings: &Settings,
    dial: impl Fn() -> D,
    preamble: &[u8],
    key: &IndividualKey,
) -> Result<NoiseStream<TcpStream>, RequestFailed> {
    let mut failed = RequestFailed::from(NoiseError::Closed);
    for server_key in &settings.site.noise {
        let stream = dial().await.map_err(FrameError::Io);
        let stream = stream.map_err(NoiseError::from)?;
        stream.set_nodelay(true).map_err(FrameError::Io).map_err(NoiseError::from)?;
        match noise::connect(stream, preamble, server_key, key.expose()).await {
            Ok(stream) => return Ok(stream),
            // A reset is a door without a place for now, and no verdict on any key.
            Err(error @ NoiseError::Frame(FrameError::Io(_))) => return Err(error.into()),
            Err(error) => failed = RequestFailed { error, refused: true },
        }
    }
    Err(failed)
}
