//! When everybody misses the same message: how long members wait before they ask, and what becomes of those who ask too
//! soon.

use std::time::Duration;

use protocol::{Budget, GroupId, MemberId, Ration, Rations};

use super::Now;

/// The longest bound of the wait that a beacon announces: so long a member that lost a message may be without the present
/// key. What a larger crowd asks at once is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The longest time to return that anybody is told.
const MAX_LATER: Duration = Duration::from_secs(60);

/// Re-synchronizations that a member may have in a group at once, and the time in which it earns another. Who has lost a
/// message, and then the reply, asks twice; nobody needs the present keys more often than every second for long, and a
/// thousandth of the rate by default is no loss to others.
const SHARE: Ration = Ration { burst: 4, each: Duration::from_secs(1) };

/// Re-synchronizations of all groups.
pub(super) struct Recovery {
    per_second: u32,
    budget: Budget,
    /// When the last one who was sent away is expected.
    promised: Now,
    /// Only those who are served enter, so there are no more than are served in the time of a share and a second.
    shares: Rations<(GroupId, MemberId)>,
}

impl Recovery {
    pub(super) fn new(per_second: u32) -> Self {
        // A quarter of a second's work may come at once: clients come back to the tenth of a second.
        let budget = Budget::new(per_second, (per_second / 4).max(1));
        Self { per_second, budget, promised: Now::ZERO, shares: Rations::default() }
    }

    /// Bound of the random wait in a group: long enough that all of its members at once are no more than can be served.
    pub(super) fn wait(&self, members: usize, least: Duration) -> Duration {
        let members = u32::try_from(members).unwrap_or(u32::MAX);
        let all = Duration::from_secs_f64(f64::from(members) / f64::from(self.per_second));
        least.max(all.min(MAX_WAIT))
    }

    /// Whether one more may be served now; or else when it is to come back: who has used up its own share when it has earned
    /// one, the others each in its turn.
    pub(super) fn admit(&mut self, now: Now, group: GroupId, member: MemberId) -> Result<(), Duration> {
        let early = self.shares.wait(now, &(group, member), SHARE);
        if !early.is_zero() {
            return Err(early);
        }
        if self.budget.spend(now) {
            return self.shares.spend(now, (group, member), SHARE);
        }
        let step = Duration::from_secs(1) / self.per_second;
        self.promised = (self.promised.max(now) + step).min(now + MAX_LATER);
        Err(self.promised - now)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_crowd_is_served_at_the_rate_and_nobody_is_forgotten() {
        let mut recovery = Recovery::new(1_000);
        assert_eq!(recovery.wait(10, Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(recovery.wait(5_000, Duration::from_secs(1)), Duration::from_secs(5));
        assert_eq!(recovery.wait(1_000_000, Duration::from_secs(1)), MAX_WAIT);
        // Twenty thousand at once, each back when it was told.
        let mut coming: BTreeMap<Now, Vec<u32>> = [(Now::ZERO, (0..20_000).collect())].into();
        let (mut served, mut asked, mut last) = (0, 0, Now::ZERO);
        while let Some((now, members)) = coming.pop_first() {
            for member in members {
                asked += 1;
                match recovery.admit(now, GroupId(1), MemberId(member)) {
                    Ok(()) => served += 1,
                    Err(after) => coming.entry(now + after).or_default().push(member),
                }
            }
            last = now;
        }
        assert_eq!(served, 20_000);
        assert!(last < Now::from_secs(21), "{last:?}");
        assert!(asked < 41_000, "{asked} asked: few are sent away twice");
        assert!(recovery.shares.len() <= 6_000, "{} shares: those of some seconds", recovery.shares.len());
    }

    #[test]
    fn a_member_gets_its_share_and_takes_nothing_from_others() {
        let mut recovery = Recovery::new(1_000);
        let (greedy, group) = (MemberId(1), GroupId(1));
        // Every millisecond for ten seconds.
        let asks = (0..10_000).map(Now::from_millis);
        let served = asks.filter(|now| recovery.admit(*now, group, greedy).is_ok()).count();
        assert_eq!(served, 4 + 9);
        let now = Now::from_millis(9_999);
        assert_eq!(recovery.admit(now, group, greedy), Err(Duration::from_millis(1)), "when the next is earned");
        assert!((2..=250).all(|other| recovery.admit(now, group, MemberId(other)).is_ok()), "the others' is whole");
        assert!(recovery.admit(now + SHARE.each, group, greedy).is_ok());
        assert!(recovery.admit(now + SHARE.each, GroupId(2), greedy).is_ok(), "each group has its own");
    }
}
