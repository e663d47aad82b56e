//! What sender and receivers agree on, and tell each other besides units.

use fec::{Report, SplitMix64};
use protocol::{EpochHeader, GroupId, HeaderHash, Incarnation, SigningKey, Suite};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// Octets of the text of a [`Round`]: by its length alone the rules of the network tell it from units, which are longer, and
/// from empty datagrams.
pub(crate) const MAX_TEXT: usize = 591;

/// The end of a round, which the network does not lose. Receivers answer it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Round {
    /// From 0; round 0 has no messages, and is over when all receivers are there.
    pub(crate) number: u32,
    /// Epoch of the first message, and how many there were.
    pub(crate) first: u64,
    pub(crate) messages: u64,
    /// Octets of each message.
    pub(crate) octets: usize,
    /// Units and repair units of each block.
    pub(crate) shapes: Vec<(u8, u8)>,
    /// Unit-times between two units of a block.
    pub(crate) gap: u32,
    /// Whether the messages count, or only teach the controller.
    pub(crate) counts: bool,
    /// Whether receivers end after this one.
    pub(crate) last: bool,
}

/// What a receiver says to a round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) receiver: u32,
    pub(crate) round: u32,
    /// Of the messages of this round, [`Report::units_expected`], `units_lost`, `bursts`, `blocks`.
    pub(crate) report: [u32; 4],
    /// Of all rounds so far.
    pub(crate) totals: Totals,
}

impl Answer {
    pub(crate) fn report(&self, gap: u32) -> Report {
        let [units_expected, units_lost, bursts, blocks] = self.report;
        Report { units_expected, units_lost, bursts, blocks, gap }
    }
}

/// What a receiver has counted.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Messages that count; those of them that were not recovered.
    pub(crate) messages: u64,
    pub(crate) unrecovered: u64,
    /// Messages recovered although too few units of a block arrived, or the reverse, or with the wrong contents.
    pub(crate) otherwise: u64,
    /// Units of the messages that count; lost ones; runs of them in a block.
    pub(crate) units: u64,
    pub(crate) lost: u64,
    pub(crate) runs: u64,
    /// Datagrams with units that the socket gave; refused as forged; that had come already.
    pub(crate) received: u64,
    pub(crate) refused: u64,
    pub(crate) again: u64,
    /// Empty datagrams that the socket gave.
    pub(crate) empty: u64,
    /// Datagrams that the socket had no room for.
    pub(crate) overflow: u64,
}

/// The key that signs. Everybody knows it.
pub(crate) fn signing_key() -> Result<SigningKey, Failure> {
    Ok(SigningKey::from_seed(&[7; 32])?)
}

/// Each message is an epoch of its own; the seed names the reign, so that what is late from another run is not taken.
pub(crate) fn epoch(seed: u64, number: u64) -> EpochHeader {
    let incarnation = Incarnation((u128::from(seed) + 1).to_be_bytes());
    let (suite, group) = (Suite::Aes256, GroupId(1));
    EpochHeader { suite, group, incarnation, term: 1, epoch: number, previous: HeaderHash::NONE }
}

/// The contents of a message.
pub(crate) fn contents(seed: u64, number: u64, octets: usize) -> Vec<u8> {
    let mut random = SplitMix64::new(SplitMix64::new(seed).bits() ^ number);
    let mut message: Vec<u8> = (0..octets.div_ceil(8)).flat_map(|_| random.bits().to_be_bytes()).collect();
    message.truncate(octets);
    message
}
