//! Many groups, and many members, on one key server: driven as its shell drives it, without a network and with a store in
//! memory. By default a tenth of what it is made for; with `KEYSTONE_SCALE=full` a million members in one group and ten
//! thousand groups of a hundred.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::time::Duration;

use keyserver::core::{Access, Admin, AdminReply, Config, Core, Event, GroupConfig, Input, Output};
use protocol::credential::NO_END;
use protocol::identity::{Identity, IdentityPattern};
use protocol::registration::{FromRegistrar, ToRegistrar};
use protocol::request::{Act, Operations, Outcome, Reply, Request, RequestId};
use protocol::{Authentication, Entropy, GroupId, IndividualKey, MemberId, SigningKey};

struct Count(u64);

impl Entropy for Count {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 += 1;
            chunk.copy_from_slice(&self.0.to_be_bytes()[..chunk.len()]);
        }
    }
}

/// The part of a shell that counts.
struct Shell {
    core: Core,
    now: Duration,
    sessions: u64,
    granted: usize,
    denied: usize,
    epochs: usize,
    octets: usize,
    datagrams: usize,
    number: Option<(MemberId, u64)>,
}

fn full() -> bool {
    std::env::var("KEYSTONE_SCALE").is_ok_and(|scale| scale == "full")
}

fn group(id: u32, batch: Duration) -> GroupConfig {
    GroupConfig {
        batch,
        beacon: Duration::from_secs(600),
        beacon_max: Duration::from_secs(600),
        ..GroupConfig::plain(
            GroupId(id),
            &format!("g{id}"),
            ([239, 0, 0, 1], 7_000).into(),
            Access::open([IdentityPattern::parse("spiffe://scale/member/*").unwrap()]),
        )
    }
}

impl Shell {
    fn start(groups: u32, batch: Duration) -> Self {
        let identity = Identity::parse("spiffe://scale/registrar").unwrap();
        let config = Config {
            registrars: vec![(
                identity.clone(),
                vec![(Authentication::Certificate, IdentityPattern::parse("spiffe://scale/member/*").unwrap())],
            )],
            groups: (1..=groups).map(|id| group(id, batch)).collect(),
            ..Config::plain("ks", SigningKey::from_seed(&[1; 32]).unwrap())
        };
        let core = Core::start(config, Box::new(Count(0)), None, &[]).unwrap();
        let mut shell = Self {
            core,
            now: Duration::from_secs(1),
            sessions: 0,
            granted: 0,
            denied: 0,
            epochs: 0,
            octets: 0,
            datagrams: 0,
            number: None,
        };
        shell.drain();
        shell.handle(Input::RegistrarUp { link: 1, identity });
        shell
    }

    fn handle(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Persist(_) | Output::Snapshot(_) => self.core.handle(self.now, Input::Persisted(true)),
                Output::ToRegistrar { frame, .. } => {
                    if let Ok(ToRegistrar::Number { client, registration, .. }) = ToRegistrar::decode(&frame) {
                        self.number = Some((client, registration));
                    }
                }
                Output::Reply { message, .. } => {
                    for outcome in Reply::decode(&message).unwrap().outcomes {
                        match outcome {
                            Outcome::Granted(_) => self.granted += 1,
                            _ => self.denied += 1,
                        }
                    }
                }
                Output::Event(Event::Epoch(epoch)) => {
                    self.epochs += 1;
                    self.octets += epoch.octets;
                }
                Output::Datagram { .. } => self.datagrams += 1,
                Output::Halt => panic!("halted"),
                _ => {}
            }
        }
    }

    /// Time passes until nothing waits.
    fn settle(&mut self) {
        while !self.core.is_idle() {
            let (at, _) = self.core.poll_timeout().expect("something is due");
            self.now = self.now.max(at);
            self.handle(Input::Timeout);
        }
    }

    fn register(&mut self, number: u32) -> (MemberId, u64) {
        let identity = Identity::parse(&format!("spiffe://scale/member/m{number}")).unwrap();
        self.handle(Input::FromRegistrar {
            link: 1,
            frame: &FromRegistrar::FetchNumber { tag: 1, kind: Authentication::Certificate, identity }.encode(),
        });
        let (client, registration) = self.number.take().unwrap();
        let key = IndividualKey::new([9; 32]);
        let frame =
            FromRegistrar::HandOver { tag: 2, client, registration, key, ends: NO_END, credential: vec![1; 33] }
                .encode();
        self.handle(Input::FromRegistrar { link: 1, frame: &frame });
        (client, registration)
    }

    fn ask(&mut self, (client, registration): (MemberId, u64), changes: Vec<(Act, String)>) {
        self.sessions += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.sessions.to_be_bytes());
        let message = Request { id: RequestId(id), operations: Operations::Changes(changes) }.encode();
        self.handle(Input::Request { session: self.sessions, client, registration, message: &message });
    }

    fn members(&mut self) -> usize {
        let mut found = None;
        self.core.handle(self.now, Input::Admin { ticket: 1, command: Admin::Status });
        while let Some(output) = self.core.poll_output() {
            if let Output::AdminReply { result: Ok(AdminReply::Status(status)), .. } = output {
                found = Some(status.groups.iter().map(|group| group.members).sum());
            }
        }
        found.unwrap()
    }
}

#[test]
fn one_group_of_many() {
    let all = if full() { 1_000_000 } else { 100_000 };
    let mut shell = Shell::start(1, Duration::from_secs(2));
    shell.settle();
    let members: Vec<_> = (0..all).map(|number| shell.register(number)).collect();
    for (count, member) in (1..).zip(&members) {
        shell.ask(*member, vec![(Act::Join, "g1".into())]);
        // What waits for one batch is bounded.
        if count % 9_000 == 0 {
            shell.settle();
        }
    }
    shell.settle();
    assert_eq!((shell.members(), shell.granted, shell.denied), (members.len(), members.len(), 0));
    let (epochs, octets) = (shell.epochs, shell.octets);
    println!("{all} members in {epochs} epochs, {octets} octets of rekey messages");
    shell.ask(members[77], vec![(Act::Leave, "g1".into())]);
    shell.settle();
    let leave = shell.octets - octets;
    println!("then one leave: {leave} octets");
    assert!(shell.epochs == epochs + 1 && leave < 1_024);
}

#[test]
fn many_groups() {
    let groups = if full() { 10_000 } else { 1_000 };
    let mut shell = Shell::start(groups, Duration::ZERO);
    shell.settle();
    // A hundred clients for each hundred groups.
    for hundred in 0..groups / 100 {
        for number in 0..100 {
            let client = shell.register(hundred * 100 + number);
            for half in [1..=50, 51..=100] {
                shell.ask(client, half.map(|group| (Act::Join, format!("g{}", hundred * 100 + group))).collect());
            }
        }
    }
    shell.settle();
    let all = usize::try_from(groups).unwrap() * 100;
    assert_eq!((shell.members(), shell.granted, shell.denied), (all, all, 0));
    println!("{groups} groups, {all} memberships, {} epochs, {} datagrams", shell.epochs, shell.datagrams);
}
