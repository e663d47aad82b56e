//! Every message of Keystone: encode, decode, wrap, sign, verify; the key schedule.
//!
//! This crate is pure. It opens no socket, reads no clock and takes no randomness: bytes, times and
//! an [`Entropy`] are handed to it. `docs/protocol.md` describes the same octets in words.
//!
//! ```text
//! keygraph::Plan --execute--> RekeyMessages --fec--> payloads --sign_block--> datagrams
//! datagram --Unit::decode--> verify --fec--> RekeyMessage --KeyPath::apply--> data key
//! ```

pub mod beacon;
pub mod budget;
mod cipher;
pub mod codec;
pub mod credential;
pub mod execute;
pub mod header;
pub mod identity;
pub mod member;
pub mod pages;
#[cfg(feature = "paper")]
pub mod paper;
pub mod registration;
pub mod rekey;
pub mod request;
pub mod schedule;
pub mod secret;
pub mod sign;
pub mod site;
pub mod tag;
pub mod unit;

pub use beacon::Beacon;
pub use budget::{Budget, Ration, Rations};
pub use codec::DecodeError;
pub use credential::{Authentication, Credential};
pub use header::{Commitment, EpochHeader, HeaderHash, Incarnation};
pub use keygraph::MemberId;
pub use member::KeyPath;
pub use rekey::{Reason, RekeyMessage};
pub use schedule::EpochContext;
pub use secret::{DataKey, IndividualKey, NodeSecret, Seed, Share};
pub use sign::{SigningKey, VerifyingKey};
pub use tag::TagKey;

/// Version of everything on the wire. A peer that speaks another one is refused.
pub const WIRE_VERSION: u8 = 1;

/// Longest name of a group or key server in octets: long enough for a host name, short enough for a log line.
pub const MAX_NAME: usize = 64;

/// Source of randomness that a shell hands to a core: the operating system's in production, seeded in a simulation.
pub trait Entropy: Send {
    /// Fills `out` with random octets.
    fn fill(&mut self, out: &mut [u8]);

    /// 32 random octets.
    fn array<const N: usize>(&mut self) -> [u8; N]
    where
        Self: Sized,
    {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A uniform number below `bound` (0 when `bound` is 0). The bias is below 2^-32 for bounds below 2^32.
    fn below(&mut self, bound: u64) -> u64 {
        let mut out = [0; 8];
        self.fill(&mut out);
        u64::from_be_bytes(out).checked_rem(bound).unwrap_or(0)
    }
}

impl Entropy for Box<dyn Entropy> {
    fn fill(&mut self, out: &mut [u8]) {
        (**self).fill(out);
    }
}

/// Number of a group, chosen by its configuration; never used again for another group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

impl std::fmt::Display for GroupId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Cipher suite of a group. There is no negotiation on the multicast side: a group's suite is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Suite {
    /// HKDF-SHA-256, AES-256-CBC wraps of 32 octets, Ed25519.
    #[default]
    Aes256 = 1,
    /// HKDF-SHA-256, AES-128-CBC wraps of 16 octets, Ed25519.
    Aes128 = 2,
    /// As `aes256` with RSA-3072 instead of Ed25519, for sites that must have RSA.
    Rsa = 3,
    /// MD5, DES-CBC wraps of 8 octets, RSA-512: to measure against the paper, and for nothing else.
    #[cfg(feature = "paper")]
    Paper = 4,
}

impl Suite {
    /// All that are compiled in.
    pub const ALL: &[Self] = &[
        Self::Aes256,
        Self::Aes128,
        Self::Rsa,
        #[cfg(feature = "paper")]
        Self::Paper,
    ];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256 => "aes256",
            Self::Aes128 => "aes128",
            Self::Rsa => "rsa",
            #[cfg(feature = "paper")]
            Self::Paper => "paper",
        }
    }

    /// Whether it protects nothing, so that it may be used on loopback addresses only.
    pub fn is_broken(self) -> bool {
        self.name() == "paper"
    }

    /// The suite of this name. `None`: there is none, or it is not compiled in.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|suite| suite.name() == name)
    }
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<u8> for Suite {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        let unknown = DecodeError::Value { what: "suite", value: value.into() };
        Self::ALL.iter().copied().find(|suite| *suite as u8 == value).ok_or(unknown)
    }
}
