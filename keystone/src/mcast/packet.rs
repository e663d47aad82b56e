//! The packet of a data stream: a header in clear, then AES-256-GCM under a key of the stream's own.
//!
//! ```text
//! octets  0  2   3    4      8      16      20      36       44      52          52 + n   52 + n + 16
//!         KD ver type group  epoch  sender  stream  counter  offset  ciphertext  tag
//! ```
//!
//! Integers are big-endian. The whole header is the associated data. The nonce is four zero octets and
//! the counter (RFC 5116, 3.2); the key is expanded from the epoch's data key, the sender id and the stream id,
//! which every start draws anew: so no two packets of a group share key and nonce.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use protocol::codec::Reader;
use protocol::{DataKey, DecodeError, schedule};
use thiserror::Error;
use zeroize::Zeroizing;

/// Octets of the header.
pub(super) const HEADER: usize = 52;

/// Octets of the tag.
pub(super) const TAG: usize = 16;

/// Largest payload in octets: with header, tag, UDP and IP it stays below 1,300, so that tunnels do not fragment it.
pub(super) const MAX_PAYLOAD: usize = 1200;

/// Largest packet in octets.
pub(super) const MAX_PACKET: usize = HEADER + MAX_PAYLOAD + TAG;

/// Octets of the payload of an end marker.
const END: usize = 16;

const MAGIC: [u8; 2] = *b"KD";
const VERSION: u8 = 1;

/// Why octets are not a packet, or not one that can be read. Their sender is to blame; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum PacketError {
    /// A field is missing or has a value that it cannot have.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Not the magic number.
    #[error("no data packet: it begins with {0:02x?}, expected \"KD\"")]
    Magic([u8; 2]),
    /// A payload of a length that its type cannot have.
    #[error("a payload of {have} octets, expected {least} to {most}")]
    Payload {
        /// Octets of the payload.
        have: usize,
        /// Least octets for this type.
        least: usize,
        /// Most octets for this type.
        most: usize,
    },
    /// Forged, damaged, or sealed under another key.
    #[error("the tag of packet {counter} is wrong under the key of epoch {epoch}")]
    Tag {
        /// The packet's epoch.
        epoch: u64,
        /// The packet's counter.
        counter: u64,
    },
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of the stream, 1 to 1,200 octets.
    Data,
    /// The marker of the stream's end: its [`Totals`].
    End,
}

/// One run of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamId {
    /// The sender's number in its group.
    pub(super) sender: u32,
    /// Drawn at random when the sender started.
    pub(super) id: [u8; 16],
}

/// The part of a packet in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// What the packet carries.
    pub(super) kind: Kind,
    /// Number of the group.
    pub(super) group: u32,
    /// Epoch of the key.
    pub(super) epoch: u64,
    /// The stream.
    pub(super) stream: StreamId,
    /// Number of the packet in its stream; data packets have 0 to n - 1, end markers n and above.
    pub(super) counter: u64,
    /// Octets of the stream before this payload; in an end marker all octets.
    pub(super) offset: u64,
}

/// What an end marker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    /// Octets of the stream.
    pub(super) octets: u64,
    /// Data packets of the stream.
    pub(super) packets: u64,
}

/// A packet that is well-formed and not yet authentic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    /// The header.
    pub(super) header: Header,
    /// The header's octets as they came: the associated data.
    aad: [u8; HEADER],
    /// Ciphertext and tag.
    sealed: Vec<u8>,
}

/// Seals and opens the packets of one stream under one epoch. aws-lc wipes it.
pub(super) struct StreamKey(LessSafeKey);

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..2].copy_from_slice(&MAGIC);
        out[2] = VERSION;
        out[3] = match self.kind {
            Kind::Data => 1,
            Kind::End => 2,
        };
        out[4..8].copy_from_slice(&self.group.to_be_bytes());
        out[8..16].copy_from_slice(&self.epoch.to_be_bytes());
        out[16..20].copy_from_slice(&self.stream.sender.to_be_bytes());
        out[20..36].copy_from_slice(&self.stream.id);
        out[36..44].copy_from_slice(&self.counter.to_be_bytes());
        out[44..52].copy_from_slice(&self.offset.to_be_bytes());
        out
    }

    fn decode(octets: &[u8; HEADER]) -> Result<Self, PacketError> {
        let mut r = Reader::new(octets);
        match r.array("magic")? {
            MAGIC => {}
            other => return Err(PacketError::Magic(other)),
        }
        match r.u8("version")? {
            VERSION => {}
            other => return Err(value("version", other.into())),
        }
        let kind = match r.u8("type")? {
            1 => Kind::Data,
            2 => Kind::End,
            other => return Err(value("type", other.into())),
        };
        let header = Self {
            kind,
            group: r.u32("group")?,
            epoch: r.u64("epoch")?,
            stream: StreamId { sender: r.u32("sender id")?, id: r.array("stream id")? },
            counter: r.u64("counter")?,
            offset: r.u64("offset")?,
        };
        // Senders stop before it, so that one more than any counter is a number too.
        match header.counter {
            u64::MAX => Err(value("counter", u64::MAX)),
            _ => Ok(header),
        }
    }
}

impl Totals {
    pub(super) fn encode(self) -> [u8; END] {
        let mut out = [0; END];
        out[..8].copy_from_slice(&self.octets.to_be_bytes());
        out[8..].copy_from_slice(&self.packets.to_be_bytes());
        out
    }

    /// # Errors
    /// Not 16 octets.
    pub(super) fn decode(octets: &[u8]) -> Result<Self, PacketError> {
        let mut r = Reader::new(octets);
        let totals = Self { octets: r.u64("total octets")?, packets: r.u64("total packets")? };
        r.end("totals")?;
        Ok(totals)
    }
}

impl Packet {
    /// # Errors
    /// See [`PacketError`]; the tag is looked at by [`open`](Self::open).
    pub(super) fn decode(octets: &[u8]) -> Result<Self, PacketError> {
        let mut r = Reader::new(octets);
        let aad = r.array("header")?;
        let header = Header::decode(&aad)?;
        let (least, most) = match header.kind {
            Kind::Data => (1, MAX_PAYLOAD),
            Kind::End => (END, END),
        };
        let have = r.left().saturating_sub(TAG);
        if !(least..=most).contains(&have) {
            return Err(PacketError::Payload { have, least, most });
        }
        if header.offset.checked_add(octets_of(have)).is_none() {
            return Err(value("offset", header.offset));
        }
        Ok(Self { header, aad, sealed: r.take(r.left(), "ciphertext")?.to_vec() })
    }

    /// Octets of the payload.
    pub(super) fn payload(&self) -> usize {
        self.sealed.len().saturating_sub(TAG)
    }

    /// The payload, if the packet is authentic.
    ///
    /// # Errors
    /// [`PacketError::Tag`].
    pub(super) fn open(mut self, key: &StreamKey) -> Result<Vec<u8>, PacketError> {
        let Header { epoch, counter, .. } = self.header;
        let opened = key.0.open_in_place(nonce(counter), Aad::from(&self.aad), &mut self.sealed);
        let length = opened.map_err(|_| PacketError::Tag { epoch, counter })?.len();
        self.sealed.truncate(length);
        Ok(self.sealed)
    }
}

impl StreamKey {
    /// The key of `stream` under the data key of one epoch.
    pub(super) fn new(data: &DataKey, stream: StreamId) -> Self {
        let octets = Self::octets(data, stream);
        let key = UnboundKey::new(&AES_256_GCM, octets.as_slice());
        // The only error is a key that has not 32 octets, which its type rules out.
        #[allow(clippy::expect_used, reason = "see the line above")]
        Self(LessSafeKey::new(key.expect("an AES-256 key has 32 octets")))
    }

    fn octets(data: &DataKey, stream: StreamId) -> Zeroizing<[u8; 32]> {
        let parts: [&[u8]; 2] = [&stream.sender.to_be_bytes(), &stream.id];
        Zeroizing::new(schedule::expand(data.expose(), b"mcast", &parts))
    }

    /// The packet of `header` and `payload`. The caller never uses a counter twice.
    pub(super) fn seal(&self, header: &Header, payload: &[u8]) -> Vec<u8> {
        let aad = header.encode();
        let mut sealed = payload.to_vec();
        let done = self.0.seal_in_place_append_tag(nonce(header.counter), Aad::from(&aad), &mut sealed);
        // AES-GCM refuses only payloads beyond 64 GiB; a payload in clear must never leave.
        assert!(done.is_ok(), "AES-GCM refused {} octets", payload.len());
        [aad.as_slice(), &sealed].concat()
    }
}

/// A length as a number of the wire.
pub(super) fn octets_of(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn nonce(counter: u64) -> Nonce {
    let mut out = [0; NONCE_LEN];
    out[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(out)
}

fn value(what: &'static str, value: u64) -> PacketError {
    DecodeError::Value { what, value }.into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What must never repeat: the octets of a packet's key and its counter.
    pub(in super::super) fn key_and_nonce(data: &DataKey, packet: &[u8]) -> ([u8; 32], u64) {
        let header = Packet::decode(packet).unwrap().header;
        (*StreamKey::octets(data, header.stream), header.counter)
    }

    fn header() -> Header {
        let stream = StreamId { sender: 7, id: [9; 16] };
        Header { kind: Kind::Data, group: 1, epoch: 6, stream, counter: 3, offset: 3000 }
    }

    fn key() -> StreamKey {
        StreamKey::new(&DataKey::new([1; 32]), header().stream)
    }

    #[test]
    fn round_trip() {
        let octets = key().seal(&header(), b"payload");
        assert_eq!(octets.len(), HEADER + 7 + TAG);
        let packet = Packet::decode(&octets).unwrap();
        assert_eq!((packet.header, packet.payload()), (header(), 7));
        assert_eq!(packet.open(&key()).unwrap(), b"payload");
        let totals = Totals { octets: 5, packets: 2 };
        assert_eq!(Totals::decode(&totals.encode()).unwrap(), totals);
    }

    #[test]
    fn every_octet_counts() {
        let octets = key().seal(&header(), b"payload");
        for at in 0..octets.len() {
            let mut bad = octets.clone();
            bad[at] ^= 0x40;
            let opened = Packet::decode(&bad).and_then(|packet| {
                let key = StreamKey::new(&DataKey::new([1; 32]), packet.header.stream);
                packet.open(&key)
            });
            assert!(opened.is_err(), "octet {at} changed unnoticed");
        }
        let other = StreamKey::new(&DataKey::new([1; 32]), StreamId { sender: 8, ..header().stream });
        Packet::decode(&octets).unwrap().open(&other).unwrap_err();
    }

    #[test]
    fn wrong_sizes() {
        let octets = key().seal(&header(), b"p");
        for cut in 0..octets.len() {
            Packet::decode(&octets[..cut]).unwrap_err();
        }
        let fits = key().seal(&header(), &[0; MAX_PAYLOAD]);
        assert_eq!(fits.len(), MAX_PACKET);
        Packet::decode(&fits).unwrap();
        let error = Packet::decode(&key().seal(&header(), &[0; MAX_PAYLOAD + 1])).unwrap_err();
        assert_eq!(error.to_string(), "a payload of 1201 octets, expected 1 to 1200");
        let end = Header { kind: Kind::End, ..header() };
        Packet::decode(&key().seal(&end, &[0; 15])).unwrap_err();
        Packet::decode(&key().seal(&end, &[0; 17])).unwrap_err();
        let offset = Header { offset: u64::MAX, ..header() };
        Packet::decode(&key().seal(&offset, b"p")).unwrap_err();
        let counter = Header { counter: u64::MAX, ..header() };
        Packet::decode(&key().seal(&counter, b"p")).unwrap_err();
    }
}
