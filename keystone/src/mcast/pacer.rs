//! A token bucket: packets leave at a rate, in small bursts.

use std::time::Duration;

/// The burst is what the rate gives in so much time: timers are not finer than about a millisecond.
const BURST: Duration = Duration::from_millis(5);

/// Says when the next packet may leave.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Time that one octet takes at the rate, in nanoseconds.
    per_octet: f64,
    burst: Duration,
    /// When everything sent so far has left at the rate.
    free: Duration,
}

impl Pacer {
    /// `rate` in bits per second, at least 1.
    pub(super) fn new(rate: u64) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "a rate beyond 2^53 bits per second is no limit")]
        let per_octet = 8e9 / rate.max(1) as f64;
        Self { per_octet, burst: BURST, free: Duration::ZERO }
    }

    /// When the next packet may leave: at once while the burst lasts.
    pub(super) fn next(&self) -> Duration {
        self.free.saturating_sub(self.burst)
    }

    /// A packet of so many octets leaves at `now`.
    pub(super) fn sent(&mut self, now: Duration, octets: usize) {
        let octets = f64::from(u32::try_from(octets).unwrap_or(u32::MAX));
        self.free = self.free.max(now) + Duration::from_secs_f64(octets * self.per_octet / 1e9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_carries_the_rate_and_one_burst() {
        for rate in [8_000, 8_000_000, 100_000_000] {
            let mut pacer = Pacer::new(rate);
            let (mut now, mut octets) = (Duration::ZERO, 0u64);
            while now < Duration::from_secs(1) {
                pacer.sent(now, 1000);
                octets += 1000;
                now = now.max(pacer.next());
            }
            let most = rate / 8 + rate / 8 / 200 + 1000;
            assert!((rate / 8..=most).contains(&octets), "{octets} octets at {rate}");
        }
    }

    #[test]
    fn silence_saves_up_one_burst_only() {
        let mut pacer = Pacer::new(8_000_000);
        let now = Duration::from_secs(100);
        let mut sent = 0;
        while pacer.next() <= now {
            pacer.sent(now, 1000);
            sent += 1;
        }
        assert_eq!(sent, 6);
    }
}
