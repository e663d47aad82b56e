//! The attacker who has everything that was ever written, and the site key of now.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::super::MemoryBackend;
use super::super::seal::{Kind, Link, START, Sealer, link};
use super::{HEAD, Journal};

/// A value that opened.
pub(in crate::store) struct Opened {
    pub(in crate::store) kind: Kind,
    pub(in crate::store) plain: Zeroizing<Vec<u8>>,
}

/// Values of one generation, and records in all: more than any test writes.
const VALUES: u64 = 2_000;
/// A value is chained from one of so many before it: a head and a fence may stand between.
const NEAR: usize = 4;
/// Octets of the head's label, which is in clear.
const LABEL: usize = 44;

/// All that opens of snapshots, one after the other, and the records that open.
pub(crate) fn contents(journal: &Journal<MemoryBackend>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut snapshots, mut records) = (Vec::new(), Vec::new());
    for Opened { kind, plain } in opened(journal) {
        match kind {
            Kind::Piece => snapshots.extend_from_slice(&plain),
            Kind::Record => records.push(plain[1..].to_vec()),
            Kind::Head | Kind::Backup | Kind::Presence => {}
        }
    }
    (snapshots, records)
}

/// Whatever opens under a key that can be computed, under the label of any generation, in the order of writing.
pub(in crate::store) fn opened(journal: &Journal<MemoryBackend>) -> Vec<Opened> {
    let (written, key) = (journal.backend.written(), &journal.key);
    let now = key.generation();
    let links: Vec<Link> = written.iter().map(|(_, value)| link(value)).collect();
    let sealers: Vec<Sealer> = (now..now + 3)
        .flat_map(|of| (0..now + 3).map(move |label| (of, label)))
        .map(|(of, label)| Sealer::new(key.of(of).unwrap(), journal.journal, label))
        .collect();
    // The key of names never changes: whoever has it knows what each value was.
    let pieces = (0..now + 2).flat_map(|generation| (0..20).map(move |number| (Kind::Piece, generation, number)));
    let records = (0..VALUES).map(|number| (Kind::Record, 0, number));
    let places: BTreeMap<String, (Kind, u64)> = (pieces.chain(records))
        .map(|(kind, generation, number)| (key.name(kind as u8, generation, number), (kind, number)))
        .collect();
    let mut opened = Vec::new();
    for (index, (name, value)) in written.iter().enumerate() {
        let befores: Vec<Link> = links[index.saturating_sub(NEAR)..index].iter().copied().chain([START]).collect();
        let (kind, number, value) = match places.get(name) {
            Some((kind, number)) => (*kind, *number, value.as_slice()),
            None if name == HEAD => (Kind::Head, 0, &value[LABEL..]),
            None => continue,
        };
        let tries = sealers.iter().flat_map(|sealer| befores.iter().map(move |before| (sealer, before)));
        let mut plain = tries.filter_map(|(sealer, before)| sealer.open(kind, number, before, value));
        opened.extend(plain.next().map(|plain| Opened { kind, plain }));
    }
    opened
}
