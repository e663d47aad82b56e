//! A daemon's door for its own host: HTTP/1.1 on a Unix socket. The kernel says who calls; every step of a call has its time.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

/// Who may call.
#[derive(Debug, Clone)]
pub enum Callers {
    /// Whoever the mode of the file, 0660, lets in.
    Anybody,
    /// Of these, root, the daemon's own user, and these user ids.
    Users(BTreeSet<u32>),
    /// So that a test is somebody else, whoever runs it.
    #[cfg(test)]
    Nobody,
}

/// What one door bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once of those who may call. The default, 64, is an operator or two, what watches for them, and some tens of data
    /// processors.
    pub places: usize,
    /// Connections at once of those who may not, and hear so: they cannot take the others' places. By default 8.
    pub strangers: usize,
    /// Time for a request's head to come, from the beginning of the connection or the end of the request before. The default, 30 s,
    /// keeps a connection through the pauses of a script, and gives the place of one that was forgotten to somebody else.
    pub head: Duration,
    /// Time for its body and for the answer to begin. By default 60 s: the longest is a backup of a million members.
    pub answer: Duration,
    /// Time in which whoever is answered must take something. By default 30 s. Streams that have nothing to say are none of its concern.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (head, answer, write) = (Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(30));
        Self { places: 64, strangers: 8, head, answer, write }
    }
}

/// The bound socket; the file goes when this goes.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    callers: Callers,
    limits: Limits,
    _file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If somebody else has removed it already, so be it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// When a door closes, calls that are under way get this long.
const CLOSE: Duration = Duration::from_millis(500);

impl Door {
    /// Binds the socket at `path` with mode 0660. What an earlier process has left behind is removed, if nobody answers on it. Needs
    /// a tokio runtime.
    ///
    /// # Errors
    /// The system's; or another daemon answers there, or something that is no socket is there. Nothing was changed.
    pub fn open(path: &Path, callers: Callers) -> io::Result<Self> {
        if let Ok(there) = std::fs::symlink_metadata(path) {
            if !there.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket is there"));
            }
            match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(error) => return Err(error),
                Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers on it")),
            }
        }
        let listener = UnixListener::bind(path)?;
        let file = SocketFile(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self { listener, callers, limits: Limits::default(), _file: file })
    }

    /// With other limits.
    #[must_use]
    pub fn with(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Serves until `close`, and then what is under way for half a second more. Dropped, it ends at once.
    pub async fn serve(self, router: Router, close: impl Future<Output = ()>) {
        let mut close = std::pin::pin!(close);
        let mut calls = JoinSet::new();
        let graceful = GracefulShutdown::new();
        let [places, strangers] =
            [self.limits.places, self.limits.strangers].map(|count| Arc::new(Semaphore::new(count)));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = calls.join_next() => continue,
                () = &mut close => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on a Unix socket");
                    // The cause, mostly a lack of descriptors, stays for a while; do not spin on it.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
            let is_allowed = self.callers.include(uid);
            let Ok(place) = Arc::clone(if is_allowed { &places } else { &strangers }).try_acquire_owned() else {
                tracing::debug!(uid, "refused: too many connections on a Unix socket");
                continue;
            };
            let call = call(stream, is_allowed.then(|| router.clone()), uid, self.limits);
            let call = graceful.watch(call);
            calls.spawn(async move {
                if let Err(error) = call.await {
                    tracing::debug!(uid, %error, "a connection on a Unix socket ended");
                }
                drop(place);
            });
        }
        // Nobody comes any more, and the file is gone with the door.
        drop(self);
        let _ = tokio::time::timeout(CLOSE, graceful.shutdown()).await;
    }
}

impl Callers {
    fn include(&self, uid: Option<u32>) -> bool {
        match self {
            Self::Anybody => true,
            #[cfg(test)]
            Self::Nobody => false,
            Self::Users(users) => {
                uid.is_some_and(|uid| uid == 0 || uid == rustix::process::getuid().as_raw() || users.contains(&uid))
            }
        }
    }
}

/// One connection; without a router, every request hears that this user may not call.
fn call(
    stream: UnixStream,
    router: Option<Router>,
    uid: Option<u32>,
    limits: Limits,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write));
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let Some(router) = router else {
                tracing::warn!(uid, "a user that may not use a Unix socket has called");
                return Ok(says(StatusCode::FORBIDDEN, "this user may not call here"));
            };
            match tokio::time::timeout(limits.answer, TowerToHyperService::new(router).call(request)).await {
                Ok(answered) => answered,
                Err(_) => Ok::<_, Infallible>(says(StatusCode::REQUEST_TIMEOUT, "there was no answer in time")),
            }
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
}

/// A refusal, after which the connection ends.
fn says(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::from(format!("{{\"error\":\"{why}\"}}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Tasks of this daemon's runtime that are alive now.
///
/// # Panics
/// Outside a tokio runtime.
pub fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[cfg(test)]
mod tests;
