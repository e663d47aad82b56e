//! Members without multicast: what is multicast to their groups goes to them over TCP as well.

use std::collections::{BTreeMap, BTreeSet};

use protocol::request::{Denial, Outcome, Reply, RequestId};
use protocol::unit::Unit;
use protocol::{GroupId, MemberId};
use zeroize::Zeroizing;

use super::{Core, Output};

/// Subscribers at a time. Each holds a socket, and a process has 1,024 descriptors unless it is told otherwise: half of them
/// are left to requests, registrars and the store.
pub const MAX_SUBSCRIBERS: usize = 512;

struct Subscriber {
    session: u64,
    /// Groups of which the client is a member; never empty.
    groups: BTreeSet<GroupId>,
}

/// Who has subscribed to what. A client has one subscription: its newest.
#[derive(Default)]
pub(super) struct Subscribers {
    clients: BTreeMap<MemberId, Subscriber>,
    /// Subscribers that were cut off because they did not read, in this reign.
    pub(super) cut: u64,
}

impl Subscribers {
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// To whom this datagram goes, without what is of no use where nothing is lost: repair units and copies.
    pub(super) fn push(&self, group: GroupId, octets: &[u8]) -> Option<Output> {
        let interested = self.clients.values().filter(|subscriber| subscriber.groups.contains(&group));
        let sessions: Vec<u64> = interested.map(|subscriber| subscriber.session).collect();
        if sessions.is_empty() || Unit::decode(octets).is_ok_and(|unit| unit.is_spare()) {
            return None;
        }
        Some(Output::Push { sessions, octets: octets.to_vec() })
    }

    /// A member is out: the session to end, if that was its last group.
    pub(super) fn remove(&mut self, group: GroupId, client: MemberId) -> Option<u64> {
        let subscriber = self.clients.get_mut(&client)?;
        subscriber.groups.remove(&group);
        let is_over = subscriber.groups.is_empty();
        if is_over { self.clients.remove(&client).map(|subscriber| subscriber.session) } else { None }
    }

    pub(super) fn gone(&mut self, session: u64, too_slow: bool) {
        let before = self.clients.len();
        self.clients.retain(|_, subscriber| subscriber.session != session);
        self.cut += u64::from(too_slow && self.clients.len() < before);
    }
}

impl Core {
    /// Answers a subscription, and sends the newest beacon of each of its groups at once, so that the client knows what it
    /// has missed.
    pub(super) fn subscribe(&mut self, session: u64, client: MemberId, id: RequestId, names: &[String]) {
        let known = self.subscribers.clients.contains_key(&client);
        let is_full = !known && self.subscribers.len() >= MAX_SUBSCRIBERS;
        let (mut outcomes, mut groups) = (Vec::new(), BTreeSet::new());
        for name in names {
            let group = self.group_id(name).and_then(|id| self.groups.get(&id));
            let denial = match group {
                None => Denial::UnknownGroup,
                Some(group) if !group.contains(client) => group.outside(client),
                Some(_) if is_full => Denial::Unavailable,
                Some(group) => {
                    groups.insert(group.id());
                    outcomes.push(Outcome::Subscribed);
                    continue;
                }
            };
            outcomes.push(self.deny(name, client, denial));
        }
        let reply = Reply { id, outcomes };
        if groups.is_empty() {
            return self.reply(session, &reply);
        }
        let message = Zeroizing::new(reply.encode());
        self.outputs.push_back(Output::Subscribed { session, message });
        let beacons = groups.iter().filter_map(|id| self.groups.get(id)).map(|group| group.beacons.newest().to_vec());
        let beacons = beacons.filter(|beacon| !beacon.is_empty());
        self.outputs.extend(beacons.map(|octets| Output::Push { sessions: vec![session], octets }));
        if let Some(before) = self.subscribers.clients.insert(client, Subscriber { session, groups }) {
            self.outputs.push_back(Output::EndSubscription { session: before.session });
        }
    }
}
