//! What a member receives of rekey messages, counted for the key server's choice of repair units.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::request::Losses;
use protocol::unit::BlockHeader;

use super::Now;

/// Blocks that are counted at the same time, 110 octets each: of the longest message, at the least a sample.
const MAX_BLOCKS: usize = 512;
/// A block is counted when so much time has passed since its first unit: spacing lengthens a message by a fraction of that.
const SETTLED: Duration = Duration::from_secs(5);
/// Reports that nothing else takes along are so far apart, and up to twice as far, at random.
pub(super) const REPORT_MS: u64 = 10_000;
/// Units that a report of its own is worth making for.
const ENOUGH: u32 = 24;

/// Arrivals by block, and what was counted since the last report.
#[derive(Default)]
pub(super) struct Tally {
    /// First arrival, and which units came, as bits.
    blocks: BTreeMap<BlockHeader, (Now, u32)>,
    losses: Losses,
}

impl Tally {
    /// A unit of a block that was verified before, or just now.
    pub(super) fn note(&mut self, now: Now, header: &BlockHeader, index: u8) {
        if self.blocks.len() < MAX_BLOCKS || self.blocks.contains_key(header) {
            self.blocks.entry(*header).or_insert((now, 0)).1 |= 1u32.checked_shl(index.into()).unwrap_or(0);
        }
    }

    /// Counts the blocks of which no more can be expected.
    fn settle(&mut self, now: Now) {
        let Losses { expected, lost, bursts, blocks } = &mut self.losses;
        self.blocks.retain(|header, (since, arrived)| {
            if now < *since + SETTLED {
                return true;
            }
            let total = u32::from(header.s) + u32::from(header.r);
            let missing = !*arrived & u32::MAX.checked_shr(32 - total).unwrap_or(0);
            *expected = expected.saturating_add(total);
            *lost = lost.saturating_add(missing.count_ones());
            // A run ends where a missing unit has none missing after it.
            *bursts = bursts.saturating_add((missing & !(missing >> 1)).count_ones());
            *blocks = blocks.saturating_add(1);
            false
        });
    }

    /// What was lost since the last time, to be sent along with something else.
    pub(super) fn take(&mut self, now: Now) -> Losses {
        self.settle(now);
        std::mem::take(&mut self.losses)
    }

    /// The same, if it is worth a report of its own.
    pub(super) fn take_report(&mut self, now: Now) -> Option<Losses> {
        self.settle(now);
        (self.losses.expected >= ENOUGH).then(|| std::mem::take(&mut self.losses))
    }
}

#[cfg(test)]
mod tests {
    use protocol::{EpochHeader, GroupId, HeaderHash, Incarnation, Suite};

    use super::*;

    fn header(block: u16, s: u8, r: u8) -> BlockHeader {
        let epoch = EpochHeader {
            suite: Suite::Aes256,
            group: GroupId(1),
            incarnation: Incarnation([1; 16]),
            term: 1,
            epoch: 2,
            previous: HeaderHash([0; 32]),
        };
        BlockHeader { epoch, message: 0, messages: 1, message_len: 9_000, blocks: 9, block, s, r }
    }

    #[test]
    fn losses_and_their_runs_are_counted_once() {
        let mut tally = Tally::default();
        // Of 10 units, 2, 3 and 7 are missing; of 32, none; of three copies, the last two.
        (0..10).filter(|at| ![2, 3, 7].contains(at)).for_each(|at| tally.note(Now::ZERO, &header(0, 6, 4), at));
        (0..32).for_each(|at| tally.note(Now::ZERO, &header(1, 16, 16), at));
        tally.note(Now::ZERO, &header(2, 1, 2), 0);
        tally.note(Now::ZERO, &header(2, 1, 2), 0);
        assert_eq!(tally.take(SETTLED - Duration::from_millis(1)), Losses::default());
        let losses = tally.take(SETTLED);
        assert_eq!(losses, Losses { expected: 45, lost: 5, bursts: 3, blocks: 3 });
        assert_eq!(tally.take(SETTLED * 2), Losses::default());
    }

    #[test]
    fn blocks_are_bounded() {
        let mut tally = Tally::default();
        (0..2_000).for_each(|block| tally.note(Now::ZERO, &header(block, 1, 0), 0));
        assert_eq!(tally.take_report(SETTLED).map(|losses| losses.blocks), Some(512));
        tally.note(SETTLED, &header(0, 1, 2), 0);
        assert_eq!(tally.take_report(SETTLED * 2), None, "not worth a report");
    }
}
