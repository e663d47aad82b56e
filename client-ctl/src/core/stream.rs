//! Groups without multicast: one session with the key server, over which their datagrams come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::Entropy;
use protocol::request::{Operations, Outcome, Reply, Request, RequestId};
use serde::{Deserialize, Serialize};

use super::backoff::backoff;
use super::output::{Event, Output};
use super::requests::Registration;
use super::{Core, Now};

/// A session that lasted so long was a good one: what is tried after it begins with short pauses again.
const LASTING: Duration = Duration::from_secs(30);

/// How the datagrams of a group come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// By UDP multicast.
    #[default]
    Multicast,
    /// Over TCP from the key server, to members without multicast.
    Tcp,
}

/// The carrier of each group.
#[derive(Debug, Clone, Default)]
pub struct Carriers {
    /// Of all groups but those below.
    pub others: Carrier,
    /// By the name of the group.
    pub named: BTreeMap<String, Carrier>,
}

impl Carriers {
    /// The carrier of this group.
    pub fn of(&self, group: &str) -> Carrier {
        self.named.get(group).copied().unwrap_or(self.others)
    }
}

/// Where the session stands.
#[derive(Default)]
pub(super) struct Stream {
    open: Option<Open>,
    /// No session is begun before.
    not_before: Now,
    /// Failures in a row.
    attempt: u32,
    /// Sessions that ended by themselves.
    ended: u64,
}

struct Open {
    id: RequestId,
    groups: BTreeSet<String>,
    since: Now,
    is_answered: bool,
    /// Something was denied: when to ask for all again.
    again: Option<Now>,
}

impl Core {
    /// Whether the key server has agreed to send what it multicasts over TCP, and how many such sessions have ended by
    /// themselves.
    pub fn stream(&self) -> (bool, u64) {
        (self.stream.open.as_ref().is_some_and(|open| open.is_answered), self.stream.ended)
    }

    /// The groups that need a session.
    fn streamed(&self) -> BTreeSet<String> {
        let tcp = self.groups.iter().filter(|(_, group)| group.carrier == Carrier::Tcp && group.is_present());
        tcp.map(|(name, _)| name.clone()).collect()
    }

    /// Begins a session, or another one that replaces it, or ends it: as the groups want it.
    pub(super) fn drive_stream(&mut self, now: Now) {
        let groups = self.streamed();
        if groups.is_empty() {
            if self.stream.open.take().is_some() {
                self.outputs.push_back(Output::EndStream);
            }
            return;
        }
        let serves = |open: &Open| groups.is_subset(&open.groups) && open.again.is_none_or(|at| at > now);
        let is_registered = matches!(self.registration, Registration::Done { .. });
        if !is_registered || self.stream.open.as_ref().is_some_and(serves) || self.stream.not_before > now {
            return;
        }
        let id = RequestId(self.entropy.array());
        let operations = Operations::Subscriptions(groups.iter().cloned().collect());
        let message = Request { id, operations }.encode();
        self.stream.open = Some(Open { id, groups, since: now, is_answered: false, again: None });
        self.outputs.push_back(Output::Stream { id, message });
    }

    /// When [`Core::drive_stream`] has something to do, and what.
    pub(super) fn next_stream(&self) -> Option<(Now, &'static str)> {
        let at = match &self.stream.open {
            Some(open) => open.again?,
            None if self.streamed().is_empty() => return None,
            None => self.stream.not_before,
        };
        matches!(self.registration, Registration::Done { .. }).then_some((at, "a session to listen on"))
    }

    /// The key server's answer to a subscription.
    pub(super) fn subscribed(&mut self, now: Now, id: RequestId, message: &[u8]) {
        let Some(groups) = self.stream.open.as_ref().filter(|open| open.id == id).map(|open| open.groups.clone())
        else {
            return self.event(Event::Dropped { cause: "an answer to no subscription" });
        };
        let outcomes = match Reply::decode(message) {
            Ok(reply) if reply.id == id && reply.outcomes.len() == groups.len() => reply.outcomes,
            Ok(_) => return self.bad_subscription(now, id, "the reply is to another request".to_owned()),
            Err(error) => return self.bad_subscription(now, id, error.to_string()),
        };
        let mut is_whole = true;
        for (name, outcome) in groups.iter().zip(outcomes) {
            is_whole &= outcome == Outcome::Subscribed;
            if let Outcome::Denied(denial) = outcome {
                self.event(Event::Denied { group: name.clone(), denial });
                if denial.is_outside() {
                    // Whether this client is a member after all is told by an answer of its own.
                    self.with(now, name, |group, env| group.need(env, "the key server pushes nothing"));
                }
            }
        }
        let again = (!is_whole).then(|| now + self.pause());
        if let Some(open) = &mut self.stream.open {
            (open.is_answered, open.again) = (true, again);
        }
    }

    fn bad_subscription(&mut self, now: Now, id: RequestId, why: String) {
        self.event(Event::BadReply { group: String::new(), why });
        self.outputs.push_back(Output::EndStream);
        self.stream_ended(now, id);
    }

    /// The session is gone. What was missed meanwhile shows by the beacon that the next one begins with.
    pub(super) fn stream_ended(&mut self, now: Now, id: RequestId) {
        let Some(open) = self.stream.open.take_if(|open| open.id == id) else {
            return;
        };
        if now >= open.since + LASTING {
            self.stream.attempt = 0;
        }
        self.stream.ended += 1;
        let pause = self.pause();
        self.stream.not_before = now + pause;
        self.event(Event::StreamEnded { pause });
    }

    fn pause(&mut self) -> Duration {
        let pause = backoff(&mut self.entropy, self.stream.attempt);
        self.stream.attempt = self.stream.attempt.saturating_add(1);
        pause
    }
}
