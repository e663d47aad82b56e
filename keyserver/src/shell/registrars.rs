//! The door for registrars: TLS 1.3, mutually authenticated, open as long as both live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use net::admission::{Admission, Ticket};
use net::frame::{read_frame, write_frame};
use protocol::registration::MAX_FRAME;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::ServerConfig;
use zeroize::Zeroizing;

use super::engine::{Command, Handle};

pub(super) async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, engine: Handle) {
    let admission = Admission::default();
    let links = Arc::new(AtomicU64::new(1));
    loop {
        let (stream, from, ticket) = admission.next(&listener).await;
        let (tls, engine, links) = (tls.clone(), engine.clone(), links.clone());
        tokio::spawn(async move {
            let link = links.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = connection(stream, tls, ticket, link, &engine).await {
                tracing::info!(%from, %error, "a registrar's connection ended");
            }
            engine.send(Command::RegistrarDown(link)).await;
        });
    }
}

async fn connection(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    ticket: Ticket,
    link: u64,
    engine: &Handle,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (stream, identity) = net::tls::accept(stream, tls, ticket).await?;
    let (frames, mut to_send) = Handle::registrar_channel();
    engine.send(Command::RegistrarUp(link, identity, frames)).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        while let Some(frame) = to_send.recv().await {
            write_frame(&mut writer, &frame).await?;
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
