//! Snapshots: the whole state of the key server, octet by octet. The store seals them.

use keygraph::{NodeId, Slot, Tree};
use protocol::codec::{Reader, Write};
use protocol::rekey::Announcement;
use protocol::request::{MAX_EARLIER, RequestId};
use protocol::{Beacon, Commitment, DataKey, DecodeError, EpochContext, HeaderHash, Incarnation, MemberId, NodeSecret};
use zeroize::Zeroizing;

use super::codec::{STATE_VERSION, strategy, strategy_number};
use super::group::{Earlier, Group, Held, Position};
use super::{Core, GroupConfig, Now};

/// Stands for the version of a k-node that is spliced out.
const SPLICED: u64 = u64::MAX;

impl Core {
    /// The whole state, octet by octet. The store, or a backup, seals it.
    pub fn snapshot(&self, now: Now) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(vec![STATE_VERSION]);
        out.extend_from_slice(&self.term.to_be_bytes());
        out.extend_from_slice(&self.incarnation.0);
        out.push(u8::from(self.must_recover));
        put_len(&mut out, self.clients.len());
        for (id, client) in self.clients.iter() {
            out.extend_from_slice(&id.0.to_be_bytes());
            out.put_text(client.identity.as_str());
            out.extend_from_slice(&client.numbered.to_be_bytes());
            for live in [&client.current, &client.pending] {
                out.push(u8::from(live.is_some()));
                live.iter().for_each(|registration| registration.encode(&mut out));
            }
        }
        self.clients.tokens.encode(&mut out);
        put_len(&mut out, self.groups.len());
        self.groups.values().for_each(|group| group.encode(now, &mut out));
        out
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

impl Group {
    fn encode(&self, now: Now, out: &mut Vec<u8>) {
        let Position { context, header_hash, commitment, announcement, digest } = &self.at;
        out.extend_from_slice(&self.id().0.to_be_bytes());
        out.push(self.tree.degree().code());
        out.push(context.suite as u8);
        out.push(strategy_number(self.tree.strategy()));
        out.push(u8::from(self.tree.splicing()));
        out.extend_from_slice(&context.incarnation.0);
        out.extend_from_slice(&context.term.to_be_bytes());
        out.extend_from_slice(&context.epoch.to_be_bytes());
        out.extend_from_slice(&header_hash.0);
        out.extend_from_slice(&commitment.0);
        announcement.encode(out);
        out.extend_from_slice(digest);
        out.extend_from_slice(&self.beacons.term().to_be_bytes());
        out.put_octets(self.beacons.newest());
        out.extend_from_slice(&self.floor.to_be_bytes());
        out.push(u8::from(self.stopped.is_some()));
        let (term, epoch) = self.stopped.unwrap_or_default();
        out.extend_from_slice(&term.to_be_bytes());
        out.extend_from_slice(&epoch.to_be_bytes());
        put_len(out, self.tree.slots().count());
        for (node, slot) in self.tree.slots() {
            out.extend_from_slice(&node.0.to_be_bytes());
            // ID numbers begin at 1, so 0 says that this is a k-node, and no version is as high as that of one spliced out.
            let (version, member) = match slot {
                Slot::KNode { version } => (version, 0),
                Slot::UNode { member, version } => (version, member.0),
                Slot::Spliced => (SPLICED, 0),
            };
            out.extend_from_slice(&version.to_be_bytes());
            out.extend_from_slice(&member.to_be_bytes());
            if let Some(secret) = self.held.get(node) {
                out.extend_from_slice(secret.expose());
            }
        }
        put_len(out, self.joined.len());
        for (member, epoch) in &self.joined {
            out.extend_from_slice(&member.0.to_be_bytes());
            out.extend_from_slice(&epoch.to_be_bytes());
        }
        put_len(out, self.barred.len());
        self.barred.iter().for_each(|member| out.extend_from_slice(&member.0.to_be_bytes()));
        put_len(out, self.unrenewed.len());
        self.unrenewed.iter().for_each(|member| out.extend_from_slice(&member.0.to_be_bytes()));
        put_len(out, self.left.len());
        for (member, (request, epoch)) in &self.left {
            out.extend_from_slice(&member.0.to_be_bytes());
            out.extend_from_slice(&request.0);
            out.extend_from_slice(&epoch.to_be_bytes());
        }
        put_len(out, self.ended.len());
        for (member, (cause, epoch)) in &self.ended {
            out.extend_from_slice(&member.0.to_be_bytes());
            out.push(*cause as u8);
            out.extend_from_slice(&epoch.to_be_bytes());
        }
        // A key whose time is over must not be found in a store.
        let earlier: Vec<&Earlier> = self.earlier.iter().filter(|key| !key.is_over(now)).collect();
        out.put_count(earlier.len());
        for key in earlier {
            out.extend_from_slice(&key.epoch.to_be_bytes());
            let remaining = (key.superseded + key.keep).saturating_sub(now);
            out.extend_from_slice(&u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(key.key.expose());
        }
    }

    pub(super) fn decode(config: GroupConfig, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let stored_strategy = strategy(r.u8("strategy")?)?;
        let splicing = r.flag("splicing")?;
        let incarnation = Incarnation(r.array("incarnation")?);
        let (term, epoch) = (r.u64("term")?, r.u64("epoch")?);
        let context = EpochContext { suite: config.suite, group: config.id, incarnation, term, epoch };
        let at = Position {
            context,
            header_hash: HeaderHash(r.array("header hash")?),
            commitment: Commitment(r.array("commitment")?),
            announcement: Announcement::decode(r)?,
            digest: r.array("digest")?,
        };
        let beacon = (r.u64("term of the beacon")?, r.octets(Beacon::MAX_LEN, "beacon")?.to_vec());
        let floor = r.u64("lowest epoch")?;
        let is_stopped = r.flag("stopped")?;
        let seen = (r.u64("term")?, r.u64("epoch")?);
        let mut held = Held::default();
        let mut slots = Vec::new();
        for _ in 0..r.u32("slots")? {
            let (node, version) = (NodeId(r.u32("k-node")?), r.u64("version")?);
            let slot = match (r.u32("member")?, version) {
                (0, SPLICED) => Slot::Spliced,
                (0, version) => Slot::KNode { version },
                (member, version) => Slot::UNode { member: MemberId(member), version },
            };
            slots.push((node, slot));
            if slot != Slot::Spliced {
                held.insert(node, NodeSecret::new(r.array("secret")?));
            }
        }
        let mut tree = Tree::from_slots(config.degree, stored_strategy, epoch, slots)
            .map_err(|_| DecodeError::Text { what: "key tree" })?;
        tree.set_splicing(splicing);
        let mut group = Self::restore(config, tree, held, at);
        group.beacons.announce(beacon.0, beacon.1);
        (group.floor, group.stopped) = (floor, is_stopped.then_some(seen));
        for _ in 0..r.u32("members")? {
            group.joined.insert(MemberId(r.u32("member")?), r.u64("epoch")?);
        }
        for _ in 0..r.u32("barred")? {
            group.barred.insert(MemberId(r.u32("member")?));
        }
        for _ in 0..r.u32("unrenewed")? {
            group.unrenewed.insert(MemberId(r.u32("member")?));
        }
        for _ in 0..r.u32("left")? {
            group.left.insert(MemberId(r.u32("member")?), (RequestId(r.array("request id")?), r.u64("epoch")?));
        }
        for _ in 0..r.u32("ended")? {
            let member = MemberId(r.u32("member")?);
            group.ended.insert(member, (r.u8("cause")?.try_into()?, r.u64("epoch")?));
        }
        for _ in 0..r.count(MAX_EARLIER, "earlier keys")? {
            group.earlier.push_back(Earlier {
                epoch: r.u64("epoch")?,
                keep: Now::from_millis(r.u32("remaining time")?.into()),
                superseded: Now::ZERO,
                key: DataKey::new(r.array("data key")?),
            });
        }
        Ok(group)
    }
}
