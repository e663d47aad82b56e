//! What the core wants done and what it tells: no clock, and secrets only in a [`Snapshot`].

use std::net::SocketAddr;
use std::time::Duration;

use protocol::request::{Denial, RequestId, Role};
use protocol::{DataKey, GroupId, MemberId, Reason};
use serde::Serialize;

use super::Now;
use super::stream::Carrier;

/// What the core wants done.
#[derive(Debug)]
pub enum Output {
    /// Register with a registrar and answer `Registered` or `RegistrationFailed`.
    Register,
    /// Ask the key server and answer `Reply` or `RequestFailed`, within 10 s.
    Request {
        /// Names the request; the same when it is asked again.
        id: RequestId,
        /// The request, to be sealed.
        message: Vec<u8>,
    },
    /// Ask the key server to push, and keep the session: answer `Subscribed`, `Datagram` for all that comes, and `StreamEnded`
    /// in the end. It replaces the one before.
    Stream {
        /// Names the request.
        id: RequestId,
        /// The request, to be sealed.
        message: Vec<u8>,
    },
    /// End that session.
    EndStream,
    /// Say by `Now`, at once and whenever it changes, what stands as this group's newest beacon.
    Follow(GroupId),
    /// No longer.
    Unfollow(GroupId),
    /// Read these names where groups are published, and answer `Read` or `ReadFailed`.
    Read {
        /// Names the reading.
        id: u64,
        /// Of this group.
        group: GroupId,
        /// The names.
        names: Vec<String>,
    },
    /// The key server has sent a site certificate. If it is right and newer, take it and answer `Trusted`.
    Certificate(Vec<u8>),
    /// Receive datagrams of this multicast address.
    Subscribe(SocketAddr),
    /// No longer.
    Unsubscribe(SocketAddr),
    /// The state of a group has changed: tell the data processors.
    Feed {
        /// The group's name.
        group: String,
        /// All of its state.
        snapshot: Snapshot,
    },
    /// For the log and for checks; no secret is in it.
    Event(Event),
    /// The end: nothing more will come.
    Stopped,
}

/// How a key came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By a rekey message.
    Multicast,
    /// By a re-synchronization.
    Resync,
    /// By the reply to a join.
    Reply,
}

/// What happened, without a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key server knows this client.
    Registered {
        /// The ID number.
        client: MemberId,
        /// Number of the registration.
        registration: u64,
    },
    /// A registration failed.
    RegistrationFailed {
        /// Asking again cannot help; the core stops.
        is_final: bool,
    },
    /// A request was not answered; it is asked again.
    Unanswered {
        /// The key server was there and refused the handshake.
        refused: bool,
    },
    /// A membership began, or went on with a renewed leaf.
    Joined {
        /// The group.
        group: String,
        /// Term of the first key.
        term: u64,
        /// Epoch of the first key.
        epoch: u64,
    },
    /// A key was installed.
    Installed {
        /// The group.
        group: String,
        /// Its term.
        term: u64,
        /// Its epoch.
        epoch: u64,
        /// Repair units were needed.
        recovered: bool,
        /// How it came.
        how: How,
    },
    /// A re-synchronization is needed and will be asked for.
    Waiting {
        /// The group.
        group: String,
        /// Milliseconds of the random wait.
        wait_ms: u64,
        /// What is missing.
        why: &'static str,
    },
    /// A re-synchronization succeeded.
    Resynced {
        /// The group.
        group: String,
        /// The present term.
        term: u64,
        /// The present epoch.
        epoch: u64,
    },
    /// The key server denied an operation.
    Denied {
        /// The group.
        group: String,
        /// Why.
        denial: Denial,
    },
    /// A membership ended as this client wished.
    Left {
        /// The group.
        group: String,
        /// First epoch without this client; `None` if it was no member when it asked.
        epoch: Option<u64>,
    },
    /// A membership ended against this client's wish.
    Evicted {
        /// The group.
        group: String,
        /// Why.
        denial: Denial,
    },
    /// A sealed reply was not believed; nothing was changed.
    BadReply {
        /// The group; empty if it was about none.
        group: String,
        /// Why.
        why: String,
    },
    /// Two signed statements contradict each other; the later one was dropped.
    Conflict {
        /// The group.
        group: String,
        /// In what.
        what: &'static str,
    },
    /// A rekey message gave this member no next key; it re-synchronizes.
    Unusable {
        /// The group.
        group: String,
        /// Why.
        why: String,
    },
    /// Published pages were no help; the key server is asked.
    PagesUnusable {
        /// The group.
        group: String,
        /// Why.
        why: String,
    },
    /// The session over which groups without multicast are served has ended; another is tried.
    StreamEnded {
        /// After this time.
        pause: Duration,
    },
    /// Something was dropped; nothing was changed.
    Dropped {
        /// Why.
        cause: &'static str,
    },
    /// A data processor has reported the epoch that it uses.
    Applied {
        /// The group.
        group: String,
        /// The data processor's name for itself.
        consumer: String,
        /// The epoch.
        epoch: u64,
    },
}

/// How this client stands to a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Has asked to join, or is about to.
    Joining,
    /// A member with, as far as it knows, the newest key.
    Member,
    /// A member that may lack the newest key.
    Stale,
    /// Left by choice.
    Left,
    /// No member any more, by the key server's decision.
    Evicted,
    /// Was never let in.
    Refused,
}

/// A data key with its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveKey {
    /// Its epoch.
    pub epoch: u64,
    /// Why it was made; `None` if it came along with a later key.
    pub reason: Option<Reason>,
    /// When senders may use it.
    pub send_not_before: Now,
    /// When they must have stopped; `None` for not yet known.
    pub send_until: Option<Now>,
    /// Since when it is held.
    pub receive_from: Now,
    /// Until when receivers need it; `None` for not yet known.
    pub receive_until: Option<Now>,
    /// The key.
    pub key: DataKey,
}

/// All that data processors are told of a group. Times are absolute; whoever writes it out makes them relative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The group's name.
    pub group: String,
    /// Its number, once known.
    pub group_id: Option<GroupId>,
    /// How this client stands to it.
    pub status: Status,
    /// Why, in words; empty if there is nothing to say.
    pub detail: String,
    /// This client's ID number, once known: unique among the group's senders.
    pub sender_id: Option<MemberId>,
    /// What the policy means this client to do; a shared key cannot enforce it.
    pub role: Option<Role>,
    /// First epoch of the membership.
    pub joined_epoch: Option<u64>,
    /// First epoch after it.
    pub left_epoch: Option<u64>,
    /// Milliseconds for which a receiver should hold packets of an epoch that it lacks.
    pub hold_ms: u64,
    /// Live keys, newest last; at most 32.
    pub keys: Vec<LiveKey>,
}

/// What was counted for a group since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Units of this group.
    pub units_received: u64,
    /// Units without the tag that everybody with the group key could make: an outsider's.
    pub units_bad_tag: u64,
    /// Units of later epochs beyond the signature checks that a group is given: in a flood, or after a gap.
    pub units_unchecked: u64,
    /// Verified units that brought nothing new.
    pub units_duplicate: u64,
    /// Units that no trusted key signed, or that do not belong to the block that was signed.
    pub units_bad_signature: u64,
    /// Units of epochs that are installed or beyond the membership.
    pub units_old: u64,
    /// Signed units, or messages made of them, that make no sense.
    pub units_malformed: u64,
    /// Rekey messages put together.
    pub messages: u64,
    /// Of these, with repair units.
    pub messages_recovered: u64,
    /// Rekey messages that gave this member no next key.
    pub messages_unusable: u64,
    /// Rekey messages given up before their turn, because those of all groups together were too much to keep.
    pub messages_given_up: u64,
    /// Re-synchronizations asked for.
    pub resyncs: u64,
    /// Re-synchronizations out of published pages that were begun.
    pub pages_read: u64,
    /// New beacons.
    pub beacons: u64,
    /// Beacons of the present epoch without the tag that everybody with the group key could make.
    pub beacons_bad_tag: u64,
    /// Beacons beyond the signature checks that a group is given.
    pub beacons_unchecked: u64,
    /// Beacons that no trusted key signed.
    pub beacons_bad_signature: u64,
    /// Beacons whose counter was not new.
    pub beacon_replays: u64,
    /// Silences noticed.
    pub silences: u64,
    /// Reports of data processors that hold data under a key that is not there.
    pub keys_missing: u64,
    /// Contradicting signed statements.
    pub conflicts: u64,
    /// Sealed replies that were not believed.
    pub bad_replies: u64,
}

/// Where a group stands, without a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupStatus {
    /// The group's name.
    pub group: String,
    /// How this client stands to it.
    pub status: Status,
    /// Why, in words.
    pub detail: String,
    /// Term of the installed key.
    pub term: Option<u64>,
    /// Epoch of the installed key.
    pub epoch: Option<u64>,
    /// First epoch of the membership.
    pub joined_epoch: Option<u64>,
    /// First epoch after it.
    pub left_epoch: Option<u64>,
    /// How they come.
    pub carrier: Carrier,
    /// Where its rekey messages are multicast, while they are received.
    pub destination: Option<SocketAddr>,
    /// What was counted.
    pub counters: Counters,
    /// The epoch that each data processor has reported last.
    pub applied: std::collections::BTreeMap<String, u64>,
}
