//! Operators' commands.

use protocol::identity::Identity;
use protocol::{GroupId, MemberId};
use thiserror::Error;
use zeroize::Zeroizing;

use super::batch::Eviction;
use super::transaction::Intent;
use super::{Core, Now, Output};

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
    Status(Status),
    /// Answer to `Members`: ID number, identity, epoch of the join.
    Members(Vec<(MemberId, Identity, u64)>),
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
    /// Members without multicast that are served over TCP now.
    pub subscribers: usize,
    /// Such members that were cut off in this reign because they did not read.
    pub subscribers_cut: u64,
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
    /// Signed (term, epoch) that a member has shown and this key server does not know: the group is stopped.
    pub stopped: Option<(u64, u64)>,
}

impl Core {
    pub(super) fn admin(&mut self, now: Now, ticket: u64, command: Admin) {
        let answer = match command {
            Admin::Status => Ok(AdminReply::Status(self.status())),
            Admin::Backup => Ok(AdminReply::Backup(Snapshot(self.snapshot(now)))),
            Admin::Members { group } => self.group_named(&group).map(|id| AdminReply::Members(self.members(id))),
            Admin::Evict { group, identity } => match self.group_and_client(&group, &identity) {
                Ok((group, _)) if self.groups.get(&group).is_some_and(|group| group.stopped.is_some()) => {
                    Err(AdminError::Stopped)
                }
                Ok((group, member)) if self.groups.get(&group).is_some_and(|group| group.contains(member)) => {
                    return self.evict(now, group, Eviction { ticket, member, since: now });
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

    fn members(&self, group: GroupId) -> Vec<(MemberId, Identity, u64)> {
        let Some(group) = self.groups.get(&group) else {
            return Vec::new();
        };
        let known = |member: &MemberId| self.clients.get(*member).map(|client| client.identity.clone());
        group.joined.iter().filter_map(|(member, epoch)| Some((*member, known(member)?, *epoch))).collect()
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
            stopped: group.stopped,
        });
        Status {
            name: self.config.name.clone(),
            term: self.term,
            standby: self.standing_by,
            clients: self.clients.len(),
            registrars: self.links.len(),
            subscribers: self.subscribers.len(),
            subscribers_cut: self.subscribers.cut,
            groups: groups.collect(),
        }
    }
}
