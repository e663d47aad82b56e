//! Operators' commands.

use protocol::identity::Identity;
use protocol::request::Role;
use protocol::{Authentication, GroupId, MemberId};
use thiserror::Error;
use zeroize::Zeroizing;

use super::admission::Cause;
use super::batch::Eviction;
use super::transaction::Intent;
use super::{Core, Now, Output, Registrations};

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admin {
    /// How are you?
    Status,
    /// Everything that you know.
    Backup,
    /// Who is in this group?
    Members {
        /// The group.
        group: String,
    },
    /// Take this member out now, and do not let it join again.
    Evict {
        /// The group.
        group: String,
        /// The member.
        identity: Identity,
    },
    /// Let an evicted client join again.
    Admit {
        /// The group.
        group: String,
        /// The client.
        identity: Identity,
    },
    /// A new group key now.
    Refresh {
        /// The group.
        group: String,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminReply {
    /// Done and durable.
    Done,
    /// Done and durable; the epoch that it made.
    Epoch(u64),
    /// Answer to `Backup`.
    Backup(Snapshot),
    /// Answer to `Status`.
    Status(Box<Status>),
    /// Answer to `Members`.
    Members(Members),
}

/// The members of a group, and who is none any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// The members, by ID number.
    pub members: Vec<MemberStatus>,
    /// Whose membership has ended lately and was not begun again: ID number, identity, first epoch without it, and why; `None`: it
    /// has left.
    pub ended: Vec<(MemberId, Identity, u64, Option<Cause>)>,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// ID number.
    pub client: MemberId,
    /// Identity.
    pub identity: Identity,
    /// Epoch of the join.
    pub joined_epoch: u64,
    /// What the policy means it to do.
    pub role: Role,
    /// Seconds of its lease, 0 for none.
    pub lease_s: u32,
    /// How it was authenticated, and when its credential ends in seconds since 1970.
    pub credential: Option<(Authentication, u64)>,
    /// Time since it was heard last in this reign.
    pub silent: Now,
}

/// Memberships that have ended in this reign, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Endings {
    /// By choice.
    pub left: u64,
    /// Otherwise, in the order of [`Cause::ALL`].
    pub causes: [u64; Cause::ALL.len()],
}

impl Endings {
    pub(super) fn count(&mut self, cause: Option<Cause>) {
        let at = cause.and_then(|cause| Cause::ALL.iter().position(|other| *other == cause));
        *at.and_then(|at| self.causes.get_mut(at)).unwrap_or(&mut self.left) += 1;
    }
}

/// A snapshot: every secret of the key server.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(pub Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({} octets)", self.0.len())
    }
}

/// Why a command was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AdminError {
    /// No group of this name.
    #[error("there is no group of this name")]
    UnknownGroup,
    /// Nobody of this identity has registered.
    #[error("no client of this identity has registered")]
    UnknownClient,
    /// The client is not a member of the group.
    #[error("the client is not a member of this group")]
    NotMember,
    /// Too many commands are waiting.
    #[error("too many changes are waiting; try again")]
    Busy,
    /// Another key server reigns.
    #[error("this key server stands by for another one; ask that")]
    Standby,
    /// The group is stopped.
    #[error("the group is stopped, because a member has seen more than the store holds; see `keystone recover`")]
    Stopped,
    /// It could not be done.
    #[error("{0}")]
    Failed(String),
}

/// State of the key server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Name of the key server.
    pub name: String,
    /// Number of the reign.
    pub term: u64,
    /// Whether another key server reigns.
    pub standby: bool,
    /// Clients that have registered.
    pub clients: usize,
    /// Registrars that are connected.
    pub registrars: usize,
    /// Registrations of this reign.
    pub registrations: Registrations,
    /// Members without multicast that are served over TCP now.
    pub subscribers: usize,
    /// Such members that were cut off in this reign because they did not read.
    pub subscribers_cut: u64,
    /// Operations of clients that were denied in this reign.
    pub denied: u64,
    /// Offences in this reign of registrars, clients and whoever else has proved its identity: what they asked was none of theirs,
    /// or malformed.
    pub misbehaved: u64,
    /// The groups.
    pub groups: Vec<GroupStatus>,
}

/// State of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// Name.
    pub name: String,
    /// Number.
    pub id: GroupId,
    /// Number of the key.
    pub epoch: u64,
    /// Members.
    pub members: usize,
    /// Edges from the deepest leaf to the root.
    pub height: usize,
    /// From an operator's eviction to the first datagram without the member: the last time, and the longest of this reign.
    pub eviction: Option<(Now, Now)>,
    /// Rekey messages multicast in this reign.
    pub rekey_messages: u64,
    /// Units and repair units multicast in this reign.
    pub units_sent: u64,
    /// Memberships that have ended in this reign.
    pub endings: Endings,
    /// Signed (term, epoch) that a member has shown and this key server does not know: the group is stopped.
    pub stopped: Option<(u64, u64)>,
}

impl Core {
    pub(super) fn admin(&mut self, now: Now, ticket: u64, command: Admin) {
        let answer = match command {
            Admin::Status => Ok(AdminReply::Status(Box::new(self.status()))),
            Admin::Backup => Ok(AdminReply::Backup(Snapshot(self.snapshot(now)))),
            Admin::Members { group } => self.group_named(&group).map(|id| AdminReply::Members(self.members(now, id))),
            Admin::Evict { group, identity } => match self.group_and_client(&group, &identity) {
                Ok((group, _)) if self.groups.get(&group).is_some_and(|group| group.stopped.is_some()) => {
                    Err(AdminError::Stopped)
                }
                Ok((group, member)) if self.groups.get(&group).is_some_and(|group| group.contains(member)) => {
                    return self.evict(
                        now,
                        group,
                        Eviction { ticket: Some(ticket), member, since: now, cause: Cause::Operator },
                    );
                }
                Ok(_) => Err(AdminError::NotMember),
                Err(error) => Err(error),
            },
            Admin::Admit { group, identity } => match self.group_and_client(&group, &identity) {
                Ok((group, member)) => {
                    return self.order(ticket, Intent::Admit { ticket, group, member });
                }
                Err(error) => Err(error),
            },
            Admin::Refresh { group } => match self.group_named(&group) {
                Ok(id) if self.groups.get(&id).is_some_and(|group| group.stopped.is_some()) => Err(AdminError::Stopped),
                Ok(group) => return self.refresh(now, group, Some(ticket)),
                Err(error) => Err(error),
            },
        };
        self.outputs.push_back(Output::AdminReply { ticket, result: answer });
    }

    fn order(&mut self, ticket: u64, intent: Intent) {
        if self.intend(intent).is_err() {
            self.outputs.push_back(Output::AdminReply { ticket, result: Err(AdminError::Busy) });
        }
    }

    fn group_named(&self, name: &str) -> Result<GroupId, AdminError> {
        self.group_id(name).ok_or(AdminError::UnknownGroup)
    }

    fn group_and_client(&self, group: &str, identity: &Identity) -> Result<(GroupId, MemberId), AdminError> {
        Ok((self.group_named(group)?, self.clients.find(identity).ok_or(AdminError::UnknownClient)?))
    }

    fn members(&self, now: Now, id: GroupId) -> Members {
        let Some(group) = self.groups.get(&id) else {
            return Members::default();
        };
        let members = group.joined.iter().filter_map(|(member, epoch)| {
            let client = self.clients.get(*member)?;
            let (role, lease_s) = self.terms(id, *member);
            Some(MemberStatus {
                client: *member,
                identity: client.identity.clone(),
                joined_epoch: *epoch,
                role,
                lease_s,
                credential: client.credential().map(|credential| (credential.kind, credential.ends)),
                silent: now.saturating_sub(self.admission.heard(*member)),
            })
        });
        let left = group.left.iter().map(|(member, (_, epoch))| (*member, *epoch, None));
        let evicted = group.ended.iter().map(|(member, (cause, epoch))| (*member, *epoch, Some(*cause)));
        let ended = left.chain(evicted).filter_map(|(member, epoch, cause)| {
            Some((member, self.clients.get(member)?.identity.clone(), epoch, cause))
        });
        Members { members: members.collect(), ended: ended.collect() }
    }

    fn status(&self) -> Status {
        let groups = self.groups.values().map(|group| GroupStatus {
            name: group.config.name.clone(),
            id: group.id(),
            epoch: group.epoch(),
            members: group.tree.len(),
            height: group.tree.height(),
            eviction: group.eviction,
            rekey_messages: group.sent.0,
            units_sent: group.sent.1,
            endings: group.endings,
            stopped: group.stopped,
        });
        Status {
            name: self.config.name.clone(),
            term: self.term,
            standby: self.standing_by,
            clients: self.clients.len(),
            registrars: self.links.len(),
            registrations: self.registrations,
            subscribers: self.subscribers.len(),
            subscribers_cut: self.subscribers.cut,
            denied: self.refused.0,
            misbehaved: self.refused.1,
            groups: groups.collect(),
        }
    }
}
