//! Registration: what goes between client and registrar, and between registrar and key server. Both links are
//! TLS 1.3; each message is one frame.
//!
//! ```text
//! client                     registrar                        key server
//! sealed  Register          ------->   RegisterSealed ------->  opens, answers; durable
//!         RegisteredSealed <-------                   <-------  DurableSealed
//!
//! exported  Register  ------->         FetchNumber    ------->
//!                                                     <-------  Number
//!           Number    <-------
//!           (both derive the individual key from the TLS exporter)
//!                                      HandOver       ------->  durable
//!                                                     <-------  Durable
//!           Registered <------
//! ```
//!
//! A registration is sealed if the client's first message has [offers](Offer).

use crate::codec::{DecodeError, Reader, Write};
use crate::identity::{Identity, MAX_IDENTITY};
use crate::{MAX_NAME, MemberId, WIRE_VERSION};

pub use client::{FromClient, ToClient};
pub use refusal::{Refusal, RefusalCode};
pub use registrar::{ClientEntry, FromRegistrar, ToRegistrar};
pub use sealed::{ANSWER, Answer, GRANT, Grant, MAX_OFFERS, OFFER, Offer, Parties};

mod client;
mod refusal;
mod registrar;
mod sealed;

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
/// Largest frame of a client: two octets, a key server's name, an identity and a token, each behind its length, and offers.
pub const MAX_CLIENT_FRAME: usize = 2 + 2 + MAX_NAME + 2 + MAX_IDENTITY + 2 + MAX_TOKEN + 2 + MAX_OFFERS * OFFER;
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
