//! The operator's Unix socket: HTTP/1.1 and JSON; the kernel says who asks.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path as UrlPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use net::entropy::OsEntropy;
use net::reload::Reloaded;
use protocol::credential::NO_END;
use protocol::identity::Identity;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::engine::{Command, Handle};
use crate::config::FileConfig;
use crate::config::keys::Keys;
use crate::core::{Admin, AdminError, AdminReply, Cause, Endings, MemberStatus};
use crate::store::write_backup;

/// Octets of a command's body: an identity and a little JSON.
const MAX_BODY: usize = 4_096;
/// Connections at once: operators, and what watches for them.
const MAX_OPERATORS: usize = 64;
/// Connections at once of those who may not give commands, and hear so: they cannot take the others' places.
const MAX_STRANGERS: usize = 8;

/// The bound socket; the file goes when this goes.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        // A socket file that a killed process left behind answers nobody.
        if path.exists() && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    pub(super) async fn serve(self, file: &FileConfig, keys: Reloaded<Keys>, engine: Handle) {
        let (uids, backup_key, backed_up) = (file.admin_uids.clone(), file.backup_key.clone(), engine.clone());
        let Self { listener, path } = self;
        let _remove = Remove(path);
        let own = std::fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me)).unwrap_or(0);
        let allowed = move |uid: u32| uid == 0 || uid == own || uids.contains(&uid);
        let door = Door {
            listener,
            allowed: allowed.clone(),
            places: places(MAX_OPERATORS),
            strangers: places(MAX_STRANGERS),
        };
        let router = Router::new()
            .route("/v1/status", get(move |State(engine): State<Handle>| status(engine, keys)))
            .route("/v1/backup", post(move |Json(to): Json<To>| backup(backed_up, backup_key, to)))
            .route("/v1/groups/{group}/members", get(members))
            .route("/v1/groups/{group}/evict", post(evict))
            .route("/v1/groups/{group}/admit", post(admit))
            .route("/v1/groups/{group}/refresh", post(refresh))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn(move |peer: ConnectInfo<Peer>, request: Request, next: Next| {
                let allowed = peer.0.uid.is_some_and(&allowed);
                async move { if allowed { next.run(request).await } else { StatusCode::FORBIDDEN.into_response() } }
            }))
            .with_state(engine);
        if let Err(error) = axum::serve(door, router.into_make_service_with_connect_info::<Peer>()).await {
            tracing::error!(%error, "the operator's socket is gone");
        }
    }
}

struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn places(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count))
}

struct Door<A> {
    listener: UnixListener,
    allowed: A,
    places: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// Who is at the other end, by `SO_PEERCRED`, and its place, given back with the connection.
#[derive(Debug, Clone)]
struct Peer {
    uid: Option<u32>,
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

impl<A: Fn(u32) -> bool + Send + 'static> Listener for Door<A> {
    type Io = UnixStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (UnixStream, Peer) {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // The cause, mostly a lack of descriptors, stays for a while; do not spin on it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
            let places = if uid.is_some_and(&self.allowed) { &self.places } else { &self.strangers };
            if let Ok(place) = Arc::clone(places).try_acquire_owned() {
                return (stream, Peer { uid, _place: Some(Arc::new(place)) });
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { uid: None, _place: None })
    }
}

impl<A: Fn(u32) -> bool + Send + 'static> Connected<IncomingStream<'_, Door<A>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door<A>>) -> Self {
        stream.remote_addr().clone()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    identity: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    path: PathBuf,
}

/// Writes a backup where the operator says. It is consistent, because the core is asked between two changes.
async fn backup(engine: Handle, key: Option<PathBuf>, To { path }: To) -> Response {
    let Some(key) = key else {
        return failure(StatusCode::CONFLICT, "no `backup_key` is configured");
    };
    if !path.is_absolute() {
        return failure(StatusCode::BAD_REQUEST, "the path of a backup must be absolute");
    }
    let Some(Ok(AdminReply::Backup(snapshot))) = engine.ask(|answer| Command::Admin(Admin::Backup, answer)).await
    else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "the key server is stopping");
    };
    let octets = snapshot.0.len();
    let written = tokio::task::spawn_blocking(move || write_backup(&path, &key, &snapshot.0, &mut OsEntropy)).await;
    match written {
        Ok(Ok(())) => Json(json!({ "ok": true, "octets": octets })).into_response(),
        Ok(Err(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "the backup was not written"),
    }
}

/// What the core says of itself, and which key signs.
async fn status(engine: Handle, keys: Reloaded<Keys>) -> Response {
    let keys = keys.get();
    let more = json!({
        "signing_key": hex::encode(keys.signing.public().octets()),
        "noise_keys": keys.noise.public().map(hex::encode).collect::<Vec<_>>(),
        "site_certificate": keys.site.as_ref().map(|site| json!({
            "begins": site.certificate.not_before, "days_left": site.days_left(),
        })),
    });
    match ask(&engine, Admin::Status).await {
        Ok(Value::Object(mut status)) => {
            status.extend(more.as_object().cloned().unwrap_or_default());
            Json(status).into_response()
        }
        Ok(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "no status"),
        Err(refused) => refused,
    }
}

async fn members(State(engine): State<Handle>, UrlPath(group): UrlPath<String>) -> Response {
    order(&engine, Admin::Members { group }).await
}

async fn refresh(State(engine): State<Handle>, UrlPath(group): UrlPath<String>) -> Response {
    order(&engine, Admin::Refresh { group }).await
}

async fn evict(State(engine): State<Handle>, UrlPath(group): UrlPath<String>, Json(who): Json<Who>) -> Response {
    match Identity::parse(&who.identity) {
        Ok(identity) => order(&engine, Admin::Evict { group, identity }).await,
        Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn admit(State(engine): State<Handle>, UrlPath(group): UrlPath<String>, Json(who): Json<Who>) -> Response {
    match Identity::parse(&who.identity) {
        Ok(identity) => order(&engine, Admin::Admit { group, identity }).await,
        Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn order(engine: &Handle, command: Admin) -> Response {
    ask(engine, command).await.map_or_else(|refused| refused, |reply| Json(reply).into_response())
}

async fn ask(engine: &Handle, command: Admin) -> Result<Value, Response> {
    match engine.ask(|answer| Command::Admin(command, answer)).await {
        Some(Ok(reply)) => Ok(render(reply)),
        Some(Err(error)) => {
            let status = match error {
                AdminError::UnknownGroup | AdminError::UnknownClient | AdminError::NotMember => StatusCode::NOT_FOUND,
                AdminError::Busy | AdminError::Standby | AdminError::Stopped => StatusCode::SERVICE_UNAVAILABLE,
                AdminError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(failure(status, &error.to_string()))
        }
        None => Err(failure(StatusCode::SERVICE_UNAVAILABLE, "the key server is stopping")),
    }
}

fn failure(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn member(member: &MemberStatus) -> Value {
    let (kind, ends) = member.credential.map(|(kind, ends)| (kind.name(), ends)).unzip();
    json!({
        "client_id": member.client.0, "identity": member.identity.as_str(), "joined_epoch": member.joined_epoch,
        "role": member.role.name(), "lease_s": member.lease_s, "silent_s": member.silent.as_secs(),
        "authentication": kind, "credential_ends": ends.filter(|ends| *ends != NO_END),
    })
}

/// How many memberships have ended in this reign, by cause.
fn endings(endings: &Endings) -> Value {
    let causes = Cause::ALL.iter().zip(endings.causes).map(|(cause, count)| (cause.name(), count));
    let all = std::iter::once(("left", endings.left)).chain(causes);
    Value::Object(all.map(|(name, count)| (name.to_owned(), count.into())).collect())
}

fn render(reply: AdminReply) -> Value {
    match reply {
        AdminReply::Done => json!({ "ok": true }),
        // Told to nobody but who wrote it to a file.
        AdminReply::Backup(snapshot) => json!({ "octets": snapshot.0.len() }),
        AdminReply::Epoch(epoch) => json!({ "ok": true, "epoch": epoch }),
        AdminReply::Members(members) => {
            let ended = members.ended.iter().map(|(client, identity, epoch, cause)| {
                let cause = cause.map_or("left", Cause::name);
                json!({ "client_id": client.0, "identity": identity.as_str(), "left_epoch": epoch, "cause": cause })
            });
            json!({
                "members": members.members.iter().map(member).collect::<Vec<_>>(),
                "ended": ended.collect::<Vec<_>>(),
            })
        }
        AdminReply::Status(status) => json!({
            "name": status.name,
            "term": status.term,
            "standby": status.standby,
            "clients": status.clients,
            "registrars": status.registrars,
            "registrations": {
                "sealed": status.registrations.sealed,
                "exported": status.registrations.exported,
                "unopened": status.registrations.unopened,
                "exported_refused": status.registrations.exported_refused,
            },
            "subscribers": status.subscribers,
            "subscribers_cut": status.subscribers_cut,
            "denied": status.denied,
            "misbehaved": status.misbehaved,
            "groups": status.groups.iter().map(|group| json!({
                "name": group.name, "id": group.id.0, "epoch": group.epoch,
                "members": group.members, "height": group.height,
                "rekey_messages": group.rekey_messages, "units_sent": group.units_sent,
                "ended": endings(&group.endings),
                "stopped": group.stopped.map(|(term, epoch)| json!({ "term": term, "epoch": epoch })),
                "last_eviction_us": group.eviction.map(|(last, _)| micros(last)),
                "slowest_eviction_us": group.eviction.map(|(_, slowest)| micros(slowest)),
            })).collect::<Vec<_>>(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many connections find a place; whether one more does when one of them has ended.
    async fn places_of(allowed: bool) -> (usize, bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut door = Door { listener, allowed: move |_| allowed, places: places(5), strangers: places(2) };
        let mut inside = Vec::new();
        let limit = Duration::from_millis(100);
        for _ in 0..8 {
            let client = UnixStream::connect(&path).await.unwrap();
            if let Ok(accepted) = tokio::time::timeout(limit, door.accept()).await {
                inside.push((client, accepted));
            }
        }
        let count = inside.len();
        inside.pop();
        let _client = UnixStream::connect(&path).await.unwrap();
        (count, tokio::time::timeout(limit, door.accept()).await.is_ok())
    }

    #[tokio::test]
    async fn strangers_take_no_operator_s_place() {
        assert_eq!(places_of(true).await, (5, true));
        assert_eq!(places_of(false).await, (2, true));
    }
}
