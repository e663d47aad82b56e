//! What strangers and crowds may cost in a time, so that a flood or a storm costs no more.

use std::time::Duration;

/// A token bucket, full at first. Time is since an arbitrary start.
#[derive(Debug, Clone)]
pub struct Budget {
    /// Time in which one token is earned.
    each: Duration,
    /// Tokens that may be saved up.
    burst: u32,
    left: u32,
    /// Up to when what was earned is counted.
    counted: Duration,
}

impl Budget {
    /// So many tokens a second (0 counts as 1), and so many at the most.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second.max(1), burst, left: burst, counted: Duration::ZERO }
    }

    /// Takes one token, if one is left. A clock that jumps back earns nothing; one that jumps ahead fills the bucket.
    pub fn spend(&mut self, now: Duration) -> bool {
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
            ms.map(Duration::from_millis).filter(|now| budget.spend(*now)).count()
        };
        assert_eq!((0..1_000).filter(|_| budget.spend(Duration::ZERO)).count(), 64);
        // Asked every millisecond for ten seconds.
        assert_eq!(spent(&mut budget, 1..10_001), 500);
        // Saved up in an hour: no more than the burst.
        assert_eq!((0..1_000).filter(|_| budget.spend(Duration::from_secs(3_600))).count(), 64);
        assert!(!budget.spend(Duration::ZERO), "a clock that jumps back");
        assert!(budget.spend(Duration::from_secs(3_601)));
    }
}
