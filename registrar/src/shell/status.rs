//! What the registrar tells of itself: `GET /v1/status` on a Unix socket. Who may open it is a matter of the file's mode; nothing in it is
//! secret.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use net::admission::Admission;
use net::local::Door;
use net::reload::{Reloaded, Reloads};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{Command, Doors};
use crate::core::{Core, Tally};

/// Who is asked.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) doors: Reloaded<Doors>,
    pub(super) reloads: Reloads,
    pub(super) admission: Admission,
}

/// For ever; without a door it says nothing.
pub(super) async fn serve(door: Option<Door>, sources: Sources) {
    let router = Router::new().route("/v1/status", get(status)).with_state(sources);
    match door {
        Some(door) => door.serve(router, std::future::pending()).await,
        None => std::future::pending().await,
    }
}

/// The core's part.
pub(super) fn of(core: &Core) -> Value {
    let Tally { registered, refused, unproved, failed } = core.tally();
    json!({
        "key_server": core.key_server(),
        "clients": core.clients(),
        "under_way": core.under_way(),
        "registered": registered,
        "refused": refused,
        "unproved": unproved,
        "failed": failed,
    })
}

async fn status(State(sources): State<Sources>) -> Response {
    let (answer, answered) = oneshot::channel();
    // It fails only when the registrar is ending.
    let _ = sources.commands.send(Command::Status(answer)).await;
    let Ok(mut status) = answered.await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let credentials = &sources.doors.get().credentials;
    status["registrar"] = credentials.identity().as_str().into();
    status["certificate_days"] = credentials.days_left().into();
    status["files"] = json!(sources.reloads.readings());
    status["door"] = json!(sources.admission.tally());
    status["tasks"] = net::local::tasks().into();
    Json(status).into_response()
}
