//! Losses at random and in bursts, through the real coder.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use crate::common::Sent;
use fec::{Layout, Progress, RepairScheme, UNIT, miss_probability};

/// Measured against `P_m`, within four standard deviations of the binomial.
#[test]
fn measured_loss_agrees_with_the_equation() {
    const TRIALS: u32 = 20_000;
    let mut prng = crate::common::prng();
    for p in [0.1, 0.2] {
        for (s, r) in [(1, 0), (1, 1), (3, 0), (3, 2), (5, 3), (10, 5), (16, 4)] {
            let sent = Sent::one_block(s, r, &mut prng);
            let coder = fec::ReedSolomon::new();
            let mut missed = 0;
            for _ in 0..TRIALS {
                let mut assembly = fec::Assembly::new(sent.message.len(), 1).unwrap();
                let mut whole = false;
                for index in (0..s + r).filter(|_| !prng.chance(p)).collect::<Vec<_>>() {
                    let progress = assembly.insert(sent.unit(0, index), &coder).unwrap();
                    whole |= matches!(progress, Progress::Complete { message, .. } if message == sent.message);
                }
                missed += u32::from(!whole);
            }
            let expected = miss_probability(s, r, p);
            let measured = f64::from(missed) / f64::from(TRIALS);
            let sigma = (expected * (1.0 - expected) / f64::from(TRIALS)).sqrt();
            assert!((measured - expected).abs() < 4.0 * sigma, "s={s} r={r} p={p}: {measured}, expected {expected}");
        }
    }
}

/// Losses come in bursts, and the equation does not know: interleaving makes one burst of up to
/// (blocks x fewest repair units) units harmless wherever it falls.
#[test]
fn interleaving_survives_a_burst() {
    let mut prng = crate::common::prng();
    let layout = Layout::new(64 * UNIT - 5, &RepairScheme::default()).unwrap();
    let sent = Sent::new(crate::common::message(64 * UNIT - 5, &mut prng), &layout);
    let order: Vec<(u16, u8)> = layout.send_order().collect();
    let fewest = layout.blocks().iter().map(|shape| usize::from(shape.r())).min().unwrap();
    let burst = layout.blocks().len() * fewest;
    assert!(burst > 32);
    for start in 0..=order.len() - burst {
        let mut receiver = sent.assembly();
        let arrived = order[..start].iter().chain(&order[start + burst..]);
        let whole = arrived.map(|(block, index)| receiver.insert(sent.unit(*block, *index)).unwrap());
        assert_eq!(whole.filter(|p| matches!(p, Progress::Complete { .. })).count(), 1, "burst at {start}");
    }
}
