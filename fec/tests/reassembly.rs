//! The table of messages in progress: its bounds and its memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use crate::common::Sent;
use fec::{AssemblyError, Layout, MAX_COMPLETED, Progress, Reassembly, RepairScheme, UNIT, Unit};

/// Two units in one block.
fn sent() -> Sent {
    let layout = Layout::new(2 * UNIT, &RepairScheme::Rs1).unwrap();
    Sent::new(crate::common::message(2 * UNIT, &mut crate::common::prng()), &layout)
}

fn insert(table: &mut Reassembly<u32>, key: u32, sent: &Sent, index: u8) -> Result<Progress, AssemblyError> {
    table.insert(key, sent.message.len(), sent.block_count(), sent.unit(0, index))
}

fn whole(sent: &Sent, recovered: usize) -> Result<Progress, AssemblyError> {
    Ok(Progress::Complete { message: sent.message.clone(), recovered })
}

fn keys(table: &Reassembly<u32>) -> Vec<u32> {
    table.in_progress().copied().collect()
}

#[test]
fn messages_come_together_side_by_side() {
    let (sent, mut table) = (sent(), Reassembly::new(4));
    assert_eq!(insert(&mut table, 1, &sent, 0), Ok(Progress::Incomplete));
    assert_eq!(insert(&mut table, 2, &sent, 3), Ok(Progress::Incomplete));
    assert_eq!(insert(&mut table, 1, &sent, 0), Ok(Progress::Duplicate));
    assert_eq!(insert(&mut table, 2, &sent, 4), whole(&sent, 2));
    assert_eq!(keys(&table), [1]);
    assert_eq!(insert(&mut table, 1, &sent, 1), whole(&sent, 0));
    for index in 0..5 {
        assert_eq!(insert(&mut table, 1, &sent, index), Ok(Progress::Duplicate));
        assert_eq!(insert(&mut table, 2, &sent, index), Ok(Progress::Duplicate));
    }
    assert_eq!(keys(&table), []);
}

#[test]
fn a_full_table_gives_up_the_oldest_and_takes_nothing_older() {
    let (sent, mut table) = (sent(), Reassembly::new(2));
    for key in [10, 20, 30] {
        assert_eq!(insert(&mut table, key, &sent, 0), Ok(Progress::Incomplete));
    }
    assert_eq!(keys(&table), [20, 30]);
    assert_eq!(insert(&mut table, 10, &sent, 1), Ok(Progress::Stale));
    assert_eq!(keys(&table), [20, 30]);
    assert_eq!(insert(&mut table, 20, &sent, 1), whole(&sent, 0));
    // With room again, the older message may start anew.
    assert_eq!(insert(&mut table, 10, &sent, 1), Ok(Progress::Incomplete));
    assert_eq!(insert(&mut table, 10, &sent, 0), whole(&sent, 0));
}

#[test]
fn what_is_held_is_counted_and_can_be_given_up() {
    let mut prng = crate::common::prng();
    let layout = Layout::new(20 * UNIT, &RepairScheme::Rs1).unwrap();
    let sent = Sent::new(crate::common::message(20 * UNIT, &mut prng), &layout);
    let s = sent.blocks[0].shape.s();
    let mut table = Reassembly::new(4);
    for key in [1, 2] {
        // Repair units first: when the block is complete, exactly its units of message are held.
        for index in (0..sent.blocks[0].shape.total()).rev() {
            insert(&mut table, key, &sent, index).unwrap();
        }
        assert_eq!(table.octets(), usize::try_from(key).unwrap() * usize::from(s) * UNIT);
    }
    table.forget_oldest();
    assert_eq!((keys(&table), table.octets()), (vec![2], usize::from(s) * UNIT));
    // It may begin anew.
    assert_eq!(insert(&mut table, 1, &sent, 0), Ok(Progress::Incomplete));
    table.forget_oldest();
    table.forget_oldest();
    table.forget_oldest();
    assert_eq!((keys(&table), table.octets()), (vec![], 0));
}

#[test]
fn a_message_of_one_unit_needs_no_room() {
    let layout = Layout::new(5, &RepairScheme::Rs1).unwrap();
    let (long, short) = (sent(), Sent::new(b"short".to_vec(), &layout));
    let mut table = Reassembly::new(1);
    insert(&mut table, 10, &long, 0).unwrap();
    assert_eq!(insert(&mut table, 5, &short, 0), whole(&short, 0));
    assert_eq!(insert(&mut table, 5, &short, 1), Ok(Progress::Duplicate));
    assert_eq!(keys(&table), [10]);
}

#[test]
fn forgetting_is_for_good() {
    let (sent, mut table) = (sent(), Reassembly::new(4));
    insert(&mut table, 1, &sent, 0).unwrap();
    insert(&mut table, 1, &sent, 1).unwrap();
    insert(&mut table, 2, &sent, 0).unwrap();
    insert(&mut table, 3, &sent, 0).unwrap();
    table.forget_below(&3);
    table.forget_below(&1);
    assert_eq!(keys(&table), [3]);
    assert_eq!(insert(&mut table, 1, &sent, 0), Ok(Progress::Stale));
    assert_eq!(insert(&mut table, 2, &sent, 1), Ok(Progress::Stale));
    assert_eq!(insert(&mut table, 3, &sent, 1), whole(&sent, 0));
}

#[test]
fn completed_messages_are_remembered_up_to_a_bound() {
    let (sent, mut table) = (sent(), Reassembly::new(4));
    let count = u32::try_from(MAX_COMPLETED).unwrap() + 3;
    for key in 0..count {
        insert(&mut table, key, &sent, 0).unwrap();
        assert_eq!(insert(&mut table, key, &sent, 1), whole(&sent, 0));
    }
    assert_eq!(insert(&mut table, 2, &sent, 0), Ok(Progress::Stale));
    assert_eq!(insert(&mut table, 3, &sent, 0), Ok(Progress::Duplicate));
    assert_eq!(insert(&mut table, count - 1, &sent, 0), Ok(Progress::Duplicate));
}

#[test]
fn a_refused_unit_changes_nothing() {
    let (sent, mut table) = (sent(), Reassembly::new(1));
    insert(&mut table, 1, &sent, 0).unwrap();
    // A newer message whose first unit is bad does not push out the one in progress.
    let bad = Unit { index: 9, ..sent.unit(0, 0) };
    let refused = AssemblyError::Index { block: 0, index: 9, total: 5 };
    assert_eq!(table.insert(2, 2 * UNIT, 1, bad), Err(refused.clone()));
    assert_eq!(table.insert(1, 2 * UNIT, 1, bad), Err(refused));
    let (expected_len, expected_blocks) = (2 * UNIT, 1);
    for (len, blocks) in [(2 * UNIT - 1, 1), (2 * UNIT, 2)] {
        let conflict = AssemblyError::Message { expected_len, expected_blocks, len, blocks };
        assert_eq!(table.insert(1, len, blocks, sent.unit(0, 1)), Err(conflict));
    }
    assert_eq!(keys(&table), [1]);
    assert_eq!(insert(&mut table, 1, &sent, 1), whole(&sent, 0));
}
