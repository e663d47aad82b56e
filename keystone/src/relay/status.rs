//! What the relay tells of itself: `GET /v1/status` on a Unix socket. Who may open it is a matter of the file's mode; nothing in it is
//! secret.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use net::local::Door;
use tokio::sync::watch;

use super::shell::Report;

/// Until it is aborted.
pub(super) async fn serve(door: Door, reports: watch::Receiver<Report>) {
    let router = Router::new().route("/v1/status", get(report)).with_state(reports);
    door.serve(router, std::future::pending()).await;
}

async fn report(State(reports): State<watch::Receiver<Report>>) -> Json<Report> {
    let report = reports.borrow().clone();
    Json(report)
}
