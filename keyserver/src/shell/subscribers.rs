//! Sessions of members without multicast: the reply, then every datagram of their groups, one message each.

use std::sync::Arc;
use std::time::Duration;

use net::frame::FrameError;
use net::noise::{NoiseError, NoiseStream};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::queues::Pushed;

/// Datagrams that wait for one subscriber, 5 MB at the most and shared by all of them: two seconds at the default ceiling. One
/// that does not keep up is cut off, and catches up by itself.
pub(super) const WAITING: usize = 4_096;
/// An empty message goes out when nothing else did for so long, so that either end notices when the other is gone. A client
/// waits three times as long.
const QUIET: Duration = Duration::from_secs(15);
/// A message that cannot be handed to the system within this time has no reader.
const WRITE: Duration = Duration::from_secs(10);

/// A session that stays open.
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) stream: NoiseStream<TcpStream>,
    /// The reply.
    pub(super) first: Zeroizing<Vec<u8>>,
    pub(super) pushed: Pushed<Arc<[u8]>>,
}

/// Until the engine ends it or the client is gone.
pub(super) async fn serve(session: Session) {
    let Session { number, mut stream, first, pushed: Pushed { items: mut datagrams, ended } } = session;
    net::tcp::notice_death(stream.get_ref());
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

    use super::super::queues::{Cut, Queues, queue};
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
            let (queue, pushed) = queue(WAITING);
            queues.insert(number, queue);
            serving.push(tokio::spawn(serve(Session { number, stream, first, pushed })));
            clients.push(client);
        }
        let (mut reader, _sleeper) = (clients.remove(0), clients.remove(0));
        assert_eq!(*reader.receive(100).await.unwrap(), b"reply");
        // Far more than a queue and the system's buffers hold.
        let mut pushed = 0;
        let closed = loop {
            queues.push(1, Arc::clone(&datagram)).unwrap();
            let closed = queues.push(2, Arc::clone(&datagram));
            assert_eq!(reader.receive(1_000).await.unwrap()[..], datagram[..]);
            pushed += 1;
            if let Err(closed) = closed {
                break closed;
            }
            assert!(pushed < 100_000, "a session takes whatever it is given");
        };
        assert_eq!(closed, Cut::TooSlow);
        assert!(pushed > WAITING);
        // Although a write is under way that nobody reads.
        tokio::time::timeout(Duration::from_secs(2), serving.remove(1)).await.unwrap().unwrap();
        queues.push(1, Arc::clone(&datagram)).expect("the other goes on");
        queues.push(2, Arc::clone(&datagram)).expect("nobody is there");
        assert_eq!(reader.receive(1_000).await.unwrap().len(), 1_000);
        queues.close(1);
        assert!(reader.receive(1_000).await.is_err());
    }
}
