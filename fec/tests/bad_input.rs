//! Each bad input gets its error and changes nothing: the assembly still completes afterwards.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use crate::common::{Receiver, Sent};
use fec::{Assembly, AssemblyError, BlockShape, Layout, LayoutError, MAX_MESSAGE, Progress, RepairScheme, UNIT, Unit};

/// 20 units in two blocks of 10, and 7 octets of padding.
fn sent() -> Sent {
    let len = 20 * UNIT - 7;
    let layout = Layout::new(len, &RepairScheme::Rs1).unwrap();
    assert_eq!(layout.blocks(), [BlockShape::new(10, 6).unwrap(); 2]);
    Sent::new(crate::common::message(len, &mut crate::common::prng()), &layout)
}

/// The rest of the message, which must complete it.
fn completes(sent: &Sent, receiver: &mut Receiver) {
    let units = (0..2).flat_map(|block| (0..16).map(move |index| sent.unit(block, index)));
    let progress = units.map(|unit| receiver.insert(unit).unwrap());
    let whole: Vec<_> = progress.filter(|p| matches!(p, Progress::Complete { .. })).collect();
    assert!(matches!(&whole[..], [Progress::Complete { message, .. }] if *message == sent.message));
}

#[test]
fn headers_out_of_range_or_in_conflict() {
    let sent = sent();
    let good = sent.unit(0, 0);
    let shape = |s, r| BlockShape::new(s, r).unwrap();
    let conflict = |s, r| AssemblyError::Shape { block: 0, expected: shape(10, 6), got: shape(s, r) };
    let cases = [
        (Unit { block: 2, ..good }, AssemblyError::Block { block: 2, blocks: 2 }),
        (Unit { block: u16::MAX, ..good }, AssemblyError::Block { block: u16::MAX, blocks: 2 }),
        (Unit { index: 16, ..good }, AssemblyError::Index { block: 0, index: 16, total: 16 }),
        (Unit { index: 255, ..good }, AssemblyError::Index { block: 0, index: 255, total: 16 }),
        (Unit { s: 0, ..good }, BlockShape::new(0, 6).unwrap_err().into()),
        (Unit { s: 17, ..good }, BlockShape::new(17, 6).unwrap_err().into()),
        (Unit { r: 23, ..good }, BlockShape::new(10, 23).unwrap_err().into()),
        (Unit { r: 255, ..good }, BlockShape::new(10, 255).unwrap_err().into()),
        (Unit { s: 9, ..good }, conflict(9, 6)),
        (Unit { r: 7, ..good }, conflict(10, 7)),
        // The other block cannot have 9 units if this one has 10 of 20.
        (Unit { block: 1, s: 9, ..good }, AssemblyError::Sum { block: 1, s: 9, units: 20 }),
        (Unit { block: 1, s: 11, ..good }, AssemblyError::Sum { block: 1, s: 11, units: 20 }),
    ];
    let mut receiver = sent.assembly();
    assert_eq!(receiver.insert(good), Ok(Progress::Incomplete));
    for (unit, error) in cases {
        assert_eq!(receiver.insert(unit), Err(error));
    }
    assert_eq!(receiver.insert(good), Ok(Progress::Duplicate));
    completes(&sent, &mut receiver);
}

/// With one block of two known to nobody, its size must still leave 1 to 16 for the other.
#[test]
fn a_size_that_leaves_too_much_or_too_little() {
    let sent = sent();
    let mut receiver = sent.assembly();
    let sum = |s| Err(AssemblyError::Sum { block: 0, s, units: 20 });
    assert_eq!(receiver.insert(Unit { s: 3, ..sent.unit(0, 0) }), sum(3));
    completes(&sent, &mut receiver);
    let mut two_units = Receiver(Assembly::new(2 * UNIT, 2).unwrap(), fec::ReedSolomon::new());
    let refused = two_units.insert(Unit { s: 2, ..sent.unit(0, 0) });
    assert_eq!(refused, Err(AssemblyError::Sum { block: 0, s: 2, units: 2 }));
}

#[test]
fn padding_that_is_not_zero() {
    let sent = sent();
    let mut spoilt = *sent.unit(1, 9).payload;
    spoilt[UNIT - 7] = 1;
    let mut receiver = sent.assembly();
    for index in 0..9 {
        receiver.insert(sent.unit(1, index)).unwrap();
    }
    let bad = Unit { payload: &spoilt, ..sent.unit(1, 9) };
    assert_eq!(receiver.insert(bad), Err(AssemblyError::Padding { block: 1, padding: 7 }));
    completes(&sent, &mut receiver);

    // The same in a unit that is made from a repair unit, and in a block of one.
    let mut receiver = sent.assembly();
    for index in 0..9 {
        receiver.insert(sent.unit(1, index)).unwrap();
    }
    let bad = Unit { payload: &[0xee; UNIT], ..sent.unit(1, 12) };
    assert_eq!(receiver.insert(bad), Err(AssemblyError::Padding { block: 1, padding: 7 }));
    completes(&sent, &mut receiver);

    let mut one = Receiver(Assembly::new(1, 1).unwrap(), fec::ReedSolomon::new());
    let bad = Unit { block: 0, index: 1, s: 1, r: 2, payload: &[1; UNIT] };
    assert_eq!(one.insert(bad), Err(AssemblyError::Padding { block: 0, padding: 511 }));
    let mut payload = [0; UNIT];
    payload[0] = 5;
    // Nothing of the refused unit is left, not even the shape of its block.
    let good = Unit { r: 4, payload: &payload, ..bad };
    assert_eq!(one.insert(good), Ok(Progress::Complete { message: vec![5], recovered: 1 }));
}

#[test]
fn messages_that_cannot_be() {
    let new = |len, blocks| Assembly::new(len, blocks).unwrap_err();
    assert_eq!(new(0, 1), AssemblyError::Length(LayoutError::Empty));
    assert_eq!(new(MAX_MESSAGE + 1, 2048), AssemblyError::Length(LayoutError::TooLong(MAX_MESSAGE + 1)));
    assert_eq!(new(usize::MAX, 1), AssemblyError::Length(LayoutError::TooLong(usize::MAX)));
    for (units, blocks) in [(1, 0), (1, 2), (17, 1), (2048, 127), (2048, 2049), (1, u16::MAX)] {
        assert_eq!(new(units * UNIT, blocks), AssemblyError::Blocks { blocks, units });
    }
    for (units, blocks) in [(1, 1), (16, 1), (17, 2), (17, 17), (2048, 128), (2048, 2048)] {
        assert!(Assembly::new(units * UNIT, blocks).is_ok());
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let sent = sent();
    let mut receiver = sent.assembly();
    receiver.insert(sent.unit(0, 0)).unwrap();
    let text = receiver.insert(Unit { s: 9, ..sent.unit(0, 1) }).unwrap_err().to_string();
    assert_eq!(text, "unit says that block 0 has 9+6 units, expected 10+6 as said before");
}
