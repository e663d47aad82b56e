//! When each unit of a message is sent.

use crate::Layout;

/// Unit-times that spacing may add to a message beyond sending it back to back: at a unit each millisecond a fifth of a
/// second, which nobody who waits for a key should notice.
pub const MAX_LENGTHENING: u32 = 200;

/// The times at which the units of one message are sent, in *unit-times*: what one unit takes when units are sent back to
/// back.
///
/// Blocks are interleaved as [`Layout::send_order`] says, in rounds of one unit of each block. With spacing a round begins a
/// certain gap after the one before it, so that a burst of losses takes few units of one block; the copies of a one-unit
/// message are spaced by it. A schedule without spacing sends back to back.
#[derive(Debug, Clone)]
pub struct Schedule<'a> {
    layout: &'a Layout,
    /// Units in each round.
    rounds: Vec<u32>,
    gap: u32,
}

impl<'a> Schedule<'a> {
    /// Units of one block are kept at least `gap` unit-times apart, or as many as [`MAX_LENGTHENING`] allows. A gap of 0 or 1
    /// is no spacing.
    pub fn new(layout: &'a Layout, gap: u32) -> Self {
        let longest = layout.blocks().iter().map(|shape| shape.total()).max().unwrap_or(0);
        let units = |index: u8| layout.blocks().iter().map(|shape| u32::from(index < shape.total())).sum();
        let rounds: Vec<u32> = (0..longest).map(units).collect();
        // A longer gap than this passes the limit in the first round.
        let most = u32::from(layout.block_count()) + MAX_LENGTHENING;
        let mut gap = gap.clamp(1, most);
        while lengthening(&rounds, gap) > MAX_LENGTHENING {
            gap -= 1;
        }
        Self { layout, rounds, gap }
    }

    /// The message's layout.
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// Unit-times between one unit of a block and the next, at least: the gap asked for unless it was too long.
    pub fn gap(&self) -> u32 {
        self.gap
    }

    /// Unit-times between one unit of a block and the next while all blocks are being sent: the gap, or the number of blocks
    /// where that is more. What [`Report::gap`](crate::Report::gap) wants.
    pub fn distance(&self) -> u32 {
        self.gap.max(self.layout.block_count().into())
    }

    /// Unit-times that spacing adds, at most [`MAX_LENGTHENING`].
    pub fn lengthening(&self) -> u32 {
        lengthening(&self.rounds, self.gap)
    }

    /// Every ((block, index), unit-time) once, in the order of sending; the first at 0. Times rise strictly.
    pub fn times(&self) -> impl Iterator<Item = ((u16, u8), u32)> + '_ {
        let starts = self.rounds.iter().scan(0, |next, units| {
            let start = *next;
            *next += self.gap.max(*units);
            Some(start..start + units)
        });
        self.layout.send_order().zip(starts.flatten())
    }
}

/// The pauses at the end of all rounds but the last.
fn lengthening(rounds: &[u32], gap: u32) -> u32 {
    let pauses = rounds.split_last().map_or(&[][..], |(_, others)| others);
    pauses.iter().map(|units| gap.saturating_sub(*units)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BlockShape, RepairScheme, UNIT};

    fn layout(blocks: &[(u8, u8)]) -> Layout {
        let shapes: Vec<_> = blocks.iter().map(|(s, r)| BlockShape::new(*s, *r).unwrap()).collect();
        let units: usize = blocks.iter().map(|(s, _)| usize::from(*s)).sum();
        Layout::with_blocks(units * UNIT, shapes).unwrap()
    }

    #[test]
    fn without_spacing_units_are_sent_back_to_back() {
        let layout = layout(&[(3, 2), (2, 1)]);
        for gap in [0, 1] {
            let schedule = Schedule::new(&layout, gap);
            assert!(schedule.times().eq(layout.send_order().zip(0..8)));
            assert_eq!((schedule.lengthening(), schedule.gap(), schedule.distance()), (0, 1, 2));
        }
    }

    #[test]
    fn copies_and_rounds_are_spaced() {
        let copies = layout(&[(1, 2)]);
        let times: Vec<_> = Schedule::new(&copies, 17).times().collect();
        assert_eq!(times, [((0, 0), 0), ((0, 1), 17), ((0, 2), 34)]);
        let two = layout(&[(2, 1), (2, 0)]);
        let times: Vec<_> = Schedule::new(&two, 5).times().collect();
        assert_eq!(times, [((0, 0), 0), ((1, 0), 1), ((0, 1), 5), ((1, 1), 6), ((0, 2), 10)]);
        assert_eq!(Schedule::new(&two, 5).lengthening(), 10 - 4);
    }

    #[test]
    fn the_lengthening_has_a_limit() {
        assert_eq!(Schedule::new(&layout(&[(1, 1)]), u32::MAX).gap(), 201);
        assert_eq!(Schedule::new(&layout(&[(1, 3)]), u32::MAX).gap(), 67, "three pauses of 67 would be 201");
        assert_eq!(Schedule::new(&layout(&[(1, 0)]), u32::MAX).lengthening(), 0);
        for len in (1..=300 * UNIT).step_by(7 * UNIT) {
            let layout = Layout::new(len, &RepairScheme::Rs1).unwrap();
            for gap in [2, 9, 40, 250, u32::MAX] {
                let schedule = Schedule::new(&layout, gap);
                let times: Vec<_> = schedule.times().collect();
                let last = usize::try_from(times[times.len() - 1].1).unwrap();
                assert_eq!(last, times.len() - 1 + usize::try_from(schedule.lengthening()).unwrap());
                assert!(schedule.lengthening() <= MAX_LENGTHENING);
                assert!(times.is_sorted_by(|a, b| a.1 < b.1));
                for block in 0..layout.block_count() {
                    let own: Vec<u32> = times.iter().filter(|((b, _), _)| *b == block).map(|(_, time)| *time).collect();
                    assert!(own.windows(2).all(|pair| pair[1] - pair[0] >= schedule.gap()), "{len} octets, gap {gap}");
                }
            }
        }
    }
}
