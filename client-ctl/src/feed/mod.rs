//! The feed: group keys for data processors, over HTTP/1.1 on a Unix socket.
//!
//! ```text
//! GET  /v1/groups                  names and how this client stands to them
//! GET  /v1/groups/{group}/keys     all that is known of a group: one JSON object
//! GET  /v1/groups/{group}/watch    the same at once, then again with every change, one per line
//! POST /v1/groups/{group}/applied  {"consumer":"name","epoch":n}: this data processor uses that key -> 204
//! POST /v1/groups/{group}/missing  {"epoch":n}: it holds data under that key, which it does not have -> 204
//! POST /v1/groups/{group}/join     -> 202
//! POST /v1/groups/{group}/leave    -> 202
//! GET  /v1/status                  identity, registration, counters
//! GET  /healthz                    200 while the daemon runs
//! ```
//!
//! There is no password: the kernel says which user calls. A watcher that reads slowly misses states, never the newest; one that reads
//! nothing at all for 30 s, with its buffer full, is cut off.
#![allow(
    clippy::disallowed_methods,
    reason = "this is shell: it spawns its server and reads the clock for relative times"
)]

mod line;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, Path as Part, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use net::local::{Callers, Door};
use protocol::MAX_NAME;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use line::{kid, line};

use crate::core::{Input, MAX_CONSUMER, MAX_GROUPS, Now, Snapshot};

/// Octets of a request's body: a report has under 200.
const MAX_BODY: usize = 4_096;
/// Requests of data processors that wait for the core.
pub const MAX_WAITING: usize = 64;

/// What a data processor asks of the daemon.
#[derive(Debug)]
pub enum Command {
    /// This happens to the core.
    Tell(Input<'static>),
    /// Everything about the daemon but its keys.
    Status(oneshot::Sender<Value>),
}

/// Why there is no feed. The configuration or the host is to blame.
#[derive(Debug, Error)]
#[error("{}: {source}", path.display())]
pub struct FeedError {
    path: PathBuf,
    source: io::Error,
}

/// A clock that begins when the daemon does.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the beginning.
    pub fn now(&self) -> Now {
        self.0.elapsed()
    }

    /// When that is for the runtime.
    pub fn at(&self, now: Now) -> Instant {
        self.0 + now
    }
}

/// The newest state of each group, for all who watch.
type Groups = BTreeMap<String, tokio::sync::watch::Sender<Arc<Snapshot>>>;

#[derive(Clone)]
struct Shared {
    clock: Clock,
    groups: Arc<Mutex<Groups>>,
    commands: mpsc::Sender<Command>,
}

impl Shared {
    fn groups(&self) -> MutexGuard<'_, Groups> {
        // Nothing panics while it is held; if something did, the states are still whole.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, group: &str) -> Option<tokio::sync::watch::Receiver<Arc<Snapshot>>> {
        self.groups().get(group).map(tokio::sync::watch::Sender::subscribe)
    }

    async fn send(&self, command: Command) -> Result<(), StatusCode> {
        self.commands.send(command).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// The running feed.
pub struct Feed {
    shared: Shared,
    close: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Feed {
    /// Binds the socket at `path` and serves. `allowed` are user ids besides root and this process's own.
    ///
    /// # Errors
    /// The socket cannot be bound, or another daemon answers on it. Nothing was changed.
    pub fn open(
        path: &Path,
        allowed: BTreeSet<u32>,
        clock: Clock,
        commands: mpsc::Sender<Command>,
    ) -> Result<Self, FeedError> {
        let opened = Door::open(path, Callers::Users(allowed));
        let door = opened.map_err(|source| FeedError { path: path.to_owned(), source })?;
        let shared = Shared { clock, groups: Arc::default(), commands };
        let (close, closed) = oneshot::channel::<()>();
        let server = door.serve(router(shared.clone()), async {
            // A dropped sender closes too.
            let _ = closed.await;
        });
        Ok(Self { shared, close, server: tokio::spawn(server) })
    }

    /// Tells everybody who watches this group.
    pub fn publish(&self, group: String, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        let mut groups = self.shared.groups();
        match groups.get(&group) {
            Some(sender) => _ = sender.send_replace(snapshot),
            None => _ = groups.insert(group, tokio::sync::watch::Sender::new(snapshot)),
        }
    }

    /// Ends all streams and removes the socket.
    pub async fn close(self) {
        self.shared.groups().clear();
        let _ = self.close.send(());
        // The door has a time for that.
        let _ = self.server.await;
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/groups", get(groups))
        .route("/v1/groups/{group}/keys", get(keys))
        .route("/v1/groups/{group}/watch", get(watched))
        .route("/v1/groups/{group}/applied", post(applied))
        .route("/v1/groups/{group}/missing", post(missing))
        .route("/v1/groups/{group}/join", post(join))
        .route("/v1/groups/{group}/leave", post(leave))
        .route("/v1/status", get(status))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such path\n") })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

async fn groups(State(shared): State<Shared>) -> Json<Value> {
    let groups = shared.groups();
    let list: Vec<Value> =
        groups.iter().map(|(name, sender)| json!({ "group": name, "status": sender.borrow().status })).collect();
    Json(json!({ "groups": list }))
}

async fn keys(State(shared): State<Shared>, Part(group): Part<String>) -> Response {
    let Some(receiver) = shared.watch(&group) else {
        return unknown();
    };
    let body = line(&receiver.borrow(), shared.clock.now());
    typed("application/json", Body::from(watch::bytes(body)))
}

async fn watched(State(shared): State<Shared>, Part(group): Part<String>) -> Response {
    let Some(receiver) = shared.watch(&group) else {
        return unknown();
    };
    typed("application/x-ndjson", Body::new(watch::Lines::new(receiver, shared.clock)))
}

fn typed(kind: &'static str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

fn unknown() -> Response {
    (StatusCode::NOT_FOUND, "no such group here\n").into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    consumer: String,
    epoch: u64,
}

async fn applied(
    State(shared): State<Shared>,
    Part(group): Part<String>,
    report: Result<Json<Report>, JsonRejection>,
) -> Response {
    if shared.watch(&group).is_none() {
        return unknown();
    }
    let Report { consumer, epoch } = match report {
        Ok(Json(report)) => report,
        Err(rejection) => return rejection.into_response(),
    };
    if consumer.is_empty() || consumer.len() > MAX_CONSUMER {
        let why = format!("consumer has {} octets, expected 1 to {MAX_CONSUMER}\n", consumer.len());
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    match shared.send(Command::Tell(Input::Applied { group, consumer, epoch })).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(code) => code.into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MissingKey {
    epoch: u64,
}

async fn missing(
    State(shared): State<Shared>,
    Part(group): Part<String>,
    report: Result<Json<MissingKey>, JsonRejection>,
) -> Response {
    if shared.watch(&group).is_none() {
        return unknown();
    }
    let epoch = match report {
        Ok(Json(MissingKey { epoch })) => epoch,
        Err(rejection) => return rejection.into_response(),
    };
    match shared.send(Command::Tell(Input::Missing { group, epoch })).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(code) => code.into_response(),
    }
}

async fn join(State(shared): State<Shared>, Part(group): Part<String>) -> Response {
    if group.is_empty() || group.len() > MAX_NAME {
        let why = format!("group has {} octets, expected 1 to {MAX_NAME}\n", group.len());
        return (StatusCode::BAD_REQUEST, why).into_response();
    }
    let is_full = {
        let groups = shared.groups();
        groups.len() >= MAX_GROUPS && !groups.contains_key(&group)
    };
    if is_full {
        return (StatusCode::TOO_MANY_REQUESTS, format!("{MAX_GROUPS} groups are the most\n")).into_response();
    }
    match shared.send(Command::Tell(Input::Join(group))).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(code) => code.into_response(),
    }
}

async fn leave(State(shared): State<Shared>, Part(group): Part<String>) -> Response {
    if shared.watch(&group).is_none() {
        return unknown();
    }
    match shared.send(Command::Tell(Input::Leave(group))).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(code) => code.into_response(),
    }
}

async fn status(State(shared): State<Shared>) -> Response {
    let (answer, answered) = oneshot::channel();
    if let Err(code) = shared.send(Command::Status(answer)).await {
        return code.into_response();
    }
    match answered.await {
        Ok(status) => Json(status).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[cfg(test)]
mod tests;
