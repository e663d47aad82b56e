//! Properties over random inputs.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use crate::common::Sent;
use fec::{Layout, Progress, RepairScheme, UNIT, miss_probability};
use proptest::prelude::*;
use proptest::sample::Index;

fn schemes() -> impl Strategy<Value = RepairScheme> {
    prop_oneof![
        Just(RepairScheme::Rs1),
        Just(RepairScheme::Rs2),
        (0.0..0.3, 1e-4..0.1).prop_map(|(loss, miss)| RepairScheme::Target { loss, miss }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any units in any order with duplicates: whole at the first moment when every block has
    /// `s` different ones, never before, and nothing but duplicates after.
    #[test]
    fn whole_exactly_when_every_block_has_s_units(
        octets in prop::collection::vec(any::<u8>(), 1..40 * UNIT),
        scheme in schemes(),
        arrivals in prop::collection::vec(any::<Index>(), 0..400),
    ) {
        let layout = Layout::new(octets.len(), &scheme).unwrap();
        let sent = Sent::new(octets, &layout);
        let all: Vec<(u16, u8)> = layout.send_order().collect();
        let mut receiver = sent.assembly();
        let mut arrived = std::collections::BTreeSet::new();
        let complete = |arrived: &std::collections::BTreeSet<(u16, u8)>, block: u16| {
            let count = arrived.range((block, 0)..=(block, 255)).count();
            count >= usize::from(layout.blocks()[usize::from(block)].s())
        };
        for arrival in arrivals {
            let (block, index) = *arrival.get(&all);
            let useless = complete(&arrived, block) || !arrived.insert((block, index));
            let whole = !useless && (0..layout.block_count()).all(|b| complete(&arrived, b));
            match receiver.insert(sent.unit(block, index)).unwrap() {
                Progress::Duplicate => prop_assert!(useless),
                Progress::Incomplete => prop_assert!(!useless && !whole),
                Progress::Complete { message, .. } => {
                    prop_assert!(whole);
                    prop_assert_eq!(&message, &sent.message);
                }
                Progress::Stale => prop_assert!(false, "an assembly knows no age"),
            }
        }
    }

    /// Layouts cover their message with even blocks within the limits.
    #[test]
    fn layouts_are_even_and_cover_the_message(len in 1..=fec::MAX_MESSAGE, scheme in schemes()) {
        let layout = Layout::new(len, &scheme).unwrap();
        let sizes: Vec<usize> = layout.blocks().iter().map(|shape| usize::from(shape.s())).collect();
        prop_assert_eq!(sizes.iter().sum::<usize>(), len.div_ceil(UNIT));
        prop_assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[0] <= sizes[sizes.len() - 1] + 1);
        prop_assert!(sizes[0] <= 16 && layout.blocks().iter().all(|shape| shape.total() <= 32));
    }

    /// Text in, nothing but a scheme in range or an error out.
    #[test]
    fn parsing_never_yields_a_bad_scheme(text in "(loss=|rs)?[0-9.e,=misna-]{0,16}") {
        if let Ok(scheme) = text.parse::<RepairScheme>() {
            prop_assert_eq!(scheme.check(), Ok(()));
            prop_assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
    }
}

/// The promise of a target over all blocks: the product of their chances is at least 1 - miss.
#[test]
fn targets_hold_over_the_whole_message() {
    for (loss, miss) in [(0.1, 0.001), (0.2, 0.001), (0.05, 1e-6), (0.3, 0.01), (0.5, 0.5), (0.0, 1e-9)] {
        let scheme = RepairScheme::Target { loss, miss };
        for units in 1..=300 {
            let layout = Layout::new(units * UNIT, &scheme).unwrap();
            let chance = |shape: &fec::BlockShape| 1.0 - miss_probability(shape.s(), shape.r(), loss);
            let all: f64 = layout.blocks().iter().map(chance).product();
            assert!(all >= 1.0 - miss * (1.0 + 1e-8), "{scheme}: {units} units arrive with {all}");
        }
    }
}

/// One repair unit fewer in a block would pass the block's bound.
#[test]
fn targets_waste_no_repair_unit() {
    let (loss, miss) = (0.1, 0.001);
    for units in 1..=300 {
        let layout = Layout::new(units * UNIT, &RepairScheme::Target { loss, miss }).unwrap();
        let bound = miss / f64::from(layout.block_count());
        for shape in layout.blocks() {
            assert!(miss_probability(shape.s(), shape.r() - 1, loss) > bound, "{units} units: {shape:?}");
        }
    }
}

/// Who needs few blocks of a long message gets the promise for those, and everybody sends less.
#[test]
fn a_target_is_for_the_blocks_that_are_needed() {
    let target = RepairScheme::default();
    for units in [40, 64, 300, 2048] {
        let layout = |needed| Layout::for_needs(units * UNIT, &target, needed).unwrap();
        let all = Layout::new(units * UNIT, &target).unwrap();
        assert_eq!(layout(all.block_count()), all);
        assert_eq!(layout(u16::MAX), all);
        assert_eq!(layout(0), layout(1));
        for needed in [1, 2] {
            let few = layout(needed);
            assert!(few.total_units() < all.total_units(), "{units} units, {needed} needed");
            for shape in few.blocks() {
                let bound = 0.001 / f64::from(needed) * (1.0 + 1e-8);
                assert!(miss_probability(shape.s(), shape.r(), 0.1) <= bound);
            }
        }
    }
}
