//! The sender of one cell: messages in rounds, and what all receivers say to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fec::{
    Controller, Layout, Plan, ReedSolomon, RepairScheme, Schedule, SplitMix64, TwoState, UNIT, encode, miss_probability,
};
use net::multicast::{SendOptions, Sender};
use protocol::unit::{BlockHeader, sign_block};
use protocol::{EpochContext, Incarnation, NodeSecret, SigningKey, TagKey};
use serde::{Deserialize, Serialize};
use tests::binomial::{two_sided_tail, upper_tail};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::Failure;
use crate::wire::{Answer, MAX_TEXT, Round, Totals, contents, epoch, signing_key};

/// Units of a round, unless one message has more: a socket's buffer has room for more than that wherever Linux's own limit
/// (`net.core.rmem_max`) has been left alone.
const ROUND: usize = 96;
/// How long to wait for answers, and how often to ask.
const WAIT: Duration = Duration::from_millis(200);
const ATTEMPTS: u32 = 150;
/// What a member may miss with `adaptive`.
const PROMISE: f64 = 0.001;

/// What to send, and what the network has been told to do to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cell {
    /// Where to: the interface's address, the group, and the address that receivers answer to.
    interface: IpAddr,
    group: SocketAddr,
    answers: SocketAddr,
    receivers: u32,
    /// Messages that count, and those before them that do not.
    messages: u64,
    learn: u64,
    /// Units of each message, and the repair scheme.
    units: usize,
    scheme: String,
    /// Average loss and mean length of bursts in unit-times (1: independent) of each receiver's network; none if the equations
    /// say nothing about it.
    loss: Option<f64>,
    burst: f64,
    /// Least unit-times between messages; they are once to twice as many.
    pause: u32,
    seed: u64,
}

/// What came of a cell.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// Datagrams with units, and empty ones.
    sent: u64,
    fillers: u64,
    /// Mean octets of the datagrams of a message that counts.
    octets: f64,
    /// Of all receivers.
    messages: u64,
    unrecovered: u64,
    /// Probability that a message is not recovered, if an equation says so.
    expected: Option<f64>,
    /// Probability of a count as far off as this one: on both sides of what is expected; above the promise if nothing is.
    tail: f64,
    receivers: Vec<Totals>,
}

pub(crate) async fn run(cell: &Cell) -> Result<Outcome, Failure> {
    let scheme: RepairScheme = cell.scheme.parse()?;
    let octets = (cell.units * UNIT).checked_sub(7).ok_or("a message has at least one unit")?;
    let mut sending = Sending::open(cell).await?;
    let mut controller = Controller::new();
    let nothing =
        Round { number: 0, first: 1, messages: 0, octets, shapes: vec![], gap: 1, counts: false, last: false };
    let mut round = nothing.clone();
    let mut answers = sending.ask(&round).await?;
    let mut expected = None;
    while round.first + round.messages <= cell.learn + cell.messages {
        let first = round.first + round.messages;
        let counts = first > cell.learn;
        let plan = match scheme {
            RepairScheme::Adaptive => controller.plan(octets, u16::MAX)?,
            _ => Plan { layout: Layout::new(octets, &scheme)?, gap: 1 },
        };
        let schedule = Schedule::new(&plan.layout, plan.gap);
        // The controller learns from each message.
        let together = if scheme == RepairScheme::Adaptive { 1 } else { ROUND / plan.layout.total_units() };
        let left = if counts { cell.learn + cell.messages } else { cell.learn } + 1 - first;
        let messages = u64::try_from(together)?.clamp(1, left);
        for number in first..first + messages {
            sending.message(number, &schedule, counts).await?;
        }
        let shapes = plan.layout.blocks().iter().map(|shape| (shape.s(), shape.r())).collect();
        let (number, gap) = (round.number + 1, schedule.distance());
        round = Round { number, first, messages, octets, shapes, gap, counts, last: false };
        answers = sending.ask(&round).await?;
        for answer in &answers {
            controller.report(answer.receiver, answer.report(gap));
        }
        if scheme != RepairScheme::Adaptive && plan.layout.block_count() == 1 {
            expected = cell.loss.and_then(|loss| miss(&plan.layout, gap, loss, cell.burst));
        }
    }
    let end = Round { number: round.number + 1, first: round.first + round.messages, last: true, ..nothing };
    answers.clone_from(&sending.ask(&end).await?);
    let receivers: Vec<Totals> = answers.iter().map(|answer| answer.totals).collect();
    let sum = |count: fn(&Totals) -> u64| receivers.iter().map(count).sum::<u64>();
    let (messages, unrecovered) = (sum(|totals| totals.messages), sum(|totals| totals.unrecovered));
    let (n, k) = (u32::try_from(messages)?, u32::try_from(unrecovered)?);
    let tail = expected.map_or_else(|| upper_tail(k, n, PROMISE), |p| two_sided_tail(k, n, p));
    let octets = f64::from(u32::try_from(sending.octets / cell.messages.max(1))?);
    Ok(Outcome {
        sent: sending.sent,
        fillers: sending.fillers,
        octets,
        messages,
        unrecovered,
        expected,
        tail,
        receivers,
    })
}

/// Probability that the only block of a message is missed.
fn miss(layout: &Layout, gap: u32, loss: f64, burst: f64) -> Option<f64> {
    let shape = *layout.blocks().first()?;
    if burst <= 1.0 {
        return Some(miss_probability(shape.s(), shape.r(), loss));
    }
    let units = usize::from(shape.total()).checked_sub(1)?;
    TwoState::bursts(loss, burst).miss_probabilities(shape.s(), gap.into()).nth(units)
}

struct Sending<'a> {
    cell: &'a Cell,
    sender: Sender,
    answers: UdpSocket,
    random: SplitMix64,
    key: SigningKey,
    tag: TagKey,
    coder: ReedSolomon,
    sent: u64,
    fillers: u64,
    /// Of messages that count.
    octets: u64,
}

impl<'a> Sending<'a> {
    async fn open(cell: &'a Cell) -> Result<Self, Failure> {
        let options = SendOptions { interface: cell.interface.into(), ..SendOptions::default() };
        let header = epoch(cell.seed, 0);
        let context = EpochContext { incarnation: Incarnation([0; 16]), ..header.context() };
        Ok(Self {
            cell,
            sender: Sender::open(cell.group, &options)?,
            answers: UdpSocket::bind(cell.answers).await?,
            random: SplitMix64::new(cell.seed),
            key: signing_key()?,
            tag: context.tag(&NodeSecret::new([0; 32])),
            coder: ReedSolomon::new(),
            sent: 0,
            fillers: 0,
            octets: 0,
        })
    }

    /// One message with empty datagrams in the unit-times between its units and after it. Datagrams leave one by one: what
    /// leaves in one call passes the rules of a network of veth as one.
    async fn message(&mut self, number: u64, schedule: &Schedule<'_>, counts: bool) -> Result<(), Failure> {
        let layout = schedule.layout();
        let message = contents(self.cell.seed, number, layout.message_len());
        let blocks = encode(&message, layout, &self.coder)?;
        let mut datagrams = Vec::with_capacity(blocks.len());
        for (block, index) in blocks.iter().zip(0..) {
            let header = BlockHeader {
                epoch: epoch(self.cell.seed, number),
                message: 0,
                messages: 1,
                message_len: u32::try_from(layout.message_len())?,
                blocks: layout.block_count(),
                block: index,
                s: block.shape.s(),
                r: block.shape.r(),
            };
            datagrams.push(sign_block(&header, &block.units, &self.key, &self.tag)?);
        }
        let mut now = 0;
        for ((block, index), time) in schedule.times() {
            self.wait(time - now).await?;
            now = time + 1;
            let datagram = &datagrams[usize::from(block)][usize::from(index)];
            self.sender.send(datagram).await?;
            self.sent += 1;
            self.octets += if counts { u64::try_from(datagram.len())? } else { 0 };
        }
        let pause = self.cell.pause;
        let more = self.random.below(pause.into());
        self.wait(pause + u32::try_from(more)?).await
    }

    async fn wait(&mut self, unit_times: u32) -> Result<(), Failure> {
        for _ in 0..unit_times {
            self.sender.send(&[]).await?;
        }
        self.fillers += u64::from(unit_times);
        Ok(())
    }

    /// Ends a round: the answers of all receivers, in their order.
    async fn ask(&self, round: &Round) -> Result<Vec<Answer>, Failure> {
        let text = serde_json::to_vec(round)?;
        if text.len() > MAX_TEXT {
            return Err("a message has too many blocks".into());
        }
        let mut answers = BTreeMap::new();
        let mut buf = [0; 2048];
        for _ in 0..ATTEMPTS {
            self.sender.send(&text).await?;
            while let Ok(length) = timeout(WAIT, self.answers.recv(&mut buf)).await {
                let answer: Answer = serde_json::from_slice(&buf[..length?])?;
                if answer.round == round.number {
                    answers.insert(answer.receiver, answer);
                }
                if answers.len() == usize::try_from(self.cell.receivers)? {
                    return Ok(answers.into_values().collect());
                }
            }
        }
        Err(format!("of {} receivers only {:?} answer", self.cell.receivers, answers.keys()).into())
    }
}
