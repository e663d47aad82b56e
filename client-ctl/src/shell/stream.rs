//! The session over which the datagrams of groups without multicast come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use net::frame::FrameError;
use net::noise::NoiseError;
use protocol::request::RequestId;
use protocol::unit::MAX_DATAGRAM;
use protocol::{IndividualKey, MemberId};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Happened;
use super::request::converse;
use crate::config::Settings;

/// The key server sends something every 15 s at the least.
const SILENCE: Duration = Duration::from_secs(45);

/// Until the session ends or is aborted.
pub(super) async fn listen(
    settings: Arc<Settings>,
    who: (MemberId, u64),
    key: IndividualKey,
    (id, message): (RequestId, Vec<u8>),
    happens: mpsc::Sender<Happened>,
) {
    let timed_out = |_| NoiseError::from(FrameError::Io(io::ErrorKind::TimedOut.into()));
    let session = async {
        let begun = converse(&settings, TcpStream::connect::<String>, who, &key, &message).await;
        let (mut stream, reply) = begun.map_err(|failed| failed.error)?;
        // Nobody listens any more only when the daemon ends.
        let _ = happens.send(Happened::Subscribed { id, message: reply }).await;
        loop {
            let datagram = tokio::time::timeout(SILENCE, stream.receive(MAX_DATAGRAM)).await.map_err(timed_out)??;
            // An empty one says that the key server is there.
            if !datagram.is_empty() {
                let _ = happens.send(Happened::Datagram(datagram.to_vec())).await;
            }
        }
    };
    let ended: Result<(), NoiseError> = session.await;
    if let Err(error) = ended {
        tracing::debug!(%error, "the session to listen on ended");
    }
    let _ = happens.send(Happened::StreamEnded { id }).await;
}
