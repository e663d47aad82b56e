//! The data keys of a group that are alive, and for how long.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::DataKey;
use protocol::rekey::Announcement;

use super::Now;
use super::output::LiveKey;

/// Live keys of a group: what a reply may carry. With a batch every second it is half a minute of overlap.
const MAX_LIVE: usize = 32;

#[derive(Debug, Default)]
pub(super) struct LiveKeys(BTreeMap<u64, LiveKey>);

impl LiveKeys {
    /// The key of a new newest epoch. What is older is retired: with overlap, or without if the announcement revokes.
    pub(super) fn install(&mut self, now: Now, epoch: u64, key: DataKey, announcement: &Announcement) {
        let send_not_before = now + millis(announcement.send_delay_ms);
        let stop_sending = if announcement.reason.revokes() { now } else { send_not_before };
        self.retire(stop_sending, now + millis(announcement.keep_old_ms));
        let reason = Some(announcement.reason);
        let live =
            LiveKey { epoch, reason, send_not_before, send_until: None, receive_from: now, receive_until: None, key };
        self.0.insert(epoch, live);
        self.bound();
    }

    /// A key from before the newest, which receivers need for `remaining` more.
    pub(super) fn add_earlier(&mut self, now: Now, epoch: u64, key: DataKey, remaining: Duration) {
        let live = LiveKey {
            epoch,
            reason: None,
            send_not_before: now,
            send_until: Some(now),
            receive_from: now,
            receive_until: Some(now + remaining),
            key,
        };
        self.0.entry(epoch).or_insert(live);
        self.bound();
    }

    /// Ends every key: at the given times, or earlier where an end was set before.
    pub(super) fn retire(&mut self, send_until: Now, receive_until: Now) {
        for live in self.0.values_mut() {
            live.send_until = Some(live.send_until.map_or(send_until, |at| at.min(send_until)));
            live.receive_until = Some(live.receive_until.map_or(receive_until, |at| at.min(receive_until)));
        }
    }

    /// Drops what nobody needs any more; whether there was any.
    pub(super) fn expire(&mut self, now: Now) -> bool {
        let before = self.0.len();
        self.0.retain(|_, live| live.receive_until.is_none_or(|at| now < at));
        self.0.len() != before
    }

    pub(super) fn next_expiry(&self) -> Option<Now> {
        self.0.values().filter_map(|live| live.receive_until).min()
    }

    pub(super) fn get(&self, epoch: u64) -> Option<&DataKey> {
        self.0.get(&epoch).map(|live| &live.key)
    }

    /// Oldest first.
    pub(super) fn to_vec(&self) -> Vec<LiveKey> {
        self.0.values().cloned().collect()
    }

    fn bound(&mut self) {
        while self.0.len() > MAX_LIVE {
            self.0.pop_first();
        }
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Reason;

    fn announce(reason: Reason, send_delay_ms: u32, keep_old_ms: u32) -> Announcement {
        Announcement { reason, send_delay_ms, keep_old_ms }
    }

    fn ms(ms: u64) -> Now {
        Duration::from_millis(ms)
    }

    #[test]
    fn rotation_overlaps_and_revocation_does_not() {
        let mut keys = LiveKeys::default();
        let key = || DataKey::new([7; 32]);
        keys.install(ms(0), 5, key(), &announce(Reason::Join, 250, 4000));
        keys.install(ms(1000), 6, key(), &announce(Reason::Leave, 250, 4000));
        let [five, six] = &keys.to_vec()[..] else { panic!("two keys") };
        assert_eq!((five.send_until, five.receive_until), (Some(ms(1250)), Some(ms(5000))));
        assert_eq!((six.send_not_before, six.send_until), (ms(1250), None));
        keys.install(ms(1100), 7, key(), &announce(Reason::Evict, 250, 1000));
        let live = keys.to_vec();
        assert_eq!(live.iter().map(|k| k.send_until).collect::<Vec<_>>(), [Some(ms(1100)), Some(ms(1100)), None]);
        assert_eq!(live[0].receive_until, Some(ms(2100)));
        assert!(!keys.expire(ms(2099)));
        assert!(keys.expire(ms(2100)));
        assert_eq!(keys.to_vec().len(), 1);
    }

    #[test]
    fn at_most_32_are_alive() {
        let mut keys = LiveKeys::default();
        for epoch in 1..=40 {
            keys.install(ms(0), epoch, DataKey::new([1; 32]), &announce(Reason::Join, 0, 60_000));
        }
        assert_eq!(keys.to_vec().len(), MAX_LIVE);
        assert!(keys.get(8).is_none() && keys.get(9).is_some());
    }
}
