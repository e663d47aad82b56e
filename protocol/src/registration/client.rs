//! Between client and registrar.

use zeroize::Zeroizing;

use super::sealed::{Answer, Offer, offers, put_offers};
use super::{MAX_CLIENT_FRAME, MAX_TOKEN, Refusal, identity, open, unknown};
use crate::codec::{DecodeError, Write};
use crate::identity::Identity;
use crate::{MAX_NAME, MemberId, WIRE_VERSION};

/// Client to registrar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient {
    /// I want to register with the key server of this name. Who I am is in my certificate.
    Register {
        /// The key server's name.
        key_server: String,
        /// To the key server, for one static key each, at most [`MAX_OFFERS`](super::MAX_OFFERS); without any the
        /// individual key is exported.
        offers: Vec<Offer>,
    },
    /// The same from a client without a certificate.
    RegisterWithToken {
        /// The key server's name.
        key_server: String,
        /// Who I am; the token has to say the same.
        identity: Identity,
        /// A signed token (JWT), at most [`MAX_TOKEN`] octets, good for this once.
        token: Zeroizing<String>,
        /// As above.
        offers: Vec<Offer>,
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
    /// The same of a sealed registration, without a number before it: that is in the key server's answer.
    RegisteredSealed(Box<Answer>),
    /// No.
    Refused(Refusal),
}

impl FromClient {
    /// The key server that is meant.
    pub fn key_server(&self) -> &str {
        let (Self::Register { key_server, .. } | Self::RegisterWithToken { key_server, .. }) = self;
        key_server
    }

    /// To that key server; if there are any, the registration is sealed.
    pub fn offers(&self) -> &[Offer] {
        let (Self::Register { offers, .. } | Self::RegisterWithToken { offers, .. }) = self;
        offers
    }

    /// One frame. It may hold a token: the caller wipes it after sending.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Register { key_server, offers } => {
                let mut out = vec![WIRE_VERSION, 1];
                out.put_text(key_server);
                put_offers(&mut out, offers);
                out
            }
            Self::RegisterWithToken { key_server, identity, token, offers } => {
                let mut out = Vec::with_capacity(MAX_CLIENT_FRAME);
                out.extend([WIRE_VERSION, 2]);
                out.put_text(key_server);
                out.put_text(identity.as_str());
                out.put_text(token);
                put_offers(&mut out, offers);
                out
            }
        }
    }

    /// Reads one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let (mut r, kind) = open(frame)?;
        let message = match kind {
            1 => {
                Self::Register { key_server: r.text(MAX_NAME, "key server name")?.to_owned(), offers: offers(&mut r)? }
            }
            2 => Self::RegisterWithToken {
                key_server: r.text(MAX_NAME, "key server name")?.to_owned(),
                identity: identity(&mut r)?,
                token: Zeroizing::new(r.text(MAX_TOKEN, "token")?.to_owned()),
                offers: offers(&mut r)?,
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
            Self::RegisteredSealed(answer) => {
                out.push(4);
                out.extend_from_slice(answer.as_slice());
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
            4 => Self::RegisteredSealed(Box::new(r.array("answer")?)),
            _ => return Err(unknown(kind)),
        };
        r.end("message").map(|()| message)
    }
}
