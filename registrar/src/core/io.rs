//! What the core is told, and what it wants done.

use protocol::identity::Identity;
use protocol::registration::Refusal;
use protocol::{Credential, IndividualKey, MemberId};
use zeroize::Zeroizing;

/// What happens to the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// The key server is connected.
    LinkUp,
    /// The key server is gone.
    LinkDown,
    /// A frame from the key server.
    FromKeyServer(&'a [u8]),
    /// A client has connected and proved its identity.
    ClientUp {
        /// Names the session.
        session: u64,
        /// From its credential.
        identity: Identity,
        /// What it has proved it with.
        credential: Credential,
    },
    /// A client has connected and did not prove who it is.
    Unproved {
        /// Names the session.
        session: u64,
        /// What it is told.
        refusal: Refusal,
    },
    /// A handshake failed, or nothing came after it.
    Failed,
    /// A frame from a client.
    FromClient {
        /// Names the session.
        session: u64,
        /// The frame.
        frame: &'a [u8],
    },
    /// The answer to [`Output::Export`].
    Exported {
        /// Names the session.
        session: u64,
        /// The individual key.
        key: IndividualKey,
    },
    /// A client is gone.
    ClientDown {
        /// Names the session.
        session: u64,
    },
    /// The time of [`Core::poll_timeout`](super::Core::poll_timeout) has come.
    Timeout,
}

/// What the core wants done.
#[derive(PartialEq, Eq)]
pub enum Output {
    /// Send a frame to the key server. It may hold an individual key.
    ToKeyServer(Zeroizing<Vec<u8>>),
    /// The key server broke the protocol or answers nothing: cut it off and connect anew.
    CutKeyServer,
    /// Make the individual key of a session from its TLS exporter with this context.
    Export {
        /// Names the session.
        session: u64,
        /// The exporter's context.
        context: Vec<u8>,
    },
    /// Send a frame to a client.
    ToClient {
        /// Names the session.
        session: u64,
        /// The frame.
        frame: Vec<u8>,
        /// Whether the session ends with it.
        close: bool,
    },
    /// For the log.
    Event(Event),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ToKeyServer(frame) => write!(f, "ToKeyServer({} octets)", frame.len()),
            Self::CutKeyServer => f.write_str("CutKeyServer"),
            Self::Export { session, .. } => write!(f, "Export({session})"),
            Self::ToClient { session, frame, close } => write!(f, "ToClient({session}, {frame:?}, close: {close})"),
            Self::Event(event) => event.fmt(f),
        }
    }
}

/// What happened, without a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key server has sent its whole client list.
    ClientList {
        /// Clients in it.
        clients: usize,
    },
    /// A client is registered.
    Registered {
        /// The client.
        client: MemberId,
        /// Its identity.
        identity: Identity,
    },
    /// A client was refused.
    Refused {
        /// Its identity.
        identity: Identity,
        /// Why.
        why: String,
    },
    /// A client was refused of which is not known who it is.
    Unproved {
        /// Why.
        why: String,
    },
}

/// How many clients came to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// They are registered.
    pub registered: u64,
    /// They are known and were refused.
    pub refused: u64,
    /// Their credential proved nothing.
    pub unproved: u64,
    /// They did not get through the handshake, or said nothing after it.
    pub failed: u64,
}
