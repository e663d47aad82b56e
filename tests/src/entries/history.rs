//! What a member of the site saw, which most entries are about.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use client_ctl::core as client;
use fec::{Progress, Reassembly};
use keygraph::{Degree, Strategy};
use keyserver::core as server;
use protocol::request::{Act, Outcome, Reply, RequestId};
use protocol::tag::TAG;
use protocol::unit::{BlockHeader, PAYLOAD, Unit};
use protocol::{Beacon, EpochHeader, GroupId, RekeyMessage, Suite, TagKey};

use super::site::{GROUP, Kind, Registration, START, Site, client, identity};

/// What a member saw from its join on.
pub(super) struct History {
    pub(super) me: Registration,
    pub(super) join_id: RequestId,
    pub(super) join: Vec<u8>,
    pub(super) reply: Vec<u8>,
    /// Units and beacons after the join, in the order of their sending.
    pub(super) datagrams: Vec<Vec<u8>>,
    /// What was published since the join.
    pub(super) published: Vec<server::Publication>,
    /// What each unit is apart from its proofs: header, index, payload.
    units: Vec<(BlockHeader, u8, Vec<u8>)>,
    /// The data key of each epoch from the join on.
    pub(super) keys: BTreeMap<u64, [u8; 32]>,
    /// What those who hold the group key of each epoch from the join on can tag with.
    pub(super) tags: BTreeMap<u64, TagKey>,
}

/// The history that most entries are about: its batch of joins makes a message of several units.
pub(super) static HISTORY: LazyLock<History> = LazyLock::new(|| {
    let degree = Degree::new(4).unwrap();
    let batch = Duration::from_millis(10);
    History::live(Kind { strategy: Strategy::Chain, degree, suite: Suite::Aes256, batch })
});

impl History {
    /// A join, a leave, a refresh, a batch of joins, an eviction, and beacons in between.
    pub(super) fn live(kind: Kind) -> Self {
        let (mut site, mut core) = (Site::new(kind), client());
        let bystander = site.register("member/bystander");
        site.change(&bystander, Act::Join);
        site.wait(Duration::from_secs(1));
        let me = site.register("member/me");
        core.handle(START, client::Input::Registered { client: me.client, registration: me.registration });
        let (join_id, join) = std::iter::from_fn(|| core.poll_output())
            .find_map(|output| match output {
                client::Output::Request { id, message } => Some((id, message)),
                _ => None,
            })
            .unwrap();
        site.request(me.client, me.registration, &join);
        site.wait(Duration::from_secs(1));
        let reply = site.replies.pop().unwrap().1.unwrap();
        core.handle(START, client::Input::Reply { id: join_id, message: &reply });
        site.datagrams.clear();
        site.published.clear();

        let others: Vec<Registration> = (0..24).map(|n| site.register(&format!("member/m{n}"))).collect();
        site.change(&others[0], Act::Join);
        site.wait(Duration::from_secs(1));
        site.change(&bystander, Act::Leave);
        site.wait(Duration::from_secs(1));
        site.admin(server::Admin::Refresh { group: GROUP.into() });
        site.wait(Duration::from_secs(1));
        others[1..].iter().for_each(|other| site.change(other, Act::Join));
        site.wait(Duration::from_secs(1));
        site.admin(server::Admin::Evict { group: GROUP.into(), identity: identity("member/m7") });
        site.wait(Duration::from_secs(1));

        let mut history = Self {
            me,
            join_id,
            join,
            reply,
            datagrams: site.datagrams,
            published: site.published,
            units: vec![],
            keys: BTreeMap::new(),
            tags: BTreeMap::new(),
        };
        history.datagrams.retain(|datagram| group_of(datagram) == Some(GroupId(1)));
        history.units = history.datagrams.iter().filter_map(|datagram| parts(datagram)).collect();
        history.remember(&core);
        for datagram in &history.datagrams.clone() {
            core.handle(START, client::Input::Datagram(datagram));
            history.remember(&core);
        }
        history.tags = history.follow();
        history
    }

    /// The client's way through the epochs, for their tags.
    fn follow(&self) -> BTreeMap<u64, TagKey> {
        let Outcome::Granted(membership) = Reply::decode(&self.reply).unwrap().outcomes.remove(0) else {
            panic!("the join is granted")
        };
        let context = Beacon::decode(&membership.beacon).unwrap().context;
        let mut path = membership.path;
        let mut tags = BTreeMap::from([(context.epoch, context.tag(path.root().unwrap()))]);
        let epochs: BTreeMap<u64, EpochHeader> =
            self.units.iter().map(|(header, ..)| (header.epoch.epoch, header.epoch)).collect();
        let suite = context.suite;
        let messages: Vec<RekeyMessage> =
            self.messages().iter().map(|message| RekeyMessage::decode(&message[1..], suite).unwrap()).collect();
        for header in epochs.values() {
            // Only the one of this epoch, and for this member, matches its commitment.
            path = messages.iter().find_map(|message| path.apply(&header.context(), message).ok()).unwrap();
            tags.insert(header.epoch, header.context().tag(path.root().unwrap()));
        }
        tags
    }

    fn remember(&mut self, core: &client::Core) {
        let epoch = core.status()[0].epoch.expect("a member");
        self.keys.insert(epoch, *core.danger_data_key(GROUP, epoch).unwrap().expose());
    }

    /// Whether the key server sent this, but for proofs that need not be looked at: that of a unit whose block is known, and
    /// the tag, which whoever lacks its key cannot check.
    pub(super) fn is_genuine(&self, datagram: &[u8]) -> bool {
        self.datagrams.iter().any(|sent| untagged(sent) == untagged(datagram))
            || parts(datagram).is_some_and(|unit| self.units.contains(&unit))
    }

    /// The rekey messages, each behind the octet of its suite.
    pub(super) fn messages(&self) -> Vec<Vec<u8>> {
        let mut reassembly = Reassembly::new(100);
        let whole = |(header, index, payload): &(BlockHeader, u8, Vec<u8>)| {
            let BlockHeader { block, s, r, blocks, message, .. } = *header;
            let payload = payload.as_slice().try_into().unwrap();
            let unit = fec::Unit { block, index: *index, s, r, payload };
            let length = usize::try_from(header.message_len).unwrap();
            match reassembly.insert((header.epoch.epoch, message), length, blocks, unit).unwrap() {
                Progress::Complete { message, .. } => Some([vec![header.epoch.suite as u8], message].concat()),
                _ => None,
            }
        };
        self.units.iter().filter_map(whole).collect()
    }
}

/// All but the tag, which is not signed.
pub(super) fn untagged(datagram: &[u8]) -> &[u8] {
    &datagram[..datagram.len().saturating_sub(TAG)]
}

/// What a unit carries: it stands before the tag.
pub(super) fn payload(datagram: &[u8]) -> &[u8] {
    let end = datagram.len() - TAG;
    &datagram[end - PAYLOAD..end]
}

fn parts(datagram: &[u8]) -> Option<(BlockHeader, u8, Vec<u8>)> {
    let unit = Unit::decode(datagram).ok()?;
    // Copies are one unit.
    let index = if unit.header.s == 1 { 0 } else { unit.index };
    Some((unit.header, index, payload(datagram).to_vec()))
}

fn group_of(datagram: &[u8]) -> Option<GroupId> {
    let unit = Unit::decode(datagram).map(|unit| unit.header.epoch.group);
    unit.or_else(|_| Beacon::decode(datagram).map(|beacon| beacon.context.group)).ok()
}
