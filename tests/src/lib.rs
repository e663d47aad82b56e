//! The world in one process: a key server and its clients, all of them pure cores, over a simulated network, from one seed.
//!
//! [`world::World`] moves time, octets and faults; [`record::Record`] is the reference model: who had a right to which
//! epoch, what was sent, what was given to whom. [`check`] says what must hold in the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a simulation that is wrong must stop")]

pub mod binomial;
pub mod check;
pub mod dice;
pub mod entries;
pub mod model;
pub mod record;
pub mod world;

use world::{Story, World};

/// Runs seeds one after another, printing each, and gives the finished worlds to `check`.
///
/// `KEYSTONE_SEEDS` says how many (default 50), `KEYSTONE_SEED` runs one only.
pub fn for_each_seed(mut check: impl FnMut(&World)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("KEYSTONE_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("KEYSTONE_SEEDS").unwrap_or(50)).collect(),
    };
    for seed in seeds {
        println!("seed {seed}");
        let world = world::live(Story::of(seed));
        check(&world);
    }
}
