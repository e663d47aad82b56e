//! The session over which the datagrams of groups without multicast come.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use net::frame::FrameError;
use net::noise::NoiseError;
use protocol::request::{MAX_REPLY, Preamble, RequestId};
use protocol::unit::MAX_DATAGRAM;
use protocol::{IndividualKey, MemberId};
use tokio::sync::mpsc;

use super::Happened;
use super::request::{LIMIT, connect};
use crate::config::Settings;

/// The key server sends something every 15 s at the least.
const SILENCE: Duration = Duration::from_secs(45);

/// Until the session ends or is aborted.
pub(super) async fn listen(
    settings: Arc<Settings>,
    (client, registration): (MemberId, u64),
    key: IndividualKey,
    (id, message): (RequestId, Vec<u8>),
    happens: mpsc::Sender<Happened>,
) {
    let preamble = Preamble { key_server: settings.site.key_server.clone(), client, registration }.encode();
    let timed_out = |_| NoiseError::from(FrameError::Io(io::ErrorKind::TimedOut.into()));
    let session = async {
        let begin = async {
            let mut stream = connect(&settings, &preamble, &key).await.map_err(|failed| failed.error)?;
            stream.send(&message).await?;
            let reply = stream.receive(MAX_REPLY).await?;
            Ok::<_, NoiseError>((stream, reply))
        };
        let (mut stream, reply) = tokio::time::timeout(LIMIT, begin).await.map_err(timed_out)??;
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
