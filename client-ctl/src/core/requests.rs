//! Registration, and the one request that may be on its way: what is sent, answered, and sent again.

use std::time::Duration;

use protocol::request::{Act, Denial, MAX_OPERATIONS, MAX_WITNESSES, Operations, Outcome, Reply, Request, RequestId};
use protocol::{Entropy, MemberId};

use super::backoff::backoff;
use super::output::{Event, Output};
use super::reply::ReplyError;
use super::stream::Carrier;
use super::{Core, Now};

/// Time for an answer: the key server's time for a handshake, which is the longest that a request can wait there.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Time for a registration: some registrars tried in turn, each for 10 s.
pub(super) const REGISTRATION_TIME: Duration = Duration::from_secs(60);
/// Handshakes refused in a row before the client believes that its registration is worth nothing. One can be a
/// key server that is just starting.
const REFUSALS: u32 = 3;

/// The longest random part of the wait for a turn.
const TURN_SPREAD: Duration = Duration::from_millis(500);

/// An operation on one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Join,
    Leave,
    Resync,
    /// Of what was lost or seen; nothing follows from the answer.
    Report,
}

pub(super) enum Registration {
    Wanted { at: Now, attempt: u32 },
    Underway { until: Now, attempt: u32 },
    Done { client: MemberId, number: u64 },
}

/// A request on its way, or waiting to be sent again.
pub(super) struct InFlight {
    request: Request,
    attempt: u32,
    is_sent: bool,
    /// When to give up waiting, or to send again.
    at: Now,
}

impl Core {
    pub(super) fn registered(&mut self, now: Now, client: MemberId, number: u64) {
        self.registration = Registration::Done { client, number };
        self.renewal = None;
        self.client = Some(client);
        self.refusals = 0;
        self.event(Event::Registered { client, registration: number });
        // The names of requests are bound to nothing, but their answers would be sealed under the key before.
        self.in_flight = None;
        self.groups.values_mut().for_each(|group| group.renew(now));
    }

    /// The credential of this registration has ended: there may be another by now.
    fn register_again(&mut self, now: Now) {
        let at = now + backoff(&mut self.entropy, self.ended);
        self.ended = self.ended.saturating_add(1);
        self.registration = Registration::Wanted { at, attempt: 0 };
    }

    pub(super) fn registration_failed(&mut self, now: Now, retry_after: Option<Duration>, is_final: bool) {
        let Registration::Underway { attempt, .. } = self.registration else {
            return self.renewal_failed(now, retry_after);
        };
        self.event(Event::RegistrationFailed { is_final });
        if is_final {
            let why = "the registrar refuses this client";
            self.groups.values_mut().for_each(|group| group.refuse(why));
            self.stopping = Some(now);
            return;
        }
        let pause = backoff(&mut self.entropy, attempt);
        let at = now + retry_after.map_or(pause, |after| after.max(pause));
        self.registration = Registration::Wanted { at, attempt: attempt.saturating_add(1) };
    }

    /// It is this client's turn later: no failure, and the pauses do not grow.
    pub(super) fn registration_later(&mut self, now: Now, after: Duration) {
        let at = self.turn(now, after);
        match &mut self.registration {
            Registration::Underway { attempt, .. } => {
                self.registration = Registration::Wanted { at, attempt: *attempt };
            }
            _ => self.renewal_later(at),
        }
    }

    /// Sends what is due: a registration, or else one request.
    pub(super) fn drive(&mut self, now: Now) {
        match self.registration {
            Registration::Wanted { at, attempt } if at <= now => {
                self.registration = Registration::Underway { until: now + REGISTRATION_TIME, attempt };
                self.outputs.push_back(Output::Register);
            }
            Registration::Underway { until, .. } if until <= now => self.registration_failed(now, None, false),
            _ => {}
        }
        let Registration::Done { .. } = self.registration else {
            return;
        };
        self.drive_renewal(now);
        if let Some(InFlight { is_sent: true, at, request, .. }) = &self.in_flight
            && *at <= now
        {
            let id = request.id;
            self.request_failed(now, id, false);
        }
        if self.in_flight.is_none()
            && let Some(operations) = self.due_operations(now)
        {
            self.ask(now, operations);
        }
        if let Some(flight) = &mut self.in_flight
            && !flight.is_sent
            && flight.at <= now
        {
            (flight.is_sent, flight.at) = (true, now + ANSWER_TIME);
            let (id, message) = (flight.request.id, flight.request.encode());
            self.outputs.push_back(Output::Request { id, message });
        }
    }

    /// When [`Core::drive`] has something to do, and what.
    pub(super) fn next_drive(&self) -> Option<(Now, &'static str)> {
        match self.registration {
            Registration::Wanted { at, .. } => return Some((at, "registration")),
            Registration::Underway { until, .. } => {
                return Some((until, "registration takes too long"));
            }
            Registration::Done { .. } => {}
        }
        match &self.in_flight {
            Some(flight) => Some((flight.at, if flight.is_sent { "no answer" } else { "ask again" })),
            None => {
                let wanted = self.groups.values().filter_map(|group| group.wanted_at()).map(|at| (at, "ask"));
                let reports = self.groups.values().filter_map(|group| group.reports_at(self.client));
                let sign = self.sign_due().map(|at| (at, "a sign of life"));
                let certificate = self.certificate_due().map(|at| (at, "a newer site certificate"));
                wanted.chain(reports.map(|at| (at, "a report of losses"))).chain(sign).chain(certificate).min()
            }
        }
    }

    /// Puts a new request in the place of whatever was on its way.
    pub(super) fn ask(&mut self, now: Now, operations: Operations) {
        let request = Request { id: RequestId(self.entropy.array()), operations };
        self.in_flight = Some(InFlight { request, attempt: 0, is_sent: false, at: now });
    }

    /// Joins and leaves that are due, or else all re-synchronizations as soon as one is due.
    fn due_operations(&mut self, now: Now) -> Option<Operations> {
        let changes: Vec<(Act, String)> = self
            .groups
            .iter_mut()
            .filter_map(|(name, group)| {
                let act = if group.take_change(now)? == Ask::Leave { Act::Leave } else { Act::Join };
                Some((act, name.clone()))
            })
            .take(MAX_OPERATIONS)
            .collect();
        if !changes.is_empty() {
            return Some(Operations::Changes(changes));
        }
        let beacons: Vec<_> =
            self.groups.values_mut().filter_map(|group| group.take_witness()).take(MAX_WITNESSES).collect();
        if !beacons.is_empty() {
            return Some(Operations::Witnesses(beacons));
        }
        if let Some(begins) = self.take_certificate(now) {
            return Some(Operations::Certificate(begins));
        }
        if self.groups.values().any(|group| group.resync_due(now)) {
            let resyncs: Vec<_> =
                self.groups.values_mut().filter_map(|group| group.take_resync(now)).take(MAX_OPERATIONS).collect();
            return (!resyncs.is_empty()).then_some(Operations::Resyncs(resyncs));
        }
        if let Some(sign) = self.take_sign(now) {
            return Some(sign);
        }
        let (client, entropy) = (self.client, &mut self.entropy);
        let due = self.groups.values_mut().filter(|group| group.reports_at(client).is_some_and(|at| at <= now));
        let reports: Vec<_> = due.filter_map(|group| group.take_report(now, entropy)).take(MAX_OPERATIONS).collect();
        (!reports.is_empty()).then_some(Operations::Reports(reports))
    }

    pub(super) fn request_failed(&mut self, now: Now, id: RequestId, refused: bool) {
        let Some(flight) = self.in_flight.as_mut().filter(|flight| flight.request.id == id && flight.is_sent) else {
            return;
        };
        (flight.is_sent, flight.at) = (false, now + backoff(&mut self.entropy, flight.attempt));
        flight.attempt = flight.attempt.saturating_add(1);
        self.let_go(now);
        self.refusals += u32::from(refused);
        self.event(Event::Unanswered { refused });
        if self.refusals >= REFUSALS {
            self.refusals = 0;
            self.registration = Registration::Wanted { at: now, attempt: 0 };
        }
    }

    /// It is this request's turn later: no failure, and the pauses do not grow.
    pub(super) fn request_later(&mut self, now: Now, id: RequestId, after: Duration) {
        let at = self.turn(now, after);
        if let Some(flight) = self.in_flight.as_mut().filter(|flight| flight.request.id == id && flight.is_sent) {
            (flight.is_sent, flight.at) = (false, at);
            self.let_go(now);
        }
    }

    /// A request that was not answered and is not worth asking again must not keep anything else waiting.
    fn let_go(&mut self, now: Now) {
        self.give_back_published(now);
        // A certificate is asked for later.
        let waits_for_nothing = |flight: &mut InFlight| {
            use Operations::{Certificate, Reports, Witnesses};
            matches!(flight.request.operations, Reports(_) | Witnesses(_) | Certificate(_))
        };
        match self.in_flight.take_if(waits_for_nothing).map(|flight| flight.request.operations) {
            Some(Operations::Certificate(_)) => self.certificate_not_answered(now),
            Some(_) => self.was_not_heard(now),
            None => {}
        }
    }

    /// A turn comes so much later. All are told different times, so the random part is small.
    fn turn(&mut self, now: Now, after: Duration) -> Now {
        let random = (after / 8).min(TURN_SPREAD).as_micros();
        now + after + Duration::from_micros(self.entropy.below(u64::try_from(random).unwrap_or(0) + 1))
    }

    /// What could be read in place of asking is not asked for again as it was.
    fn give_back_published(&mut self, now: Now) {
        let groups = &self.groups;
        self.in_flight.take_if(|flight| match &flight.request.operations {
            Operations::Resyncs(resyncs) => resyncs
                .iter()
                .any(|resync| groups.get(&resync.group).is_some_and(|group| group.carrier == Carrier::Zookeeper)),
            _ => false,
        });
        let published = self.groups.iter().filter(|(_, group)| group.carrier == Carrier::Zookeeper);
        for name in published.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.with(now, &name, |group, env| group.unanswered(env));
        }
    }

    pub(super) fn reply(&mut self, now: Now, id: RequestId, message: &[u8]) {
        let Some(flight) = self.in_flight.take_if(|flight| flight.request.id == id) else {
            return self.event(Event::Dropped { cause: "a reply to no request" });
        };
        let asked = asked(&flight.request.operations);
        let resyncs = matches!(flight.request.operations, Operations::Resyncs(_));
        let why = match Reply::decode(message) {
            Ok(reply) if reply.id == id && reply.outcomes.len() == asked.len() => {
                self.refusals = 0;
                let is = |denial| reply.outcomes.iter().any(|outcome| *outcome == Outcome::Denied(denial));
                let (standby, ended) = (is(Denial::Standby), is(Denial::CredentialEnded));
                if matches!(flight.request.operations, Operations::Certificate(_)) {
                    return self.certificate_answered(reply.outcomes.into_iter().next());
                }
                for ((ask, group), outcome) in asked.into_iter().zip(reply.outcomes) {
                    self.outcome(now, ask, &group, outcome);
                }
                match () {
                    () if ended => self.register_again(now),
                    () if resyncs => self.was_answered(now),
                    () if standby => self.was_not_heard(now),
                    () => {
                        self.ended = 0;
                        self.was_heard(now);
                    }
                }
                return;
            }
            Ok(_) => "the reply is to another request".to_owned(),
            Err(error) => error.to_string(),
        };
        self.event(Event::BadReply { group: String::new(), why });
        self.in_flight = Some(InFlight { is_sent: true, ..flight });
        self.request_failed(now, id, false);
    }

    fn outcome(&mut self, now: Now, ask: Ask, name: &str, outcome: Outcome) {
        let mut is_doubtful = false;
        self.with(now, name, |group, env| match (ask, outcome) {
            (Ask::Report, Outcome::Denied(denial)) => group.denied(env, ask, denial),
            (Ask::Report, _) => {}
            (Ask::Join | Ask::Resync, Outcome::Granted(membership)) => {
                is_doubtful = !group.granted(env, ask, *membership);
            }
            (Ask::Leave, Outcome::Left { epoch }) => group.left(env, Some(epoch)),
            (_, Outcome::Denied(denial)) => group.denied(env, ask, denial),
            (Ask::Join | Ask::Resync, Outcome::Later { after_ms }) => group.later(env, ask, after_ms),
            _ => group.bad_reply(env, ask, &ReplyError::Mismatch),
        });
        if is_doubtful {
            self.doubt(now);
        }
    }

    /// One last request: all memberships end. `false` if there is nothing to ask, or nobody.
    pub(super) fn leave_all(&mut self, now: Now) -> bool {
        let Registration::Done { .. } = self.registration else {
            return false;
        };
        let leaves: Vec<_> = self
            .groups
            .iter_mut()
            .filter(|(_, group)| group.may_be_member())
            .take(MAX_OPERATIONS)
            .map(|(name, group)| {
                group.forget_asking();
                (Act::Leave, name.clone())
            })
            .collect();
        if leaves.is_empty() {
            return false;
        }
        self.ask(now, Operations::Changes(leaves));
        true
    }
}

/// The operations, in the order of their outcomes.
fn asked(operations: &Operations) -> Vec<(Ask, String)> {
    match operations {
        Operations::Changes(changes) => changes
            .iter()
            .map(|(act, group)| (if *act == Act::Join { Ask::Join } else { Ask::Leave }, group.clone()))
            .collect(),
        Operations::Resyncs(resyncs) => resyncs.iter().map(|r| (Ask::Resync, r.group.clone())).collect(),
        Operations::Reports(reports) => reports.iter().map(|(group, _)| (Ask::Report, group.clone())).collect(),
        Operations::Witnesses(beacons) => beacons.iter().map(|(group, _)| (Ask::Report, group.clone())).collect(),
        // It is about no group.
        Operations::Certificate(_) => vec![(Ask::Report, String::new())],
        // Those have sessions of their own.
        Operations::Subscriptions(_) => Vec::new(),
    }
}
