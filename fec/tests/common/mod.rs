//! Shared by the tests: a small seeded generator, messages, and encoded messages to feed back.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate of its own and uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests: a failure fails the test")]

use fec::{Assembly, AssemblyError, Block, BlockShape, Layout, Progress, ReedSolomon, SplitMix64, UNIT, Unit, encode};

/// Seeded by the environment's `FEC_SEED`, or always the same; prints the seed for replay.
pub fn prng() -> SplitMix64 {
    let seed = std::env::var("FEC_SEED").map_or(20260101, |text| text.parse().expect("FEC_SEED is a number"));
    println!("FEC_SEED={seed}");
    SplitMix64::new(seed)
}

pub fn message(len: usize, prng: &mut SplitMix64) -> Vec<u8> {
    (0..len).map(|_| prng.bits().to_be_bytes()[0]).collect()
}

pub fn below(bound: usize, prng: &mut SplitMix64) -> usize {
    usize::try_from(prng.below(u64::try_from(bound).unwrap())).unwrap()
}

pub fn shuffle<T>(items: &mut [T], prng: &mut SplitMix64) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(i + 1, prng));
    }
}

/// A message with its units.
pub struct Sent {
    pub message: Vec<u8>,
    pub blocks: Vec<Block>,
}

impl Sent {
    pub fn new(message: Vec<u8>, layout: &Layout) -> Self {
        let blocks = encode(&message, layout, &ReedSolomon::new()).unwrap();
        Self { message, blocks }
    }

    /// One block of `s + r` units, the last one filled in part.
    pub fn one_block(s: u8, r: u8, prng: &mut SplitMix64) -> Self {
        let len = usize::from(s) * UNIT - below(UNIT, prng);
        let layout = Layout::with_blocks(len, vec![BlockShape::new(s, r).unwrap()]).unwrap();
        Self::new(message(len, prng), &layout)
    }

    pub fn block_count(&self) -> u16 {
        u16::try_from(self.blocks.len()).unwrap()
    }

    pub fn unit(&self, block: u16, index: u8) -> Unit<'_> {
        let Block { shape, units } = &self.blocks[usize::from(block)];
        Unit { block, index, s: shape.s(), r: shape.r(), payload: &units[usize::from(index)] }
    }

    pub fn assembly(&self) -> Receiver {
        Receiver(Assembly::new(self.message.len(), self.block_count()).unwrap(), ReedSolomon::new())
    }
}

/// An assembly with its coder.
pub struct Receiver(pub Assembly, pub ReedSolomon);

impl Receiver {
    pub fn insert(&mut self, unit: Unit<'_>) -> Result<Progress, AssemblyError> {
        self.0.insert(unit, &self.1)
    }
}
