//! Records of the journal, octet by octet. The store seals them.

use keygraph::{Change, Degree, Strategy};
use protocol::codec::{Reader, Write};
use protocol::identity::{Identity, MAX_IDENTITY};
use protocol::rekey::Announcement;
use protocol::request::RequestId;
use protocol::{
    Authentication, Beacon, Credential, DecodeError, GroupId, Incarnation, IndividualKey, MemberId, Seed, Suite,
};
use zeroize::Zeroizing;

use super::GroupConfig;
use super::clients::Registration;
use super::group::{Recipe, degree};

/// Version of records and snapshots, and of the planner whose trees they describe. A store of another version is
/// refused, because replaying it might give another tree.
pub(super) const STATE_VERSION: u8 = 4;

/// The version of a record or snapshot, unless it is the one that is known.
pub(super) fn foreign_version(octets: &[u8]) -> Option<u8> {
    octets.first().copied().filter(|version| *version != STATE_VERSION)
}

/// Changes in one epoch: a batch that fills a group.
const MAX_CHANGES: u32 = 1 << 24;

/// What of a group is fixed when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) degree: Degree,
    pub(super) suite: Suite,
}

impl Shape {
    pub(super) fn of(config: &GroupConfig) -> Self {
        Self { degree: config.degree, suite: config.suite }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { degree: degree(r.u8("degree")?)?, suite: r.u8("suite")?.try_into()? })
    }
}

/// One thing that happened.
pub(super) enum Record {
    /// A reign begins.
    Reign { term: u64, incarnation: Incarnation },
    /// A registrar handed over an individual key.
    Registered { client: MemberId, identity: Identity, registration: Registration },
    /// The client proved its newest key.
    Promoted { client: MemberId },
    /// A group was made, with this first root.
    Created { group: GroupId, shape: Shape, strategy: Strategy, seed: Seed },
    /// A group has a new epoch, and this is its first beacon.
    Epoch { recipe: Recipe, digest: [u8; 32], beacon: Vec<u8> },
    /// An evicted client may join again.
    Admitted { group: GroupId, member: MemberId },
    /// An operator lets all groups go on, from these epochs, under a term above this one.
    Recovered { term: u64, epochs: Vec<(GroupId, u64)> },
    /// A member has shown a signed (term, epoch) that this key server does not know.
    Stopped { group: GroupId, seen: (u64, u64), witness: MemberId },
    /// The credentials of these registrations were revoked, and their individual keys are dropped.
    Revoked { registrations: Vec<(MemberId, u64)> },
    /// Everything before this comes from a backup.
    Restored,
}

impl Record {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(512));
        out.push(STATE_VERSION);
        match self {
            Self::Reign { term, incarnation } => {
                out.push(1);
                out.extend_from_slice(&term.to_be_bytes());
                out.extend_from_slice(&incarnation.0);
            }
            Self::Registered { client, identity, registration } => {
                out.push(2);
                out.extend_from_slice(&client.0.to_be_bytes());
                out.put_text(identity.as_str());
                registration.encode(&mut out);
            }
            Self::Promoted { client } => {
                out.push(3);
                out.extend_from_slice(&client.0.to_be_bytes());
            }
            Self::Created { group, shape, strategy, seed } => {
                out.push(4);
                out.extend_from_slice(&group.0.to_be_bytes());
                out.push(shape.degree.code());
                out.push(shape.suite as u8);
                out.push(strategy_number(*strategy));
                out.extend_from_slice(seed.expose());
            }
            Self::Epoch { recipe, digest, beacon } => {
                out.push(5);
                recipe.encode(&mut out);
                out.extend_from_slice(digest);
                out.put_octets(beacon);
            }
            Self::Admitted { group, member } => {
                out.push(6);
                out.extend_from_slice(&group.0.to_be_bytes());
                out.extend_from_slice(&member.0.to_be_bytes());
            }
            Self::Recovered { term, epochs } => {
                out.push(7);
                out.extend_from_slice(&term.to_be_bytes());
                out.extend_from_slice(&u32::try_from(epochs.len()).unwrap_or(u32::MAX).to_be_bytes());
                for (group, epoch) in epochs {
                    out.extend_from_slice(&group.0.to_be_bytes());
                    out.extend_from_slice(&epoch.to_be_bytes());
                }
            }
            Self::Stopped { group, seen, witness } => {
                out.push(8);
                out.extend_from_slice(&group.0.to_be_bytes());
                out.extend_from_slice(&seen.0.to_be_bytes());
                out.extend_from_slice(&seen.1.to_be_bytes());
                out.extend_from_slice(&witness.0.to_be_bytes());
            }
            Self::Restored => out.push(9),
            Self::Revoked { registrations } => {
                out.push(10);
                out.extend_from_slice(&u32::try_from(registrations.len()).unwrap_or(u32::MAX).to_be_bytes());
                for (client, registration) in registrations {
                    out.extend_from_slice(&client.0.to_be_bytes());
                    out.extend_from_slice(&registration.to_be_bytes());
                }
            }
        }
        out
    }

    /// Reads a record of the known version: [`foreign_version`] is asked before.
    pub(super) fn decode(octets: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(octets);
        r.u8("version of the record")?;
        let kind = r.u8("kind of record")?;
        let record = match kind {
            1 => Self::Reign { term: r.u64("term")?, incarnation: Incarnation(r.array("incarnation")?) },
            2 => Self::Registered {
                client: MemberId(r.u32("client")?),
                identity: identity(&mut r)?,
                registration: Registration::decode(&mut r)?,
            },
            3 => Self::Promoted { client: MemberId(r.u32("client")?) },
            4 => Self::Created {
                group: GroupId(r.u32("group")?),
                shape: Shape::decode(&mut r)?,
                strategy: strategy(r.u8("strategy")?)?,
                seed: Seed::new(r.array("seed")?),
            },
            5 => Self::Epoch {
                recipe: Recipe::decode(&mut r)?,
                digest: r.array("digest")?,
                beacon: r.octets(Beacon::MAX_LEN, "beacon")?.to_vec(),
            },
            6 => Self::Admitted { group: GroupId(r.u32("group")?), member: MemberId(r.u32("member")?) },
            7 => Self::Recovered {
                term: r.u64("term")?,
                epochs: (0..r.u32("groups")?)
                    .map(|_| Ok((GroupId(r.u32("group")?), r.u64("epoch")?)))
                    .collect::<Result<_, DecodeError>>()?,
            },
            8 => Self::Stopped {
                group: GroupId(r.u32("group")?),
                seen: (r.u64("term")?, r.u64("epoch")?),
                witness: MemberId(r.u32("member")?),
            },
            9 => Self::Restored,
            10 => Self::Revoked {
                registrations: (0..r.u32("registrations")?)
                    .map(|_| Ok((MemberId(r.u32("client")?), r.u64("registration")?)))
                    .collect::<Result<_, DecodeError>>()?,
            },
            _ => {
                return Err(DecodeError::Value { what: "kind of record", value: kind.into() });
            }
        };
        r.end("record").map(|()| record)
    }
}

impl Registration {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(self.key.expose());
        out.push(self.credential.kind as u8);
        self.credential.encode(out);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = r.u64("registration")?;
        let key = IndividualKey::new(r.array("individual key")?);
        let kind = Authentication::decode(r)?;
        Ok(Self { number, key, credential: Credential::decode(kind, r)? })
    }
}

impl Recipe {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.group.0.to_be_bytes());
        out.extend_from_slice(&self.incarnation.0);
        out.extend_from_slice(&self.term.to_be_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.push(strategy_number(self.strategy));
        out.push(u8::from(self.splicing));
        self.announcement.encode(out);
        out.extend_from_slice(self.seed.expose());
        out.extend_from_slice(&u32::try_from(self.by_choice.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (member, id) in &self.by_choice {
            out.extend_from_slice(&member.0.to_be_bytes());
            out.extend_from_slice(&id.0);
        }
        out.extend_from_slice(&u32::try_from(self.ended.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (member, cause) in &self.ended {
            out.extend_from_slice(&member.0.to_be_bytes());
            out.push(*cause as u8);
        }
        out.extend_from_slice(&u32::try_from(self.changes.len()).unwrap_or(u32::MAX).to_be_bytes());
        for change in &self.changes {
            let (kind, member) = match change {
                Change::Join(member) => (1, member.0),
                Change::Leave(member) => (2, member.0),
                Change::Renew(member) => (3, member.0),
                Change::Refresh => (4, 0),
                Change::Compact(moves) => (5, *moves),
            };
            out.push(kind);
            out.extend_from_slice(&member.to_be_bytes());
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            group: GroupId(r.u32("group")?),
            incarnation: Incarnation(r.array("incarnation")?),
            term: r.u64("term")?,
            epoch: r.u64("epoch")?,
            strategy: strategy(r.u8("strategy")?)?,
            splicing: r.flag("splicing")?,
            announcement: Announcement::decode(r)?,
            seed: Seed::new(r.array("seed")?),
            by_choice: (0..r.u32("leaves by choice")?)
                .map(|_| Ok((MemberId(r.u32("member")?), RequestId(r.array("request id")?))))
                .collect::<Result<_, DecodeError>>()?,
            ended: (0..r.u32("evictions")?)
                .map(|_| Ok((MemberId(r.u32("member")?), r.u8("cause")?.try_into()?)))
                .collect::<Result<_, DecodeError>>()?,
            changes: changes(r)?,
        })
    }
}

fn changes(r: &mut Reader<'_>) -> Result<Vec<Change>, DecodeError> {
    let count = r.u32("changes")?;
    if count > MAX_CHANGES {
        return Err(DecodeError::Value { what: "changes", value: count.into() });
    }
    (0..count)
        .map(|_| {
            let kind = r.u8("change")?;
            let member = MemberId(r.u32("member")?);
            Ok(match kind {
                1 => Change::Join(member),
                2 => Change::Leave(member),
                3 => Change::Renew(member),
                4 => Change::Refresh,
                5 => Change::Compact(member.0),
                _ => {
                    return Err(DecodeError::Value { what: "change", value: kind.into() });
                }
            })
        })
        .collect()
}

pub(super) fn identity(r: &mut Reader<'_>) -> Result<Identity, DecodeError> {
    Identity::parse(r.text(MAX_IDENTITY, "identity")?).map_err(|_| DecodeError::Text { what: "identity" })
}

const STRATEGIES: [(u8, Strategy); 5] =
    [(1, Strategy::Group), (2, Strategy::Chain), (3, Strategy::User), (4, Strategy::Key), (5, Strategy::Hybrid)];

pub(super) fn strategy_number(strategy: Strategy) -> u8 {
    STRATEGIES.iter().find(|(_, other)| *other == strategy).map_or(0, |(number, _)| *number)
}

pub(super) fn strategy(number: u8) -> Result<Strategy, DecodeError> {
    let unknown = DecodeError::Value { what: "strategy", value: number.into() };
    STRATEGIES.iter().find(|(other, _)| *other == number).map(|(_, strategy)| *strategy).ok_or(unknown)
}
