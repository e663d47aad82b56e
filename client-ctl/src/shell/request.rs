//! One request and its reply, sealed by Noise under the individual key.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use net::frame::FrameError;
use net::noise::{self, NoiseError, NoiseStream};
use protocol::request::{MAX_REPLY, Preamble, RequestId};
use protocol::{IndividualKey, MemberId};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::Happened;
use crate::config::Settings;

/// Time for all of it: less than the core waits, so that it hears why.
pub(super) const LIMIT: Duration = Duration::from_secs(9);

/// What went wrong, and whether the key server was there and refused the handshake.
pub(super) struct Failed {
    pub(super) error: NoiseError,
    refused: bool,
}

impl From<NoiseError> for Failed {
    fn from(error: NoiseError) -> Self {
        Self { error, refused: false }
    }
}

pub(super) async fn request(
    settings: Arc<Settings>,
    client: MemberId,
    registration: u64,
    key: IndividualKey,
    id: RequestId,
    message: Vec<u8>,
) -> Happened {
    let preamble = Preamble { key_server: settings.site.key_server.clone(), client, registration }.encode();
    let exchange = async {
        let mut stream = connect(&settings, &preamble, &key).await?;
        stream.send(&message).await?;
        Ok(stream.receive(MAX_REPLY).await?)
    };
    let timed_out = |_| Err(Failed::from(NoiseError::from(FrameError::Io(io::ErrorKind::TimedOut.into()))));
    let result: Result<Zeroizing<Vec<u8>>, Failed> =
        tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(timed_out);
    match result {
        Ok(message) => Happened::Reply { id, message },
        Err(Failed { error, refused }) => {
            tracing::debug!(%error, refused, "request failed");
            Happened::RequestFailed { id, refused }
        }
    }
}

/// Each static key that the site certificate names is tried: the key server may be rolling it.
pub(super) async fn connect(
    settings: &Settings,
    preamble: &[u8],
    key: &IndividualKey,
) -> Result<NoiseStream<TcpStream>, Failed> {
    let mut failed = Failed::from(NoiseError::Closed);
    for server_key in &settings.site.noise {
        let stream = TcpStream::connect(&settings.key_server_address).await.map_err(FrameError::Io);
        let stream = stream.map_err(NoiseError::from)?;
        stream.set_nodelay(true).map_err(FrameError::Io).map_err(NoiseError::from)?;
        match noise::connect(stream, preamble, server_key, key.expose()).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = Failed { error, refused: true },
        }
    }
    Err(failed)
}
