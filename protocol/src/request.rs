//! Requests and replies (Keystone §3.3): what a client asks of its key server inside a Noise `NKpsk0` session.

use crate::codec::{DecodeError, Reader, Write};
use crate::{Beacon, MAX_NAME, MemberId, WIRE_VERSION};

mod reply;

pub use reply::{Denial, EarlierKey, Membership, Outcome, Reply, Role};

/// Groups in one request: more than a member joins, few enough for one reply of bounded size.
pub const MAX_OPERATIONS: usize = 64;
/// Beacons in one request: as many as fit [`MAX_REQUEST`] in the suite of the largest signatures.
pub const MAX_WITNESSES: usize = 8;
/// Largest request in octets: 64 operations of at most 106 octets, and the head.
pub const MAX_REQUEST: usize = 8_192;
/// Largest reply in octets: 64 groups of a path of 32 secrets and 32 earlier data keys.
pub const MAX_REPLY: usize = 64 * 4_096;
/// Earlier data keys in a reply.
pub const MAX_EARLIER: usize = 32;

/// The beginning of a connection, in clear: it chooses the PSK, and the Noise prologue binds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preamble {
    /// Name of the key server that is meant.
    pub key_server: String,
    /// The client's ID number.
    pub client: MemberId,
    /// Number of the registration whose individual key is used.
    pub registration: u64,
}

impl Preamble {
    /// One frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![WIRE_VERSION];
        out.put_text(&self.key_server);
        out.extend_from_slice(&self.client.0.to_be_bytes());
        out.extend_from_slice(&self.registration.to_be_bytes());
        out
    }

    /// Reads one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut r = versioned(frame)?;
        let preamble = Self {
            key_server: r.text(MAX_NAME, "key server name")?.to_owned(),
            client: MemberId(r.u32("client")?),
            registration: r.u64("registration")?,
        };
        r.end("preamble").map(|()| preamble)
    }
}

/// Names a request for ever: asking again with the same id never does anything twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub [u8; 16]);

/// Join or leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Act {
    /// Become a member.
    Join = 1,
    /// Cease to be one.
    Leave = 2,
}

/// What a member has received of the rekey messages since it last said so: for the repair scheme `adaptive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Units and repair units of the blocks of which some arrived.
    pub expected: u32,
    /// Of these, those that did not arrive.
    pub lost: u32,
    /// Runs of lost units, in each block by index.
    pub bursts: u32,
    /// Those blocks.
    pub blocks: u32,
}

impl Losses {
    fn encode(&self, out: &mut Vec<u8>) {
        for count in [self.expected, self.lost, self.bursts, self.blocks] {
            out.extend_from_slice(&count.to_be_bytes());
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut count = |what| r.u32(what);
        Ok(Self {
            expected: count("units")?,
            lost: count("units lost")?,
            bursts: count("bursts")?,
            blocks: count("blocks")?,
        })
    }
}

/// A re-synchronize operation: the keys of my path, please.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resync {
    /// The group.
    pub group: String,
    /// Highest (term, epoch) of this group that the client has seen signed.
    pub seen: (u64, u64),
    /// Newest epoch whose data key the client holds; data keys after it are sent along, as far as they are kept.
    pub have: u64,
    /// What was lost.
    pub losses: Losses,
}

/// Joins and leaves mixed, or operations of one other kind: never two kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operations {
    /// Joins and leaves, in this order.
    Changes(Vec<(Act, String)>),
    /// Re-synchronizes.
    Resyncs(Vec<Resync>),
    /// What was lost, by group: nothing is asked.
    Reports(Vec<(String, Losses)>),
    /// Groups whose datagrams are to come over this session, which stays open.
    Subscriptions(Vec<String>),
    /// The newest signed beacon of a group of which the key server has said that it is [`Denial::Behind`]: it proves that the
    /// key server has lost something.
    Witnesses(Vec<(String, Vec<u8>)>),
    /// A site certificate that begins later than the client's own, which begins then (seconds since 1970).
    Certificate(u64),
}

/// What a client asks. Every group stands in it at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// What is asked.
    pub operations: Operations,
}

impl Operations {
    /// How many.
    #[allow(clippy::len_without_is_empty, reason = "a request without operations is none")]
    pub fn len(&self) -> usize {
        match self {
            Self::Changes(changes) => changes.len(),
            Self::Resyncs(resyncs) => resyncs.len(),
            Self::Reports(reports) => reports.len(),
            Self::Subscriptions(groups) => groups.len(),
            Self::Witnesses(beacons) => beacons.len(),
            Self::Certificate(_) => 1,
        }
    }
}

impl Request {
    /// The first transport message of the session.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![WIRE_VERSION];
        out.extend_from_slice(&self.id.0);
        match &self.operations {
            Operations::Changes(changes) => {
                out.push(1);
                out.put_count(changes.len());
                for (act, group) in changes {
                    out.push(*act as u8);
                    out.put_text(group);
                }
            }
            Operations::Resyncs(resyncs) => {
                out.push(2);
                out.put_count(resyncs.len());
                for resync in resyncs {
                    out.put_text(&resync.group);
                    out.extend_from_slice(&resync.seen.0.to_be_bytes());
                    out.extend_from_slice(&resync.seen.1.to_be_bytes());
                    out.extend_from_slice(&resync.have.to_be_bytes());
                    resync.losses.encode(&mut out);
                }
            }
            Operations::Reports(reports) => {
                out.push(3);
                out.put_count(reports.len());
                for (group, losses) in reports {
                    out.put_text(group);
                    losses.encode(&mut out);
                }
            }
            Operations::Subscriptions(groups) => {
                out.push(4);
                out.put_count(groups.len());
                groups.iter().for_each(|group| out.put_text(group));
            }
            Operations::Witnesses(beacons) => {
                out.push(5);
                out.put_count(beacons.len());
                for (group, beacon) in beacons {
                    out.put_text(group);
                    out.put_octets(beacon);
                }
            }
            Operations::Certificate(begins) => {
                out.push(6);
                out.put_count(1);
                out.extend_from_slice(&begins.to_be_bytes());
            }
        }
        out
    }

    /// Reads a request; an empty one or one that names a group twice is refused whole.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = versioned(message)?;
        let id = RequestId(r.array("request id")?);
        let kind = r.u8("kind of operations")?;
        let count = r.count(MAX_OPERATIONS, "operations")?;
        let operations = match kind {
            1 => Operations::Changes(
                (0..count)
                    .map(|_| {
                        let act = match r.u8("operation")? {
                            1 => Act::Join,
                            2 => Act::Leave,
                            other => {
                                return Err(DecodeError::Value { what: "operation", value: other.into() });
                            }
                        };
                        Ok((act, group_name(&mut r)?))
                    })
                    .collect::<Result<_, _>>()?,
            ),
            2 => Operations::Resyncs(
                (0..count)
                    .map(|_| {
                        Ok(Resync {
                            group: group_name(&mut r)?,
                            seen: (r.u64("term")?, r.u64("epoch")?),
                            have: r.u64("epoch")?,
                            losses: Losses::decode(&mut r)?,
                        })
                    })
                    .collect::<Result<_, _>>()?,
            ),
            3 => Operations::Reports(
                (0..count)
                    .map(|_| Ok((group_name(&mut r)?, Losses::decode(&mut r)?)))
                    .collect::<Result<_, DecodeError>>()?,
            ),
            4 => Operations::Subscriptions((0..count).map(|_| group_name(&mut r)).collect::<Result<_, _>>()?),
            5 if count > MAX_WITNESSES => {
                return Err(DecodeError::Limit { what: "witnesses", have: count, limit: MAX_WITNESSES });
            }
            5 => Operations::Witnesses(
                (0..count)
                    .map(|_| Ok((group_name(&mut r)?, r.octets(Beacon::MAX_LEN, "beacon")?.to_vec())))
                    .collect::<Result<_, DecodeError>>()?,
            ),
            6 if count == 1 => Operations::Certificate(r.u64("beginning")?),
            _ => {
                return Err(DecodeError::Value { what: "kind of operations", value: kind.into() });
            }
        };
        r.end("request")?;
        let request = Self { id, operations };
        let mut groups = request.groups();
        groups.sort_unstable();
        if request.operations.len() == 0 {
            return Err(DecodeError::Value { what: "number of operations", value: 0 });
        }
        if groups.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(DecodeError::Text { what: "list of groups (one stands in it twice)" });
        }
        Ok(request)
    }

    /// The groups, in the order of the operations.
    pub fn groups(&self) -> Vec<&str> {
        match &self.operations {
            Operations::Changes(changes) => changes.iter().map(|(_, group)| group.as_str()).collect(),
            Operations::Resyncs(resyncs) => resyncs.iter().map(|resync| resync.group.as_str()).collect(),
            Operations::Reports(reports) => reports.iter().map(|(group, _)| group.as_str()).collect(),
            Operations::Subscriptions(groups) => groups.iter().map(String::as_str).collect(),
            Operations::Witnesses(beacons) => beacons.iter().map(|(group, _)| group.as_str()).collect(),
            Operations::Certificate(_) => Vec::new(),
        }
    }
}

fn versioned(message: &[u8]) -> Result<Reader<'_>, DecodeError> {
    let mut r = Reader::new(message);
    match r.u8("version")? {
        WIRE_VERSION => Ok(r),
        other => Err(DecodeError::Value { what: "version", value: other.into() }),
    }
}

fn group_name(r: &mut Reader<'_>) -> Result<String, DecodeError> {
    let name = r.text(MAX_NAME, "group name")?;
    if name.is_empty() {
        return Err(DecodeError::Text { what: "group name" });
    }
    Ok(name.to_owned())
}
