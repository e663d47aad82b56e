//! A rekey message to signed datagrams, and when each is to be sent.

use fec::{Controller, Layout, LayoutError, ReedSolomon, RepairScheme, Schedule};
use keygraph::cores;
use protocol::request::Losses;
use protocol::unit::{BlockHeader, sign_block};
use protocol::{EpochHeader, MemberId, SigningKey, TagKey};

use std::collections::BTreeMap;

/// Unit-times between the copies of a message of one unit under a scheme that knows nothing of bursts: most are shorter, and
/// two pauses of that length delay nobody.
const COPIES: u32 = 10;
/// Plans remembered between two reports; messages of a group mostly have few lengths.
const MAX_PLANS: usize = 64;

/// How the messages of one group are cut and spaced.
#[derive(Default)]
pub(super) struct Delivery {
    pub(super) controller: Controller,
    /// By octets of message.
    plans: BTreeMap<usize, fec::Plan>,
    /// Unit-times between two units of a block in the messages sent last.
    distance: u32,
}

impl Delivery {
    /// Blocks, repair units and spacing of a message. A member needs all blocks of it.
    pub(super) fn plan(&mut self, scheme: &RepairScheme, message_len: usize) -> Result<fec::Plan, LayoutError> {
        if *scheme != RepairScheme::Adaptive {
            let layout = Layout::new(message_len, scheme)?;
            let gap = if message_len > fec::UNIT { 1 } else { COPIES };
            return Ok(fec::Plan { layout, gap });
        }
        if let Some(plan) = self.plans.get(&message_len) {
            return Ok(plan.clone());
        }
        let plan = self.controller.plan(message_len, u16::MAX)?;
        if self.plans.len() >= MAX_PLANS {
            self.plans.clear();
        }
        self.plans.insert(message_len, plan.clone());
        self.distance = Schedule::new(&plan.layout, plan.gap).distance();
        Ok(plan)
    }

    /// Takes in what a member has lost.
    pub(super) fn report(&mut self, member: MemberId, losses: Losses) {
        if losses.expected > 0 {
            let Losses { expected, lost, bursts, blocks } = losses;
            let gap = self.distance.max(1);
            let report = fec::Report { units_expected: expected, units_lost: lost, bursts, blocks, gap };
            self.controller.report(member.0, report);
            self.plans.clear();
        }
    }

    /// A member that is gone reports no more.
    pub(super) fn forget(&mut self, member: MemberId) {
        self.controller.forget(member.0);
    }

    /// Which members are asked to report: all of a small group, and of a large one about as many as the controller hears.
    pub(super) fn report_one_in(scheme: &RepairScheme, members: usize) -> u32 {
        match scheme {
            RepairScheme::Adaptive => u32::try_from(members.div_ceil(fec::SAMPLE)).unwrap_or(u32::MAX).max(1),
            _ => 0,
        }
    }
}

/// A message on its way to the wire.
pub(super) struct Message<'a> {
    pub(super) octets: &'a [u8],
    /// Its index, and the messages of the epoch.
    pub(super) number: (u16, u16),
    pub(super) plan: fec::Plan,
}

/// Adds repair units and signs each block, on all cores: the datagrams in the order of sending, each with its unit-time.
pub(super) fn datagrams(
    message: &Message<'_>,
    epoch: EpochHeader,
    coder: &ReedSolomon,
    (signing, tag): (&SigningKey, &TagKey),
) -> Option<Vec<(u32, Vec<u8>)>> {
    let fec::Plan { layout, gap } = &message.plan;
    let message_len = u32::try_from(message.octets.len()).ok()?;
    let blocks: Vec<u16> = (0..layout.block_count()).collect();
    // A block is as much work as some tens of secrets.
    let signed = cores::map_all(&blocks, 64 * blocks.len(), |at| {
        let block = fec::encode_block(message.octets, layout, *at, coder).ok()?;
        let header = BlockHeader {
            epoch,
            message: message.number.0,
            messages: message.number.1,
            message_len,
            blocks: layout.block_count(),
            block: *at,
            s: block.shape.s(),
            r: block.shape.r(),
        };
        sign_block(&header, &block.units, signing, tag).ok()
    });
    let mut signed = signed.into_iter().collect::<Option<Vec<_>>>()?;
    let mut take = |(block, index): (u16, u8)| std::mem::take(&mut signed[usize::from(block)][usize::from(index)]);
    Some(Schedule::new(layout, *gap).times().map(|(unit, time)| (time, take(unit))).collect())
}
