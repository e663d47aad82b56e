//! The controller: it follows what members lose, comes back, keeps the promise, and does not believe everything.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use fec::{
    BlockShape, Channel, Controller, Layout, MAX_BURST, MAX_LENGTHENING, MAX_LOSS, MAX_MESSAGE, Plan, RepairScheme,
    Report, SAMPLE, Schedule, SplitMix64, TwoState, UNIT,
};

/// Unit-times between two messages: long enough that the channel has forgotten the one before.
const PAUSE: u32 = 1_000;

/// A group whose members report every message.
struct Group {
    controller: Controller,
    members: Vec<Channel>,
    random: SplitMix64,
}

impl Group {
    fn new(members: u32) -> Self {
        let members = (0..members).map(|_| Channel::independent(0.0, 0)).collect();
        Self { controller: Controller::new(), members, random: crate::common::prng() }
    }

    fn set(&mut self, loss: f64, burst: f64) {
        for member in &mut self.members {
            *member = Channel::bursts(loss, burst, self.random.bits());
        }
    }

    /// Sends messages of so many units; how often a member missed a block of one.
    fn send(&mut self, messages: u32, units: usize) -> u32 {
        let mut missed = 0;
        for _ in 0..messages {
            let Plan { layout, gap } = self.controller.plan(units * UNIT, u16::MAX).unwrap();
            for (member, channel) in (0..).zip(&mut self.members) {
                let reception = channel.receive(&Schedule::new(&layout, gap), PAUSE);
                missed += u32::from(reception.missed > 0);
                self.controller.report(member, reception.report);
            }
        }
        missed
    }

    fn near(&self, loss: f64, burst: f64) -> bool {
        let estimate = self.controller.estimate();
        let planned = self.controller.planned_for();
        println!("estimate {estimate:?} planned for {planned:?}; truth {loss} {burst}");
        let near = |value: f64, truth: f64, factor: f64| truth / factor < value && value < truth * factor;
        // Where gaps are wide or losses few there is little to learn the length of bursts from; short ones seem longer.
        let factor = if loss < 0.1 { 2.0 } else { 1.25 };
        let burst_is_near = near(estimate.burst(), burst, factor) || (burst < 2.0 && estimate.burst() < 2.5);
        (estimate.loss() - loss).abs() < 0.2 * loss + 0.003
            && burst_is_near
            && planned.loss() >= estimate.loss()
            && planned.burst() >= estimate.burst()
    }
}

#[test]
fn without_reports_it_is_the_default_target() {
    let controller = Controller::new();
    for units in [1, 2, 9, 16, 17, 40, 64, 100, 1000, 2048] {
        for needed in [1, 3, u16::MAX] {
            let plan = controller.plan(units * UNIT - 3, needed).unwrap();
            let default = Layout::for_needs(units * UNIT - 3, &RepairScheme::default(), needed);
            assert_eq!((Ok(plan.layout), plan.gap), (default, 1), "{units} units");
        }
    }
    assert!(controller.plan(0, 1).is_err() && controller.plan(MAX_MESSAGE + 1, 1).is_err());
}

/// Steps of loss and of bursts, up and down: within 100 reports of each member (of messages of 8 units) the estimate is there.
#[test]
fn it_follows_steps_within_a_hundred_reports() {
    let mut group = Group::new(64);
    for (loss, burst) in [(0.01, 1.0), (0.2, 1.25), (0.05, 1.05), (0.1, 1.1), (0.1, 10.0), (0.1, 1.1), (0.01, 1.0)] {
        group.set(loss, burst);
        assert!(!group.near(loss, burst) || loss == 0.1, "nothing to follow");
        group.send(100, 8);
        assert!(group.near(loss, burst), "loss {loss}, burst {burst}");
    }
}

/// A ramp of loss, 0.01 to 0.2 and back in 400 messages: the estimate lags by less than 0.05, and few are missed on the way.
#[test]
fn it_follows_a_ramp() {
    let mut group = Group::new(64);
    group.set(0.01, 1.0);
    group.send(100, 8);
    let mut missed = 0;
    for step in (0..20u32).chain((0..20).rev()) {
        let loss = 0.01 + 0.01 * f64::from(step);
        group.set(loss, 2.0);
        missed += group.send(10, 8);
        let estimate = group.controller.estimate();
        assert!((estimate.loss() - loss).abs() < 0.05, "step {step}: {estimate:?}");
    }
    let share = f64::from(missed) / (64.0 * 400.0);
    assert!(share < 0.005, "{share} missed");
}

/// After the controller has learnt a channel, its next 100 plans keep the promise there, by the exact calculation, and at a
/// loss of 1/10 with at most 1.4 times the units of rs1.
#[test]
fn the_promise_is_kept_once_learnt() {
    for (loss, burst) in [(0.1, 1.1), (0.1, 10.0), (0.2, 4.0), (0.03, 2.0)] {
        for units in [1, 5, 40] {
            let mut group = Group::new(64);
            group.set(loss, burst);
            group.send(150 + 600 / u32::try_from(units).unwrap(), units);
            let miss = (0..100).map(|_| {
                group.send(1, units);
                let plan = group.controller.plan(units * UNIT, u16::MAX).unwrap();
                let schedule = Schedule::new(&plan.layout, plan.gap);
                assert!(schedule.gap() == plan.gap && schedule.lengthening() <= MAX_LENGTHENING);
                let rs1 = Layout::new(units * UNIT, &RepairScheme::Rs1).unwrap().total_units();
                assert!(loss != 0.1 || units == 1 || 10 * plan.layout.total_units() <= 14 * rs1, "{plan:?}");
                exact_miss(&plan, TwoState::bursts(loss, burst))
            });
            let mean = miss.sum::<f64>() / 100.0;
            assert!(mean <= 0.001, "loss {loss}, burst {burst}, {units} units: {mean}");
        }
    }
}

/// The probability, at most, that a member who needs all blocks misses one.
fn exact_miss(plan: &Plan, channel: TwoState) -> f64 {
    let miss = |shape: &BlockShape| {
        let mut misses = channel.miss_probabilities(shape.s(), plan.gap.into());
        misses.nth(usize::from(shape.total()) - 1).unwrap()
    };
    plan.layout.blocks().iter().map(miss).sum()
}

/// Where nothing was ever lost, some loss is still planned for.
#[test]
fn a_lossless_network_keeps_repair_units() {
    let mut group = Group::new(64);
    group.send(1000, 8);
    assert!(group.controller.estimate().loss() < 1e-6);
    for units in [1, 8, 16, 64] {
        let layout = group.controller.plan(units * UNIT, u16::MAX).unwrap().layout;
        assert!(layout.blocks().iter().all(|shape| shape.r() > 0), "{units} units: {layout:?}");
    }
}

/// A fifth of the sample lies as much as it can: the estimate stays near the truth. Nearly half: within its bounds.
#[test]
fn a_lying_minority_moves_little() {
    for (liars, loss_bound, burst_bound) in [(0, 0.11, 6.0), (12, 0.14, 8.0), (28, 0.2, MAX_BURST)] {
        let mut group = Group::new(64);
        group.set(0.1, 5.0);
        for _ in 0..300 {
            let Plan { layout, gap } = group.controller.plan(8 * UNIT, u16::MAX).unwrap();
            let schedule = Schedule::new(&layout, gap);
            for (member, channel) in (0..).zip(&mut group.members) {
                let mut report = channel.receive(&schedule, PAUSE).report;
                if member < liars {
                    (report.units_lost, report.bursts) = (report.units_expected, 1);
                }
                group.controller.report(member, report);
            }
        }
        let estimate = group.controller.estimate();
        println!("{liars} liars: {estimate:?}");
        assert!(estimate.loss() < loss_bound && estimate.burst() < burst_bound + 0.01, "{liars}: {estimate:?}");
    }
}

/// Everybody reports nonsense, or the worst: no plan sends without bound, and honest reports bring it back.
#[test]
fn nonsense_is_bounded_and_forgotten() {
    let worst = Report { units_expected: u32::MAX, units_lost: u32::MAX, bursts: 1, blocks: 1, gap: 1 };
    let zeros = Report { units_expected: 0, units_lost: 9, bursts: 9, blocks: 9, gap: 0 };
    let contradictory = Report { units_expected: 5, units_lost: 9, bursts: 0, blocks: 70, gap: 0 };
    for nonsense in [worst, zeros, contradictory, Report { gap: u32::MAX, ..worst }] {
        let mut group = Group::new(64);
        for member in (0..64).cycle().take(64 * 100) {
            group.controller.report(member, nonsense);
        }
        let planned = group.controller.planned_for();
        assert!(planned.loss() <= MAX_LOSS && planned.burst() <= MAX_BURST + 1e-9, "{nonsense:?}: {planned:?}");
        for units in [1, 2, 16, 17, 300, 2048] {
            let plan = group.controller.plan(units * UNIT, u16::MAX).unwrap();
            assert!(plan.layout.total_units() <= 64 * units.div_ceil(16), "{units} units: {plan:?}");
            assert!(Schedule::new(&plan.layout, plan.gap).lengthening() <= MAX_LENGTHENING);
        }
        group.set(0.1, 1.1);
        group.send(300, 8);
        assert!(group.near(0.1, 1.1), "after {nonsense:?}");
    }
}

#[test]
fn one_report_moves_one_vote_by_a_quarter() {
    let all_lost = Report { units_expected: 1_000_000, units_lost: 1_000_000, bursts: 1, blocks: 1, gap: 1 };
    for (members, most) in [(1, 0.25), (4, 0.25 / 4.0)] {
        let mut group = Group::new(members);
        group.set(0.1, 1.0);
        group.send(100, 8);
        let before = group.controller.estimate().loss();
        group.controller.report(0, all_lost);
        let after = group.controller.estimate().loss();
        assert!(before < after && after < before + most, "{members} members: {before} to {after}");
    }
}

#[test]
fn the_sample_is_bounded_and_the_silent_make_room() {
    let lossless = Report { units_expected: 64, units_lost: 0, bursts: 0, blocks: 1, gap: 1 };
    let bad = Report { units_lost: 20, bursts: 20, ..lossless };
    let sample = u32::try_from(SAMPLE).unwrap();
    let mut controller = Controller::new();
    let fill = |controller: &mut Controller, members: std::ops::Range<u32>, report| {
        for member in members.cycle().take(20 * SAMPLE) {
            controller.report(member, report);
        }
    };
    fill(&mut controller, 0..sample, lossless);
    let full = controller.estimate();
    fill(&mut controller, 1_000..1_000 + sample, bad);
    assert_eq!(controller.estimate(), full, "strangers to a full sample are not heard");
    fill(&mut controller, 0..sample - 1, lossless);
    fill(&mut controller, 1_000..1_001, bad);
    assert!(controller.estimate().loss() > full.loss(), "one was silent and has made room");
    (0..sample).for_each(|member| controller.forget(member));
    assert!(controller.estimate().loss() > 0.2, "one is left");
    controller.forget(1_000);
    assert_eq!(controller.estimate(), TwoState::independent(0.1));
}
