//! The tag at the end of units and beacons: the cheapest check, and the first. It keeps outsiders from making members
//! check signatures. Every member of the epoch can make one, so it proves nothing else.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

/// Octets of a tag. A guess passes once in 2^64, and then meets the signature.
pub const TAG: usize = 8;

/// Makes and checks the tags of those who hold one epoch's group key.
#[derive(Clone)]
pub struct TagKey(Key);

impl TagKey {
    pub(crate) fn new(octets: &[u8; 32]) -> Self {
        Self(Key::new(HMAC_SHA256, octets))
    }

    /// The first 8 octets of HMAC-SHA-256 (RFC 2104).
    fn tag(&self, octets: &[u8]) -> [u8; TAG] {
        let mut out = [0; TAG];
        out.copy_from_slice(&sign(&self.0, octets).as_ref()[..TAG]);
        out
    }

    /// Puts the tag of a datagram at its end.
    pub fn append(&self, datagram: &mut Vec<u8>) {
        let tag = self.tag(datagram);
        datagram.extend_from_slice(&tag);
    }

    /// Whether a datagram ends with its tag, in a time that does not tell where it differs.
    pub fn is_on(&self, datagram: &[u8]) -> bool {
        let split = datagram.split_last_chunk::<TAG>();
        split.is_some_and(|(octets, tag)| verify_slices_are_equal(&self.tag(octets), tag).is_ok())
    }
}

impl std::fmt::Debug for TagKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TagKey(..)")
    }
}
