//! What is published: pages, epochs, and a member that reads whatever stands there.

use client_ctl::core::{Carrier, Input};
use keyserver::core::Published;
use protocol::pages::{Step, Units, Walk, epoch_pieces, places};
use protocol::{GroupId, Suite};

use super::history::HISTORY;
use super::site::{client_by, trusted};
use super::subscriber::Subscriber;
use super::{pieces, sequence};

const GROUP: GroupId = GroupId(1);

fn published() -> impl Iterator<Item = &'static Published> {
    HISTORY.published.iter().filter(|publication| publication.group == GROUP).map(|publication| &publication.part)
}

/// A page or index.
pub(super) fn page(data: &[u8]) -> bool {
    places(data, Suite::Aes256).is_ok()
}

pub(super) fn page_seeds() -> Vec<Vec<u8>> {
    let pages = published().filter_map(|part| match part {
        Published::Pages { rewritten, .. } => Some(rewritten.added.iter().map(|(_, octets)| octets.clone())),
        _ => None,
    });
    pages.flatten().collect()
}

/// A head, and pages behind it. Accepted: it is signed. Pages that are not the wanted ones are refused.
pub(super) fn head(data: &[u8]) -> bool {
    let mut parts = pieces(data);
    let Ok(mut walk) = Walk::new(parts.next().unwrap_or_default(), &trusted(), HISTORY.me.client) else { return false };
    for octets in parts {
        let Ok(Step::Read(wanted)) = walk.step() else { break };
        assert!(!wanted.is_empty() && wanted.len() < 64, "it wants {} pages", wanted.len());
        let taken = wanted.iter().filter(|digest| walk.give(**digest, octets).is_ok()).count();
        assert!(taken <= 1, "one page under several names");
    }
    true
}

pub(super) fn head_seeds() -> Vec<Vec<u8>> {
    let heads = published().filter_map(|part| match part {
        Published::Pages { head, rewritten, .. } => {
            let pages = rewritten.added.iter().map(|(_, octets)| octets.as_slice());
            Some(sequence([head.as_slice()].into_iter().chain(pages)))
        }
        _ => None,
    });
    heads.collect()
}

/// A piece of an epoch. Accepted: it comes out as it went in.
pub(super) fn epoch(data: &[u8]) -> bool {
    let Ok(Units { pieces, units }) = Units::decode(data) else { return false };
    let again: Vec<Vec<u8>> = units.into_iter().map(<[u8]>::to_vec).collect();
    let mut again = epoch_pieces(&again);
    assert_eq!(again.len(), 1);
    again[0][..2].copy_from_slice(&pieces.to_be_bytes());
    assert_eq!(again[0], data);
    true
}

pub(super) fn epoch_seeds() -> Vec<Vec<u8>> {
    let epochs = published().filter_map(|part| match part {
        Published::Epoch { units, .. } => Some(epoch_pieces(units)),
        _ => None,
    });
    epochs.flatten().collect()
}

/// What a member finds: a sequence of beacons, each followed by the answers, sequences themselves, to whatever it reads then; an
/// empty answer says that ZooKeeper does not answer. Accepted: an epoch is installed, which is the genuine one then.
pub(super) fn member(data: &[u8]) -> bool {
    let mut subscriber = Subscriber::member_of(client_by(Carrier::Zookeeper));
    let begun = subscriber.at();
    for found in pieces(data) {
        match subscriber.reading.take() {
            None => drop(subscriber.hear(Input::Now { group: GROUP, octets: found })),
            Some((id, _)) if found.is_empty() => drop(subscriber.hear(Input::ReadFailed { id, group: GROUP })),
            Some((id, names)) => {
                let mut found = pieces(found).map(<[u8]>::to_vec);
                let values: Vec<Option<Vec<u8>>> = (0..names).map(|_| found.next()).collect();
                subscriber.hear(Input::Read { id, group: GROUP, values: &values });
            }
        }
        subscriber.holds_genuine_keys();
    }
    let went_on = subscriber.at() > begun;
    subscriber.finish();
    went_on
}

/// One epoch, and the pages.
pub(super) fn member_seeds() -> Vec<Vec<u8>> {
    let units: Vec<Vec<u8>> = published()
        .filter_map(|part| match part {
            Published::Epoch { units, .. } => Some(epoch_pieces(units)[0].clone()),
            _ => None,
        })
        .collect();
    // Each epoch's beacon is published behind it.
    let later = published().skip_while(|part| !matches!(part, Published::Epoch { .. }));
    let beacons: Vec<&Vec<u8>> = later
        .filter_map(|part| match part {
            Published::Beacon(beacon) => Some(beacon),
            _ => None,
        })
        .collect();
    let first = sequence([beacons[0].clone(), sequence(&units[..1])]);
    let all = sequence([beacons[beacons.len() - 1].clone(), sequence(&units)]);
    vec![first, all]
}
