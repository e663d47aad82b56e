//! Sessions of members without multicast: the reply, then every datagram of their groups, one message each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use net::frame::FrameError;
use net::noise::{NoiseError, NoiseStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// Datagrams that wait for one subscriber, 5 MB at the most and shared by all of them: two seconds at the default ceiling. One
/// that does not keep up is cut off, and catches up by itself.
const WAITING: usize = 4_096;
/// An empty message goes out when nothing else did for so long, so that either end notices when the other is gone. A client
/// waits three times as long.
const QUIET: Duration = Duration::from_secs(15);
/// A message that cannot be handed to the system within this time has no reader.
const WRITE: Duration = Duration::from_secs(10);

/// The engine's end of one session. Dropping it ends the session at once.
struct Queue {
    datagrams: mpsc::Sender<Arc<[u8]>>,
    _alive: oneshot::Sender<()>,
}

/// What is pushed in one session.
pub(super) struct Pushed {
    datagrams: mpsc::Receiver<Arc<[u8]>>,
    ended: oneshot::Receiver<()>,
}

/// All sessions.
#[derive(Default)]
pub(super) struct Queues(BTreeMap<u64, Queue>);

impl Queues {
    pub(super) fn open(&mut self, session: u64) -> Pushed {
        let ((datagrams, receiver), (alive, ended)) = (mpsc::channel(WAITING), oneshot::channel());
        self.0.insert(session, Queue { datagrams, _alive: alive });
        Pushed { datagrams: receiver, ended }
    }

    pub(super) fn close(&mut self, session: u64) {
        self.0.remove(&session);
    }

    /// Never waits. Returns the sessions that had to be closed, and whether because they do not keep up.
    pub(super) fn push(&mut self, sessions: &[u64], datagram: &Arc<[u8]>) -> Vec<(u64, bool)> {
        let mut closed = Vec::new();
        for session in sessions {
            let pushed = self.0.get(session).map(|queue| queue.datagrams.try_send(Arc::clone(datagram)));
            if let Some(Err(error)) = pushed {
                closed.push((*session, matches!(error, TrySendError::Full(_))));
                self.close(*session);
            }
        }
        closed
    }
}

/// A session that stays open.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) stream: NoiseStream<TcpStream>,
    /// The reply.
    pub(super) first: Zeroizing<Vec<u8>>,
    pub(super) pushed: Pushed,
}

/// Until the engine ends it or the client is gone.
pub(super) async fn serve(session: Session) {
    let Session { number, mut stream, first, pushed: Pushed { mut datagrams, ended } } = session;
    let sending = async {
        send(&mut stream, &first).await?;
        loop {
            match tokio::time::timeout(QUIET, datagrams.recv()).await {
                Ok(Some(datagram)) => send(&mut stream, &datagram).await?,
                Ok(None) => return Ok::<_, NoiseError>(()),
                Err(_) => send(&mut stream, &[]).await?,
            }
        }
    };
    tokio::select! {
        sent = sending => if let Err(error) = sent {
            tracing::debug!(session = number, %error, "a subscriber is gone");
        },
        _ = ended => {}
    }
}

async fn send(stream: &mut NoiseStream<TcpStream>, message: &[u8]) -> Result<(), NoiseError> {
    let late = |_| NoiseError::from(FrameError::Io(std::io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(WRITE, stream.send(message)).await.map_err(late)?
}

#[cfg(test)]
mod tests {
    use net::noise::{StaticKey, accept, connect, read_preamble};
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a session.
    async fn session() -> (NoiseStream<TcpStream>, NoiseStream<TcpStream>) {
        let key = StaticKey::generate().unwrap();
        let public = *key.public();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let client = tokio::spawn(async move {
            let stream = TcpStream::connect(to).await.unwrap();
            connect(stream, b"me", &public, &[7; 32]).await.unwrap()
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let preamble = read_preamble(&mut stream).await.unwrap();
        let server = accept(stream, &preamble, &key, &[7; 32]).await.unwrap();
        (server, client.await.unwrap())
    }

    #[tokio::test]
    async fn whoever_reads_gets_all_and_whoever_does_not_is_cut_off_at_once() {
        let (mut queues, datagram) = (Queues::default(), Arc::<[u8]>::from([5; 1_000].as_slice()));
        let mut serving = Vec::new();
        let mut clients = Vec::new();
        for number in [1, 2] {
            let (stream, client) = session().await;
            let first = Zeroizing::new(b"reply".to_vec());
            let pushed = queues.open(number);
            serving.push(tokio::spawn(serve(Session { number, stream, first, pushed })));
            clients.push(client);
        }
        let (mut reader, _sleeper) = (clients.remove(0), clients.remove(0));
        assert_eq!(*reader.receive(100).await.unwrap(), b"reply");
        // Far more than a queue and the system's buffers hold.
        let mut pushed = 0;
        let closed = loop {
            let closed = queues.push(&[1, 2], &datagram);
            assert_eq!(reader.receive(1_000).await.unwrap()[..], datagram[..]);
            pushed += 1;
            if !closed.is_empty() {
                break closed;
            }
            assert!(pushed < 100_000, "a session takes whatever it is given");
        };
        assert_eq!(closed, [(2, true)]);
        assert!(pushed > WAITING);
        // Although a write is under way that nobody reads.
        tokio::time::timeout(Duration::from_secs(2), serving.remove(1)).await.unwrap().unwrap();
        assert!(queues.push(&[1, 2], &datagram).is_empty(), "the other goes on");
        assert_eq!(reader.receive(1_000).await.unwrap().len(), 1_000);
        queues.close(1);
        assert!(reader.receive(1_000).await.is_err());
    }
}
