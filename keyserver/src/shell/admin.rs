//! The operator's Unix socket: HTTP/1.1 and JSON; the kernel says who asks.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use net::admission::Admission;
use net::entropy::OsEntropy;
use net::local::{Callers, Door};
use net::reload::{Reloaded, Reloads};
use protocol::credential::NO_END;
use protocol::identity::Identity;
use serde::Deserialize;
use serde_json::{Value, json};

use super::commands::{Command, Handle};
use crate::config::FileConfig;
use crate::config::keys::Keys;
use crate::core::{Admin, AdminError, AdminReply, Cause, Endings, MemberStatus};
use crate::store::write_backup;

/// Octets of a command's body: an identity and a little JSON.
const MAX_BODY: usize = 4_096;

/// The operator's socket.
pub(super) fn bind(file: &FileConfig) -> io::Result<Door> {
    Door::open(&file.admin_socket, Callers::Users(file.admin_uids.iter().copied().collect()))
}

/// What the shell knows of itself.
#[derive(Clone)]
pub(super) struct About {
    pub(super) keys: Reloaded<Keys>,
    pub(super) reloads: Reloads,
    pub(super) requests: Admission,
    pub(super) registrars: Admission,
}

/// Answers operators for ever.
pub(super) async fn serve(door: Door, file: &FileConfig, about: About, engine: Handle) {
    let (backup_key, backed_up) = (file.backup_key.clone(), engine.clone());
    let router = Router::new()
        .route("/v1/status", get(move |State(engine): State<Handle>| status(engine, about)))
        .route("/v1/backup", post(move |Json(to): Json<To>| backup(backed_up, backup_key, to)))
        .route("/v1/groups/{group}/members", get(members))
        .route("/v1/groups/{group}/evict", post(evict))
        .route("/v1/groups/{group}/admit", post(admit))
        .route("/v1/groups/{group}/refresh", post(refresh))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(engine);
    door.serve(router, std::future::pending()).await;
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

/// What the core says of itself, which key signs, what became of files that were read again, and of
/// those who came.
async fn status(engine: Handle, about: About) -> Response {
    let keys = about.keys.get();
    let more = json!({
        "signing_key": hex::encode(keys.signing.public().octets()),
        "noise_keys": keys.noise.public().map(hex::encode).collect::<Vec<_>>(),
        "site_certificate": keys.site.as_ref().map(|site| json!({
            "begins": site.certificate.not_before, "days_left": site.days_left(),
        })),
        "files": about.reloads.readings(),
        "doors": { "requests": about.requests.tally(), "registrars": about.registrars.tally() },
        "tasks": net::local::tasks(),
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
                "too_often": status.registrations.too_often,
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
