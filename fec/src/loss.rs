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
