//! Replies: the outcome of each operation, and the individual rekey that a membership is.

use std::net::{IpAddr, SocketAddr};

use super::{MAX_EARLIER, MAX_OPERATIONS, RequestId, versioned};
use crate::beacon::Beacon;
use crate::codec::{DecodeError, Reader, Write};
use crate::member::KeyPath;
use crate::rekey::Announcement;
use crate::secret::DataKey;
use crate::{WIRE_VERSION, site};

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
    /// This key server stands by for another one, which is to be asked.
    Standby = 7,
    /// An operator has taken the client out of the group, and has not let it in again.
    Evicted = 8,
    /// The credential that the client has registered with has ended: it registers anew with another.
    CredentialEnded = 9,
    /// The credential that the client has registered with was revoked.
    Revoked = 10,
    /// The policy says until when the client may be a member, and that time has come.
    MembershipEnded = 11,
    /// The member was silent for longer than its lease and was taken for gone; it may join again.
    Lapsed = 12,
}

impl Denial {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::UnknownGroup,
        Self::Policy,
        Self::NotMember,
        Self::Full,
        Self::Unavailable,
        Self::Behind,
        Self::Standby,
        Self::Evicted,
        Self::CredentialEnded,
        Self::Revoked,
        Self::MembershipEnded,
        Self::Lapsed,
    ];

    /// Asking again without a change of configuration cannot help.
    pub fn is_final(self) -> bool {
        match self {
            Self::UnknownGroup | Self::Policy | Self::NotMember => true,
            Self::Evicted | Self::Revoked | Self::MembershipEnded => true,
            Self::Full | Self::Unavailable | Self::Behind | Self::Standby => false,
            Self::CredentialEnded | Self::Lapsed => false,
        }
    }

    /// The client is no member any more, or never was.
    pub fn is_outside(self) -> bool {
        self.is_final() || matches!(self, Self::CredentialEnded | Self::Lapsed)
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
            Self::Standby => "this key server stands by for another one",
            Self::Evicted => "an operator has evicted this client",
            Self::CredentialEnded => "the credential of this client's registration has ended",
            Self::Revoked => "the credential of this client was revoked",
            Self::MembershipEnded => "the time of this membership is over",
            Self::Lapsed => "this member was silent for longer than its lease",
        })
    }
}

impl TryFrom<u8> for Denial {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        let unknown = DecodeError::Value { what: "denial", value: value.into() };
        Self::ALL.into_iter().find(|denial| *denial as u8 == value).ok_or(unknown)
    }
}

/// What the policy means a member to do with the group key. Both ends of a shared key can do both: a data processor that
/// cares keeps to its own role, and looks at the sender's ID number of what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// Send only.
    Sender = 1,
    /// Receive only.
    Receiver = 2,
    /// Both.
    Both = 3,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sender, Self::Receiver, Self::Both];

    /// Its name in policies and in the feed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Receiver => "receiver",
            Self::Both => "both",
        }
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<u8> for Role {
    type Error = DecodeError;
    fn try_from(value: u8) -> Result<Self, DecodeError> {
        let unknown = DecodeError::Value { what: "role", value: value.into() };
        Self::ALL.into_iter().find(|role| *role as u8 == value).ok_or(unknown)
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
    /// What the policy means the member to do.
    pub role: Role,
    /// Seconds for which the member may be silent before it is taken for gone; 0 for ever.
    pub lease_s: u32,
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
    /// Not now, of a re-synchronization or the join of a member: too many ask at once. Nothing was done; ask with a new request when the time is over.
    Later {
        /// Milliseconds.
        after_ms: u32,
    },
    /// A report was taken in.
    Noted,
    /// The group's datagrams come over this session from here on.
    Subscribed,
    /// A site certificate that begins later than the client's. It is worth its signature, not the session's.
    Certificate(Vec<u8>),
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
                Outcome::Subscribed => out.push(6),
                Outcome::Certificate(octets) => {
                    out.push(7);
                    out.put_octets(octets);
                }
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
                    6 => Outcome::Subscribed,
                    7 => Outcome::Certificate(r.octets(site::MAX_LEN, "site certificate")?.to_vec()),
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
        out.push(self.role as u8);
        out.extend_from_slice(&self.lease_s.to_be_bytes());
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
            role: r.u8("role")?.try_into()?,
            lease_s: r.u32("lease")?,
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
