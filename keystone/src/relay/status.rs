//! The relay's Unix socket: HTTP/1.1, `GET /v1/status`. Who may open it is a matter of the file's mode; nothing in it is secret.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::shell::Report;

/// The bound socket; the file goes when this goes.
pub(super) struct Socket {
    listener: UnixListener,
    file: Remove,
}

struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        // If somebody else has removed it already, so be it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Socket {
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        // A socket that a killed process left behind answers nobody.
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket());
        if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let file = Remove(path.to_owned());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self { listener, file })
    }

    /// Until it is aborted.
    pub(super) async fn serve(self, reports: watch::Receiver<Report>) {
        let Self { listener, file: _file } = self;
        let router = Router::new().route("/v1/status", get(report)).with_state(reports);
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the status socket is gone");
        }
    }
}

async fn report(State(reports): State<watch::Receiver<Report>>) -> Json<Report> {
    let report = reports.borrow().clone();
    Json(report)
}
