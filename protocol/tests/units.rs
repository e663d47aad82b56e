//! Every unit is verified alone: what was signed passes, and nothing else does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

mod common;

use common::context;
use protocol::unit::{BlockHeader, Kind, MAX_DATAGRAM, Unit, UnitError, UnitVerifier, kind, sign_block};
use protocol::{Beacon, Commitment, EpochHeader, GroupId, HeaderHash, Incarnation, SigningKey, Suite};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

fn header(s: u8, r: u8) -> BlockHeader {
    let epoch = EpochHeader {
        suite: Suite::Aes256,
        group: GroupId(7),
        incarnation: Incarnation([3; 16]),
        term: 1,
        epoch: 9,
        previous: HeaderHash([5; 32]),
    };
    let message_len = u32::from(s) * 512 - 10;
    BlockHeader { epoch, message: 0, messages: 1, message_len, blocks: 1, block: 0, s, r }
}

fn datagrams(s: u8, r: u8, by: u8) -> Vec<Vec<u8>> {
    let units: Vec<[u8; 512]> = (0..s + r).map(|i| if s == 1 { [1; 512] } else { [i; 512] }).collect();
    sign_block(&header(s, r), &units, &key(by)).unwrap()
}

#[test]
fn all_shapes_verify_unit_by_unit_in_any_order() {
    for s in 1..=16u8 {
        for r in [0, 1, 2, 7, 16] {
            let signed = datagrams(s, r, 1);
            assert_eq!(signed.len(), usize::from(s + r));
            let mut verifier = UnitVerifier::new(vec![key(9).public(), key(1).public()]);
            for (index, datagram) in signed.iter().enumerate().rev() {
                assert!(datagram.len() <= MAX_DATAGRAM);
                assert_eq!(kind(datagram), Ok(Kind::Unit));
                let unit = Unit::decode(datagram).unwrap();
                let verified = verifier.verify(&unit).unwrap();
                let expected = if s == 1 { (0, 1) } else { (index, u8::try_from(index).unwrap()) };
                assert_eq!((usize::from(verified.index), verified.payload[0]), expected);
                // And by a verifier that has seen nothing.
                assert!(UnitVerifier::new(vec![key(1).public()]).verify(&unit).is_ok());
            }
        }
    }
    let repeated = datagrams(1, 2, 1);
    assert!(repeated.iter().all(|datagram| *datagram == repeated[0]), "a block of one unit is repeated as it is");
}

#[test]
fn no_bit_can_be_changed_and_no_octet_left_out_or_added() {
    let mut known = UnitVerifier::new(vec![key(1).public()]);
    let signed = datagrams(3, 2, 1);
    for datagram in &signed {
        known.verify(&Unit::decode(datagram).unwrap()).unwrap();
    }
    let datagram = &signed[2];
    for at in 0..datagram.len() {
        let mut bad = datagram.clone();
        bad[at] ^= 0x10;
        if let Ok(unit) = Unit::decode(&bad) {
            assert!(UnitVerifier::new(vec![key(1).public()]).verify(&unit).is_err(), "octet {at}");
            // A verifier that knows the block needs no signature, so a change in it alone harms nobody.
            let in_signature = (88..152).contains(&at);
            assert_eq!(known.verify(&unit).is_ok(), in_signature, "octet {at}");
        }
    }
    for length in 0..datagram.len() {
        assert!(Unit::decode(&datagram[..length]).is_err());
    }
    assert!(Unit::decode(&[datagram.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn another_signer_and_another_block_under_the_same_header_are_refused() {
    let mut verifier = UnitVerifier::new(vec![key(1).public()]);
    let foreign = datagrams(2, 2, 2);
    assert!(matches!(verifier.verify(&Unit::decode(&foreign[0]).unwrap()), Err(UnitError::Signature(_))));
    let good = datagrams(2, 2, 1);
    verifier.verify(&Unit::decode(&good[0]).unwrap()).unwrap();
    let forked = sign_block(&header(2, 2), &[[9; 512]; 4], &key(1)).unwrap();
    assert_eq!(verifier.verify(&Unit::decode(&forked[0]).unwrap()), Err(UnitError::Foreign));
}

#[test]
fn headers_that_promise_too_much_are_refused() {
    let units = [[0; 512]; 40];
    let bad = [
        BlockHeader { s: 0, ..header(1, 0) },
        BlockHeader { s: 17, r: 0, ..header(1, 0) },
        BlockHeader { s: 16, r: 17, ..header(1, 0) },
        BlockHeader { r: 255, ..header(2, 0) },
        BlockHeader { message: 1, ..header(1, 0) },
        BlockHeader { block: 1, ..header(1, 0) },
        BlockHeader { message_len: 0, ..header(1, 0) },
    ];
    for header in bad {
        let count = usize::from(header.s.saturating_add(header.r)).min(40);
        assert!(sign_block(&header, &units[..count], &key(1)).is_err(), "{header:?}");
    }
}

#[test]
fn a_beacon_is_what_was_signed_or_nothing() {
    let beacon = Beacon {
        context: context(4),
        commitment: Commitment([1; 32]),
        header_hash: HeaderHash([2; 32]),
        counter: 77,
        interval_ms: 2_000,
        resync_wait_ms: 500,
    };
    let datagram = beacon.sign(&key(1));
    assert_eq!(datagram.len(), Beacon::LEN);
    assert_eq!(kind(&datagram), Ok(Kind::Beacon));
    assert_eq!(Beacon::decode(&datagram), Ok(beacon));
    let trusted = [key(1).public()];
    assert!(Beacon::verify(&datagram, &trusted).is_ok());
    assert!(Beacon::verify(&datagram, &[key(2).public()]).is_err());
    for at in 0..datagram.len() {
        let mut bad = datagram.clone();
        bad[at] ^= 1;
        assert!(Beacon::decode(&bad).is_err() || Beacon::verify(&bad, &trusted).is_err(), "octet {at}");
        assert!(Beacon::decode(&datagram[..at]).is_err());
    }
    assert!(Unit::decode(&datagram).is_err());
}
