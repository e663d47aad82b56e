//! One member: as a key server, it is carried out once for each history.

use std::collections::BTreeMap;
use std::time::Duration;

use client_ctl::core::{Carriers, Config, Core, Counters, Event, Input, Output};
use protocol::request::RequestId;
use protocol::{MemberId, SigningKey};

use super::GROUP;
use crate::dice::Dice;

/// What happens to a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happening {
    Registered(MemberId, u64),
    /// The user wants it to join.
    Join,
    /// Datagrams come.
    Hear(Vec<Vec<u8>>),
    /// Time passes until it asks a key server.
    Ask,
    /// The reply to what it has asked.
    Reply(Vec<u8>),
    /// There is no answer to what it has asked.
    Unanswered,
}

/// Where a history leads.
#[derive(Clone)]
pub(super) struct Outcome {
    /// Term and epoch of the installed key.
    pub(super) at: Option<(u64, u64)>,
    /// Every data key that it has ever had, by epoch; two for one epoch are a violation.
    pub(super) keys: BTreeMap<u64, [u8; 32]>,
    /// What it has asked and no answer has come to.
    pub(super) asked: Option<(RequestId, Vec<u8>)>,
    /// What must never happen.
    pub(super) broken: Option<String>,
    /// The last event changed nothing but counts of what was dropped.
    pub(super) ignored: bool,
}

/// Carries out a history from its start.
pub(super) fn carry_out(history: &[Happening], seed: u64) -> Outcome {
    let signing = vec![SigningKey::from_seed(&[5; 32]).unwrap().public()];
    let config = Config { groups: Vec::new(), signing, carriers: Carriers::default() };
    let mut core = Core::new(config, Box::new(Dice::new(seed)));
    let mut now = Duration::from_secs(1);
    core.handle(now, Input::Timeout);
    let mut out = Outcome { at: None, keys: BTreeMap::new(), asked: None, broken: None, ignored: false };
    drain(&mut core, &mut out);
    for happening in history {
        let before = counters(&core);
        match happening {
            Happening::Registered(client, registration) => {
                core.handle(now, Input::Registered { client: *client, registration: *registration });
            }
            Happening::Join => core.handle(now, Input::Join(GROUP.into())),
            Happening::Hear(datagrams) => {
                datagrams.iter().for_each(|datagram| core.handle(now, Input::Datagram(datagram)));
            }
            Happening::Ask => {
                while let Some((at, _)) = core.poll_timeout().filter(|_| out.asked.is_none()) {
                    now = at.max(now);
                    core.handle(now, Input::Timeout);
                    drain(&mut core, &mut out);
                }
            }
            Happening::Reply(message) => {
                let (id, _) = out.asked.take().expect("a request");
                core.handle(now, Input::Reply { id, message });
            }
            Happening::Unanswered => {
                let (id, _) = out.asked.take().expect("a request");
                core.handle(now, Input::RequestFailed { id, refused: false });
            }
        }
        let silent = drain(&mut core, &mut out);
        out.ignored = silent && matches!(happening, Happening::Hear(_)) && only_dropped(before, counters(&core));
    }
    out
}

fn counters(core: &Core) -> Counters {
    core.status().first().map(|group| group.counters).unwrap_or_default()
}

/// Whether all datagrams between these were told to be old before anything else was done with them.
fn only_dropped(before: Counters, after: Counters) -> bool {
    let units = after.units_received - before.units_received;
    let dropped = |counters: Counters| counters.units_old + counters.units_bad_tag;
    let old = Counters {
        units_received: before.units_received,
        units_old: before.units_old,
        units_bad_tag: before.units_bad_tag,
        beacon_replays: before.beacon_replays,
        beacons_bad_tag: before.beacons_bad_tag,
        ..after
    };
    old == before && units == dropped(after) - dropped(before)
}

/// Whether there was nothing but requests.
fn drain(core: &mut Core, out: &mut Outcome) -> bool {
    let mut silent = true;
    while let Some(output) = core.poll_output() {
        silent = false;
        match output {
            Output::Request { id, message } => out.asked = Some((id, message)),
            Output::Feed { snapshot, .. } => {
                for key in &snapshot.keys {
                    let (epoch, key) = (key.epoch, *key.key.expose());
                    if *out.keys.entry(epoch).or_insert(key) != key {
                        out.broken = Some(format!("a member has two keys for epoch {epoch}"));
                    }
                }
            }
            Output::Event(Event::Conflict { what, .. }) => {
                out.broken = Some(format!("a member saw a conflict: {what}"))
            }
            _ => {}
        }
        let at = core.status().first().and_then(|group| group.term.zip(group.epoch));
        if at.is_some() && at < out.at {
            out.broken = Some(format!("a member went back from {:?} to {at:?}", out.at));
        }
        out.at = at.or(out.at);
    }
    silent
}
