//! How likely a receiver is to miss a block.

/// The probability `P_m(s, r, p)` that a receiver which loses each unit independently with
/// probability `p` gets fewer than `s` of `s + r` units (Keystone paper §4.1):
/// the sum over `i` from `r + 1` to `s + r` of `C(s+r, i) p^i (1-p)^(s+r-i)`.
///
/// `p` is from 0 to 1. For `s + r` up to 32 the relative error is below 1e-13.
pub fn miss_probability(s: u8, r: u8, p: f64) -> f64 {
    let n = i32::from(s) + i32::from(r);
    let mut ways = 1.0; // C(n, i)
    let mut sum = 0.0;
    for i in 0..=n {
        if i > i32::from(r) {
            sum += ways * p.powi(i) * (1.0 - p).powi(n - i);
        }
        ways = ways * f64::from(n - i) / f64::from(i + 1);
    }
    sum
}

/// A channel of two states (Gilbert 1960; Elliott 1963 with losses of 0 and 1): in the bad one every unit is lost, in the
/// good one none. It changes state with each *unit-time*, the time that one unit takes when units are sent back to back.
///
/// Losses that are independent are its case without memory: the mean stay in the bad state is then `1 / (1 - loss)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TwoState {
    loss: f64,
    /// What is left after one unit-time of knowing the state: the second eigenvalue of the chain, 0 to below 1.
    memory: f64,
}

impl TwoState {
    /// Each unit lost independently with probability `loss` (0 to 1; what is outside counts as the nearest).
    pub fn independent(loss: f64) -> Self {
        Self::bursts(loss, 1.0)
    }

    /// Units lost with probability `loss` on average (0 to 1; what is outside counts as the nearest), in bursts that last
    /// `burst` unit-times on average. No burst is shorter than `1 / (1 - loss)`, where losses are independent.
    pub fn bursts(loss: f64, burst: f64) -> Self {
        let loss = if loss.is_nan() { 0.0 } else { loss.clamp(0.0, 1.0) };
        // From bad to good with probability 1/burst, from good to bad so that the average is right; the memory is 1 less both.
        let memory = 1.0 - 1.0 / (burst * (1.0 - loss));
        Self { loss, memory: if memory > 0.0 { memory } else { 0.0 } }
    }

    /// Mean share of units lost.
    pub fn loss(self) -> f64 {
        self.loss
    }

    /// Mean stay in the bad state, in unit-times.
    pub fn burst(self) -> f64 {
        1.0 / ((1.0 - self.memory) * (1.0 - self.loss))
    }

    /// What is left of knowing the state after `unit_times`, 1 (all) to 0 (nothing). Two units are never closer than one
    /// unit-time, so shorter times count as one.
    pub fn memory(self, unit_times: f64) -> f64 {
        self.memory.powf(unit_times.max(1.0))
    }

    /// Probability that a unit is lost, `memory` (see [`TwoState::memory`]) after another that was lost or not.
    pub(crate) fn loss_after(self, lost: bool, memory: f64) -> f64 {
        self.loss * (1.0 - memory) + if lost { memory } else { 0.0 }
    }

    /// The probability that fewer than `s` of the first `n` units of a block arrive when they are sent `gap` unit-times
    /// apart, for `n` = 1, 2, 3 and so on without end. Exact: the states of the chain are added up over the units.
    pub fn miss_probabilities(self, s: u8, gap: f64) -> impl Iterator<Item = f64> {
        let memory = self.memory(gap);
        let [after_good, after_bad] = [false, true].map(|lost| self.loss_after(lost, memory));
        // By number of units that have arrived: the probability of that, with the last unit not lost, and lost.
        let mut arrived = vec![(0.0, 0.0); usize::from(s)];
        if let Some(none) = arrived.first_mut() {
            // Before the first unit the chain is stationary: one step of it changes nothing.
            *none = (1.0 - self.loss, self.loss);
        }
        std::iter::repeat_with(move || {
            let mut fewer = 0.0;
            for place in &mut arrived {
                let (good, bad) = *place;
                *place = (fewer, good * after_good + bad * after_bad);
                fewer = good * (1.0 - after_good) + bad * (1.0 - after_bad);
            }
            arrived.iter().map(|(good, bad)| good + bad).sum()
        })
    }
}

/// Whether `P_m(s, r, 1/one_in)` is at most 1/1000, decided in whole numbers:
/// with `n = s + r` and `q = one_in`, whether 1000 times the sum over `i > r` of
/// `C(n, i) (q-1)^(n-i)` is at most `q^n`.
///
/// `None` if `one_in` is 0 or the numbers outgrow 128 bits, which they do not for `one_in` up to 10
/// and `s + r` up to 32.
///
/// Exactness matters: `P_m(1, 2, 1/10)` *is* 1/1000, and in floating point it is a little more.
pub fn at_most_one_in_1000(s: u8, r: u8, one_in: u8) -> Option<bool> {
    let n = u32::from(s) + u32::from(r);
    let arrives = u128::from(one_in.checked_sub(1)?);
    let mut ways: u128 = 1; // C(n, i)
    let mut sum: u128 = 0;
    for i in 0..=n {
        if i > u32::from(r) {
            sum = sum.checked_add(ways.checked_mul(arrives.checked_pow(n - i)?)?)?;
        }
        ways = ways.checked_mul(u128::from(n - i))? / u128::from(i + 1);
    }
    Some(sum.checked_mul(1000)? <= u128::from(one_in).checked_pow(n)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boundary_that_floating_point_misses() {
        assert!(miss_probability(1, 2, 0.1) > 0.001);
        assert_eq!(at_most_one_in_1000(1, 2, 10), Some(true));
        assert_eq!(at_most_one_in_1000(1, 1, 10), Some(false));
    }

    #[test]
    fn certain_cases() {
        assert_eq!(miss_probability(16, 16, 0.0), 0.0);
        assert_eq!(miss_probability(16, 16, 1.0), 1.0);
        assert_eq!(miss_probability(1, 0, 0.25), 0.25);
        assert_eq!(at_most_one_in_1000(1, 0, 0), None);
        assert_eq!(at_most_one_in_1000(255, 255, 10), None);
    }

    #[test]
    fn without_memory_the_two_state_channel_is_the_equation() {
        for loss in [0.0, 0.05, 0.1, 0.5] {
            for s in 1..=16u8 {
                let misses = TwoState::independent(loss).miss_probabilities(s, 3.0);
                for (n, miss) in (1..=32u8).zip(misses) {
                    let expected = if n < s { 1.0 } else { miss_probability(s, n - s, loss) };
                    assert!((miss - expected).abs() <= 1e-12 * expected, "s={s} n={n} p={loss}: {miss}, {expected}");
                }
            }
        }
    }

    /// By going through all ways in which the channel can behave.
    #[test]
    fn with_memory_the_two_state_channel_is_the_sum_over_all_ways() {
        let (s, n, gap) = (3, 8, 2.0);
        let channel = TwoState::bursts(0.2, 5.0);
        assert!((channel.burst() - 5.0).abs() < 1e-12);
        let memory = (1.0 - 1.0 / 5.0 - 0.2 / (5.0 * 0.8)) * (1.0 - 1.0 / 5.0 - 0.2 / (5.0 * 0.8));
        let (stay_lost, become_lost) = (0.2 + 0.8 * memory, 0.2 - 0.2 * memory);
        let mut expected = 0.0;
        for way in (0..1u32 << n).filter(|way| n - way.count_ones() < s) {
            let mut probability = if way & 1 == 1 { 0.2 } else { 0.8 };
            for unit in 1..n {
                let lost = if way >> (unit - 1) & 1 == 1 { stay_lost } else { become_lost };
                probability *= if way >> unit & 1 == 1 { lost } else { 1.0 - lost };
            }
            expected += probability;
        }
        let miss = channel.miss_probabilities(3, gap).nth(7).unwrap();
        assert!((miss / expected - 1.0).abs() < 1e-12, "{miss}, {expected}");
    }

    #[test]
    fn channels_out_of_range_are_those_nearest() {
        assert_eq!(TwoState::bursts(f64::NAN, f64::NAN), TwoState::independent(0.0));
        assert_eq!(TwoState::bursts(-1.0, 0.0), TwoState::independent(0.0));
        assert_eq!(TwoState::bursts(2.0, 5.0), TwoState::independent(1.0));
        assert_eq!(TwoState::independent(0.3).memory(0.0), 0.0);
    }

    #[test]
    fn exact_and_approximate_agree_away_from_the_boundary() {
        for one_in in [5, 10] {
            for s in 1..=16 {
                for r in 0..=32 - s {
                    let approximate = miss_probability(s, r, 1.0 / f64::from(one_in));
                    if (approximate / 0.001 - 1.0).abs() > 1e-9 {
                        let exact = at_most_one_in_1000(s, r, one_in);
                        assert_eq!(exact, Some(approximate <= 0.001), "s={s} r={r} 1/{one_in}");
                    }
                }
            }
        }
    }
}
