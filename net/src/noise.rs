//! Noise (revision 34) over a byte stream: `Noise_NKpsk0_25519_ChaChaPoly_SHA256`, the cover of every request.
//!
//! The client knows the key server's static key and shares its individual key with it. On the wire, each item a
//! [frame](crate::frame):
//!
//! ```text
//! client -> server   preamble, in clear, 1 to 128 octets: says which pre-shared key; bound by the prologue
//! client -> server   48 octets: psk, e, es
//! server -> client   48 octets: e, ee; or, in clear, 5 octets: when there is a place
//! both ways          transport messages of at most 65,535 octets
//! ```
//!
//! Whatever is sent travels in one or more transport messages: the first plaintext begins with the u32 length of the
//! whole, every one but the last is full. The handshake carries no payload: a client's first message can be replayed,
//! but who replays it does not get the keys of the transport messages, so no request can be replayed.

mod key;
pub mod sealed;
mod x25519;

use std::time::Duration;

use snow::{Builder, HandshakeState, TransportState};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

pub use key::{StaticKey, StaticKeyError, StaticKeys};

use crate::frame::{FrameError, read_frame, write_frame};

const PATTERN: &str = "Noise_NKpsk0_25519_ChaChaPoly_SHA256";

/// What both ends mix in first, before the preamble: another version of requests has another one.
const PROLOGUE: &[u8] = b"keystone request 1";

/// Longest preamble in octets: anybody may send one, and it has to hold three numbers.
pub const MAX_PREAMBLE: usize = 128;

/// Octets of what is said in clear in the place of the server's handshake message: a version, and a u32 of milliseconds.
const NOTICE: usize = 5;
const NOTICE_VERSION: u8 = 1;

/// Octets of both handshake messages: a public key and the tag of an empty payload.
const HANDSHAKE: usize = 32 + TAG;

const TAG: usize = 16;

/// Longest transport message (Noise, section 3).
const MAX_MESSAGE: usize = 65_535;

const MAX_PLAINTEXT: usize = MAX_MESSAGE - TAG;

const LENGTH: usize = 4;

/// Why a request or its answer did not get through. The connection is of no further use.
#[derive(Debug, Error)]
pub enum NoiseError {
    /// The stream failed or carried something that is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream ended where a message was due.
    #[error("the peer closed the connection")]
    Closed,
    /// The preamble is empty or too long.
    #[error("a preamble of {0} octets, expected 1 to {MAX_PREAMBLE}")]
    Preamble(usize),
    /// The two ends do not hold the same pre-shared key, static key and preamble.
    #[error("Noise handshake refused: the pre-shared key, the static key or the preamble differ at the two ends")]
    Handshake,
    /// The server has no place, and says in clear that it has one so much later. Anybody on the way can say it.
    #[error("the key server has no place now, and has one in {} s", .0.as_secs_f32())]
    Busy(Duration),
    /// A transport message is not the peer's next one.
    #[error("a Noise message was altered, repeated or left out")]
    Message,
    /// The pieces of a message do not fit their announced length. The peer is to blame.
    #[error("malformed message: a piece of {got} octets, expected {expected}")]
    Piece {
        /// Octets of the piece.
        got: usize,
        /// Octets that it should have.
        expected: usize,
    },
    /// The message is longer than is allowed here. The peer, or the caller that sends it, is to blame.
    #[error("oversized message: {length} octets, at most {limit} are allowed here")]
    Oversized {
        /// Octets announced.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The library refuses: a defect of Keystone.
    #[error("Noise: {0}")]
    Library(snow::Error),
}

/// A stream on which both ends have proved their keys.
pub struct NoiseStream<S> {
    stream: S,
    state: TransportState,
}

impl<S> NoiseStream<S> {
    /// What it runs over.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S> std::fmt::Debug for NoiseStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoiseStream(***)")
    }
}

/// The client's side of the handshake. The caller bounds its time.
///
/// # Errors
/// A server that does not know the key, or holds another one, closes the connection: [`NoiseError::Closed`].
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    preamble: &[u8],
    server_static_public: &[u8; 32],
    psk: &[u8; 32],
) -> Result<NoiseStream<S>, NoiseError> {
    let prologue = prologue(preamble)?;
    let mut state = builder(&prologue, psk)?
        .remote_public_key(server_static_public)
        .and_then(Builder::build_initiator)
        .map_err(NoiseError::Library)?;
    write_frame(&mut stream, preamble).await?;
    write_handshake(&mut stream, &mut state).await?;
    read_handshake(&mut stream, &mut state).await?;
    NoiseStream::new(stream, state)
}

/// The server's first step: the client's preamble, which nobody has vouched for yet. The caller bounds its time.
///
/// # Errors
/// See [`NoiseError`].
pub async fn read_preamble<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, NoiseError> {
    read_frame(stream, MAX_PREAMBLE).await?.ok_or(NoiseError::Closed)
}

/// The server's second step, with the pre-shared key that the preamble names, under whichever of its static keys the client
/// means. Who does not prove the pre-shared key has all of them tried. The caller bounds its time.
///
/// # Errors
/// [`NoiseError::Handshake`] if the client proves no such key; nothing was sent to it.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    preamble: &[u8],
    keys: &impl AsRef<[StaticKey]>,
    psk: &[u8; 32],
) -> Result<NoiseStream<S>, NoiseError> {
    let prologue = prologue(preamble)?;
    let message = read_frame(&mut stream, HANDSHAKE).await?.ok_or(NoiseError::Closed)?;
    for key in keys.as_ref() {
        let mut state = builder(&prologue, psk)?
            .local_private_key(key.private())
            .and_then(Builder::build_responder)
            .map_err(NoiseError::Library)?;
        if is_read(&mut state, &message) {
            write_handshake(&mut stream, &mut state).await?;
            return NoiseStream::new(stream, state);
        }
    }
    Err(NoiseError::Handshake)
}

/// The server's second step when the preamble names no pre-shared key: does what a wrong key would make [`accept`] do,
/// as slowly, so that strangers cannot learn which numbers are in use. Returns why the client was refused.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    preamble: &[u8],
    keys: &impl AsRef<[StaticKey]>,
) -> NoiseError {
    let mut nobodys = Zeroizing::new([0; 32]);
    if aws_lc_rs::rand::fill(&mut *nobodys).is_err() {
        return NoiseError::Handshake;
    }
    accept(stream, preamble, keys, &nobodys).await.err().unwrap_or(NoiseError::Handshake)
}

impl<S: AsyncRead + AsyncWrite + Unpin> NoiseStream<S> {
    fn new(stream: S, state: HandshakeState) -> Result<Self, NoiseError> {
        Ok(Self { stream, state: state.into_transport_mode().map_err(NoiseError::Library)? })
    }

    /// Sends one message, which may be empty.
    ///
    /// # Errors
    /// The stream failed, or the message is longer than a u32 can say.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), NoiseError> {
        let limit = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        let length =
            u32::try_from(message.len()).map_err(|_| NoiseError::Oversized { length: message.len(), limit })?;
        let (first, rest) = message.split_at(message.len().min(MAX_PLAINTEXT - LENGTH));
        let mut opening = Zeroizing::new(Vec::with_capacity(LENGTH + first.len()));
        opening.extend_from_slice(&length.to_be_bytes());
        opening.extend_from_slice(first);
        self.send_piece(&opening).await?;
        for piece in rest.chunks(MAX_PLAINTEXT) {
            self.send_piece(piece).await?;
        }
        Ok(())
    }

    /// Receives one message of at most `max` octets. Not safe to cancel: drop the stream too.
    ///
    /// # Errors
    /// See [`NoiseError`].
    pub async fn receive(&mut self, max: usize) -> Result<Zeroizing<Vec<u8>>, NoiseError> {
        let opening = self.receive_piece().await?;
        let (length, first) =
            opening.split_first_chunk::<LENGTH>().ok_or(NoiseError::Piece { got: opening.len(), expected: LENGTH })?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > max {
            return Err(NoiseError::Oversized { length, limit: max });
        }
        // All the room at once: the length is the word of a peer that has proved its key and is within the caller's
        // limit, and growth would leave copies of secrets behind.
        let mut message = Zeroizing::new(Vec::with_capacity(length));
        take_piece(&mut message, first, length, MAX_PLAINTEXT - LENGTH)?;
        while message.len() < length {
            let piece = self.receive_piece().await?;
            take_piece(&mut message, &piece, length, MAX_PLAINTEXT)?;
        }
        Ok(message)
    }

    async fn send_piece(&mut self, plaintext: &[u8]) -> Result<(), NoiseError> {
        let mut sealed = vec![0; plaintext.len() + TAG];
        let length = self.state.write_message(plaintext, &mut sealed).map_err(NoiseError::Library)?;
        sealed.truncate(length);
        Ok(write_frame(&mut self.stream, &sealed).await?)
    }

    async fn receive_piece(&mut self) -> Result<Zeroizing<Vec<u8>>, NoiseError> {
        let sealed = read_frame(&mut self.stream, MAX_MESSAGE).await?.ok_or(NoiseError::Closed)?;
        let mut plaintext = Zeroizing::new(vec![0; sealed.len()]);
        let length = self.state.read_message(&sealed, &mut plaintext).map_err(|_| NoiseError::Message)?;
        plaintext.truncate(length);
        Ok(plaintext)
    }
}

/// Appends a piece that must be as long as what is left of the message, or full: one encoding for each message.
fn take_piece(message: &mut Vec<u8>, piece: &[u8], length: usize, full: usize) -> Result<(), NoiseError> {
    let expected = (length - message.len()).min(full);
    if piece.len() != expected {
        return Err(NoiseError::Piece { got: piece.len(), expected });
    }
    message.extend_from_slice(piece);
    Ok(())
}

fn prologue(preamble: &[u8]) -> Result<Vec<u8>, NoiseError> {
    match preamble.len() {
        1..=MAX_PREAMBLE => Ok([PROLOGUE, preamble].concat()),
        length => Err(NoiseError::Preamble(length)),
    }
}

fn builder<'a>(prologue: &'a [u8], psk: &'a [u8; 32]) -> Result<Builder<'a>, NoiseError> {
    x25519::builder(PATTERN).and_then(|builder| builder.prologue(prologue)?.psk(0, psk)).map_err(NoiseError::Library)
}

async fn write_handshake<S: AsyncWrite + Unpin>(stream: &mut S, state: &mut HandshakeState) -> Result<(), NoiseError> {
    let mut message = [0; HANDSHAKE];
    let length = state.write_message(&[], &mut message).map_err(NoiseError::Library)?;
    Ok(write_frame(stream, &message[..length]).await?)
}

/// What a server without a place says, frame and all: there is one so much later.
pub fn notice(wait: Duration) -> Vec<u8> {
    let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
    [&[0, 0, 0, 5, NOTICE_VERSION][..], &wait.to_be_bytes()].concat()
}

async fn read_handshake<S: AsyncRead + Unpin>(stream: &mut S, state: &mut HandshakeState) -> Result<(), NoiseError> {
    let message = read_frame(stream, HANDSHAKE).await?.ok_or(NoiseError::Closed)?;
    if let Ok([NOTICE_VERSION, wait @ ..]) = <[u8; NOTICE]>::try_from(message.as_slice()) {
        return Err(NoiseError::Busy(Duration::from_millis(u32::from_be_bytes(wait).into())));
    }
    if is_read(state, &message) { Ok(()) } else { Err(NoiseError::Handshake) }
}

/// No payload fits beside key and tag: a message of the right length has none.
fn is_read(state: &mut HandshakeState, message: &[u8]) -> bool {
    state.read_message(message, &mut []).is_ok()
}
