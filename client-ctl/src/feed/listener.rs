//! The door of the feed: who calls, told by the kernel, and how many at once.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once: a data processor or two for each group.
const MAX_CONNECTIONS: usize = 64;
/// Connections at once of callers that may not be here, so that they cannot take the others' places.
const MAX_STRANGERS: usize = 8;

/// Who is at the other end, by `SO_PEERCRED`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) uid: Option<u32>,
    pub(super) is_allowed: bool,
}

pub(super) struct Door {
    listener: UnixListener,
    allowed: BTreeSet<u32>,
    places: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    _file: SocketFile,
}

/// Removed when the door closes.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If somebody else has removed it already, so be it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Door {
    /// Binds the socket with mode 0660. What an earlier process has left behind is removed, if nobody answers on it.
    pub(super) fn open(path: &Path, mut allowed: BTreeSet<u32>) -> io::Result<Self> {
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
            }
            match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(error) => return Err(error),
                Ok(_) => {
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers on it"));
                }
            }
        }
        let listener = UnixListener::bind(path)?;
        let file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        allowed.extend([0, rustix::process::getuid().as_raw()]);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
        Ok(Self { listener, allowed, places, strangers, _file: file })
    }

    #[cfg(test)]
    pub(super) fn allow_nobody(&mut self) {
        self.allowed.clear();
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = Caller;

    async fn accept(&mut self) -> (Connection, Caller) {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a data processor");
                    // The cause, mostly a lack of descriptors, stays for a while; do not spin on it.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
            let is_allowed = uid.is_some_and(|uid| self.allowed.contains(&uid));
            let places = if is_allowed { &self.places } else { &self.strangers };
            match Arc::clone(places).try_acquire_owned() {
                Ok(place) => {
                    return (Connection { stream, _place: place }, Caller { uid, is_allowed });
                }
                Err(_) => tracing::debug!(uid, "refused: too many connections on the feed"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Ok(Caller { uid: None, is_allowed: false })
    }
}

impl Connected<IncomingStream<'_, Door>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        *stream.remote_addr()
    }
}

/// A connection with its place.
pub(super) struct Connection {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
