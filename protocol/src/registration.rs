//! Registration: what goes between client and registrar, and between registrar and key server. Both links are
//! TLS 1.3; each message is one frame.
//!
//! ```text
//! client                     registrar                        key server
//!        Register  ------->            FetchNumber  ------->
//!                           <-------   Number
//!        Number    <-------
//!        (both derive the individual key from the TLS exporter)
//!                                      HandOver     ------->  durable
//!                           <-------   Durable
//!        Registered <------
//! ```

use zeroize::Zeroizing;

use crate::codec::{DecodeError, Reader, Write};
use crate::credential::{Authentication, MAX_CREDENTIAL};
use crate::identity::{Identity, MAX_IDENTITY};
use crate::secret::IndividualKey;
use crate::{MAX_NAME, MemberId, WIRE_VERSION};

pub use refusal::{Refusal, RefusalCode};

mod refusal;

/// Label of the TLS exporter (RFC 8446 §7.5) that makes the individual key.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-keystone-individual-key";
/// ALPN of the link between client and registrar.
pub const ALPN_CLIENT: &[u8] = b"keystone-register/1";
/// ALPN of the link between registrar and key server.
pub const ALPN_REGISTRAR: &[u8] = b"keystone-registrar/1";
/// Largest frame on either link: a chunk of the client list.
pub const MAX_FRAME: usize = 65_536;
/// Longest token in octets: some claims and the longest signature of RSA, three times over.
pub const MAX_TOKEN: usize = 8_192;
/// Largest frame of a client: two octets, a key server's name, an identity and a token, each behind its length.
pub const MAX_CLIENT_FRAME: usize = 2 + 2 + MAX_NAME + 2 + MAX_IDENTITY + 2 + MAX_TOKEN;
/// Entries of the client list in one frame, each at most 2 + 255 + 4 octets.
pub const LIST_CHUNK: usize = 128;

/// Context of the exporter: who registers with whom, through whom, and as which registration.
pub fn exporter_context(
    identity: &Identity,
    registrar: &Identity,
    key_server: &str,
    client: MemberId,
    registration: u64,
) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_text(identity.as_str());
    out.put_text(registrar.as_str());
    out.put_text(key_server);
    out.extend_from_slice(&client.0.to_be_bytes());
    out.extend_from_slice(&registration.to_be_bytes());
    out
}

/// Client to registrar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient {
    /// I want to register with the key server of this name. Who I am is in my certificate.
    Register {
        /// The key server's name.
        key_server: String,
    },
    /// The same from a client without a certificate.
    RegisterWithToken {
        /// The key server's name.
        key_server: String,
        /// Who I am; the token has to say the same.
        identity: Identity,
        /// A signed token (JWT), at most [`MAX_TOKEN`] octets, good for this once.
        token: Zeroizing<String>,
    },
}

/// Registrar to client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToClient {
    /// Your ID number and the number of this registration; both ends now derive the individual key.
    Number {
        /// The client's ID number.
        client: MemberId,
        /// Number of the registration.
        registration: u64,
    },
    /// The key server has the individual key, durably.
    Registered,
    /// No.
    Refused(Refusal),
}

/// Registrar to key server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromRegistrar {
    /// An authenticated client wants to register: which numbers?
    FetchNumber {
        /// Names the question, so that answers may overtake each other.
        tag: u32,
        /// How it was authenticated.
        kind: Authentication,
        /// The client, as its credential says.
        identity: Identity,
    },
    /// The individual key of a registration whose number was fetched.
    HandOver {
        /// As in the question.
        tag: u32,
        /// The client's ID number.
        client: MemberId,
        /// Number of the registration.
        registration: u64,
        /// The key.
        key: IndividualKey,
        /// When the credential ends, in seconds since 1970; [`NO_END`](crate::credential::NO_END) for never.
        ends: u64,
        /// Names the credential, see [`Credential`](crate::Credential).
        credential: Vec<u8>,
    },
}

/// An entry of the client list: no access rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEntry {
    /// The ID number.
    pub client: MemberId,
    /// The identity.
    pub identity: Identity,
}

/// Key server to registrar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToRegistrar {
    /// A part of the client list; the first begins a new list.
    ClientList {
        /// The key server's name.
        key_server: String,
        /// Whether this part begins a new list.
        first: bool,
        /// Whether this part ends it.
        last: bool,
        /// At most [`LIST_CHUNK`] clients.
        entries: Vec<ClientEntry>,
    },
    /// A client was added.
    ClientAdded(ClientEntry),
    /// Answer to `FetchNumber`.
    Number {
        /// As in the question.
        tag: u32,
        /// The client's ID number.
        client: MemberId,
        /// Number of the registration.
        registration: u64,
    },
    /// Answer to `HandOver`: durable.
    Durable {
        /// As in the question.
        tag: u32,
    },
    /// Answer to either: no.
    Refused {
        /// As in the question.
        tag: u32,
        /// Why.
        refusal: Refusal,
    },
}

impl FromClient {
    /// The key server that is meant.
    pub fn key_server(&self) -> &str {
        let (Self::Register { key_server } | Self::RegisterWithToken { key_server, .. }) = self;
        key_server
    }

    /// One frame. It may hold a token: the caller wipes it after sending.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Register { key_server } => {
                let mut out = vec![WIRE_VERSION, 1];
                out.put_text(key_server);
                out
            }
            Self::RegisterWithToken { key_server, identity, token } => {
                let mut out = Vec::with_capacity(MAX_CLIENT_FRAME);
                out.extend([WIRE_VERSION, 2]);
                out.put_text(key_server);
                out.put_text(identity.as_str());
                out.put_text(token);
                out
            }
        }
    }

    /// Reads one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let (mut r, kind) = open(frame)?;
        let message = match kind {
            1 => Self::Register { key_server: r.text(MAX_NAME, "key server name")?.to_owned() },
            2 => Self::RegisterWithToken {
                key_server: r.text(MAX_NAME, "key server name")?.to_owned(),
                identity: identity(&mut r)?,
                token: Zeroizing::new(r.text(MAX_TOKEN, "token")?.to_owned()),
            },
            _ => return Err(unknown(kind)),
        };
        r.end("message").map(|()| message)
    }
}

impl ToClient {
    /// One frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![WIRE_VERSION];
        match self {
            Self::Number { client, registration } => {
                out.push(1);
                out.extend_from_slice(&client.0.to_be_bytes());
                out.extend_from_slice(&registration.to_be_bytes());
            }
            Self::Registered => out.push(2),
            Self::Refused(refusal) => {
                out.push(3);
                refusal.encode(&mut out);
            }
        }
        out
    }

    /// Reads one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let (mut r, kind) = open(frame)?;
        let message = match kind {
            1 => Self::Number { client: MemberId(r.u32("client")?), registration: r.u64("registration")? },
            2 => Self::Registered,
            3 => Self::Refused(Refusal::decode(&mut r)?),
            _ => return Err(unknown(kind)),
        };
        r.end("message").map(|()| message)
    }
}

impl FromRegistrar {
    /// One frame. It holds a key: the caller wipes it after sending.
    pub fn encode(&self) -> Vec<u8> {
        // All the room at once, so that growth leaves no copy of a key behind.
        let mut out = Vec::with_capacity(512);
        out.push(WIRE_VERSION);
        match self {
            Self::FetchNumber { tag, kind, identity } => {
                out.push(1);
                out.extend_from_slice(&tag.to_be_bytes());
                out.push(*kind as u8);
                out.put_text(identity.as_str());
            }
            Self::HandOver { tag, client, registration, key, ends, credential } => {
                out.push(2);
                out.extend_from_slice(&tag.to_be_bytes());
                out.extend_from_slice(&client.0.to_be_bytes());
                out.extend_from_slice(&registration.to_be_bytes());
                out.extend_from_slice(key.expose());
                out.extend_from_slice(&ends.to_be_bytes());
                out.put_octets(credential);
            }
        }
        out
    }

    /// Reads one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let (mut r, kind) = open(frame)?;
        let message = match kind {
            1 => Self::FetchNumber {
                tag: r.u32("tag")?,
                kind: Authentication::decode(&mut r)?,
                identity: identity(&mut r)?,
            },
            2 => Self::HandOver {
                tag: r.u32("tag")?,
                client: MemberId(r.u32("client")?),
                registration: r.u64("registration")?,
                key: IndividualKey::new(r.array("individual key")?),
                ends: r.u64("end of the credential")?,
                credential: r.octets(MAX_CREDENTIAL, "credential")?.to_vec(),
            },
            _ => return Err(unknown(kind)),
        };
        r.end("message").map(|()| message)
    }
}

impl ToRegistrar {
    /// One frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![WIRE_VERSION];
        match self {
            Self::ClientList { key_server, first, last, entries } => {
                out.push(1);
                out.put_text(key_server);
                out.push(u8::from(*first));
                out.push(u8::from(*last));
                out.put_count(entries.len());
                entries.iter().for_each(|entry| entry.encode(&mut out));
            }
            Self::ClientAdded(entry) => {
                out.push(2);
                entry.encode(&mut out);
            }
            Self::Number { tag, client, registration } => {
                out.push(3);
                out.extend_from_slice(&tag.to_be_bytes());
                out.extend_from_slice(&client.0.to_be_bytes());
                out.extend_from_slice(&registration.to_be_bytes());
            }
            Self::Durable { tag } => {
                out.push(4);
                out.extend_from_slice(&tag.to_be_bytes());
            }
            Self::Refused { tag, refusal } => {
                out.push(5);
                out.extend_from_slice(&tag.to_be_bytes());
                refusal.encode(&mut out);
            }
        }
        out
    }

    /// Reads one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let (mut r, kind) = open(frame)?;
        let message = match kind {
            1 => Self::ClientList {
                key_server: r.text(MAX_NAME, "key server name")?.to_owned(),
                first: r.flag("first")?,
                last: r.flag("last")?,
                entries: (0..r.count(LIST_CHUNK, "clients")?)
                    .map(|_| ClientEntry::decode(&mut r))
                    .collect::<Result<_, _>>()?,
            },
            2 => Self::ClientAdded(ClientEntry::decode(&mut r)?),
            3 => Self::Number {
                tag: r.u32("tag")?,
                client: MemberId(r.u32("client")?),
                registration: r.u64("registration")?,
            },
            4 => Self::Durable { tag: r.u32("tag")? },
            5 => Self::Refused { tag: r.u32("tag")?, refusal: Refusal::decode(&mut r)? },
            _ => return Err(unknown(kind)),
        };
        r.end("message").map(|()| message)
    }
}

impl ClientEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.client.0.to_be_bytes());
        out.put_text(self.identity.as_str());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { client: MemberId(r.u32("client")?), identity: identity(r)? })
    }
}

fn open(frame: &[u8]) -> Result<(Reader<'_>, u8), DecodeError> {
    let mut r = Reader::new(frame);
    let version = r.u8("version")?;
    if version != WIRE_VERSION {
        return Err(DecodeError::Value { what: "version", value: version.into() });
    }
    let kind = r.u8("type")?;
    Ok((r, kind))
}

fn unknown(kind: u8) -> DecodeError {
    DecodeError::Value { what: "type", value: kind.into() }
}

fn identity(r: &mut Reader<'_>) -> Result<Identity, DecodeError> {
    Identity::parse(r.text(MAX_IDENTITY, "identity")?).map_err(|_| DecodeError::Text { what: "identity" })
}
