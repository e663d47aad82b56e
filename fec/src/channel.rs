//! A channel that loses units: independently, in bursts, and all of them for a while.

use std::ops::Range;

use crate::{Report, Schedule, SplitMix64, TwoState};

/// Which units of one receiver get lost. Time is in *unit-times*: what one unit takes when units are sent back to back.
#[derive(Debug, Clone)]
pub struct Channel {
    process: TwoState,
    random: SplitMix64,
    /// Whether the channel was in its bad state at the last unit; unknown before the first.
    bad: Option<bool>,
    now: f64,
    outages: Vec<Range<f64>>,
}

impl Channel {
    /// Loses each unit independently with probability `p` (0 to 1).
    pub fn independent(p: f64, seed: u64) -> Self {
        Self::new(TwoState::independent(p), seed)
    }

    /// Loses units with probability `p` (0 to 1) on average, in bursts of `length` unit-times on average.
    pub fn bursts(p: f64, length: f64, seed: u64) -> Self {
        Self::new(TwoState::bursts(p, length), seed)
    }

    /// Loses units as `process` says.
    pub fn new(process: TwoState, seed: u64) -> Self {
        Self { process, random: SplitMix64::new(seed), bad: None, now: 0.0, outages: Vec::new() }
    }

    /// Loses everything, too, in these unit-times since the start, the end excluded.
    pub fn with_outage(mut self, unit_times: Range<f64>) -> Self {
        self.outages.push(unit_times);
        self
    }

    /// Whether a unit is lost that is sent `elapsed` unit-times after the one before it (the first one: after the start).
    /// Less than one unit-time counts as one: two units cannot be closer. The state moves on by the exact law of the chain
    /// over that time.
    pub fn lost(&mut self, elapsed: f64) -> bool {
        let elapsed = elapsed.max(if self.bad.is_some() { 1.0 } else { 0.0 });
        self.now += elapsed;
        let loss = match self.bad {
            Some(bad) => self.process.loss_after(bad, self.process.memory(elapsed)),
            None => self.process.loss(),
        };
        let bad = self.random.chance(loss);
        self.bad = Some(bad);
        bad || self.outages.iter().any(|outage| outage.contains(&self.now))
    }

    /// What arrives of a message that is sent as `schedule` says, `pause` unit-times after the last unit of the one before.
    pub fn receive(&mut self, schedule: &Schedule<'_>, pause: u32) -> Reception {
        let blocks = schedule.layout().blocks();
        // For each block how many units have arrived, and whether the last one was lost.
        let mut state = vec![(0u8, false); blocks.len()];
        let (mut expected, mut lost, mut bursts) = (0, 0, 0);
        let mut last = 0;
        for ((block, _), time) in schedule.times() {
            let gone = self.lost(f64::from(if expected == 0 { pause } else { time - last }));
            let (arrived, before) = &mut state[usize::from(block)];
            expected += 1;
            lost += u32::from(gone);
            bursts += u32::from(gone && !*before);
            *arrived += u8::from(!gone);
            *before = gone;
            last = time;
        }
        let missed = blocks.iter().zip(&state).filter(|(shape, (arrived, _))| *arrived < shape.s()).count();
        let report = Report {
            units_expected: expected,
            units_lost: lost,
            bursts,
            blocks: schedule.layout().block_count().into(),
            gap: schedule.distance(),
        };
        Reception { missed, report }
    }

    /// Unit-times from the start to the last unit.
    pub fn now(&self) -> f64 {
        self.now
    }
}

/// What a receiver has got of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reception {
    /// Blocks of which fewer units arrived than the block has units of message: it is lost unless this is 0.
    pub missed: usize,
    /// What the receiver reports.
    pub report: Report,
}
