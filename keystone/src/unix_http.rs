//! One HTTP/1.1 question over a Unix socket, answered in JSON.

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;

/// An answer is a list of a group's members at the most: 1,000,000 of 100 octets.
const MAX_ANSWER: usize = 128 << 20;
/// A local daemon that does not answer in this time is stuck.
const TIME: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    /// Nobody listens there.
    #[error("{socket}: {source}")]
    Unreachable {
        /// The socket.
        socket: String,
        /// Why.
        source: std::io::Error,
    },
    /// The daemon says no.
    #[error("{error} (HTTP {status})")]
    Refused {
        /// Its status code.
        status: u16,
        /// Its words.
        error: String,
    },
    /// What came back is no answer.
    #[error("{socket}: no answer that can be understood: {why}")]
    Broken {
        /// The socket.
        socket: String,
        /// Why.
        why: String,
    },
}

/// Asks; a `body` makes it a POST.
pub(crate) async fn ask(socket: &Path, path: &str, body: Option<Value>) -> Result<Value, AskError> {
    let broken = |why: String| AskError::Broken { socket: socket.display().to_string(), why };
    tokio::time::timeout(TIME, exchange(socket, path, body)).await.map_err(|_| broken("it takes too long".into()))?
}

async fn exchange(socket: &Path, path: &str, body: Option<Value>) -> Result<Value, AskError> {
    let name = || socket.display().to_string();
    let broken = |why: &dyn std::fmt::Display| AskError::Broken { socket: name(), why: why.to_string() };
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .map_err(|source| AskError::Unreachable { socket: name(), source })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let method = if body.is_some() { "POST" } else { "GET" };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "keystone")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))
        .map_err(|error| broken(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| broken(&error))?;
        let text = body.to_bytes();
        let value: Value =
            if text.is_empty() { Value::Null } else { serde_json::from_slice(&text).unwrap_or(Value::Null) };
        if status.is_success() {
            return Ok(value);
        }
        let error = value["error"].as_str().unwrap_or("refused").to_owned();
        Err(AskError::Refused { status: status.as_u16(), error })
    };
    tokio::select! {
        answer = answer => answer,
        Err(error) = connection => Err(broken(&error)),
    }
}
