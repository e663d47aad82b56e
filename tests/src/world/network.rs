//! What becomes of multicasts on their way to one member: a [`fec::Link`] for each.

use std::time::Duration;

use fec::{Channel, Faults, Link};

use crate::dice::Dice;

/// What one unit takes at the key server's ceiling of 8 Mbit/s.
const UNIT_TIME: Duration = Duration::from_micros(700);
/// Every network takes a moment.
const MOMENT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// The longest that a datagram is late.
const LATE: Duration = Duration::from_millis(700);

/// A kind of network between the key server and a member. How bad it is the seed says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Nothing is lost, late or spoilt.
    Quiet,
    /// Up to 30 per cent lost, independently.
    Losses,
    /// A tenth lost, in bursts of 2 to 20 unit-times.
    Bursts,
    /// Nothing arrives for up to ten seconds.
    Outage,
    /// A fifth arrives twice.
    Duplicates,
    /// A fifth is passed by others.
    Reordering,
    /// Everything is late, in order.
    Delays,
    /// A tenth arrives with a bit flipped.
    Corruption,
    /// Losses, duplicates, reordering, delays and corruption.
    Everything,
}

impl Network {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Quiet,
        Self::Losses,
        Self::Bursts,
        Self::Outage,
        Self::Duplicates,
        Self::Reordering,
        Self::Delays,
        Self::Corruption,
        Self::Everything,
    ];

    /// A link of this kind. Its faults are those of the first `until`.
    pub(super) fn link(self, dice: &mut Dice, until: Duration) -> Link {
        let is = |kind| self == kind || self == Self::Everything;
        let seed = dice.roll();
        let number = |dice: &mut Dice, bound| f64::from(u32::try_from(dice.number(bound)).unwrap());
        let channel = match self {
            Self::Losses | Self::Everything => Channel::independent(number(dice, 31) / 100.0, seed),
            Self::Bursts => Channel::bursts(0.1, 2.0 + number(dice, 19), seed),
            _ => Channel::independent(0.0, seed),
        };
        let times = |time: Duration| time.as_secs_f64() / UNIT_TIME.as_secs_f64();
        let begins = until.mul_f64(number(dice, 100) / 100.0);
        let ends = (begins + Duration::from_secs(10).mul_f64(number(dice, 100) / 100.0)).min(until);
        let channel = if self == Self::Outage { channel.with_outage(times(begins)..times(ends)) } else { channel };
        let faults = Faults {
            delay: MOMENT.0..=if is(Self::Delays) { LATE } else { MOMENT.1 },
            duplication: if is(Self::Duplicates) { 0.2 } else { 0.0 },
            reordering: if is(Self::Reordering) { 0.2 } else { 0.0 },
            held_back: LATE,
            corruption: if is(Self::Corruption) { 0.1 } else { 0.0 },
        };
        Link::new(channel, UNIT_TIME, faults, dice.roll())
    }
}
