//! Sealed registration: the individual key is made by client and key server through the registrar, who never learns it.
//!
//! ```text
//! client                      registrar                        key server
//!   Noise NK, -> e, es  --->  vouches for the identity   --->
//!                        <---                             <---  <- e, ee, grant: number and share
//!             individual key = HKDF(share; identity, registrar, key server, number)
//! ```

use zeroize::Zeroizing;

use super::exporter_context;
use crate::codec::{DecodeError, Reader, Write};
use crate::identity::Identity;
use crate::schedule::expand;
use crate::secret::{IndividualKey, Share};
use crate::site::MAX_KEYS;
use crate::{MAX_NAME, MemberId};

/// What both ends mix in first, before the names: another version of registrations has another one.
const PROLOGUE: &[u8] = b"keystone registration 1";
/// Label of the individual key.
const LABEL: &[u8] = b"individual";

/// Octets of the client's Noise message: a public key and the tag of an empty payload.
pub const OFFER: usize = 32 + 16;
/// Offers in a registration: one for each static key in a site certificate.
pub const MAX_OFFERS: usize = MAX_KEYS;
/// Octets of a [`Grant`].
pub const GRANT: usize = 4 + 8 + 32;
/// Octets of the key server's Noise message: a public key, a grant, a tag.
pub const ANSWER: usize = 32 + GRANT + 16;

/// The client's message: the first one of `Noise_NK_25519_ChaChaPoly_SHA256` (`e, es`).
pub type Offer = [u8; OFFER];
/// The key server's: the second one (`e, ee`), with a [`Grant`].
pub type Answer = [u8; ANSWER];

/// Who registers with whom, through whom: what both ends of an exchange have to agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parties {
    /// The client.
    pub client: Identity,
    /// The registrar that vouches for it.
    pub registrar: Identity,
    /// Name of the key server, at most 64 octets.
    pub key_server: String,
}

/// What a key server gives in its answer, for nobody's eyes but the client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The client's ID number.
    pub client: MemberId,
    /// Number of the registration.
    pub registration: u64,
    /// What the individual key is made of.
    pub share: Share,
}

impl Parties {
    /// Prologue of the Noise handshake.
    pub fn prologue(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PROLOGUE.len() + 2 * (2 + crate::identity::MAX_IDENTITY) + 2 + MAX_NAME);
        out.extend_from_slice(PROLOGUE);
        out.put_text(self.client.as_str());
        out.put_text(self.registrar.as_str());
        out.put_text(&self.key_server);
        out
    }
}

impl Grant {
    /// Payload of the key server's message.
    pub fn encode(&self) -> Zeroizing<[u8; GRANT]> {
        let mut out = Zeroizing::new([0; GRANT]);
        out[..4].copy_from_slice(&self.client.0.to_be_bytes());
        out[4..12].copy_from_slice(&self.registration.to_be_bytes());
        out[12..].copy_from_slice(self.share.expose());
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is not [`GRANT`] octets long.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let client = MemberId(r.u32("client")?);
        let grant = Self { client, registration: r.u64("registration")?, share: Share::new(r.array("share")?) };
        r.end("grant").map(|()| grant)
    }

    /// The individual key: HKDF of the share with the context that the exporter has on the other way.
    pub fn individual_key(&self, parties: &Parties) -> IndividualKey {
        let Parties { client, registrar, key_server } = parties;
        let context = exporter_context(client, registrar, key_server, self.client, self.registration);
        IndividualKey::new(expand(self.share.expose(), LABEL, &[&context]))
    }
}

pub(super) fn put_offers(out: &mut Vec<u8>, offers: &[Offer]) {
    out.put_count(offers.len());
    offers.iter().for_each(|offer| out.extend_from_slice(offer));
}

pub(super) fn offers(r: &mut Reader<'_>) -> Result<Vec<Offer>, DecodeError> {
    (0..r.count(MAX_OFFERS, "offers")?).map(|_| r.array("offer")).collect()
}
