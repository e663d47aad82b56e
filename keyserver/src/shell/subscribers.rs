//! Sessions of members without multicast: the reply, then every datagram of their groups, one message each.

use std::time::Duration;

use net::noise::{NoiseError, NoiseStream};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::engine::{Command, Handle, Pushed};

/// An empty message goes out when nothing else did for so long, so that either end notices when the other is gone. Longer than
/// beacons are apart while a group changes; three of them are what a client waits.
const QUIET: Duration = Duration::from_secs(15);
/// A message that cannot be handed to the system within this time has no reader.
const WRITE: Duration = Duration::from_secs(10);

/// A session that stays open.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) stream: NoiseStream<TcpStream>,
    /// The reply.
    pub(super) first: Zeroizing<Vec<u8>>,
    pub(super) pushed: Pushed,
}

/// Until the engine ends it or the client is gone.
pub(super) async fn serve(session: Session, engine: &Handle) {
    let Session { number, mut stream, first, mut pushed } = session;
    let mut sent = send(&mut stream, &first).await;
    while sent.is_ok() {
        sent = match tokio::time::timeout(QUIET, pushed.recv()).await {
            Ok(Some(datagram)) => send(&mut stream, &datagram).await,
            Ok(None) => break,
            Err(_) => send(&mut stream, &[]).await,
        };
    }
    if let Err(error) = sent {
        tracing::debug!(session = number, %error, "a subscriber is gone");
    }
    engine.send(Command::SubscriberGone(number)).await;
}

async fn send(stream: &mut NoiseStream<TcpStream>, message: &[u8]) -> Result<(), NoiseError> {
    let late = |_| Err(NoiseError::from(net::frame::FrameError::Io(std::io::ErrorKind::TimedOut.into())));
    tokio::time::timeout(WRITE, stream.send(message)).await.unwrap_or_else(late)
}
