//! What connections need that stay open while nothing is said.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutWriter;

/// A silent peer is asked after so long whether it is there, and again each 5 s.
const SILENCE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_secs(5);
/// A peer from which nothing has come for so long, not even that something has arrived, is gone: some tens of round trips of a satellite
/// link.
const GONE: Duration = Duration::from_secs(30);
/// A peer that takes nothing for so long, although it is there, does not read.
const TAKEN: Duration = Duration::from_secs(10);

/// Lets the system end the connection when the peer's host is gone, within 30 s.
pub fn notice_death(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let asks = TcpKeepalive::new().with_time(SILENCE).with_interval(AGAIN).with_retries(3);
    // Without them the connection is as good, and its end is noticed later.
    let _ = socket.set_tcp_keepalive(&asks);
    let _ = socket.set_tcp_user_timeout(Some(GONE));
}

/// A writer that fails when nothing of what it writes is taken for 10 s. Pin it.
pub fn impatient<W: tokio::io::AsyncWrite>(writer: W) -> TimeoutWriter<W> {
    let mut writer = TimeoutWriter::new(writer);
    writer.set_timeout(Some(TAKEN));
    writer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn both_ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (to, from) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (to.unwrap(), from.unwrap().0)
    }

    /// The system has taken them; that it acts on them is shown over a network that falls silent (`tests/netns silence`).
    #[tokio::test]
    async fn the_system_asks_after_a_silent_peer() {
        let (stream, _peer) = both_ends().await;
        notice_death(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), SILENCE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), AGAIN);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(GONE));
    }

    #[tokio::test]
    async fn who_does_not_read_is_given_up_and_who_reads_slowly_is_not() {
        let (stream, mut slow) = both_ends().await;
        tokio::spawn(async move {
            let mut some = vec![0; 1 << 20];
            while slow.read(&mut some).await.is_ok_and(|octets| octets > 0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let much = vec![0; 64 << 20];
        let mut writer = std::pin::pin!(impatient(stream));
        writer.write_all(&much).await.unwrap();
        let (stream, _deaf) = both_ends().await;
        let mut writer = std::pin::pin!(impatient(stream));
        tokio::time::pause();
        assert_eq!(writer.write_all(&much).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    }
}
