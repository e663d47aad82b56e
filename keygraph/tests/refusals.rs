//! What is wrong with a request is said, and the tree stays as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use crate::common::{degree, members};
use keygraph::Change::{Join, Leave, Refresh, Renew};
use keygraph::{Change, ChangeError, Degree, DegreeError, MemberId, StaleStage, Strategy, Tree};

fn tree() -> Tree {
    Tree::filled(degree(3), Strategy::Chain, 5, members(1..=9)).unwrap()
}

#[test]
fn lists_that_make_no_sense() {
    let [one, two, stranger] = [1, 2, 99].map(MemberId);
    let cases: &[(&[Change], ChangeError)] = &[
        (&[], ChangeError::Empty),
        (&[Join(one)], ChangeError::AlreadyMember { member: one }),
        (&[Refresh, Leave(stranger)], ChangeError::NotMember { member: stranger }),
        (&[Renew(stranger)], ChangeError::NotMember { member: stranger }),
        (&[Leave(stranger), Join(stranger)], ChangeError::NotMember { member: stranger }),
        (&[Leave(one), Leave(one)], ChangeError::Repeated { member: one }),
        (&[Leave(one), Leave(two), Renew(one)], ChangeError::Repeated { member: one }),
        (&[Renew(one), Renew(one)], ChangeError::Repeated { member: one }),
        (&[Renew(one), Join(one)], ChangeError::Repeated { member: one }),
        (&[Join(stranger), Join(stranger)], ChangeError::Repeated { member: stranger }),
        (&[Join(stranger), Leave(stranger)], ChangeError::Repeated { member: stranger }),
        (&[Leave(one), Join(one), Join(one)], ChangeError::Repeated { member: one }),
        (&[Leave(one), Join(one), Leave(one)], ChangeError::Repeated { member: one }),
    ];
    for (changes, expected) in cases {
        assert_eq!(tree().stage(changes, 6).unwrap_err(), *expected, "{changes:?}");
    }
    assert_eq!(tree().stage(&[Refresh], 5).unwrap_err(), ChangeError::Epoch { epoch: 5, tree: 5 });
    let twice = Tree::filled(degree(3), Strategy::Chain, 5, members([1, 2, 1]));
    assert_eq!(twice, Err(ChangeError::Repeated { member: one }));
}

#[test]
fn a_stage_is_a_value() {
    let mut tree = tree();
    let before = tree.clone();
    let dropped = tree.stage(&[Leave(MemberId(3)), Join(MemberId(40))], 6).unwrap();
    assert_eq!(tree, before);
    drop(dropped);
    let late = tree.stage(&[Leave(MemberId(1))], 7).unwrap();
    let first = tree.stage(&[Join(MemberId(10))], 6).unwrap();
    let plan = first.plan().clone();
    assert_eq!(tree.merge(first), Ok(plan));
    let after = tree.clone();
    assert_eq!(tree.merge(late), Err(StaleStage { staged: 5, tree: 6 }));
    assert_eq!(tree, after);
    assert!(tree.contains(MemberId(1)) && tree.contains(MemberId(10)));
}

#[test]
fn a_strategy_takes_effect_at_the_next_stage() {
    let mut tree = tree();
    let staged = tree.stage(&[Leave(MemberId(1))], 6).unwrap();
    tree.set_strategy(Strategy::Group);
    assert_eq!(staged.plan().wraps(), 4);
    assert_eq!(tree.stage(&[Leave(MemberId(1))], 6).unwrap().plan().wraps(), 5);
    assert!(tree.merge(staged).is_ok());
}

#[test]
fn names_and_numbers() {
    for d in [0, 1, 65, 255] {
        assert_eq!(Degree::new(d), Err(DegreeError { degree: d }));
    }
    for strategy in crate::common::STRATEGIES {
        assert_eq!(strategy.to_string().parse(), Ok(strategy));
    }
    let error = "Chain".parse::<Strategy>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "`Chain` is no rekeying strategy: expected `user`, `key`, `group`, `hybrid` or `chain`"
    );
    assert!("x".repeat(1000).parse::<Strategy>().unwrap_err().name.len() <= 32);
}
