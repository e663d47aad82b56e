//! The pure relay against a key server made by hand, and relays in a ring.

mod sockets;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use fec::SplitMix64;
use protocol::unit::{BlockHeader, PAYLOAD, sign_block};
use protocol::{
    Beacon, Commitment, EpochContext, EpochHeader, GroupId, HeaderHash, Incarnation, NodeSecret, SigningKey, Suite,
    TagKey, VerifyingKey,
};

use super::core::{Cause, Core, Counters};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 7_000);
const STRANGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 9)), 9);
const NOW: Duration = Duration::ZERO;

/// What one reign signs for one group.
#[derive(Clone, Copy)]
struct Reign {
    group: u32,
    term: u64,
    incarnation: u8,
    signer: u8,
}

const REIGN: Reign = Reign { group: 1, term: 3, incarnation: 3, signer: 1 };

fn keys() -> Vec<VerifyingKey> {
    vec![SigningKey::from_seed(&[1; 32]).unwrap().public()]
}

impl Reign {
    fn context(self, epoch: u64) -> EpochContext {
        let (group, incarnation) = (GroupId(self.group), Incarnation([self.incarnation; 16]));
        EpochContext { suite: Suite::Aes256, group, incarnation, term: self.term, epoch }
    }

    fn tag(self) -> TagKey {
        self.context(0).tag(&NodeSecret::new([8; 32]))
    }

    fn key(self) -> SigningKey {
        SigningKey::from_seed(&[self.signer; 32]).unwrap()
    }

    /// The datagrams of one block.
    fn block(self, epoch: u64, (s, r): (u8, u8)) -> Vec<Vec<u8>> {
        self.block_of(epoch, (0, 1), (s, r))
    }

    fn block_of(self, epoch: u64, (block, blocks): (u16, u16), (s, r): (u8, u8)) -> Vec<Vec<u8>> {
        let EpochContext { suite, group, incarnation, term, epoch } = self.context(epoch);
        let epoch = EpochHeader { suite, group, incarnation, term, epoch, previous: HeaderHash([5; 32]) };
        let message_len = u32::from(s) * 512;
        let header = BlockHeader { epoch, message: 0, messages: 1, message_len, blocks, block, s, r };
        let units: Vec<[u8; PAYLOAD]> = (0..s + r).map(|i| [if s == 1 { 1 } else { i }; PAYLOAD]).collect();
        sign_block(&header, &units, &self.key(), &self.tag()).unwrap()
    }

    fn beacon(self, epoch: u64, counter: u64) -> Vec<u8> {
        let (commitment, header_hash) = (Commitment([1; 32]), HeaderHash([2; 32]));
        let context = self.context(epoch);
        let beacon = Beacon {
            context,
            commitment,
            header_hash,
            counter,
            interval_ms: 1_000,
            resync_wait_ms: 500,
            report_one_in: 0,
        };
        beacon.sign(&self.key(), &self.tag()).unwrap()
    }
}

fn passes(core: &mut Core, datagrams: &[Vec<u8>]) -> Vec<Result<(), Cause>> {
    datagrams.iter().map(|datagram| core.handle(NOW, SERVER, datagram)).collect()
}

#[test]
fn what_the_key_server_signed_passes_once_in_any_order() {
    let mut core = Core::new(keys());
    let mut all: Vec<Vec<u8>> =
        [(1, 2), (5, 4), (16, 16)].iter().zip(1..).flat_map(|(shape, at)| REIGN.block(at, *shape)).collect();
    all.extend([REIGN.beacon(3, 1), REIGN.beacon(3, 2)]);
    let mut shuffled = all.clone();
    // Beacons keep their order.
    shuffled[..all.len() - 2].reverse();
    assert!(passes(&mut core, &shuffled).iter().all(Result::is_ok));
    let before = core.remembered();
    assert!(passes(&mut core, &all).iter().all(|it| matches!(it, Err(Cause::Duplicate | Cause::Old))));
    let counters = core.counters();
    assert_eq!((counters.passed, counters.duplicate, counters.old), (46, 45, 1));
    assert_eq!(counters.signatures, 5, "one for each block, one for each beacon");
    assert_eq!(core.remembered(), before);
}

#[test]
fn a_key_that_is_rolled_passes_while_the_site_certificate_names_it() {
    let mut core = Core::new(keys());
    let next = Reign { signer: 2, ..REIGN };
    assert_eq!(core.handle(NOW, SERVER, &next.beacon(1, 1)), Err(Cause::Forged));
    core.trust([keys(), vec![next.key().public()]].concat());
    assert_eq!(core.handle(NOW, SERVER, &REIGN.beacon(1, 1)), Ok(()));
    assert_eq!(core.handle(NOW, SERVER, &next.beacon(1, 2)), Ok(()), "of the same reign");
    core.trust(vec![next.key().public()]);
    assert_eq!(core.handle(NOW, SERVER, &next.beacon(1, 3)), Ok(()));
    assert_eq!(core.handle(NOW, SERVER, &REIGN.beacon(1, 4)), Err(Cause::Forged));
}

#[test]
fn what_is_forged_cut_or_changed_is_dropped_and_remembered_nowhere() {
    let mut core = Core::new(keys());
    let forger = Reign { signer: 2, ..REIGN };
    let good = REIGN.block(1, (3, 2));
    // Before anything is known, and while the block is.
    for known in [false, true] {
        if known {
            assert!(core.handle(NOW, SERVER, &good[0]).is_ok());
        }
        let before = core.remembered();
        let drops = |core: &mut Core, datagram: &[u8]| core.handle(NOW, STRANGER, datagram).unwrap_err();
        assert_eq!(drops(&mut core, &forger.block(1, (3, 2))[1]), Cause::Forged);
        assert_eq!(drops(&mut core, &forger.beacon(9, 9)), Cause::Forged);
        for length in [0, 3, 4, 87, 88, good[1].len() - 1] {
            assert_eq!(drops(&mut core, &good[1][..length]), Cause::Malformed);
        }
        assert_eq!(drops(&mut core, &[good[1].as_slice(), &[0]].concat()), Cause::Malformed);
        assert_eq!(drops(&mut core, &[b'K'; 1_233]), Cause::Malformed);
        // All but the tag, which no relay can check.
        for at in (0..good[1].len() - 8).step_by(11) {
            let mut bad = good[1].clone();
            bad[at] ^= 1;
            assert!(core.handle(NOW, STRANGER, &bad).is_err(), "octet {at}");
        }
        assert_eq!(core.remembered(), before);
    }
    assert!(core.counters().forged > 50 && core.counters().malformed > 14);
    assert!(passes(&mut core, &good[1..]).iter().all(Result::is_ok), "what is genuine passes nevertheless");
}

#[test]
fn replays_of_earlier_reigns_and_epochs_are_dropped() {
    let mut core = Core::new(keys());
    let next = Reign { term: 4, incarnation: 4, ..REIGN };
    let old: Vec<Vec<u8>> = (1..=40).flat_map(|epoch| REIGN.block(epoch, (1, 0))).collect();
    assert!(core.handle(NOW, SERVER, &REIGN.beacon(40, 7)).is_ok());
    let verdicts = passes(&mut core, &old);
    assert!(verdicts[..23].iter().all(|it| *it == Err(Cause::Old)), "more than 16 epochs behind");
    assert!(verdicts[23..].iter().all(Result::is_ok));
    assert_eq!(core.handle(NOW, SERVER, &REIGN.beacon(40, 6)), Err(Cause::Old));
    assert_eq!(core.handle(NOW, SERVER, &REIGN.beacon(40, 7)), Err(Cause::Duplicate));
    assert!(core.handle(NOW, SERVER, &next.beacon(41, 1)).is_ok(), "counters begin again with a reign");
    assert_eq!(core.handle(NOW, STRANGER, &REIGN.beacon(41, 8)), Err(Cause::Old));
    assert!(REIGN.block(41, (2, 2)).iter().all(|unit| core.handle(NOW, STRANGER, unit) == Err(Cause::Old)));
    let fork = Reign { incarnation: 5, ..next };
    assert_eq!(core.handle(NOW, STRANGER, &fork.beacon(42, 9)), Err(Cause::Old), "one term has one incarnation");
    assert!(passes(&mut core, &next.block(42, (2, 2))).iter().all(Result::is_ok));
}

#[test]
fn a_flood_costs_a_bounded_number_of_signatures_and_stops_nothing() {
    let mut core = Core::new(keys());
    assert!(core.handle(NOW, SERVER, &REIGN.beacon(1, 1)).is_ok());
    let forged = Reign { signer: 2, ..REIGN }.block(1_000_000, (1, 0)).remove(0);
    let foreign = Reign { signer: 2, group: 77, ..REIGN }.block(2, (1, 0)).remove(0);
    let mut passed = 0;
    // 100 forged ones of each kind for each genuine one, for ten seconds.
    for ms in (0..10_000u64).step_by(100) {
        let now = Duration::from_millis(ms);
        for _ in 0..100 {
            assert!(core.handle(now, STRANGER, &forged).is_err() && core.handle(now, STRANGER, &foreign).is_err());
        }
        let genuine = REIGN.block(2 + ms / 100, (2, 1));
        passed += genuine.iter().filter(|unit| core.handle(now, SERVER, unit).is_ok()).count();
    }
    let Counters { signatures, forged, unchecked, .. } = core.counters();
    assert_eq!(passed, 300, "whoever sent what was verified has a ration apart");
    assert_eq!(forged + unchecked, 20_000);
    assert!(signatures <= 101 + 1_000 + 10 * 1_000, "{signatures} signatures");
    assert_eq!(core.remembered(), (1, 100));
    // Nor does it matter whose address they give: the work is bounded.
    let before = core.counters().signatures;
    let forged = Reign { signer: 2, ..REIGN }.block(102, (1, 0)).remove(0);
    assert!((0..20_000).all(|_| core.handle(Duration::from_secs(10), SERVER, &forged).is_err()));
    assert!(core.counters().signatures - before <= 2_048);
}

#[test]
fn memory_is_bounded_and_what_is_forgotten_does_not_pass_again() {
    let mut core = Core::with_blocks(keys(), 50);
    let blocks: Vec<Vec<Vec<u8>>> = (0..200).map(|at| REIGN.block_of(1, (at, 200), (2, 1))).collect();
    for block in &blocks {
        assert!(core.handle(NOW, SERVER, &block[0]).is_ok());
        assert!(core.remembered().1 <= 50);
    }
    for (at, block) in blocks.iter().enumerate() {
        let expected = if at < 150 { Cause::Old } else { Cause::Duplicate };
        assert_eq!(core.handle(NOW, SERVER, &block[0]), Err(expected), "block {at}");
    }
    assert!(passes(&mut core, &blocks[199][1..]).iter().all(Result::is_ok));
}

/// Three relays, each sending to the next: whatever one passes comes to the next after a random time, sometimes twice.
#[test]
fn in_a_ring_each_relay_passes_each_datagram_once() {
    const DATAGRAMS: usize = 10_000;
    let seed = 20_261_121;
    println!("seed {seed}");
    let mut dice = SplitMix64::new(seed);
    let mut ring: Vec<Core> = (0..3).map(|_| Core::new(keys())).collect();
    // Epochs of 25 blocks of 25 units, which come in order but for what the ring makes of them.
    let mut sent = (1..).flat_map(|epoch| (0..25).flat_map(move |at| REIGN.block_of(epoch, (at, 25), (16, 9))));
    let (mut flying, mut handled, mut fresh) = (VecDeque::<(usize, Vec<u8>)>::new(), 0, 0);
    let mut passed = [0; 3];
    while fresh < DATAGRAMS || !flying.is_empty() {
        if fresh < DATAGRAMS && flying.len() < 200 {
            let enters = usize::try_from(dice.below(3)).unwrap();
            flying.extend(sent.next().map(|datagram| (enters, datagram)));
            fresh += 1;
        }
        let next = usize::try_from(dice.below(u64::try_from(flying.len().min(100)).unwrap())).unwrap();
        let Some((at, datagram)) = flying.remove(next) else { continue };
        handled += 1;
        assert!(handled <= DATAGRAMS * 5, "each is passed three times at the most, and some are doubled");
        if ring[at].handle(Duration::from_millis(u64::try_from(fresh).unwrap()), SERVER, &datagram).is_ok() {
            passed[at] += 1;
            if dice.chance(0.1) {
                flying.push_back(((at + 1) % 3, datagram.clone()));
            }
            flying.push_back(((at + 1) % 3, datagram));
        }
    }
    assert_eq!(passed, [DATAGRAMS; 3], "each passes each once");
    for core in &ring {
        let counters = core.counters();
        assert_eq!((counters.forged, counters.old, counters.unchecked), (0, 0, 0));
        assert_eq!((counters.signatures, core.remembered()), (400, (1, 400)), "one check for each block");
        assert!(counters.duplicate > 3_000);
    }
}
