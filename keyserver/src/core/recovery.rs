//! When everybody misses the same message: how long members wait before they ask, and what becomes of those who ask too
//! soon.

use std::time::Duration;

use protocol::Budget;

use super::Now;

/// The longest bound of the wait that a beacon announces: so long a member that lost a message may be without the present
/// key. What a larger crowd asks at once is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The longest time to return that anybody is told.
const MAX_LATER: Duration = Duration::from_secs(60);

/// Re-synchronizations of all groups.
pub(super) struct Recovery {
    per_second: u32,
    budget: Budget,
    /// When the last one who was sent away is expected.
    promised: Now,
}

impl Recovery {
    pub(super) fn new(per_second: u32) -> Self {
        // A quarter of a second's work may come at once: clients come back to the tenth of a second.
        Self { per_second, budget: Budget::new(per_second, (per_second / 4).max(1)), promised: Now::ZERO }
    }

    /// Bound of the random wait in a group: long enough that all of its members at once are no more than can be served.
    pub(super) fn wait(&self, members: usize, least: Duration) -> Duration {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        let all = Duration::from_secs_f64(f64::from(members) / f64::from(self.per_second));
        least.max(all.min(MAX_WAIT))
    }

    /// Whether one more may be served now; or else when it is to come back, each who is sent away in its turn.
    pub(super) fn admit(&mut self, now: Now) -> Result<(), Duration> {
        if self.budget.spend(now) {
            return Ok(());
        }
        let step = Duration::from_secs(1) / self.per_second;
        self.promised = (self.promised.max(now) + step).min(now + MAX_LATER);
        Err(self.promised - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_served_at_the_rate_and_nobody_is_forgotten() {
        let mut recovery = Recovery::new(1_000);
        assert_eq!(recovery.wait(10, Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(recovery.wait(5_000, Duration::from_secs(1)), Duration::from_secs(5));
        assert_eq!(recovery.wait(1_000_000, Duration::from_secs(1)), MAX_WAIT);
        // Twenty thousand at once, each back when it was told.
        let mut coming: std::collections::BTreeMap<Now, usize> = [(Now::ZERO, 20_000)].into();
        let (mut served, mut asked, mut last) = (0, 0, Now::ZERO);
        while let Some((now, count)) = coming.pop_first() {
            for _ in 0..count {
                asked += 1;
                match recovery.admit(now) {
                    Ok(()) => served += 1,
                    Err(after) => *coming.entry(now + after).or_default() += 1,
                }
            }
            last = now;
        }
        assert_eq!(served, 20_000);
        assert!(last < Now::from_secs(21), "{last:?}");
        assert!(asked < 41_000, "{asked} asked: few are sent away twice");
    }
}
