//! The connection to the key server.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use net::entropy::OsEntropy;
use net::frame::{read_frame, write_frames};
use net::reload::Reloaded;
use protocol::Entropy;
use protocol::registration::MAX_FRAME;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{Command, Doors, Failure, QUEUE};

/// Time to connect to the key server and shake hands.
const CONNECT: Duration = Duration::from_secs(10);
/// Frames that leave in one piece if so many wait: one record of TLS.
const TOGETHER: usize = 64;
/// Bounds of the wait between attempts to reach the key server.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Keeps one connection to the key server for ever. One that only stands by cuts it, and the next is asked; the pause grows
/// once a round.
pub(super) async fn keep(addresses: Vec<SocketAddr>, doors: Reloaded<Doors>, commands: mpsc::Sender<Command>) {
    let mut wait = BACK_OFF.0;
    for (turn, address) in (1..).zip(addresses.iter().copied().cycle()) {
        let since = Instant::now();
        match connection(address, &doors, &commands).await {
            Ok(()) => tracing::warn!(%address, "the key server closed the connection"),
            Err(error) => tracing::warn!(%address, %error, "no connection to the key server"),
        }
        drop(commands.send(Command::LinkDown).await);
        if since.elapsed() > BACK_OFF.1 {
            wait = BACK_OFF.0;
        }
        let jitter = OsEntropy.below(u64::try_from(wait.as_millis()).unwrap_or(0));
        tokio::time::sleep(wait / 2 + Duration::from_millis(jitter)).await;
        if turn % addresses.len() == 0 {
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }
}

async fn connection(
    address: SocketAddr,
    doors: &Reloaded<Doors>,
    commands: &mpsc::Sender<Command>,
) -> Result<(), Failure> {
    let stream = net::tls::connect(address, doors.get().to_key_server.clone(), CONNECT).await?;
    tracing::info!(%address, "connected to the key server");
    let (frames, to_send) = mpsc::channel::<Zeroizing<Vec<u8>>>(QUEUE);
    commands.send(Command::LinkUp(frames)).await?;
    net::tcp::notice_death(stream.get_ref().0);
    converse(stream, to_send, commands).await
}

/// Until either end has enough.
async fn converse<S: AsyncRead + AsyncWrite>(
    stream: S,
    mut to_send: mpsc::Receiver<Zeroizing<Vec<u8>>>,
    commands: &mpsc::Sender<Command>,
) -> Result<(), Failure> {
    let (mut reader, writer) = tokio::io::split(stream);
    let write = async {
        let mut writer = pin!(net::tcp::impatient(writer));
        // The engine drops its end to cut the connection.
        let mut waiting = Vec::new();
        while to_send.recv_many(&mut waiting, TOGETHER).await > 0 {
            write_frames(&mut writer, &waiting).await?;
            waiting.clear();
        }
        Ok::<_, Failure>(())
    };
    let read = async {
        while let Some(frame) = read_frame(&mut reader, MAX_FRAME).await? {
            commands.send(Command::FromKeyServer(frame)).await?;
        }
        Ok::<_, Failure>(())
    };
    tokio::select! {
        result = write => result,
        result = read => result,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_server_that_does_not_read_is_given_up_and_so_is_one_that_the_engine_cuts() {
        let ((commands, _queue), (near, _far)) = (mpsc::channel(1), tokio::io::duplex(1_000));
        let (frames, to_send) = mpsc::channel(10);
        frames.try_send(Zeroizing::new(vec![1; 5_000])).unwrap();
        let since = Instant::now();
        let why = converse(near, to_send, &commands).await.unwrap_err().to_string();
        assert!(why.contains("timed out") && since.elapsed() < 2 * CONNECT, "{why}");
        let (near, _far) = tokio::io::duplex(1_000);
        let (frames, to_send) = mpsc::channel(10);
        drop(frames);
        converse(near, to_send, &commands).await.unwrap();
    }
}
