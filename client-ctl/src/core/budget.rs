//! Signature checks that multicasts may cost, so that a flood costs no more.

use std::time::Duration;

use super::Now;

/// A token bucket, full at first.
pub(super) struct Budget {
    /// Time in which one check is earned.
    each: Duration,
    /// Checks that may be saved up.
    burst: u32,
    left: u32,
    /// Up to when what was earned is counted.
    counted: Now,
}

impl Budget {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second.max(1), burst, left: burst, counted: Now::ZERO }
    }

    /// Takes one check, if one is left. A clock that jumps back earns nothing; one that jumps ahead fills the bucket.
    pub(super) fn spend(&mut self, now: Now) -> bool {
        let earned = now.saturating_sub(self.counted).as_nanos() / self.each.as_nanos().max(1);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= self.burst.saturating_sub(self.left) {
            (self.left, self.counted) = (self.burst, now.max(self.counted));
        } else {
            (self.left, self.counted) = (self.left + earned, self.counted + self.each * earned);
        }
        let can = self.left > 0;
        self.left -= u32::from(can);
        can
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate_and_the_burst() {
        let mut budget = Budget::new(50, 64);
        let spent = |budget: &mut Budget, ms: std::ops::Range<u64>| {
            ms.map(Now::from_millis).filter(|now| budget.spend(*now)).count()
        };
        assert_eq!((0..1_000).filter(|_| budget.spend(Now::ZERO)).count(), 64);
        // Asked every millisecond for ten seconds.
        assert_eq!(spent(&mut budget, 1..10_001), 500);
        // Saved up in an hour: no more than the burst.
        assert_eq!((0..1_000).filter(|_| budget.spend(Now::from_secs(3_600))).count(), 64);
        assert!(!budget.spend(Now::ZERO), "a clock that jumps back");
        assert!(budget.spend(Now::from_secs(3_601)));
    }
}
