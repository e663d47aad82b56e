//! What the key server wraps, exactly the members unwrap: random histories in both strategies and several degrees.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

mod common;

use std::collections::BTreeMap;

use common::{Dice, Server, context};
use keygraph::{Change, MemberId, Strategy};
use protocol::member::ApplyError;
use protocol::{KeyPath, RekeyMessage};

fn random_changes(dice: &mut Dice, server: &Server, next: &mut u32) -> Vec<Change> {
    let members: Vec<MemberId> = server.tree.members().collect();
    let mut changes = Vec::new();
    for _ in 0..=dice.below(3) {
        let some = members.get(usize::try_from(dice.below(members.len().max(1) as u64)).unwrap()).copied();
        let change = match (dice.below(8), some) {
            (0..=3, _) | (_, None) => {
                *next += 1;
                Change::Join(MemberId(*next))
            }
            (4..=5, Some(member)) => Change::Leave(member),
            (6, Some(member)) => Change::Renew(member),
            (_, Some(_)) => Change::Refresh,
        };
        let subject = |change: &Change| match change {
            Change::Join(member) | Change::Leave(member) | Change::Renew(member) => Some(*member),
            Change::Refresh => None,
        };
        if changes.iter().all(|other| subject(other).is_none() || subject(other) != subject(&change)) {
            changes.push(change);
        }
    }
    changes
}

#[test]
fn members_follow_by_multicast_alone_and_whoever_left_cannot() {
    let seed = 20_260_101;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    for (degree, strategy) in [2, 3, 4, 9].into_iter().flat_map(|d| [(d, Strategy::Group), (d, Strategy::Chain)]) {
        let mut server = Server::new(degree, strategy);
        let mut members: BTreeMap<MemberId, KeyPath> = BTreeMap::new();
        let mut gone: Vec<KeyPath> = Vec::new();
        let mut next = 0;
        for round in 0..120u8 {
            let changes = random_changes(&mut dice, &server, &mut next);
            let (executed, plan) = server.change(&changes, round);
            let octets = executed.message.encode();
            let message = RekeyMessage::decode(&octets).unwrap();
            assert_eq!(message, executed.message, "one encoding for each message");
            for (member, _) in &plan.left {
                gone.extend(members.remove(member));
            }
            for change in &changes {
                if let Change::Renew(member) = change {
                    gone.extend(members.remove(member));
                }
            }
            for (member, path) in &mut members {
                *path = path.apply(&context(server.epoch()), &message).unwrap();
                assert_eq!(*path, server.path(*member), "{strategy} degree {degree} round {round} member {member}");
            }
            for (member, _) in &plan.joined {
                members.insert(*member, server.path(*member));
            }
            // What was held at the end of a membership opens nothing of what comes after.
            for old in &gone {
                assert!(old.apply(&context(server.epoch()), &message).is_err());
            }
            let root = server.path_root();
            assert_eq!(context(server.epoch()).commit(&root), message.commitment);
        }
        assert!(gone.len() > 20 && members.len() > 5, "the history was worth the time");
    }
}

impl Server {
    fn path_root(&self) -> protocol::NodeSecret {
        self.held.0[&keygraph::NodeId(0)].1.clone()
    }
}

#[test]
fn every_octet_of_a_message_counts() {
    let mut server = Server::new(3, Strategy::Chain);
    let joins: Vec<Change> = (1..=9).map(|m| Change::Join(MemberId(m))).collect();
    server.change(&joins, 1);
    let before = server.path(MemberId(1));
    let (executed, _) = server.change(&[Change::Leave(MemberId(9))], 2);
    let octets = executed.message.encode();
    let expected = before.apply(&context(2), &executed.message).unwrap();
    let mut refused = 0;
    for at in 0..octets.len() {
        for bit in 0..8 {
            let mut bad = octets.clone();
            bad[at] ^= 1 << bit;
            // A changed octet is refused, or touches what is not for this member: it never gives another key.
            match RekeyMessage::decode(&bad).map(|message| before.apply(&context(2), &message)) {
                Ok(Ok(path)) => assert_eq!(path.root(), expected.root()),
                Ok(Err(_)) | Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > octets.len(), "{refused}");
    for length in 0..octets.len() {
        assert!(RekeyMessage::decode(&octets[..length]).is_err(), "cut to {length}");
    }
    let long = [octets.as_slice(), &[0]].concat();
    assert!(RekeyMessage::decode(&long).is_err());
}

#[test]
fn keys_are_bound_to_group_reign_and_epoch() {
    let mut server = Server::new(2, Strategy::Group);
    server.change(&[Change::Join(MemberId(1)), Change::Join(MemberId(2)), Change::Join(MemberId(3))], 1);
    let before = server.path(MemberId(1));
    let (executed, _) = server.change(&[Change::Leave(MemberId(2))], 2);
    let good = context(2);
    assert!(before.apply(&good, &executed.message).is_ok());
    let mut others = vec![good; 4];
    others[0].group.0 += 1;
    others[1].incarnation.0[0] ^= 1;
    others[2].term += 1;
    others[3].epoch += 1;
    for other in others {
        assert_eq!(before.apply(&other, &executed.message), Err(ApplyError::Commitment));
    }
}

#[test]
fn executing_again_gives_the_same_octets_and_another_seed_gives_others() {
    let make = |seed| {
        let mut server = Server::new(4, Strategy::Chain);
        let joins: Vec<Change> = (1..=20).map(|m| Change::Join(MemberId(m))).collect();
        server.change(&joins, 1);
        server.change(&[Change::Leave(MemberId(5))], seed).0.message.encode()
    };
    assert_eq!(make(2), make(2));
    assert_ne!(make(2), make(3));
}

#[test]
fn a_leave_from_a_million_fits_two_units_and_a_join_one() {
    // Suite aes256: 20 wraps of 32 octets, the commitment, and what names them.
    let mut server = Server::new(2, Strategy::Chain);
    let joins: Vec<Change> = (1..=1 << 12).map(|m| Change::Join(MemberId(m))).collect();
    server.change(&joins, 1);
    let (leave, _) = server.change(&[Change::Leave(MemberId(77))], 2);
    let octets = leave.message.encode().len();
    let wraps: usize = leave.message.entries.iter().map(|entry| entry.children.len()).sum();
    assert_eq!(wraps, 12);
    // Each level more costs one wrap and at most three octets.
    assert!(octets + 8 * (32 + 3) <= 1_024, "{octets}");
    let (join, _) = server.change(&[Change::Join(MemberId(5_000))], 3);
    assert!(join.message.encode().len() + 8 * 3 <= 512);
}
