//! What strangers and crowds may cost in a time, so that a flood or a storm costs no more.

use std::collections::BTreeMap;
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

/// How much of something each of many may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ration {
    /// At once; 0 counts as 1.
    pub burst: u32,
    /// Time in which one more is earned; zero: there is no limit.
    pub each: Duration,
}

impl Ration {
    /// As much as anybody wants.
    pub const UNLIMITED: Self = Self { burst: 1, each: Duration::ZERO };
}

/// A bucket of tokens for each of many. Only those who have spent lately take memory: each is kept until its bucket is whole again,
/// [`Ration::burst`] times [`Ration::each`] at the most, and a sweep longer.
#[derive(Debug)]
pub struct Rations<K> {
    /// When each bucket will be whole.
    whole: BTreeMap<K, Duration>,
    swept: Duration,
}

/// Sweeps are no closer than this, so that they cost nothing beside what is spent between them.
const SWEEP: Duration = Duration::from_secs(1);

impl<K> Default for Rations<K> {
    fn default() -> Self {
        Self { whole: BTreeMap::new(), swept: Duration::ZERO }
    }
}

impl<K: Ord> Rations<K> {
    /// How long `key` has to wait for its next token; zero if it has one.
    pub fn wait(&self, now: Duration, key: &K, share: Ration) -> Duration {
        let whole = self.whole.get(key).map_or(now, |whole| now.max(*whole)) + share.each;
        whole.saturating_sub(share.each * share.burst.max(1)).saturating_sub(now)
    }

    /// Takes one token of `key`.
    ///
    /// # Errors
    /// How long it has to wait for its next one; nothing is taken.
    pub fn spend(&mut self, now: Duration, key: K, share: Ration) -> Result<(), Duration> {
        let wait = self.wait(now, &key, share);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.charge(now, key, share);
        Ok(())
    }

    /// Takes one token of `key`, whether it has one or not: it may come into debt.
    pub fn charge(&mut self, now: Duration, key: K, share: Ration) {
        if now >= self.swept + SWEEP {
            self.whole.retain(|_, whole| *whole > now);
            self.swept = now;
        }
        let whole = self.whole.entry(key).or_insert(now);
        *whole = now.max(*whole) + share.each;
    }

    /// Buckets that are not whole, and those that were not at the last sweep.
    pub fn len(&self) -> usize {
        self.whole.len()
    }

    /// Whether all buckets are whole.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty()
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

    #[test]
    fn each_has_its_own_share_and_is_forgotten_when_it_is_whole() {
        let share = Ration { burst: 5, each: Duration::from_secs(10) };
        let mut shares = Rations::default();
        let served = (0..100).map(Duration::from_secs).filter(|now| shares.spend(*now, 1, share).is_ok()).count();
        assert_eq!(served, 5 + 9);
        let now = Duration::from_secs(99);
        assert_eq!(shares.wait(now, &1, share), Duration::from_secs(1));
        assert_eq!(shares.spend(now, 1, share), Err(Duration::from_secs(1)), "asking costs nothing");
        assert!((2..1_000).all(|other| shares.spend(now, other, share).is_ok()));
        assert_eq!(shares.spend(now + share.each * 5, 1, share), Ok(()));
        assert_eq!(shares.len(), 1, "the others are whole");
        assert!((0..1_000).all(|_| shares.spend(now, 7, Ration::UNLIMITED).is_ok()));
    }
}
