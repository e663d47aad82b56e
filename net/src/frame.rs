//! Frames on a byte stream: a u32 big-endian length, then so many octets.

use std::io;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

/// Memory that a frame gets before its octets arrive. A length alone costs its sender four octets, so it must not buy
/// more; and frames up to this size, all that carry keys, are never moved in memory and leave no copy behind.
const FIRST_RESERVE: usize = 64 * 1024;

/// Why a frame was not read or written. The stream is of no further use.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The stream ended inside a frame. The peer is to blame.
    #[error("truncated frame: the stream ended after {have} octets, expected {need}")]
    Truncated {
        /// Octets announced, of the length itself or of the body.
        need: usize,
        /// Octets that came.
        have: usize,
    },
    /// The frame is longer than is allowed here. Nothing of it was read. The peer is to blame.
    #[error("oversized frame: {length} octets, at most {limit} are allowed here")]
    Oversized {
        /// Octets announced.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// A frame without octets: no message of Keystone is empty. The peer is to blame.
    #[error("empty frame")]
    Empty,
}

/// Reads one frame of at most `max` octets; `None` if the stream ended cleanly before it. A body that may hold secrets is
/// the caller's to wipe. Not safe to cancel: a dropped read loses octets, so the stream must be dropped too.
///
/// # Errors
/// See [`FrameError`]. The length is checked before anything is allocated.
pub async fn read_frame<R: AsyncRead + Unpin>(r: &mut R, max: usize) -> Result<Option<Vec<u8>>, FrameError> {
    let mut head = [0; 4];
    let mut have = 0;
    while have < head.len() {
        match r.read(&mut head[have..]).await? {
            0 if have == 0 => return Ok(None),
            0 => return Err(FrameError::Truncated { need: head.len(), have }),
            n => have += n,
        }
    }
    let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    match length {
        0 => return Err(FrameError::Empty),
        _ if length > max => return Err(FrameError::Oversized { length, limit: max }),
        _ => {}
    }
    let mut body = Vec::with_capacity(length.min(FIRST_RESERVE));
    while body.len() < length {
        let left = u64::try_from(length - body.len()).unwrap_or(u64::MAX);
        if (&mut *r).take(left).read_buf(&mut body).await? == 0 {
            return Err(FrameError::Truncated { need: length, have: body.len() });
        }
    }
    Ok(Some(body))
}

/// Writes one frame, in one piece so that it does not leave as two packets, and flushes.
///
/// # Errors
/// The stream failed, or `body` is empty or longer than a u32 can say.
pub async fn write_frame<W: AsyncWrite + Unpin>(w: &mut W, body: &[u8]) -> Result<(), FrameError> {
    write_frames(w, &[body]).await
}

/// Writes some frames in one piece, which is wiped, and flushes.
///
/// # Errors
/// As [`write_frame`]; then nothing was written.
pub async fn write_frames<W: AsyncWrite + Unpin, B: AsRef<[u8]>>(w: &mut W, bodies: &[B]) -> Result<(), FrameError> {
    let limit = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
    let octets = bodies.iter().map(|body| 4 + body.as_ref().len()).sum();
    let mut whole = Zeroizing::new(Vec::with_capacity(octets));
    for body in bodies.iter().map(AsRef::as_ref) {
        let length = u32::try_from(body.len()).map_err(|_| FrameError::Oversized { length: body.len(), limit })?;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(body);
    }
    w.write_all(&whole).await?;
    w.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(octets: &[u8], max: usize) -> Result<Option<Vec<u8>>, FrameError> {
        let mut stream = octets;
        read_frame(&mut stream, max).await
    }

    #[tokio::test]
    async fn round_trip_and_clean_end() {
        let mut wire = Vec::new();
        let long = vec![7; 3 * FIRST_RESERVE + 1];
        write_frame(&mut wire, b"a").await.unwrap();
        write_frame(&mut wire, &long).await.unwrap();
        let mut r = wire.as_slice();
        assert_eq!(read_frame(&mut r, 1).await.unwrap().unwrap(), b"a");
        assert_eq!(read_frame(&mut r, long.len()).await.unwrap().unwrap(), long);
        assert!(read_frame(&mut r, 1).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn octet_by_octet() {
        let (mut a, mut b) = tokio::io::duplex(1);
        let writer = tokio::spawn(async move { write_frame(&mut a, b"slowly").await });
        assert_eq!(read_frame(&mut b, 6).await.unwrap().unwrap(), b"slowly");
        writer.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn bad_frames() {
        for cut in 1..4 {
            let error = read(&[0, 0, 0, 5][..cut], 10).await.unwrap_err();
            assert!(matches!(error, FrameError::Truncated { need: 4, have } if have == cut), "{error}");
        }
        let error = read(&[0, 0, 0, 5, 1, 2], 10).await.unwrap_err();
        assert!(matches!(error, FrameError::Truncated { need: 5, have: 2 }), "{error}");
        let error = read(&[0xff; 8], 10).await.unwrap_err();
        assert!(matches!(error, FrameError::Oversized { length: 0xffff_ffff, limit: 10 }), "{error}");
        let error = read(&[0, 0, 0, 11], 10).await.unwrap_err();
        assert!(matches!(error, FrameError::Oversized { length: 11, limit: 10 }), "{error}");
        assert!(matches!(read(&[0; 4], 10).await.unwrap_err(), FrameError::Empty));
        assert!(matches!(write_frame(&mut Vec::new(), b"").await.unwrap_err(), FrameError::Empty));
    }
}
