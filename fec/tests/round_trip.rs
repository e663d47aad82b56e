//! Every shape, and every loss pattern of the small ones: a block is rebuilt if and only if `s` units arrive.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use crate::common::Sent;
use fec::{BlockShape, Layout, MAX_MESSAGE, Progress, RepairScheme, UNIT};

/// Feeds the units in `order`; the message must be whole at exactly the `s`-th, and never with fewer.
fn check(sent: &Sent, order: &[u8]) {
    let s = usize::from(sent.blocks[0].shape.s());
    let mut receiver = sent.assembly();
    for (count, &index) in (1..).zip(order) {
        let progress = receiver.insert(sent.unit(0, index)).unwrap();
        let expected = if count < s {
            Progress::Incomplete
        } else if count == s {
            let recovered = s - order[..s].iter().filter(|i| usize::from(**i) < s).count();
            Progress::Complete { message: sent.message.clone(), recovered }
        } else {
            Progress::Duplicate
        };
        assert_eq!(progress, expected, "s={s} order={order:?} at unit {count}");
    }
}

#[test]
fn every_loss_pattern_of_every_small_shape() {
    let mut prng = crate::common::prng();
    for total in 1..=8u8 {
        for s in 1..=total {
            let sent = Sent::one_block(s, total - s, &mut prng);
            for arrived in 0..1u32 << total {
                let order: Vec<u8> = (0..total).filter(|i| arrived >> i & 1 == 1).collect();
                check(&sent, &order);
            }
        }
    }
}

#[test]
fn random_orders_of_every_shape() {
    let mut prng = crate::common::prng();
    for s in 1..=16 {
        for r in 0..=32 - s {
            let sent = Sent::one_block(s, r, &mut prng);
            let mut order: Vec<u8> = (0..s + r).collect();
            check(&sent, &order); // nothing lost
            order.reverse(); // repair units only, where there are enough
            check(&sent, &order);
            for _ in 0..8 {
                crate::common::shuffle(&mut order, &mut prng);
                check(&sent, &order);
            }
        }
    }
}

#[test]
fn messages_of_every_length_up_to_two_blocks() {
    let mut prng = crate::common::prng();
    for len in (1..=17 * UNIT).step_by(61).chain([UNIT, UNIT + 1, 16 * UNIT, 16 * UNIT + 1]) {
        let layout = Layout::new(len, &RepairScheme::default()).unwrap();
        let sent = Sent::new(crate::common::message(len, &mut prng), &layout);
        let mut receiver = sent.assembly();
        let progress = layout.send_order().map(|(block, index)| receiver.insert(sent.unit(block, index)).unwrap());
        let whole = progress.filter(|p| matches!(p, Progress::Complete { .. })).collect::<Vec<_>>();
        assert_eq!(whole, [Progress::Complete { message: sent.message.clone(), recovered: 0 }]);
    }
}

#[test]
fn the_longest_message_from_repair_units() {
    let mut prng = crate::common::prng();
    let layout = Layout::with_blocks(MAX_MESSAGE, vec![BlockShape::new(16, 16).unwrap(); 128]).unwrap();
    let sent = Sent::new(crate::common::message(MAX_MESSAGE, &mut prng), &layout);
    let mut receiver = sent.assembly();
    let repair_units = layout.send_order().filter(|(_, index)| *index >= 16);
    let last = repair_units.map(|(block, index)| receiver.insert(sent.unit(block, index)).unwrap()).last();
    assert_eq!(last, Some(Progress::Complete { message: sent.message, recovered: 2048 }));
}

#[test]
fn encoding_pads_with_zeros_and_wants_its_own_layout() {
    let layout = Layout::new(UNIT + 1, &RepairScheme::Rs1).unwrap();
    let sent = Sent::new(vec![7; UNIT + 1], &layout);
    let last = sent.blocks[0].units[1];
    assert_eq!((last[0], last[1..].iter().all(|octet| *octet == 0)), (7, true));
    let coder = fec::ReedSolomon::new();
    let refused = fec::encode(&[7; UNIT], &layout, &coder).unwrap_err();
    assert_eq!(refused, fec::EncodeError::Length { expected: UNIT + 1, got: UNIT });
}
