//! The door for registrars: TLS 1.3, mutually authenticated, open as long as both live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use net::admission::Admission;
use net::crl::Crl;
use net::frame::{read_frame, write_frames};
use net::reload::Reloaded;
use net::seldom::Seldom;
use net::tls::{CredentialFiles, Credentials, TlsError};
use protocol::identity::Identity;
use protocol::registration::{ALPN_REGISTRAR, MAX_FRAME};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::RunError;
use super::engine::{Command, Handle};

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
    pub(super) fn follow(files: CredentialFiles, credentials: Credentials) -> Result<Reloaded<Self>, RunError> {
        let (door, watched) = (Self::new(credentials)?, files.all());
        let load = move |now: &Self| {
            let fresh = now.credentials.reload(&files).map_err(|error| error.to_string())?;
            Self::new(fresh).map_err(|error| error.to_string())
        };
        let followed = Reloaded::follow("TLS credentials", door, watched, load, |door| door.credentials.remind());
        followed.map_err(|source| RunError::Listen { what: "signals".into(), source })
    }
}

pub(super) async fn serve(listener: TcpListener, doors: Reloaded<Door>, engine: Handle) {
    let admission = Admission::default();
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
            let link = links.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = connection(stream, identity, link, &engine).await {
                tracing::info!(%from, %error, "a registrar's connection ended");
            }
            engine.send(Command::RegistrarDown(link)).await;
        });
    }
}

async fn connection(
    stream: TlsStream<TcpStream>,
    identity: Identity,
    link: u64,
    engine: &Handle,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (frames, mut to_send) = Handle::registrar_channel();
    engine.send(Command::RegistrarUp(link, identity, frames)).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
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
    }
    Ok(())
}
