//! A client's core with one group, from its join on: what does not come from its key server changes nothing.

use std::time::Duration;

use client_ctl::core::{Core, Counters, GroupStatus, Input, Output};
use protocol::request::{Outcome, Reply};
use protocol::unit::{PAYLOAD, Unit, sign_block};
use protocol::{Beacon, TagKey};

use super::history::{HISTORY, payload, untagged};
use super::site::{GROUP, START, client, signing};
use super::{pieces, sequence};

/// Between two datagrams.
const STEP: Duration = Duration::from_millis(20);

/// A core and the time, driven by hand; requests find no answer.
pub(super) struct Subscriber {
    core: Core,
    now: Duration,
    requests: usize,
    /// What it reads where groups are published: the reading and how many names.
    pub(super) reading: Option<(u64, usize)>,
}

impl Subscriber {
    /// One that has asked to join.
    fn asking(core: Core) -> Self {
        let mut subscriber = Self { core, now: START, requests: 0, reading: None };
        let (client, registration) = (HISTORY.me.client, HISTORY.me.registration);
        subscriber.core.handle(START, Input::Registered { client, registration });
        while subscriber.core.poll_output().is_some() {}
        subscriber
    }

    /// One that is a member.
    fn member() -> Self {
        Self::member_of(client())
    }

    /// The same with another core.
    pub(super) fn member_of(core: Core) -> Self {
        let mut subscriber = Self::asking(core);
        assert!(subscriber.hear(Input::Reply { id: HISTORY.join_id, message: &HISTORY.reply }));
        subscriber
    }

    /// Whether it wants anything done because of this, apart from the log.
    pub(super) fn hear(&mut self, input: Input<'_>) -> bool {
        self.core.handle(self.now, input);
        let mut spoke = false;
        while let Some(output) = self.core.poll_output() {
            spoke |= !matches!(output, Output::Event(_));
            match output {
                Output::Request { id, .. } => {
                    self.requests += 1;
                    self.core.handle(self.now, Input::RequestFailed { id, refused: false });
                }
                Output::Read { id, names, .. } => self.reading = Some((id, names.len())),
                _ => {}
            }
        }
        spoke
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut steps = 0;
        while let Some((at, why)) = self.core.poll_timeout().filter(|(at, _)| *at <= until) {
            self.now = self.now.max(at);
            self.hear(Input::Timeout);
            steps += 1;
            assert!(steps < 1_000, "time-outs without end: {why}");
        }
        self.now = until;
    }

    fn status(&self) -> GroupStatus {
        let mut status = self.core.status().remove(0);
        status.counters = Counters::default();
        status
    }

    /// All that only the key server may change.
    fn state(&self) -> (GroupStatus, Option<(Duration, &'static str)>) {
        (self.status(), self.core.poll_timeout())
    }

    pub(super) fn at(&self) -> Option<(u64, u64)> {
        let status = self.status();
        status.term.zip(status.epoch)
    }

    /// Every key is the one that the key server made.
    pub(super) fn holds_genuine_keys(&self) {
        let Some((_, epoch)) = self.at() else { return };
        for held in epoch.saturating_sub(40)..=epoch {
            if let Some(key) = self.core.danger_data_key(GROUP, held) {
                assert_eq!(Some(key.expose()), HISTORY.keys.get(&held), "another key of epoch {held}");
            }
        }
    }

    /// Nothing makes it ask without end, and it still ends when it is told to.
    pub(super) fn finish(mut self) {
        let before = self.requests;
        self.pass(Duration::from_secs(60));
        assert!(self.requests - before <= 120, "{} requests in a minute", self.requests - before);
        self.core.handle(self.now, Input::Stop { leave: false });
        assert!(std::iter::from_fn(|| self.core.poll_output()).any(|output| matches!(output, Output::Stopped)));
    }
}

/// A sequence of datagrams. Accepted: an epoch is installed by them. Forged ones leave no trace: a member that never got
/// them is in the same state.
pub(super) fn datagrams(data: &[u8]) -> bool {
    let (mut subscriber, mut spared) = (Subscriber::member(), Subscriber::member());
    let begun = subscriber.at();
    for datagram in pieces(data) {
        let is_genuine = HISTORY.is_genuine(datagram);
        subscriber.pass(STEP);
        spared.pass(STEP);
        let at = subscriber.at();
        let spoke = subscriber.hear(Input::Datagram(datagram));
        let spared_spoke = is_genuine && spared.hear(Input::Datagram(datagram));
        assert_eq!(spoke, spared_spoke, "a forged datagram makes the client act");
        assert_eq!(subscriber.state(), spared.state(), "a forged datagram changes something");
        assert!(subscriber.at() >= at, "an older epoch");
        subscriber.holds_genuine_keys();
    }
    let went_on = subscriber.at() > begun;
    subscriber.finish();
    went_on
}

/// Short and long, in order and not.
pub(super) fn datagrams_seeds() -> Vec<Vec<u8>> {
    let sent = &HISTORY.datagrams;
    let beacons = sent.iter().filter(|datagram| Beacon::decode(datagram).is_ok());
    let units: Vec<&Vec<u8>> = sent.iter().filter(|datagram| Unit::decode(datagram).is_ok()).collect();
    let second = |datagram: &&&Vec<u8>| Unit::decode(datagram).is_ok_and(|unit| unit.index % 2 == 0);
    vec![
        sequence(&sent[..4]),
        sequence(sent.iter().take(64)),
        sequence(units.iter().take(12).rev()),
        sequence(units.iter().filter(second)),
        sequence(units[..2].iter().copied().chain(beacons)),
    ]
}

/// The same, but whatever is well-formed is signed anew, so that it is as if the key server lied. Accepted: an epoch is
/// installed; even then with no other key than the genuine one.
pub(super) fn signed(data: &[u8]) -> bool {
    let mut subscriber = Subscriber::member();
    let begun = subscriber.at();
    for piece in pieces(data) {
        subscriber.pass(STEP);
        let at = subscriber.at();
        let datagram = sign_again(piece);
        subscriber.hear(Input::Datagram(datagram.as_deref().unwrap_or(piece)));
        assert!(subscriber.at() >= at, "an older epoch");
        subscriber.holds_genuine_keys();
    }
    let went_on = subscriber.at() > begun;
    subscriber.finish();
    went_on
}

pub(super) fn signed_seeds() -> Vec<Vec<u8>> {
    datagrams_seeds()
}

fn sign_again(datagram: &[u8]) -> Option<Vec<u8>> {
    if let Ok(beacon) = Beacon::decode(datagram) {
        return beacon.sign(&signing(), tag(beacon.context.epoch)).ok();
    }
    let Unit { header, index, .. } = Unit::decode(datagram).ok()?;
    let mut payloads = vec![[0; PAYLOAD]; usize::from(header.s) + usize::from(header.r)];
    payloads[usize::from(index)].copy_from_slice(payload(datagram));
    if header.s == 1 {
        payloads.fill(payload(datagram).try_into().ok()?);
    }
    let block = sign_block(&header, &payloads, &signing(), tag(header.epoch.epoch.wrapping_sub(1))).ok()?;
    block.into_iter().nth(index.into())
}

/// The tag key of an epoch; some other if there is none.
fn tag(epoch: u64) -> &'static TagKey {
    HISTORY.tags.get(&epoch).unwrap_or(HISTORY.tags.first_key_value().unwrap().1)
}

/// The reply to the request for the join, as the session gives it. Accepted: the client is a member by it.
pub(super) fn reply(data: &[u8]) -> bool {
    let mut subscriber = Subscriber::asking(client());
    subscriber.hear(Input::Reply { id: HISTORY.join_id, message: data });
    let is_member = subscriber.at().is_some();
    if is_member {
        let [genuine, believed] = [&HISTORY.reply, data].map(|reply| Reply::decode(reply).unwrap());
        let beacon = |reply: &Reply| match reply.outcomes.as_slice() {
            [Outcome::Granted(membership)] => membership.beacon.clone(),
            other => panic!("a member by {other:?}"),
        };
        assert_eq!(believed.id, HISTORY.join_id);
        assert_eq!(untagged(&beacon(&believed)), untagged(&beacon(&genuine)), "a forged beacon is believed");
    }
    subscriber.holds_genuine_keys();
    // What it was told by multicast meanwhile, it can follow or not; it asks again.
    for datagram in HISTORY.datagrams.iter().take(4) {
        subscriber.hear(Input::Datagram(datagram));
        subscriber.holds_genuine_keys();
    }
    subscriber.finish();
    is_member
}

pub(super) fn reply_seeds() -> Vec<Vec<u8>> {
    vec![HISTORY.reply.clone()]
}
