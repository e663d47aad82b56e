//! The beginning of what a peer says, kept: a server that has no place says so in clear, where its part of a handshake is expected.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Octets that are kept: a frame with a refusal and its text.
pub const MAX_OVERHEARD: usize = 4 + 1_024;

/// A stream whose first octets read are kept.
#[derive(Debug)]
pub struct Overheard<S> {
    stream: S,
    first: Vec<u8>,
}

impl<S> Overheard<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, first: Vec::new() }
    }

    /// What was said in clear, if it was a whole frame: a u32 length and so many octets. Its first octet is 0 then, which no record
    /// of TLS begins with. Anybody on the way can say it.
    pub(super) fn frame(&self) -> Option<Vec<u8>> {
        let (length, body) = self.first.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        (length > 0 && length == body.len()).then(|| body.to_vec())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let left = MAX_OVERHEARD - self.first.len();
        self.first.extend(buf.filled().iter().skip(before).take(left));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
