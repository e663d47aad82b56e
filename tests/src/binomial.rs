//! The exact binomial test, for counts of what chance leaves unrecovered.

/// The probability of a count at least as far out as `k` on its side, doubled: `k` of `n`, each with probability `p` (above 0,
/// below 1). It is at most 1.
pub fn two_sided_tail(k: u32, n: u32, p: f64) -> f64 {
    let below = f64::from(k) <= f64::from(n) * p;
    (2.0 * tail(k, n, p, below)).min(1.0)
}

/// The probability of `k` or more of `n`, each with probability `p` (above 0, below 1); 1 where fewer than expected are no
/// surprise.
pub fn upper_tail(k: u32, n: u32, p: f64) -> f64 {
    if f64::from(k) <= f64::from(n) * p { 1.0 } else { tail(k, n, p, false) }
}

/// The terms from `k` outwards fall, and are summed relative to the first, whose logarithm is taken.
fn tail(k: u32, n: u32, p: f64, lower: bool) -> f64 {
    let (count, of) = (f64::from(k), f64::from(n));
    let first = ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k) + count * p.ln() + (of - count) * (-p).ln_1p();
    let odds = p / (1.0 - p);
    let (mut at, mut term, mut sum) = (count, 1.0, 0.0);
    while term > sum * 1e-17 {
        sum += term;
        term *= if lower { at / ((of - at + 1.0) * odds) } else { (of - at) / (at + 1.0) * odds };
        at += if lower { -1.0 } else { 1.0 };
    }
    (first + f64::ln(sum)).exp()
}

/// Stirling's series; the first term left out is below 1e-13 from 20 on.
fn ln_factorial(n: u32) -> f64 {
    let x = f64::from(n);
    if n < 20 {
        return (1..=n).map(|i| f64::from(i).ln()).sum();
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5)) - 1.0 / (1680.0 * x.powi(7));
    x * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI * x).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a / b - 1.0).abs() < 1e-9, "{a}, {b}");
    }

    #[test]
    fn tails_of_small_cases() {
        near(two_sided_tail(0, 10, 0.5), 2.0 / 1024.0);
        near(two_sided_tail(9, 10, 0.5), 22.0 / 1024.0);
        near(two_sided_tail(1, 3, 0.9), 2.0 * 0.028);
        near(two_sided_tail(40, 40, 0.9), 2.0 * 0.9f64.powi(40));
        near(two_sided_tail(0, 1_000_000, 1e-5), 2.0 * (-1e-5f64).ln_1p().mul_add(1e6, 0.0).exp());
        assert_eq!(two_sided_tail(100_000, 1_000_000, 0.1), 1.0);
        assert!(two_sided_tail(102_000, 1_000_000, 0.1) < 1e-10);
    }

    #[test]
    fn tails_above() {
        near(upper_tail(9, 10, 0.5), 11.0 / 1024.0);
        near(upper_tail(1, 1, 0.001), 0.001);
        assert_eq!((upper_tail(0, 10_000, 0.001), upper_tail(10, 10_000, 0.001)), (1.0, 1.0));
        assert!(upper_tail(30, 10_000, 0.001) < 1e-6);
    }

    #[test]
    fn stirling_meets_the_sum() {
        let sum: f64 = (1..=170).map(|i| f64::from(i).ln()).sum();
        assert!((ln_factorial(170) - sum).abs() < 1e-10);
    }
}
