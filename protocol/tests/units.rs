//! Every unit is verified alone: what was signed passes, and nothing else does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use crate::common::context;
use protocol::unit::{BlockHeader, Kind, MAX_DATAGRAM, Unit, UnitError, UnitVerifier, kind, sign_block};
use protocol::{
    Beacon, Commitment, EpochHeader, GroupId, HeaderHash, Incarnation, NodeSecret, SigningKey, Suite, TagKey,
};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

/// Of the epoch before.
fn tag() -> TagKey {
    context(8).tag(&NodeSecret::new([8; 32]))
}

fn header(s: u8, r: u8) -> BlockHeader {
    header_of(Suite::Aes256, s, r)
}

fn header_of(suite: Suite, s: u8, r: u8) -> BlockHeader {
    let epoch = EpochHeader {
        suite,
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
    sign_block(&header(s, r), &units, &key(by), &tag()).unwrap()
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
                let verified = verifier.verify(&unit, || true).unwrap();
                let expected = (index, if s == 1 { 1 } else { u8::try_from(index).unwrap() });
                assert_eq!((usize::from(verified.index), verified.payload[0]), expected);
                // And by a verifier that has seen nothing.
                assert!(UnitVerifier::new(vec![key(1).public()]).verify(&unit, || true).is_ok());
            }
        }
    }
    let repeated = datagrams(1, 2, 1);
    let differ =
        |a: &[u8], b: &[u8]| a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
    let differences: Vec<usize> = differ(&repeated[0][..repeated[0].len() - 8], &repeated[2][..repeated[2].len() - 8]);
    assert_eq!(differences, [87], "copies differ in their number, and so in their tag");
}

#[test]
fn no_bit_can_be_changed_and_no_octet_left_out_or_added() {
    let mut known = UnitVerifier::new(vec![key(1).public()]);
    let signed = datagrams(3, 2, 1);
    for datagram in &signed {
        known.verify(&Unit::decode(datagram).unwrap(), || true).unwrap();
    }
    let datagram = &signed[2];
    for at in 0..datagram.len() {
        let mut bad = datagram.clone();
        bad[at] ^= 0x10;
        if let Ok(unit) = Unit::decode(&bad) {
            let alone = UnitVerifier::new(vec![key(1).public()]).verify(&unit, || true).map(|_| ());
            // The tag is not signed: it is for those who hold the group key.
            assert_eq!(alone.is_ok(), at >= datagram.len() - 8, "octet {at}");
            // A verifier that knows the block needs no signature, so a change in it alone harms nobody; nor in the tag.
            let harmless = (88..152).contains(&at) || at >= datagram.len() - 8;
            assert_eq!(known.verify(&unit, || true).is_ok(), harmless, "octet {at}");
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
    assert!(matches!(verifier.verify(&Unit::decode(&foreign[0]).unwrap(), || true), Err(UnitError::Signature(_))));
    let good = datagrams(2, 2, 1);
    verifier.verify(&Unit::decode(&good[0]).unwrap(), || true).unwrap();
    let forked = sign_block(&header(2, 2), &[[9; 512]; 4], &key(1), &tag()).unwrap();
    assert_eq!(verifier.verify(&Unit::decode(&forked[0]).unwrap(), || true), Err(UnitError::Foreign));
}

#[test]
fn a_tag_is_of_one_epoch_and_one_datagram() {
    let other = context(9).tag(&NodeSecret::new([8; 32]));
    let stranger = context(8).tag(&NodeSecret::new([9; 32]));
    for datagram in datagrams(3, 2, 1) {
        assert!(tag().is_on(&datagram) && !other.is_on(&datagram) && !stranger.is_on(&datagram));
        for at in 0..datagram.len() {
            let mut bad = datagram.clone();
            bad[at] ^= 0x80;
            assert!(!tag().is_on(&bad) && !tag().is_on(&datagram[..at]), "octet {at}");
        }
    }
}

#[test]
fn no_signature_is_looked_at_without_leave() {
    let mut verifier = UnitVerifier::new(vec![key(1).public()]);
    let signed = datagrams(2, 1, 1);
    let unit = Unit::decode(&signed[0]).unwrap();
    assert_eq!(verifier.verify(&unit, || false), Err(UnitError::Unchecked));
    verifier.verify(&unit, || true).unwrap();
    verifier.verify(&Unit::decode(&signed[1]).unwrap(), || false).unwrap();
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
        assert!(sign_block(&header, &units[..count], &key(1), &tag()).is_err(), "{header:?}");
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
        report_one_in: 0,
    };
    let datagram = beacon.sign(&key(1), &tag()).unwrap();
    assert_eq!(datagram.len(), 197);
    assert_eq!(kind(&datagram), Ok(Kind::Beacon));
    assert_eq!(Beacon::decode(&datagram), Ok(beacon));
    let trusted = [key(1).public()];
    assert!(Beacon::verify(&datagram, &trusted).is_ok());
    assert!(Beacon::verify(&datagram, &[key(2).public()]).is_err());
    for at in 0..datagram.len() {
        let mut bad = datagram.clone();
        bad[at] ^= 1;
        let signed = Beacon::decode(&bad).is_ok() && Beacon::verify(&bad, &trusted).is_ok();
        assert_eq!(signed, at >= datagram.len() - 8, "octet {at}");
        assert!(!tag().is_on(&bad), "octet {at}");
        assert!(Beacon::decode(&datagram[..at]).is_err());
    }
    assert!(Unit::decode(&datagram).is_err());
}

/// A key for every suite that there is.
fn keys_for_all() -> SigningKey {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa3072).unwrap();
    let der: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    let key = key(1).with_rsa(der.as_ref()).unwrap();
    #[cfg(feature = "paper")]
    let key = key.with_paper(protocol::paper::SigningKey::generate().unwrap());
    key
}

#[test]
fn every_suite_signs_units_and_beacons_with_its_own_algorithm() {
    let signing = keys_for_all();
    let all = signing.all_public();
    for suite in Suite::ALL {
        assert!(signing.signs(*suite));
        let signed = sign_block(&header_of(*suite, 3, 2), &[[7; 512]; 5], &signing, &tag()).unwrap();
        let beacon = Beacon {
            context: header_of(*suite, 1, 0).epoch.context(),
            commitment: Commitment([1; 32]),
            header_hash: HeaderHash([2; 32]),
            counter: 1,
            interval_ms: 1_000,
            resync_wait_ms: 500,
            report_one_in: 0,
        };
        let beacon = beacon.sign(&signing, &tag()).unwrap();
        for datagram in &signed {
            assert!(datagram.len() <= MAX_DATAGRAM);
            let unit = Unit::decode(datagram).unwrap();
            assert!(UnitVerifier::new(all.clone()).verify(&unit, || true).is_ok(), "{suite}");
            // By no key of another algorithm, although the site trusts it.
            let others = all.iter().filter(|key| key.verify(*suite, b"", &[]).is_err()).cloned();
            let others: Vec<_> =
                others.filter(|key| Beacon::verify(&beacon, std::slice::from_ref(key)).is_err()).collect();
            assert_eq!(others.len(), all.len() - 1, "{suite}");
            assert!(UnitVerifier::new(others).verify(&unit, || true).is_err(), "{suite}");
            // No octet of the signature can be changed, nor the suite.
            let length = suite.signature_len();
            for at in (4..5).chain(88..88 + length) {
                let mut bad = datagram.clone();
                bad[at] ^= 1;
                let refused =
                    Unit::decode(&bad).map(|unit| UnitVerifier::new(all.clone()).verify(&unit, || true).is_err());
                assert!(refused.unwrap_or(true), "{suite}: octet {at}");
            }
        }
        assert!(Beacon::verify(&beacon, &all).is_ok());
        for at in 0..beacon.len() - 8 {
            let mut bad = beacon.clone();
            bad[at] ^= 1;
            assert!(Beacon::verify(&bad, &all).is_err(), "{suite}: octet {at} of a beacon");
        }
    }
}

#[test]
fn a_suite_without_its_key_is_not_signed_for() {
    let missing = sign_block(&header_of(Suite::Rsa, 1, 0), &[[0; 512]], &key(1), &tag()).unwrap_err();
    assert_eq!(missing.to_string(), "there is no key that signs for suite `rsa`");
    assert!(!key(1).signs(Suite::Rsa) && key(1).signs(Suite::Aes128));
    assert!(key(1).with_rsa(&[1, 2, 3]).is_err());
    for suite in Suite::ALL {
        assert_eq!(Suite::named(suite.name()), Some(*suite));
        assert_eq!(Suite::try_from(*suite as u8), Ok(*suite));
    }
    assert_eq!((Suite::named("none"), Suite::try_from(77).is_err()), (None, true));
    assert_eq!(Suite::named("paper").is_some(), cfg!(feature = "paper"));
}

#[test]
fn what_is_passed_on_has_the_blocks_own_signature() {
    let signed = datagrams(3, 2, 1);
    let block = Unit::decode(&signed[4]).unwrap().check(&[key(1).public()]).unwrap();
    assert!(Unit::decode(&signed[4]).unwrap().check(&[key(2).public()]).is_err());
    for datagram in &signed {
        assert!(Unit::decode(datagram).unwrap().is_of(&block));
        // Signature, path and payload, and not the tag, which relays cannot check.
        for at in 88..datagram.len() {
            let mut bad = datagram.clone();
            bad[at] ^= 1;
            assert_eq!(Unit::decode(&bad).unwrap().is_of(&block), at >= datagram.len() - 8, "octet {at}");
        }
    }
    let spare = |datagram: &Vec<u8>| Unit::decode(datagram).unwrap().is_spare();
    assert_eq!(signed.iter().map(spare).collect::<Vec<_>>(), [false, false, false, true, true]);
    assert_eq!(datagrams(1, 2, 1).iter().map(spare).collect::<Vec<_>>(), [false, true, true]);
}
