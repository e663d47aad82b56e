//! Shared by the tests: a small seeded generator, messages, and encoded messages to feed back.
#![allow(dead_code, unreachable_pub, reason = "each test file is a crate of its own and uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests: a failure fails the test")]

use fec::{Assembly, AssemblyError, Block, BlockShape, Layout, Progress, ReedSolomon, UNIT, Unit, encode};

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Prng(u64);

impl Prng {
    /// Seeded by the environment's `FEC_SEED`, or always the same; prints the seed for replay.
    pub fn new() -> Self {
        let seed = std::env::var("FEC_SEED").map_or(20260101, |text| text.parse().expect("FEC_SEED is a number"));
        println!("FEC_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    /// True with probability `tenths / 10`.
    pub fn tenths(&mut self, tenths: usize) -> bool {
        self.below(10) < tenths
    }

    pub fn message(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_be_bytes()[0]).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
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
    pub fn one_block(s: u8, r: u8, prng: &mut Prng) -> Self {
        let len = usize::from(s) * UNIT - prng.below(UNIT);
        let layout = Layout::with_blocks(len, vec![BlockShape::new(s, r).unwrap()]).unwrap();
        Self::new(prng.message(len), &layout)
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
