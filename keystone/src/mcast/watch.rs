//! The shell around the feed: HTTP/1.1 over the Unix socket of `client-ctl`, again and again while the process runs.
#![allow(clippy::disallowed_methods, reason = "this is shell: one task reads the feed and ends with its handle")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::Clock;
use super::feed::{FeedError, MAX_LINE, State};

/// First and longest wait before the feed is tried again; it doubles between. The socket is local, so trying is cheap.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// How long `client-ctl` may take to answer, the stream that follows aside.
const ANSWER: Duration = Duration::from_secs(5);

/// Why the feed is not read. What was known stays; it is tried again.
#[derive(Debug, Error)]
enum WatchError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("no answer within {} s", ANSWER.as_secs())]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("a line is longer than {MAX_LINE} octets")]
    Long,
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("it ended")]
    Ended,
}

/// What is known of the feed now.
#[derive(Debug, Clone, Default)]
pub(super) struct Link {
    /// Whether the feed is being read at this moment.
    pub(super) connected: bool,
    /// The last state.
    pub(super) state: Option<Arc<State>>,
}

/// The feed of one group. Dropping it ends its tasks.
#[derive(Debug)]
pub(super) struct Feed {
    link: watch::Receiver<Link>,
    applied: watch::Sender<Option<u64>>,
    missing: watch::Sender<Option<u64>>,
    tasks: [AbortHandle; 2],
}

#[derive(Debug, Clone)]
struct Place {
    socket: PathBuf,
    group: String,
}

impl Feed {
    /// Begins to read the feed of `group`; `consumer` names this process in reports of what it has applied.
    pub(super) fn open(socket: PathBuf, group: String, consumer: String, clock: Clock) -> Self {
        let place = Place { socket, group };
        let (link, links) = watch::channel(Link::default());
        let (applied, used) = watch::channel(None);
        let (missing, lacked) = watch::channel(None);
        let read = tokio::spawn(place.clone().keep_reading(link, clock));
        let report = tokio::spawn(place.keep_reporting(consumer, used, lacked));
        Self { link: links, applied, missing, tasks: [read.abort_handle(), report.abort_handle()] }
    }

    /// What is known now; it counts as seen.
    pub(super) fn link(&mut self) -> Link {
        self.link.borrow_and_update().clone()
    }

    /// Whether there is news that [`link`](Self::link) has not seen.
    pub(super) fn has_changed(&self) -> bool {
        self.link.has_changed().unwrap_or(false)
    }

    /// Makes what is known now news again.
    pub(super) fn unseen(&mut self) {
        self.link.mark_changed();
    }

    /// Returns when there is news that [`link`](Self::link) has not seen. Safe to cancel.
    pub(super) async fn changed(&mut self) {
        if self.link.changed().await.is_err() {
            // The task ends only with this handle.
            std::future::pending::<()>().await;
        }
    }

    /// Tells `client-ctl` which epoch this process uses, once for each.
    pub(super) fn applied(&self, epoch: u64) {
        self.applied.send_if_modified(|last| last.replace(epoch) != Some(epoch));
    }

    /// Tells `client-ctl` that data under the key of this epoch is held and the key is not here; once for each.
    pub(super) fn missing(&self, epoch: Option<u64>) {
        self.missing.send_if_modified(|last| std::mem::replace(last, epoch) != epoch);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Place {
    async fn keep_reading(self, link: watch::Sender<Link>, clock: Clock) {
        let (first, longest) = BACK_OFF;
        let mut wait = first;
        let mut told = String::new();
        loop {
            let why = match self.read(&link, clock).await {
                Ok(()) => WatchError::Ended,
                Err(why) => why,
            };
            let was_connected = link.borrow().connected;
            if was_connected {
                link.send_modify(|link| link.connected = false);
                wait = first;
            }
            // The same fault every two seconds is one line.
            let why = why.to_string();
            if why != told {
                let socket = self.socket.display();
                tracing::warn!("the feed of group {} at {socket}: {why}; trying again", self.group);
                told = why;
            }
            sleep(wait).await;
            wait = (wait * 2).min(longest);
        }
    }

    /// Reads states until the feed breaks.
    async fn read(&self, link: &watch::Sender<Link>, clock: Clock) -> Result<(), WatchError> {
        let request = self.request(Method::GET, "watch", Bytes::new())?;
        let mut body = timeout(ANSWER, self.ask(request)).await??.into_body();
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE));
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            for piece in data.split_inclusive(|octet| *octet == b'\n') {
                if line.len() + piece.len() > MAX_LINE {
                    return Err(WatchError::Long);
                }
                line.extend_from_slice(piece);
                if line.ends_with(b"\n") {
                    if !line.trim_ascii().is_empty() {
                        let state = Some(Arc::new(State::parse(&line, clock.now())?));
                        link.send_replace(Link { connected: true, state });
                    }
                    line.clear();
                }
            }
        }
        Ok(())
    }

    async fn keep_reporting(
        self,
        consumer: String,
        mut used: watch::Receiver<Option<u64>>,
        mut lacked: watch::Receiver<Option<u64>>,
    ) {
        loop {
            let (what, body) = tokio::select! {
                Ok(()) = used.changed() => {
                    ("applied", used.borrow_and_update().map(|epoch| json!({ "consumer": consumer, "epoch": epoch })))
                }
                Ok(()) = lacked.changed() => ("missing", lacked.borrow_and_update().map(|epoch| json!({ "epoch": epoch }))),
                else => return,
            };
            if let Some(body) = body
                && let Err(why) = self.report(what, body.to_string()).await
            {
                tracing::debug!(%why, %body, "client-ctl was not told what is {what}");
            }
        }
    }

    async fn report(&self, what: &str, body: String) -> Result<(), WatchError> {
        let request = self.request(Method::POST, what, body.into())?;
        timeout(ANSWER, self.ask(request)).await?.map(|_| ())
    }

    fn request(&self, method: Method, what: &str, body: Bytes) -> Result<Request<Full<Bytes>>, WatchError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/groups/{}/{what}", self.group))
            .header("host", "keystone")
            .header("content-type", "application/json");
        Ok(request.body(Full::new(body))?)
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, WatchError> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the body or when the answer is dropped; what failed shows there.
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(WatchError::Status(status)),
        }
    }
}
