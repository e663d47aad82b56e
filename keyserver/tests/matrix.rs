//! Who may do what: kind of authentication, state of the credential, the registrar's prefixes, the policy, and the operation; every
//! cell with its answer and what it does to the state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use crate::common::World;
use keyserver::core::{Access, Admin, AdminReply, Cause, Event, Grant, Input, Rule};
use keyserver::store::{MemoryStore, Store};
use protocol::Authentication;
use protocol::Authentication::{Certificate, Token};
use protocol::identity::IdentityPattern;
use protocol::registration::{RefusalCode, ToRegistrar};
use protocol::request::{Act, Denial, Losses, Operations, Outcome, Reply, Resync};

const T0: u64 = 1_800_000_000;
const CREDENTIAL: [u8; 33] = [7; 33];

/// Of the credential, and when it comes to be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    Ended,
    Revoked,
    EndsLater,
    RevokedLater,
}

/// Whom the registrar may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Inside,
    InsideByTheOtherKind,
    Outside,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Allows,
    OtherKind,
    Denies,
    SaysNothing,
    IsOver,
    EndsLater,
    WithdrawsLater,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Join,
    Leave,
    Resync,
    Report,
    Subscribe,
}

const STATES: [State; 5] = [State::Good, State::Ended, State::Revoked, State::EndsLater, State::RevokedLater];
const PREFIXES: [Prefix; 3] = [Prefix::Inside, Prefix::InsideByTheOtherKind, Prefix::Outside];
const POLICIES: [Policy; 7] = [
    Policy::Allows,
    Policy::OtherKind,
    Policy::Denies,
    Policy::SaysNothing,
    Policy::IsOver,
    Policy::EndsLater,
    Policy::WithdrawsLater,
];
const OPERATIONS: [Operation; 5] =
    [Operation::Join, Operation::Leave, Operation::Resync, Operation::Report, Operation::Subscribe];

fn other(kind: Authentication) -> Authentication {
    if kind == Certificate { Token } else { Certificate }
}

fn everybody() -> IdentityPattern {
    IdentityPattern::parse("spiffe://demo/member/*").unwrap()
}

fn access(policy: Policy, kind: Authentication) -> Access {
    let until = |seconds| Some(Grant { until: Some(seconds), ..Grant::ALL });
    let (kinds, grant) = match policy {
        Policy::Allows | Policy::WithdrawsLater => (vec![kind], Some(Grant::ALL)),
        Policy::OtherKind => (vec![other(kind)], Some(Grant::ALL)),
        Policy::Denies => (vec![Certificate, Token], None),
        Policy::SaysNothing => return Access::default(),
        Policy::IsOver => (vec![kind], until(T0)),
        Policy::EndsLater => (vec![kind], until(T0 + 100)),
    };
    Access::new([Rule { who: everybody(), kinds, grant, place: "the only rule".into() }]).unwrap()
}

/// What the first join must be answered; `None`: it can.
fn join_denied(policy: Policy) -> Option<Denial> {
    match policy {
        Policy::Allows | Policy::EndsLater | Policy::WithdrawsLater => None,
        Policy::OtherKind | Policy::Denies | Policy::SaysNothing => Some(Denial::Policy),
        Policy::IsOver => Some(Denial::MembershipEnded),
    }
}

/// Why a membership ends, when all has happened that happens later.
fn end(state: State, policy: Policy) -> Option<Cause> {
    match (state, policy) {
        // What takes the key away comes before what the policy says, and the credential before the clock of the membership.
        (State::RevokedLater, _) => Some(Cause::Revoked),
        (_, Policy::WithdrawsLater) => Some(Cause::Policy),
        (State::EndsLater, _) => Some(Cause::Expired),
        (_, Policy::EndsLater) => Some(Cause::Ended),
        _ => None,
    }
}

fn denial(cause: Cause) -> Denial {
    match cause {
        Cause::Operator => Denial::Evicted,
        Cause::Policy => Denial::Policy,
        Cause::Expired => Denial::CredentialEnded,
        Cause::Revoked => Denial::Revoked,
        Cause::Ended => Denial::MembershipEnded,
        Cause::Lapsed => Denial::Lapsed,
    }
}

struct Cell {
    world: World,
    who: (protocol::MemberId, u64),
    id: u8,
}

impl Cell {
    /// The outcome, or `None` if the request is refused whole, because its key is worth nothing.
    fn ask(&mut self, operation: Operation) -> Option<Outcome> {
        let group = || "news".to_owned();
        let operations = match operation {
            Operation::Join => Operations::Changes(vec![(Act::Join, group())]),
            Operation::Leave => Operations::Changes(vec![(Act::Leave, group())]),
            Operation::Resync => {
                let losses = Losses::default();
                Operations::Resyncs(vec![Resync { group: group(), seen: (0, 0), have: 0, losses }])
            }
            Operation::Report => Operations::Reports(vec![(group(), Losses::default())]),
            Operation::Subscribe => Operations::Subscriptions(vec![group()]),
        };
        self.id += 1;
        self.world.send(self.who, self.id, operations);
        let (_, reply) = self.world.replies.pop().expect("an answer");
        reply.map(|Reply { mut outcomes, .. }| outcomes.remove(0))
    }

    fn members(&mut self) -> usize {
        match self.world.admin(Admin::Members { group: "news".into() }) {
            Ok(AdminReply::Members(list)) => list.members.len(),
            other => panic!("{other:?}"),
        }
    }

    /// Epoch, members, records of the journal.
    fn state(&mut self) -> (u64, usize, usize) {
        (self.world.epoch(), self.members(), self.world.store.clone().load().unwrap().records.len())
    }
}

/// The world in which a client of this kind asks to be registered; what the registrar is answered.
fn registered(
    kind: Authentication,
    state: State,
    prefix: Prefix,
    policy: Policy,
) -> Result<Cell, Box<(World, ToRegistrar)>> {
    let mut world = World::start_on(MemoryStore::default(), 1, |config| {
        config.groups.truncate(1);
        (config.groups[0].access, config.groups[0].refresh) = (access(policy, kind), None);
        config.registrars[0].1 = match prefix {
            Prefix::Inside => vec![(kind, everybody())],
            Prefix::InsideByTheOtherKind => vec![(other(kind), everybody())],
            Prefix::Outside => vec![(kind, IdentityPattern::parse("spiffe://demo/other/*").unwrap())],
        };
    });
    world.handle(Input::Clock { seconds: T0 });
    if state == State::Revoked {
        world.handle(Input::Revoked([CREDENTIAL.to_vec()].into()));
    }
    let ends = match state {
        State::Ended => T0,
        State::EndsLater => T0 + 100,
        // A token ends within a day.
        State::Good | State::Revoked | State::RevokedLater => T0 + 3_600,
    };
    match world.register_with("member/m", kind, ends, CREDENTIAL.to_vec()) {
        Ok(who) => Ok(Cell { world, who, id: 0 }),
        Err(refused) => Err(Box::new((world, refused))),
    }
}

/// What happens later happens.
fn time_passes(cell: &mut Cell, kind: Authentication, state: State, policy: Policy) {
    if state == State::RevokedLater {
        cell.world.handle(Input::Revoked([CREDENTIAL.to_vec()].into()));
    }
    if policy == Policy::WithdrawsLater {
        let mut config = crate::common::group(1, "news", "spiffe://demo/x");
        (config.access, config.refresh) = (access(Policy::OtherKind, kind), None);
        cell.world.handle(Input::Policy(vec![config]));
    }
    cell.world.wait(Duration::from_secs(103));
}

#[test]
fn every_cell_has_its_answer_and_its_effect() {
    let mut cells = 0;
    for kind in Authentication::ALL {
        for state in STATES {
            for prefix in PREFIXES {
                for policy in POLICIES {
                    for operation in OPERATIONS {
                        println!("{kind} {state:?} {prefix:?} {policy:?} {operation:?}");
                        cell(kind, state, prefix, policy, operation);
                        cells += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cells, 2 * 5 * 3 * 7 * 5);
}

fn cell(kind: Authentication, state: State, prefix: Prefix, policy: Policy, operation: Operation) {
    let registrable = prefix == Prefix::Inside && !matches!(state, State::Ended | State::Revoked);
    let mut cell = match registered(kind, state, prefix, policy) {
        Ok(cell) => cell,
        Err(refused) => {
            let (mut world, refused) = *refused;
            assert!(!registrable, "{refused:?}");
            let code = if prefix == Prefix::Inside { RefusalCode::Credential } else { RefusalCode::Identity };
            assert!(matches!(refused, ToRegistrar::Refused { refusal, .. } if refusal.code == code));
            let Ok(AdminReply::Status(status)) = world.admin(Admin::Status) else { panic!() };
            assert_eq!(status.clients, 0, "a client that was refused is not known");
            // Prefixes are a registrar's fault, the end of a credential is nobody's.
            let blamed = world.events.iter().any(|event| matches!(event, Event::Misbehaved { .. }));
            assert_eq!(blamed, prefix != Prefix::Inside);
            return;
        }
    };
    assert!(registrable);
    // As no member: nothing but a join does anything.
    let before = cell.state();
    if operation != Operation::Join {
        assert_eq!(cell.ask(operation), Some(Outcome::Denied(Denial::NotMember)));
        // The proof of the key is a record.
        assert_eq!(cell.state(), (before.0, 0, before.2 + 1));
    }
    let before = cell.state();
    let joined = cell.ask(Operation::Join).unwrap();
    if let Some(denial) = join_denied(policy) {
        assert_eq!(joined, Outcome::Denied(denial));
        assert_eq!((cell.world.epoch(), cell.members()), (before.0, 0));
        return;
    }
    assert!(matches!(joined, Outcome::Granted(_)), "{joined:?}");
    assert_eq!((cell.world.epoch(), cell.members()), (before.0 + 1, 1));
    // As a member: everything is granted.
    if operation != Operation::Leave {
        let outcome = cell.ask(operation).unwrap();
        match operation {
            Operation::Join | Operation::Resync => assert!(matches!(outcome, Outcome::Granted(_))),
            Operation::Report => assert_eq!(outcome, Outcome::Noted),
            Operation::Subscribe => assert_eq!(outcome, Outcome::Subscribed),
            Operation::Leave => unreachable!(),
        }
        assert_eq!((cell.world.epoch(), cell.members()), (before.0 + 1, 1));
    }
    time_passes(&mut cell, kind, state, policy);
    let ended: Vec<(u64, Option<Cause>)> = (cell.world.events.iter())
        .filter_map(|event| match event {
            Event::Ended { epoch, cause, .. } => Some((*epoch, *cause)),
            _ => None,
        })
        .collect();
    let Some(cause) = end(state, policy) else {
        assert_eq!((ended, cell.members()), (vec![], 1));
        if operation == Operation::Leave {
            assert_eq!(cell.ask(operation), Some(Outcome::Left { epoch: before.0 + 2 }));
            assert_eq!(cell.members(), 0);
        }
        return;
    };
    // One eviction, with its cause; a subscription ends with it.
    assert_eq!((ended, cell.members()), (vec![(before.0 + 2, Some(cause))], 0));
    assert_eq!(cell.world.ended.len(), usize::from(operation == Operation::Subscribe));
    let state_then = cell.state();
    let outcome = cell.ask(operation);
    match (cause, operation) {
        (Cause::Revoked, _) => assert_eq!(outcome, None, "the key is worth nothing"),
        (_, Operation::Leave) => assert_eq!(outcome, Some(Outcome::Denied(Denial::NotMember))),
        (cause, _) => assert_eq!(outcome, Some(Outcome::Denied(denial(cause)))),
    }
    assert_eq!(cell.state(), state_then, "and nothing changes");
}
