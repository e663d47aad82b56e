//! Requests and replies (Keystone §3.3): what a client asks of its key server inside a Noise `NKpsk0` session.

use std::net::{IpAddr, SocketAddr};

use crate::beacon::Beacon;
use crate::codec::{DecodeError, Reader, Write};
use crate::member::KeyPath;
use crate::rekey::Announcement;
use crate::secret::DataKey;
use crate::{MAX_NAME, MemberId, WIRE_VERSION};

/// Groups in one request: more than a member joins, few enough for one reply of bounded size.
pub const MAX_OPERATIONS: usize = 64;
/// Largest request in octets: 64 operations of at most 83 octets, and the head.
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

/// Joins and leaves mixed, or only re-synchronizes, or only reports: never two kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operations {
    /// Joins and leaves, in this order.
    Changes(Vec<(Act, String)>),
    /// Re-synchronizes.
    Resyncs(Vec<Resync>),
    /// What was lost, by group: nothing is asked.
    Reports(Vec<(String, Losses)>),
}

/// What a client asks. Every group stands in it at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// What is asked.
    pub operations: Operations,
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
            _ => {
                return Err(DecodeError::Value { what: "kind of operations", value: kind.into() });
            }
        };
        r.end("request")?;
        let request = Self { id, operations };
        let mut groups = request.groups();
        groups.sort_unstable();
        if groups.is_empty() {
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
        }
    }
}

/// Why an operation was denied. Nothing was changed for this group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Denial {
    /// There is no such group.
    UnknownGroup = 1,
    /// The access policy does not allow it.
    Policy = 2,
    /// The client is not a member.
    NotMember = 3,
    /// The group is full.
    Full = 4,
    /// The key server cannot store changes at the moment; ask again later.
    Unavailable = 5,
    /// The client has seen a higher (term, epoch) than the key server knows: its state is older than the world.
    Behind = 6,
}

impl Denial {
    /// Asking again without a change of configuration cannot help.
    pub fn is_final(self) -> bool {
        matches!(self, Self::UnknownGroup | Self::Policy | Self::NotMember)
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UnknownGroup => "there is no such group",
            Self::Policy => "the access policy does not allow it",
            Self::NotMember => "not a member",
            Self::Full => "the group is full",
            Self::Unavailable => "the key server cannot store changes now",
            Self::Behind => "the key server is behind what this client has seen",
        })
    }
}

impl TryFrom<u8> for Denial {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        Ok(match value {
            1 => Self::UnknownGroup,
            2 => Self::Policy,
            3 => Self::NotMember,
            4 => Self::Full,
            5 => Self::Unavailable,
            6 => Self::Behind,
            _ => {
                return Err(DecodeError::Value { what: "denial", value: value.into() });
            }
        })
    }
}

/// A data key of an epoch before the present one, for data that is still on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlierKey {
    /// Its epoch.
    pub epoch: u64,
    /// Milliseconds for which receivers still need it.
    pub remaining_ms: u32,
    /// The key.
    pub key: DataKey,
}

/// The individual rekey of one group: everything that a member needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Where the group's rekey messages and beacons are multicast.
    pub destination: SocketAddr,
    /// First epoch of this membership.
    pub joined_epoch: u64,
    /// What data processors are told of the present key.
    pub announcement: Announcement,
    /// The secrets of the path.
    pub path: KeyPath,
    /// Earlier data keys, oldest first, none from before `joined_epoch`.
    pub earlier: Vec<EarlierKey>,
    /// The current signed beacon: the root must match its commitment.
    pub beacon: Vec<u8>,
}

/// The result of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Join or re-synchronize granted.
    Granted(Box<Membership>),
    /// Leave granted: the first epoch without the client.
    Left {
        /// That epoch.
        epoch: u64,
    },
    /// No.
    Denied(Denial),
    /// Not now: too many ask at once. Nothing was done; ask with a new request when the time is over.
    Later {
        /// Milliseconds.
        after_ms: u32,
    },
    /// A report was taken in.
    Noted,
}

/// Acknowledgment and individual rekey in one, sealed by the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The request's name.
    pub id: RequestId,
    /// An outcome for each operation, in their order.
    pub outcomes: Vec<Outcome>,
}

impl Reply {
    /// One transport message. It holds keys: the caller wipes it after sending.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![WIRE_VERSION];
        out.extend_from_slice(&self.id.0);
        out.put_count(self.outcomes.len());
        for outcome in &self.outcomes {
            match outcome {
                Outcome::Granted(membership) => {
                    out.push(1);
                    membership.encode(&mut out);
                }
                Outcome::Left { epoch } => {
                    out.push(2);
                    out.extend_from_slice(&epoch.to_be_bytes());
                }
                Outcome::Denied(denial) => {
                    out.push(3);
                    out.push(*denial as u8);
                }
                Outcome::Later { after_ms } => {
                    out.push(4);
                    out.extend_from_slice(&after_ms.to_be_bytes());
                }
                Outcome::Noted => out.push(5),
            }
        }
        out
    }

    /// Reads a reply.
    pub fn decode(message: &[u8]) -> Result<Self, DecodeError> {
        let mut r = versioned(message)?;
        let id = RequestId(r.array("request id")?);
        let outcomes = (0..r.count(MAX_OPERATIONS, "outcomes")?)
            .map(|_| {
                Ok(match r.u8("outcome")? {
                    1 => Outcome::Granted(Box::new(Membership::decode(&mut r)?)),
                    2 => Outcome::Left { epoch: r.u64("epoch")? },
                    3 => Outcome::Denied(r.u8("denial")?.try_into()?),
                    4 => Outcome::Later { after_ms: r.u32("time to return")? },
                    5 => Outcome::Noted,
                    other => {
                        return Err(DecodeError::Value { what: "outcome", value: other.into() });
                    }
                })
            })
            .collect::<Result<_, DecodeError>>()?;
        r.end("reply")?;
        Ok(Self { id, outcomes })
    }
}

impl Membership {
    fn encode(&self, out: &mut Vec<u8>) {
        match self.destination.ip() {
            IpAddr::V4(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&self.destination.port().to_be_bytes());
        out.extend_from_slice(&self.joined_epoch.to_be_bytes());
        self.announcement.encode(out);
        self.path.encode(out);
        out.put_count(self.earlier.len());
        for earlier in &self.earlier {
            out.extend_from_slice(&earlier.epoch.to_be_bytes());
            out.extend_from_slice(&earlier.remaining_ms.to_be_bytes());
            out.extend_from_slice(earlier.key.expose());
        }
        out.put_octets(&self.beacon);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let ip: IpAddr = match r.u8("address family")? {
            4 => r.array::<4>("address")?.into(),
            6 => r.array::<16>("address")?.into(),
            other => {
                return Err(DecodeError::Value { what: "address family", value: other.into() });
            }
        };
        Ok(Self {
            destination: SocketAddr::new(ip, r.u16("port")?),
            joined_epoch: r.u64("epoch")?,
            announcement: Announcement::decode(r)?,
            path: KeyPath::decode(r)?,
            earlier: (0..r.count(MAX_EARLIER, "earlier keys")?)
                .map(|_| {
                    Ok(EarlierKey {
                        epoch: r.u64("epoch")?,
                        remaining_ms: r.u32("remaining time")?,
                        key: DataKey::new(r.array("data key")?),
                    })
                })
                .collect::<Result<_, DecodeError>>()?,
            beacon: r.octets(Beacon::MAX_LEN, "beacon")?.to_vec(),
        })
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
