//! The worked examples of `docs/protocol.md` are what the code does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

use crate::common::{Server, context};
use keygraph::{Change, MemberId, Strategy};
use protocol::{Beacon, HeaderHash, SigningKey};

/// Nine members, degree 3, group-oriented: all join in epoch 1 (seed of 32 octets 0x01), u9 leaves in epoch 2 (0x02).
#[test]
fn the_document_shows_the_papers_leave_and_a_beacon() {
    let mut server = Server::new(3, Strategy::Group);
    let joins: Vec<Change> = (1..=9).map(|member| Change::Join(MemberId(member))).collect();
    server.change(&joins, 1);
    let u1 = server.path(MemberId(1));
    let (executed, _) = server.change(&[Change::Leave(MemberId(9))], 2);
    let message = executed.messages[0].encode();
    let after = u1.apply(&context(2), &executed.messages[0]).unwrap();
    let beacon = Beacon {
        context: context(2),
        commitment: executed.commitment,
        header_hash: HeaderHash([0x22; 32]),
        counter: 5,
        interval_ms: 2_000,
        resync_wait_ms: 1_000,
        report_one_in: 0,
    };
    let tag = context(2).tag(after.root().unwrap());
    let datagram = beacon.sign(&SigningKey::from_seed(&[0x33; 32]).unwrap(), &tag).unwrap();
    let shown = [
        ("leaf", hex::encode(u1.leaf().0.to_be_bytes())),
        ("root before", hex::encode(u1.root().unwrap().expose())),
        ("message", hex::encode(&message)),
        ("root after", hex::encode(after.root().unwrap().expose())),
        ("data key", hex::encode(context(2).data(after.root().unwrap()).expose())),
        ("beacon", hex::encode(&datagram)),
    ];
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md")).unwrap();
    let document: String = document.split_whitespace().collect();
    for (what, hex) in shown {
        println!("{what}\n{hex}");
        assert!(document.contains(&hex), "docs/protocol.md does not show this {what}: {hex}");
    }
}
