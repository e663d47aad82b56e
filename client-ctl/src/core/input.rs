//! What the core is told.

use std::time::Duration;

use protocol::request::RequestId;
use protocol::{GroupId, MemberId, VerifyingKey};

use super::stream::Carriers;

/// What the core is told once, before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Groups to join.
    pub groups: Vec<String>,
    /// Keys that may sign rekey messages and beacons, from the site certificate.
    pub signing: Vec<VerifyingKey>,
    /// How the datagrams of each group come.
    pub carriers: Carriers,
}

/// What happens to the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came on a multicast address that is subscribed to, or over TCP.
    Datagram(&'a [u8]),
    /// The key server has this client's individual key; the shell keeps it.
    Registered {
        /// The ID number.
        client: MemberId,
        /// Number of the registration.
        registration: u64,
    },
    /// No registrar could register this client.
    RegistrationFailed {
        /// When asking again makes sense, if a registrar said so.
        retry_after: Option<Duration>,
        /// Asking again cannot help.
        is_final: bool,
    },
    /// A registrar has no place now, and has said when it has one.
    RegistrationLater {
        /// How much later.
        after: Duration,
    },
    /// The credential was replaced: there is another to register with.
    Credential,
    /// This is the site certificate: at the start, and when it was replaced. These keys may sign rekey messages and beacons, and no
    /// others.
    Trusted {
        /// The keys.
        signing: Vec<VerifyingKey>,
        /// When it begins, in seconds since 1970.
        begins: u64,
    },
    /// A reply, opened by the session of this request.
    Reply {
        /// The request.
        id: RequestId,
        /// The reply.
        message: &'a [u8],
    },
    /// The key server has no place now, and has said when it has one.
    RequestLater {
        /// The request.
        id: RequestId,
        /// How much later.
        after: Duration,
    },
    /// A request found no answer.
    RequestFailed {
        /// The request.
        id: RequestId,
        /// The key server answered and refused the handshake; otherwise it was not reached.
        refused: bool,
    },
    /// The reply to a subscription; what is pushed follows.
    Subscribed {
        /// The request.
        id: RequestId,
        /// The reply.
        message: &'a [u8],
    },
    /// The session of a subscription is over, or there never was one.
    StreamEnded {
        /// The request.
        id: RequestId,
    },
    /// What stands as the newest beacon of a group that is followed.
    Now {
        /// The group.
        group: GroupId,
        /// Its octets.
        octets: &'a [u8],
    },
    /// What was read.
    Read {
        /// Names the reading.
        id: u64,
        /// Of this group.
        group: GroupId,
        /// In the order of the names; `None` for a name that is not there.
        values: &'a [Option<Vec<u8>>],
    },
    /// It could not be read.
    ReadFailed {
        /// Names the reading.
        id: u64,
        /// Of this group.
        group: GroupId,
    },
    /// The user wants to be a member of this group.
    Join(String),
    /// The user does not want to be a member of this group any more.
    Leave(String),
    /// The user wants the daemon to end.
    Stop {
        /// All memberships end too.
        leave: bool,
    },
    /// A data processor uses the key of this epoch.
    Applied {
        /// The group.
        group: String,
        /// The data processor's name for itself, at most 64 octets.
        consumer: String,
        /// The epoch.
        epoch: u64,
    },
    /// A data processor holds data under the key of this epoch, which it does not have. Anybody can make such data.
    Missing {
        /// The group.
        group: String,
        /// The epoch.
        epoch: u64,
    },
    /// The time of `poll_timeout` has come.
    Timeout,
}
