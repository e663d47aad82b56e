//! What the key server wraps, exactly the members unwrap: random histories in all strategies, several degrees and a star.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeMap;

use crate::common::{Dice, Server, context};
use keygraph::{Change, Degree, MemberId, Strategy};
use protocol::member::ApplyError;
use protocol::{KeyPath, RekeyMessage, Suite};

fn random_changes(dice: &mut Dice, server: &Server, next: &mut u32) -> Vec<Change> {
    let members: Vec<MemberId> = server.tree.members().collect();
    let mut changes = Vec::new();
    for _ in 0..=dice.below(3) {
        let some = members.get(usize::try_from(dice.below(members.len().max(1) as u64)).unwrap()).copied();
        let change = match (dice.below(9), some) {
            (0..=3, _) | (_, None) => {
                *next += 1;
                Change::Join(MemberId(*next))
            }
            (4..=5, Some(member)) => Change::Leave(member),
            (6, Some(member)) => Change::Renew(member),
            (7, Some(_)) => Change::Compact(5),
            (_, Some(_)) => Change::Refresh,
        };
        let subject = |change: &Change| match change {
            Change::Join(member) | Change::Leave(member) | Change::Renew(member) => Some(*member),
            Change::Refresh | Change::Compact(_) => None,
        };
        if changes.iter().all(|other| subject(other).is_none() || subject(other) != subject(&change)) {
            changes.push(change);
        }
    }
    changes
}

/// The one message of an epoch that is for this member.
fn follow(path: &KeyPath, server: &Server, messages: &[RekeyMessage]) -> KeyPath {
    let context = server.context(server.epoch());
    let mut paths = messages.iter().filter_map(|message| match path.apply(&context, message) {
        Err(ApplyError::NotAddressed { .. }) => None,
        other => Some(other.unwrap()),
    });
    let next = paths.next().expect("a message for this member");
    assert!(paths.next().is_none(), "and only one");
    next
}

#[test]
fn members_follow_by_multicast_alone_and_whoever_left_cannot() {
    let seed = 20_260_101;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let degrees = [2, 3, 4, 9].map(|d| Degree::new(d).unwrap()).into_iter().chain([Degree::STAR]);
    for (degree, strategy) in degrees.flat_map(|d| Strategy::ALL.map(|strategy| (d, strategy))) {
        let suite = Suite::ALL[usize::try_from(dice.below(Suite::ALL.len() as u64)).unwrap()];
        let mut server = Server::of(suite, degree, strategy);
        let mut members: BTreeMap<MemberId, KeyPath> = BTreeMap::new();
        let mut gone: Vec<KeyPath> = Vec::new();
        let mut next = 0;
        for round in 0..120u8 {
            if dice.below(20) == 0 {
                server.tree.set_splicing(!server.tree.splicing());
            }
            if dice.below(20) == 0 {
                server.tree.set_strategy(Strategy::ALL[usize::try_from(dice.below(5)).unwrap()]);
            }
            let changes = random_changes(&mut dice, &server, &mut next);
            let (executed, plan) = server.change(&changes, round);
            for message in &executed.messages {
                let again = RekeyMessage::decode(&message.encode(), suite).unwrap();
                assert_eq!(again, *message, "one encoding for each message");
            }
            for (member, _) in &plan.left {
                gone.extend(members.remove(member));
            }
            for change in &changes {
                if let Change::Renew(member) = change {
                    gone.extend(members.remove(member));
                }
            }
            for (member, path) in &mut members {
                *path = follow(path, &server, &executed.messages);
                assert_eq!(*path, server.path(*member), "{strategy} degree {degree} round {round} member {member}");
            }
            for (member, _) in &plan.joined {
                members.insert(*member, server.path(*member));
            }
            // What was held at the end of a membership opens nothing of what comes after.
            let context = server.context(server.epoch());
            for old in &gone {
                assert!(executed.messages.iter().all(|message| old.apply(&context, message).is_err()));
            }
            assert_eq!(context.commit(&server.path_root()), executed.commitment);
        }
        assert!(gone.len() > 20 && members.len() > 5, "the history was worth the time");
    }
}

impl Server {
    fn path_root(&self) -> protocol::NodeSecret {
        self.held.0[&keygraph::NodeId(0)].1.clone()
    }
}

/// A batch too large for one message is several, each for a subtree, and each member is served by one of them.
#[test]
fn a_large_batch_is_followed_message_by_message() {
    for strategy in Strategy::ALL {
        let mut server = Server::new(2, strategy);
        let joins: Vec<Change> = (1..=30_000).map(|m| Change::Join(MemberId(m))).collect();
        server.change(&joins, 1);
        let mut some: BTreeMap<MemberId, KeyPath> =
            (1..=30_000).step_by(1_499).map(|m| (MemberId(m), server.path(MemberId(m)))).collect();
        for (turn, offset) in [(2u8, 0u32), (3, 1)] {
            let gone = |m: &u32| m % 3 == offset && !some.contains_key(&MemberId(*m));
            let mut changes: Vec<Change> = (1..=30_000).filter(gone).map(|m| Change::Leave(MemberId(m))).collect();
            changes.extend((0..5_000).map(|m| Change::Join(MemberId(100_000 * u32::from(turn) + m))));
            let (executed, _) = server.change(&changes, turn);
            assert!(executed.messages.len() > 1, "{strategy}");
            for (member, path) in &mut some {
                *path = follow(path, &server, &executed.messages);
                assert_eq!(*path, server.path(*member), "{strategy} turn {turn} member {member}");
            }
        }
    }
}

#[test]
fn every_octet_of_a_message_counts() {
    let mut server = Server::new(3, Strategy::Chain);
    let joins: Vec<Change> = (1..=9).map(|m| Change::Join(MemberId(m))).collect();
    server.change(&joins, 1);
    let before = server.path(MemberId(1));
    let (executed, _) = server.change(&[Change::Leave(MemberId(9))], 2);
    let octets = executed.messages[0].encode();
    let expected = before.apply(&context(2), &executed.messages[0]).unwrap();
    let mut refused = 0;
    for at in 0..octets.len() {
        for bit in 0..8 {
            let mut bad = octets.clone();
            bad[at] ^= 1 << bit;
            // A changed octet is refused, or touches what is not for this member: it never gives another key.
            match RekeyMessage::decode(&bad, Suite::Aes256).map(|message| before.apply(&context(2), &message)) {
                Ok(Ok(path)) => assert_eq!(path.root(), expected.root()),
                Ok(Err(_)) | Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > octets.len(), "{refused}");
    for length in 0..octets.len() {
        assert!(RekeyMessage::decode(&octets[..length], Suite::Aes256).is_err(), "cut to {length}");
    }
    let long = [octets.as_slice(), &[0]].concat();
    assert!(RekeyMessage::decode(&long, Suite::Aes256).is_err());
}

#[test]
fn keys_are_bound_to_group_reign_and_epoch() {
    let mut server = Server::new(2, Strategy::Group);
    server.change(&[Change::Join(MemberId(1)), Change::Join(MemberId(2)), Change::Join(MemberId(3))], 1);
    let before = server.path(MemberId(1));
    let (executed, _) = server.change(&[Change::Leave(MemberId(2))], 2);
    let good = context(2);
    assert!(before.apply(&good, &executed.messages[0]).is_ok());
    let mut others = vec![good; 4];
    others[0].group.0 += 1;
    others[1].incarnation.0[0] ^= 1;
    others[2].term += 1;
    others[3].epoch += 1;
    for other in others {
        assert_eq!(before.apply(&other, &executed.messages[0]), Err(ApplyError::Commitment));
    }
}

#[test]
fn executing_again_gives_the_same_octets_and_another_seed_gives_others() {
    let make = |seed| {
        let mut server = Server::new(4, Strategy::Chain);
        let joins: Vec<Change> = (1..=20).map(|m| Change::Join(MemberId(m))).collect();
        server.change(&joins, 1);
        server.change(&[Change::Leave(MemberId(5))], seed).0.messages[0].encode()
    };
    assert_eq!(make(2), make(2));
    assert_ne!(make(2), make(3));
}

/// 20 wraps, the commitment, and what names them: 320 octets of wraps under aes128, so one unit; 640 under aes256.
#[test]
fn a_leave_from_a_million_is_one_unit_under_aes128_and_two_under_aes256() {
    for (suite, units) in [(Suite::Aes128, 1), (Suite::Aes256, 2)] {
        let mut server = Server::of(suite, Degree::new(2).unwrap(), Strategy::Chain);
        let joins: Vec<Change> = (1..=1 << 20).map(|m| Change::Join(MemberId(m))).collect();
        server.change(&joins, 1);
        let (leave, _) = server.change(&[Change::Leave(MemberId(77))], 2);
        let octets = leave.messages[0].encode();
        let expected = RekeyMessage::HEAD + 4 + 1 + 20 + 20 * suite.secret_len();
        assert_eq!(
            (leave.messages[0].wraps(), octets.len()),
            (20, expected),
            "one octet an entry; the first id and its one child"
        );
        assert_eq!(octets.len().div_ceil(512), units);
        let (join, _) = server.change(&[Change::Join(MemberId(5_000_000))], 3);
        assert!(join.messages[0].encode().len() <= 512);
    }
}
