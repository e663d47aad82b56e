//! How long to wait before trying again.

use std::time::Duration;

use protocol::Entropy;

/// The first pause: above a round trip of most links.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause: what an operator will wait for after a repair.
const LAST: Duration = Duration::from_secs(30);

/// The pause after `failures` before this one: doubling, and a random half of it, so that clients that failed
/// together do not come back together.
pub(super) fn backoff(entropy: &mut Box<dyn Entropy>, failures: u32) -> Duration {
    let whole = FIRST.saturating_mul(2u32.saturating_pow(failures.min(16))).min(LAST);
    let half_ms = u64::try_from(whole.as_millis() / 2).unwrap_or(u64::MAX);
    Duration::from_millis(half_ms + entropy.below(half_ms + 1))
}
