//! The line before a full door: who finds no place is told when to come again, each at another time, and is let in then before
//! those who were told nothing. Pure; times are since an arbitrary start.
//!
//! A door frees places at some rate, which is measured. Whoever is sent away gets the next free moment at that rate, so that a
//! crowd of any size comes back as fast as it can be served and no faster.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

/// The longest time that anybody is told, and believes: a door says it in clear, and so can anybody on the way.
pub const LONGEST: Duration = Duration::from_secs(60);
/// The shortest: below it, coming again costs more than is won.
const SHORTEST: Duration = Duration::from_millis(50);
/// Bounds of the time between two moments that are given away. The first guess is the lower one, which is more than a core can
/// serve: who comes too soon is told again at little cost, and a door that stands idle cannot be made good.
const STEP: [Duration; 2] = [Duration::from_micros(500), Duration::from_secs(1)];
/// Moments that are remembered: a minute of a thousand a second. At 16 octets each it is a megabyte.
const MAX_MOMENTS: usize = 65_536;
/// One source may have a part of these, so that none can take all: one in so many.
const PART: usize = 4;
/// A moment is good for so long: clients come a random while later than they were told, and the way takes time.
const GRACE: Duration = Duration::from_secs(5);
/// Moments are closer together than departures, by this factor: a door to which only so many come as it has served measures less and
/// less. Who comes too soon for it is told again.
const EAGER: (u32, u32) = (2, 3);
/// Departures that the measured time between two of them is a mean of.
const MEAN: u32 = 16;

/// The line before a door with some places.
#[derive(Debug)]
pub struct Line {
    /// Places of the door.
    places: usize,
    /// Time between two departures of a door that is in use.
    step: Duration,
    /// The last moment that was given away.
    promised: Duration,
    /// When those who were sent away are expected, by source, in order.
    moments: BTreeMap<IpAddr, VecDeque<Duration>>,
    /// How many these are.
    waiting: usize,
    /// Since when departures are counted, how many there were, and whether somebody was sent away meanwhile.
    since: Duration,
    departed: u32,
    refused: bool,
    swept: Duration,
}

impl Line {
    /// Nobody waits before a door with so many places.
    pub fn new(places: usize) -> Self {
        Self {
            places,
            step: STEP[0],
            promised: Duration::ZERO,
            moments: BTreeMap::new(),
            waiting: 0,
            since: Duration::ZERO,
            departed: 0,
            refused: false,
            swept: Duration::ZERO,
        }
    }

    /// Whether somebody from `source` may enter while so many are `inside`. As long as some wait, half of the places are for
    /// those whose moment has come.
    pub fn may_enter(&mut self, now: Duration, source: IpAddr, inside: usize) -> bool {
        self.sweep(now);
        if inside >= self.places {
            return false;
        }
        self.take_moment(now, source) || self.waiting == 0 || inside < self.places / 2
    }

    /// Whether a moment of this source has come; it is used up.
    fn take_moment(&mut self, now: Duration, source: IpAddr) -> bool {
        let Some(moments) = self.moments.get_mut(&source) else {
            return false;
        };
        let is_due = moments.front().is_some_and(|moment| *moment <= now);
        if is_due {
            moments.pop_front();
            self.waiting -= 1;
        }
        is_due
    }

    /// When somebody who was not let in is to come again. If too many wait it is a time and no moment of its own.
    pub fn send_away(&mut self, now: Duration, source: IpAddr) -> Duration {
        if self.waiting == 0 {
            // A crowd begins: how little there was to do before says nothing.
            (self.since, self.departed) = (now, 0);
        }
        self.refused = true;
        // Whose moment has come and who finds no place nevertheless gets another for it.
        self.take_moment(now, source);
        let moment = (self.promised + self.step * EAGER.0 / EAGER.1).max(now + SHORTEST);
        if moment > now + LONGEST || self.waiting >= MAX_MOMENTS {
            return LONGEST;
        }
        let mine = self.moments.entry(source).or_default();
        if mine.len() < MAX_MOMENTS / PART {
            mine.push_back(moment);
            self.waiting += 1;
            self.promised = moment;
        }
        moment - now
    }

    /// Somebody has left. They may leave in bursts, when the key server has written many of them: so some are counted together.
    pub fn left(&mut self, now: Duration) {
        self.departed += 1;
        if self.departed < MEAN {
            return;
        }
        let took = (now.saturating_sub(self.since) / self.departed).clamp(STEP[0], STEP[1]);
        (self.since, self.departed) = (now, 0);
        if std::mem::take(&mut self.refused) {
            // In use, or one source has all of its places in use: the rate is what it does.
            self.step = (self.step + took) / 2;
        } else if self.waiting > 0 {
            // It could do more than come.
            self.step = (self.step * 3 / 4).max(STEP[0]);
        }
    }

    /// Moments that nobody used are forgotten.
    fn sweep(&mut self, now: Duration) {
        if now < self.swept + GRACE / 5 {
            return;
        }
        self.swept = now;
        for moments in self.moments.values_mut() {
            moments.drain(..moments.partition_point(|moment| *moment + GRACE < now));
        }
        self.moments.retain(|_, moments| !moments.is_empty());
        self.waiting = self.moments.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests;
