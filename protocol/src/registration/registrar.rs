//! Between registrar and key server.

use super::sealed::{Answer, Offer, offers, put_offers};
use super::{LIST_CHUNK, Refusal, identity, open, unknown};
use crate::codec::{DecodeError, Reader, Write};
use crate::credential::{Authentication, MAX_CREDENTIAL};
use crate::identity::Identity;
use crate::secret::IndividualKey;
use crate::{MAX_NAME, MemberId, WIRE_VERSION};

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
    /// An authenticated client wants to register sealed: all of it.
    RegisterSealed {
        /// Names the question.
        tag: u32,
        /// How the client was authenticated.
        kind: Authentication,
        /// The client, as its credential says.
        identity: Identity,
        /// The client's, as they came; a registrar cannot check them. At most [`MAX_OFFERS`](super::MAX_OFFERS).
        offers: Vec<Offer>,
        /// As above.
        ends: u64,
        /// As above.
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
    /// Answer to `RegisterSealed`: durable.
    DurableSealed {
        /// As in the question.
        tag: u32,
        /// The client's ID number, for the log.
        client: MemberId,
        /// For the client.
        answer: Box<Answer>,
    },
    /// Answer to any: no.
    Refused {
        /// As in the question.
        tag: u32,
        /// Why.
        refusal: Refusal,
    },
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
            Self::RegisterSealed { tag, kind, identity, offers, ends, credential } => {
                out.push(3);
                out.extend_from_slice(&tag.to_be_bytes());
                out.push(*kind as u8);
                out.put_text(identity.as_str());
                put_offers(&mut out, offers);
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
            3 => Self::RegisterSealed {
                tag: r.u32("tag")?,
                kind: Authentication::decode(&mut r)?,
                identity: identity(&mut r)?,
                offers: offers(&mut r)?,
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
            Self::DurableSealed { tag, client, answer } => {
                out.push(6);
                out.extend_from_slice(&tag.to_be_bytes());
                out.extend_from_slice(&client.0.to_be_bytes());
                out.extend_from_slice(answer.as_slice());
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
            6 => Self::DurableSealed {
                tag: r.u32("tag")?,
                client: MemberId(r.u32("client")?),
                answer: Box::new(r.array("answer")?),
            },
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
