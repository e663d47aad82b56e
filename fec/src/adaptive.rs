//! The repair scheme that follows what members lose.
//!
//! Members report what they lost; from that the [`Controller`] estimates the two-state channel ([`TwoState`]) of a typical
//! member, and plans for each message the repair units and the spacing that cost least while a member that has this channel
//! misses a block that it needs with probability at most 1 in 1,000.
//!
//! Members may lie. A report moves its member's record by a quarter at most, a record is one vote among those of the
//! sample, a vote is cut to twice the median vote (or to what is no surprise in an honest one), and the channel that is
//! planned for is at most [`MAX_LOSS`] and [`MAX_BURST`]: whatever is reported, a message of `u` units is sent as at most
//! `64 * ceil(u / 16)`.

use std::collections::BTreeMap;

use crate::layout::{count_units, even_blocks, needed};
use crate::scheme::{DEFAULT_LOSS, DEFAULT_MISS, share};
use crate::{BlockShape, Layout, LayoutError, MAX_BLOCK_DATA, MAX_BLOCK_UNITS, MAX_LENGTHENING, Schedule, TwoState};

/// Loss that is planned for at most. Who loses more than half is better served by re-synchronization.
pub const MAX_LOSS: f64 = 0.5;

/// Loss that is planned for at least, so that a network which never lost anything may begin to.
const MIN_LOSS: f64 = 0.01;

/// Mean length of bursts, in unit-times, that is planned for at most. Spacing of [`MAX_LENGTHENING`] spans ten of them;
/// for longer ones no spacing within it would do.
pub const MAX_BURST: f64 = 20.0;

/// Members whose reports count: enough that one more would not sharpen the estimate, few enough that a group of a million
/// costs no more than this.
pub const SAMPLE: usize = 64;

/// Units after which two thirds of what a member reported earlier are forgotten: some twenty messages of ten units.
const MEMORY: u32 = 256;

/// A member of a full sample gives up its place when it has been silent for so many reports of others.
const SILENCE: u64 = 8 * SAMPLE as u64;

/// Standard errors that are added to the estimate before planning for it.
const MARGIN: f64 = 2.0;

/// Memory of a channel over a gap that no longer matters beside the errors of the estimate.
const FORGOTTEN: f64 = 1e-3;

/// Unit-times of waiting that are as dear as one more unit to everybody: the whole of [`MAX_LENGTHENING`] is worth five.
const UNIT_PRICE: f64 = 40.0;

/// What a member has received of some messages, all of them sent with the same spacing. Numbers that contradict each other
/// are cut to what is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Units and repair units that the messages had.
    pub units_expected: u32,
    /// Those that did not arrive.
    pub units_lost: u32,
    /// Runs of lost units, counted in each block on its own by index: indices 2, 3 and 7 of a block are two runs.
    pub bursts: u32,
    /// Blocks that the units were of.
    pub blocks: u32,
    /// Unit-times between two units of a block: [`Schedule::distance`] of the messages.
    pub gap: u32,
}

/// How to send a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its blocks and repair units.
    pub layout: Layout,
    /// The spacing, for [`Schedule::new`].
    pub gap: u32,
}

/// Exponentially forgetting means of one member's reports, per unit expected.
#[derive(Debug, Clone, Copy)]
struct Record {
    /// Units lost.
    loss: f64,
    /// Units lost that had one before them in their block.
    followers: f64,
    /// Units lost whose predecessor in the block was lost, too.
    repeats: f64,
    /// Unit-times between units of a block.
    gap: f64,
    /// Number of this member's last report.
    heard: u64,
}

/// Estimates the channel of a group's members, and plans for it.
#[derive(Debug, Clone, Default)]
pub struct Controller {
    members: BTreeMap<u32, Record>,
    reports: u64,
}

impl Controller {
    /// A controller that has heard nothing: it plans as the default target does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what `member` (any number that names it) reports. When the sample is full, the reports of others are
    /// ignored until one of its members falls silent.
    pub fn report(&mut self, member: u32, report: Report) {
        if report.units_expected == 0 || !self.admit(member) {
            return;
        }
        self.reports += 1;
        let known = self.members.get(&member).copied();
        let mut record = known.unwrap_or_else(|| Record::expecting(self.estimate(), report.gap));
        record.take(report);
        record.heard = self.reports;
        self.members.insert(member, record);
    }

    /// Forgets a member, who has left.
    pub fn forget(&mut self, member: u32) {
        self.members.remove(&member);
    }

    /// The channel of a typical member, as far as it is known: independent losses of 1/10 before any report.
    pub fn estimate(&self) -> TwoState {
        self.channel(0.0)
    }

    /// The channel that is planned for: the estimate, and so much worse as the reports leave room for.
    pub fn planned_for(&self) -> TwoState {
        let channel = self.channel(MARGIN);
        TwoState::bursts(channel.loss().max(MIN_LOSS), channel.burst())
    }

    /// The repair units and the spacing for a message of `message_len` octets of which each member needs at most
    /// `blocks_needed` blocks: those that cost least of all with which a member misses any block that it needs with
    /// probability at most 1/1000. More blocks than the fewest are made only where `s + r` would pass 32, and no more than
    /// twice as many. Where even they miss too often, they get all the repair units and spacing that they can.
    ///
    /// Errors: an empty or too long message.
    pub fn plan(&self, message_len: usize, blocks_needed: u16) -> Result<Plan, LayoutError> {
        let units = count_units(message_len)?;
        let channel = self.planned_for();
        let fewest = units.div_ceil(MAX_BLOCK_DATA);
        let most = units.min(2 * fewest);
        for blocks in fewest..=most {
            let bound = share(DEFAULT_MISS, needed(blocks_needed, blocks));
            if let Some(plan) = cheapest(message_len, (units, blocks), channel, bound) {
                return Ok(plan);
            }
        }
        let all = |s: u8| BlockShape::new(s, u8::try_from(MAX_BLOCK_UNITS).ok()?.checked_sub(s)?).ok();
        let shapes = even_blocks(units, most, all).unwrap_or_default();
        let layout = Layout::with_blocks(message_len, shapes)?;
        let gap = Schedule::new(&layout, u32::MAX).gap();
        Ok(Plan { layout, gap })
    }

    /// Whether this member is of the sample, perhaps from now on.
    fn admit(&mut self, member: u32) -> bool {
        if self.members.len() < SAMPLE || self.members.contains_key(&member) {
            return true;
        }
        let silent = self.members.iter().min_by_key(|(_, record)| record.heard);
        let place = silent.filter(|(_, record)| record.heard + SILENCE < self.reports).map(|(id, _)| *id);
        place.is_some_and(|id| self.members.remove(&id).is_some())
    }

    /// The estimate, `margin` standard errors to the worse.
    fn channel(&self, margin: f64) -> TwoState {
        let records = || self.members.values();
        let losses = records().map(|record| (record.loss.min(MAX_LOSS), 1.0)).collect();
        let Some(loss) = bounded_mean(losses, DEFAULT_LOSS) else {
            return TwoState::independent(DEFAULT_LOSS);
        };
        // How often a unit is lost after one that was. A member's vote weighs as much as the losses that it has seen, up
        // to the average.
        let seen = |record: &Record| (record.repeats / record.followers, record.followers.min(loss));
        let afters = records().filter(|record| record.followers > 0.0).map(seen).collect();
        // Four standard deviations of what an honest member may have seen by chance.
        let chance = 4.0 * (0.25 / (f64::from(MEMORY) * loss).max(1.0)).sqrt();
        let after = bounded_mean(afters, chance).unwrap_or(loss);
        let units = records().map(|_| f64::from(MEMORY)).sum::<f64>();
        let error = |share: f64, of: f64| margin * (share * (1.0 - share) / of.max(1.0)).sqrt();
        let correlation = |after: f64| ((after - loss) / (1.0 - loss)).clamp(0.0, 0.99);
        let known = correlation(after);
        // Losses may be independent, but only narrow gaps can show it: the estimate falls no faster than gaps narrow.
        let worst = correlation(after.max(loss) + error(after, units * loss));
        let loss = loss + error(loss, units * (1.0 - known) / (1.0 + known));
        // The correlation over a gap is that over one unit-time to its power.
        let gap = records().map(|record| record.gap).sum::<f64>() * f64::from(MEMORY) / units;
        let burst = 1.0 / ((1.0 - worst.powf(1.0 / gap)) * (1.0 - loss));
        TwoState::bursts(loss.min(MAX_LOSS), burst.min(MAX_BURST))
    }
}

impl Record {
    /// What a member would have reported that has this channel.
    fn expecting(channel: TwoState, gap: u32) -> Self {
        let gap = f64::from(gap.max(1));
        let loss = channel.loss();
        let repeats = loss * channel.loss_after(true, channel.memory(gap));
        Self { loss, followers: loss, repeats, gap, heard: 0 }
    }

    fn take(&mut self, report: Report) {
        let expected = report.units_expected;
        let lost = report.units_lost.min(expected);
        let bursts = report.bursts.clamp(lost.min(1), lost);
        let per_unit = |count: u32| f64::from(count.min(expected)) / f64::from(expected);
        let loss = per_unit(lost);
        let followers = loss * (1.0 - per_unit(report.blocks.max(1)));
        let weight = f64::from(expected.min(MEMORY / 4)) / f64::from(MEMORY);
        let blend = |mean: &mut f64, new: f64| *mean += weight * (new - *mean);
        blend(&mut self.loss, loss);
        blend(&mut self.followers, followers);
        blend(&mut self.repeats, per_unit(lost - bursts).min(followers));
        blend(&mut self.gap, f64::from(report.gap.max(1)));
    }
}

/// The mean of votes (value, weight), none of which counts for more than twice the median, or than `free` where that is more.
/// `None` if there is none.
fn bounded_mean(mut votes: Vec<(f64, f64)>, free: f64) -> Option<f64> {
    votes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = votes.iter().map(|(_, weight)| weight).sum();
    let mut below = 0.0;
    let (median, _) = votes.iter().find(|(_, weight)| {
        below += weight;
        below >= total / 2.0
    })?;
    let limit = (2.0 * median).max(free);
    let sum: f64 = votes.iter().map(|(value, weight)| value.min(limit) * weight).sum();
    (total > 0.0).then_some(sum / total)
}

/// The cheapest plan with so many blocks that meets `bound` in each block.
fn cheapest(message_len: usize, (units, blocks): (usize, usize), channel: TwoState, bound: f64) -> Option<Plan> {
    let blocks_times = u32::try_from(blocks).ok()?;
    // With as many rounds as the smaller blocks have units, a longer gap would lengthen the message too much.
    let pauses = u32::try_from(units / blocks).ok()?.saturating_sub(1).max(1);
    // And once a gap outlasts what is left of a state, a longer one gains nothing.
    let useful = |gap: &u32| *gap == 1 || channel.memory(f64::from(gap - 1)) > FORGOTTEN;
    let gaps = (1..=blocks_times + MAX_LENGTHENING / pauses).take_while(useful);
    let plans = gaps.filter_map(|gap| {
        let shape = |s: u8| {
            let misses = (1..=MAX_BLOCK_UNITS).zip(channel.miss_probabilities(s, gap.into()));
            let (total, _) = misses.skip_while(|(_, miss)| *miss > bound).find(|(total, _)| *total >= s.into())?;
            BlockShape::new(s, u8::try_from(total).ok()?.checked_sub(s)?).ok()
        };
        let layout = Layout::with_blocks(message_len, even_blocks(units, blocks, shape)?).ok()?;
        let schedule = Schedule::new(&layout, gap);
        let units = u32::try_from(layout.total_units()).ok()?;
        let cost = f64::from(units) + f64::from(schedule.lengthening()) / UNIT_PRICE;
        (schedule.gap() == gap).then_some((cost, Plan { layout, gap }))
    });
    plans.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, plan)| plan)
}
