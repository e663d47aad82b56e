//! What the core is told and what it answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use keygraph::{KeyRef, Plan};
use protocol::identity::Identity;
use protocol::registration::{Answer, Grant, Offer, Parties};
use protocol::request::Denial;
use protocol::sign::VerifyingKey;
use protocol::{GroupId, Incarnation, MemberId, Reason};
use zeroize::Zeroizing;

use super::{Admin, AdminError, AdminReply, Cause, GroupConfig, Keys, Publication};

/// What happens to the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// A registrar has connected and proved its identity.
    RegistrarUp {
        /// Names the connection.
        link: u64,
        /// From its certificate.
        identity: Identity,
    },
    /// A registrar's connection is gone.
    RegistrarDown {
        /// Names the connection.
        link: u64,
    },
    /// A frame from a registrar.
    FromRegistrar {
        /// Names the connection.
        link: u64,
        /// The frame.
        frame: &'a [u8],
    },
    /// The answer to [`Output::Answer`].
    Answered {
        /// Names the connection.
        link: u64,
        /// As in the grant.
        client: MemberId,
        /// As in the grant.
        registration: u64,
        /// The key server's Noise message; `None` if no offer is for this key server.
        answer: Option<Box<Answer>>,
    },
    /// A request, opened by a Noise session under the individual key of this registration.
    Request {
        /// Names the session.
        session: u64,
        /// The client.
        client: MemberId,
        /// The registration whose key was proved.
        registration: u64,
        /// The request.
        message: &'a [u8],
    },
    /// An operator's command.
    Admin {
        /// Names the command.
        ticket: u64,
        /// The command.
        command: Admin,
    },
    /// The policy has changed. It is right by itself; see [`Core::check_policy`](super::Core::check_policy).
    Policy(Vec<GroupConfig>),
    /// This key server signs with another key, or believes others.
    Keys(Keys),
    /// What the wall clock says, in seconds since 1970: before a reign begins, and about every second. It is needed for what
    /// ends at a time of day; as long as nobody tells, nothing ends so.
    Clock {
        /// Seconds since 1970.
        seconds: u64,
    },
    /// The names of all revoked credentials, see [`protocol::Credential`].
    Revoked(BTreeSet<Vec<u8>>),
    /// The session of a subscriber has ended.
    SubscriberGone {
        /// Names the session.
        session: u64,
        /// It was cut off because it did not read what was pushed.
        too_slow: bool,
    },
    /// The last `Persist` or `Snapshot` is durable (`true`) or has failed (`false`).
    Persisted(bool),
    /// The time of `poll_timeout` has come.
    Timeout,
}

/// What the core wants done.
#[derive(Debug)]
pub enum Output {
    /// Append these records, all or none, and answer `Persisted`.
    Persist(Vec<Zeroizing<Vec<u8>>>),
    /// Replace the journal by this snapshot and answer `Persisted`.
    Snapshot(Zeroizing<Vec<u8>>),
    /// Send a frame to a registrar.
    ToRegistrar {
        /// Names the connection.
        link: u64,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Answer a client's offer with this grant, under the static Noise key, and say so by [`Input::Answered`].
    Answer {
        /// Names the connection.
        link: u64,
        /// Who registers; the prologue is made of it.
        parties: Parties,
        /// The client's offers.
        offers: Vec<Offer>,
        /// What the answer carries.
        grant: Grant,
    },
    /// Close a registrar's connection: it broke the protocol or may not be here.
    CloseRegistrar {
        /// Names the connection.
        link: u64,
    },
    /// Seal and send a reply, then close the session.
    Reply {
        /// Names the session.
        session: u64,
        /// The reply.
        message: Zeroizing<Vec<u8>>,
    },
    /// Close a session without a reply: its request was none.
    Refuse {
        /// Names the session.
        session: u64,
    },
    /// Seal and send a reply, and keep the session for what is pushed.
    Subscribed {
        /// Names the session.
        session: u64,
        /// The reply.
        message: Zeroizing<Vec<u8>>,
    },
    /// Send a datagram over the sessions of subscribers.
    Push {
        /// Names the sessions.
        sessions: Vec<u64>,
        /// The datagram.
        octets: Vec<u8>,
    },
    /// Close the session of a subscriber.
    EndSubscription {
        /// Names the session.
        session: u64,
    },
    /// Multicast a datagram, and send it to all relays.
    Datagram {
        /// The group's multicast address.
        destination: SocketAddr,
        /// The datagram.
        octets: Vec<u8>,
    },
    /// Publish something, where groups are published. Nobody waits for it.
    Publish(Box<Publication>),
    /// Answer an operator.
    AdminReply {
        /// Names the command.
        ticket: u64,
        /// The answer.
        result: Result<AdminReply, AdminError>,
    },
    /// For the log and for checks; no secret is in it.
    Event(Event),
    /// The store has failed: nothing more is acknowledged, the process must end.
    Halt,
}

/// What happened, without a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A reign has begun.
    Reign {
        /// Its number.
        term: u64,
        /// Its name.
        incarnation: Incarnation,
    },
    /// An individual key was stored.
    Registered {
        /// The client.
        client: MemberId,
        /// Its identity.
        identity: Identity,
        /// Number of the registration.
        registration: u64,
        /// Whether the registrar does not know the key.
        sealed: bool,
    },
    /// A sealed registration was refused, because none of the client's offers is for this key server. The client's site
    /// certificate is of another time or place, or the registrar has altered something.
    Unopened {
        /// The registrar.
        registrar: Identity,
        /// Whom it registers.
        identity: Identity,
    },
    /// A group has a new key.
    Epoch(Box<EpochEvent>),
    /// A client was given keys in a reply.
    Given {
        /// The group.
        group: GroupId,
        /// The client.
        client: MemberId,
        /// The secrets of its path.
        keys: Vec<KeyRef>,
        /// Epochs of the earlier data keys.
        earlier: Vec<u64>,
    },
    /// A membership ended.
    Ended {
        /// The group.
        group: GroupId,
        /// The first epoch without the member.
        epoch: u64,
        /// The client.
        client: MemberId,
        /// Why; `None`: the member has left.
        cause: Option<Cause>,
    },
    /// The wall clock has leapt ahead by more than an hour: it is not believed for ten minutes.
    ClockLeapt {
        /// What it says, in seconds since 1970.
        seconds: u64,
        /// What is believed.
        believed: u64,
    },
    /// Individual keys were dropped, because the credentials of their registrations were revoked.
    KeysDropped {
        /// The clients.
        clients: Vec<MemberId>,
    },
    /// A policy is in force from here on.
    PolicyTaken {
        /// Its groups.
        groups: usize,
    },
    /// What is sent from here on is signed with another key.
    SignsWith {
        /// Its public key, of Ed25519.
        key: VerifyingKey,
    },
    /// Keys cannot be used; those before stay.
    KeysRefused {
        /// Why.
        why: String,
    },
    /// A policy cannot follow the one that is in force, which stays.
    PolicyRefused {
        /// Why.
        why: String,
    },
    /// An operation was denied.
    Denied {
        /// The group, as it was asked for.
        group: String,
        /// The client.
        client: MemberId,
        /// Why.
        denial: Denial,
    },
    /// A peer broke the protocol and was cut off.
    Misbehaved {
        /// Who, in words.
        peer: String,
        /// How, in words.
        how: String,
    },
    /// The first datagram of an epoch without evicted members was sent.
    EvictionSent {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: u64,
        /// Time since the operator asked for it.
        took: Duration,
    },
    /// A member has shown a signed (term, epoch) that this key server does not know: its store has lost something. Nothing
    /// more is issued for the group until an operator recovers it.
    Stopped {
        /// The group.
        group: GroupId,
        /// The member.
        witness: MemberId,
        /// What it has shown.
        seen: (u64, u64),
        /// What this key server knows.
        known: (u64, u64),
    },
    /// Datagrams were dropped because the queue was full; members will re-synchronize.
    Overflow {
        /// How many.
        datagrams: usize,
    },
}

/// A new epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochEvent {
    /// The group.
    pub group: GroupId,
    /// Number of the reign.
    pub term: u64,
    /// Number of the key.
    pub epoch: u64,
    /// Why.
    pub reason: Reason,
    /// Members after the change.
    pub members: usize,
    /// What was done, symbolically.
    pub plan: Plan,
    /// Rekey messages.
    pub messages: usize,
    /// Octets of the rekey messages.
    pub octets: usize,
    /// Units of message.
    pub units: usize,
    /// Repair units.
    pub repair_units: usize,
}
