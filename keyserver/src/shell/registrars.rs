//! The door for registrars: TLS 1.3, mutually authenticated, open as long as both live.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use net::admission::Admission;
use net::crl::Crl;
use net::frame::{read_frame, write_frames};
use net::reload::{Reloaded, Reloads};
use net::seldom::Seldom;
use net::tls::{CredentialFiles, Credentials, TlsError};
use protocol::identity::Identity;
use protocol::registration::{ALPN_REGISTRAR, MAX_FRAME};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::rustls::ServerConfig;
use zeroize::Zeroizing;

use super::RunError;
use super::commands::{Command, Handle};
use super::queues::{Pushed, queue};

/// Frames that wait for one registrar; one that does not read is cut off.
const WAITING: usize = 16_384;
/// Frames that leave in one piece if so many wait: what one write to the store has settled.
const TOGETHER: usize = 256;

/// TLS for registrars.
pub(super) struct Door {
    credentials: Credentials,
    tls: Arc<ServerConfig>,
}

impl Door {
    /// The lists of revoked certificates that are in force.
    pub(super) fn crls(&self) -> &[Crl] {
        self.credentials.crls()
    }

    fn new(credentials: Credentials) -> Result<Self, TlsError> {
        let tls = net::tls::server_config(&credentials, ALPN_REGISTRAR)?;
        Ok(Self { credentials, tls })
    }

    /// Follows the files of the credentials.
    pub(super) fn follow(
        files: CredentialFiles,
        credentials: Credentials,
        reloads: &Reloads,
    ) -> Result<Reloaded<Self>, RunError> {
        let (door, watched) = (Self::new(credentials)?, files.all());
        let load = move |now: &Self| {
            let fresh = now.credentials.reload(&files).map_err(|error| error.to_string())?;
            Self::new(fresh).map_err(|error| error.to_string())
        };
        let followed = reloads.follow("TLS credentials", door, watched, load, |door| door.credentials.remind());
        followed.map_err(|source| RunError::Listen { what: "signals".into(), source })
    }
}

pub(super) async fn serve(listener: TcpListener, doors: Reloaded<Door>, engine: Handle, admission: Admission) {
    let (links, strangers) = (Arc::new(AtomicU64::new(1)), Arc::new(Seldom::default()));
    loop {
        let (stream, from, ticket) = admission.next(&listener).await;
        let (tls, engine, links) = (doors.get().tls.clone(), engine.clone(), links.clone());
        let (door, strangers) = (admission.clone(), strangers.clone());
        tokio::spawn(async move {
            let (stream, identity) = match net::tls::accept(stream, tls, ticket).await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(unsaid) = strangers.turn() {
                        tracing::info!(%from, %error, unsaid, "a handshake with a registrar failed");
                    }
                    return;
                }
            };
            door.remember(from.ip());
            net::tcp::notice_death(stream.get_ref().0);
            let link = links.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = connection(stream, identity, link, &engine).await {
                tracing::info!(%from, %error, "a registrar's connection ended");
            }
            engine.send(Command::RegistrarDown(link)).await;
        });
    }
}

/// Until either end has enough. It has no deadline while nothing is said: a registrar whose clients are all registered has nothing to
/// say. One that is gone is noticed by the system, one that does not read by what waits for it.
async fn connection<S: AsyncRead + AsyncWrite>(
    stream: S,
    identity: Identity,
    link: u64,
    engine: &Handle,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (frames, Pushed { items: mut to_send, ended }) = queue(WAITING);
    engine.send(Command::RegistrarUp(link, identity, frames)).await;
    let (mut reader, writer) = tokio::io::split(stream);
    let write = async {
        let mut writer = pin!(net::tcp::impatient(writer));
        let mut waiting = Vec::new();
        while to_send.recv_many(&mut waiting, TOGETHER).await > 0 {
            write_frames(&mut writer, &waiting).await?;
            waiting.clear();
        }
        Ok::<_, net::frame::FrameError>(())
    };
    let read = async {
        while let Some(frame) = read_frame(&mut reader, MAX_FRAME).await? {
            engine.send(Command::FromRegistrar(link, Zeroizing::new(frame))).await;
        }
        Ok::<_, net::frame::FrameError>(())
    };
    tokio::select! {
        result = write => result?,
        result = read => result?,
        _ = ended => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    use super::super::commands::commands;
    use super::super::queues::Queue;
    use super::*;

    type Ended = Result<(), String>;

    /// A connection whose registrar reads nothing, and both its ends.
    async fn deaf() -> (JoinHandle<Ended>, Queue<Vec<u8>>, tokio::io::DuplexStream, mpsc::Receiver<Command>) {
        let (near, far) = tokio::io::duplex(1_000);
        let (engine, mut queue) = commands();
        let identity = Identity::parse("spiffe://demo/registrar/r1").unwrap();
        let ended =
            tokio::spawn(
                async move { connection(near, identity, 7, &engine).await.map_err(|error| error.to_string()) },
            );
        let Some(Command::RegistrarUp(7, _, frames)) = queue.recv().await else { panic!("nobody came") };
        (ended, frames, far, queue)
    }

    #[tokio::test(start_paused = true)]
    async fn a_registrar_may_be_silent_for_days_and_one_that_does_not_read_ends() {
        let (ended, frames, _far, _queue) = deaf().await;
        tokio::time::sleep(Duration::from_secs(3 * 86_400)).await;
        assert!(!ended.is_finished());
        frames.push(vec![1; 5_000]).unwrap();
        let since = Instant::now();
        let why = ended.await.unwrap().unwrap_err();
        assert!(why.contains("timed out") && since.elapsed() < Duration::from_secs(11), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_engine_cuts_ends_at_once_though_a_write_is_under_way() {
        let (ended, frames, _far, _queue) = deaf().await;
        for _ in 0..100 {
            frames.push(vec![1; 5_000]).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(frames);
        timeout(Duration::from_millis(1), ended).await.unwrap().unwrap().unwrap();
    }
}
