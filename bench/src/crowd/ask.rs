//! What daemons tell of themselves.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::Failure;

/// What a daemon answers on its socket.
pub(crate) fn ask(socket: &Path, method: &str, path: &str) -> Result<Value, Failure> {
    let mut stream = UnixStream::connect(socket)?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: k\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a body")?;
    Ok(serde_json::from_str(body)?)
}
