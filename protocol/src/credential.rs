//! What a client has authenticated itself with at a registrar, as far as the key server has to know it.

use std::fmt;

use crate::codec::{DecodeError, Reader, Write};

/// Longest name of a credential in octets: a digest and a serial number with room to spare.
pub const MAX_CREDENTIAL: usize = 64;
/// `ends` of a credential that does not end by itself.
pub const NO_END: u64 = u64::MAX;

/// Authentication of authentication. Numbers are on the wire and in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Authentication {
    /// A certificate in the TLS handshake.
    Certificate = 1,
    /// A signed token (JWT, RFC 7519), good for one registration.
    Token = 2,
}

impl Authentication {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Certificate, Self::Token];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Reads one octet.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = r.u8("kind of authentication")?;
        let unknown = DecodeError::Value { what: "kind of authentication", value: number.into() };
        Self::ALL.into_iter().find(|kind| *kind as u8 == number).ok_or(unknown)
    }
}

impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one registration was authenticated with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// What kind.
    pub kind: Authentication,
    /// When it ends, in seconds since 1970; [`NO_END`] for never.
    pub ends: u64,
    /// What tells it from all others of its kind, at most 64 octets. Of a certificate: SHA-256 of the issuer's name in DER,
    /// then the serial number, the content octets of its INTEGER. Of a token: SHA-256 of issuer (text) and `jti` (text).
    pub name: Vec<u8>,
}

impl Credential {
    /// Appends `ends` and `name`; the kind goes elsewhere.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ends.to_be_bytes());
        out.put_octets(&self.name);
    }

    /// Reads `ends` and `name` of a credential of this kind.
    pub fn decode(kind: Authentication, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ends = r.u64("end of the credential")?;
        Ok(Self { kind, ends, name: r.octets(MAX_CREDENTIAL, "credential")?.to_vec() })
    }
}
