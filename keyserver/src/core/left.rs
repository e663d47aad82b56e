//! Who has left a group lately.

use std::collections::BTreeMap;

use protocol::MemberId;

use super::batch::MAX_BATCH;

/// Members that left and are remembered, so that asking again gets the same answer: those of the largest batch, of whom some
/// wait for their answers. A client asks again within seconds; later it hears that it is no member, which is as good. It is
/// twice as many, and a batch, before the oldest are forgotten.
pub(super) const MAX_LEFT: usize = MAX_BATCH;

/// Of more than twice `most`, keeps the `most` of the newest epochs, and all of the oldest epoch that is kept. What is kept
/// follows from the changes alone, so that a replay comes to the same.
pub(super) fn forget_oldest<T>(left: &mut BTreeMap<MemberId, (T, u64)>, most: usize) {
    if left.len() > 2 * most {
        let mut epochs: Vec<u64> = left.values().map(|(_, epoch)| *epoch).collect();
        let at = epochs.len() - most;
        let (_, oldest, _) = epochs.select_nth_unstable(at);
        left.retain(|_, (_, epoch)| *epoch >= *oldest);
    }
}

#[cfg(test)]
mod tests {
    use protocol::request::RequestId;

    use super::*;

    #[test]
    fn who_left_long_ago_is_forgotten_and_the_last_batch_never() {
        let mut left = BTreeMap::new();
        for member in 1..=1_000u32 {
            // Ten members an epoch, the highest ID numbers first.
            left.insert(MemberId(2_000 - member), (RequestId([0; 16]), u64::from(member / 10)));
            forget_oldest(&mut left, 50);
            assert!(left.len() <= 100 + 10, "{}", left.len());
            assert!(left.contains_key(&MemberId(2_000 - member)));
        }
        assert!(left.values().all(|(_, epoch)| *epoch >= 89), "the newest are kept");
        // An epoch is kept as a whole, however large: its members wait for their answers.
        left.extend((5_000..5_400).map(|member| (MemberId(member), (RequestId([0; 16]), 500))));
        forget_oldest(&mut left, 50);
        assert_eq!(left.len(), 400);
    }
}
