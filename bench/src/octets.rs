//! What churn costs on the wire: octets per change and per member-hour, multicast and unicast.

use keygraph::{Change, Degree, MemberId, Strategy};
use protocol::{Beacon, Reason};

use crate::Failure;
use crate::server::Server;
use crate::table::Row;

/// Group sizes.
const SIZES: [u32; 2] = [10_000, 1_000_000];
/// Changes in ten seconds: as many leaves as joins.
const CHURN: [u32; 3] = [1, 10, 100];
/// Batches of each case, of members all over the group.
const BATCHES: u32 = 60;
/// Octets of a beacon, one with each epoch and one a second, as long as there is more than one epoch in eight seconds.
const BEACON: usize = Beacon::MAX_LEN - 384 + 64;
/// Octets that TLS 1.3 needs to send one member one key of 32 octets: record header, key, type, authentication tag.
const TLS: f64 = 5.0 + 32.0 + 1.0 + 16.0;

/// All rows.
pub(crate) fn rows() -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for members in SIZES {
        let mut chain = Server::new(members, Strategy::Chain, Degree::new(2)?)?;
        let mut group = Server::new(members, Strategy::Group, Degree::new(4)?)?;
        chain.repair = fec::RepairScheme::default();
        group.repair = fec::RepairScheme::default();
        for tenths in CHURN {
            let churn = f64::from(tenths) / 10.0;
            let [ours, theirs] = [per_change(&chain, members, tenths)?, per_change(&group, members, tenths)?];
            let name = |of: &str| format!("octets {members} members, {churn} changes/s, {of}");
            let unicast = TLS * f64::from(members);
            let hour = |per_change: f64| per_change * churn * 3_600.0 / 1e3;
            rows.push(Row::new(name("multicast, a change"), (ours, "octets"), ("group-oriented, d=4", theirs), None));
            let each = ("unicast TLS, a key to each", unicast);
            rows.push(Row::new(name("sent, a change"), (ours, "octets"), each, None));
            let all = ("unicast TLS, of one member", hour(TLS));
            rows.push(Row::new(name("a member receives in an hour"), (hour(ours), "kB"), all, None));
        }
    }
    Ok(rows)
}

/// Datagrams with repair units and beacons, in octets a change. A second is a batch if anything changes in it.
fn per_change(server: &Server, members: u32, tenths: u32) -> Result<f64, Failure> {
    let each = (tenths / 10).max(1);
    let (mut octets, mut changes) = (0usize, 0u32);
    for batch in 0..BATCHES {
        // A prime step, so that leavers are all over the group.
        let leaver = |i: u32| MemberId(1 + (batch * 104_729 + i * 7_919) % members);
        let list: Vec<Change> = (0..each)
            .map(|i| {
                if (batch + i).is_multiple_of(2) {
                    Change::Leave(leaver(i))
                } else {
                    Change::Join(MemberId(members + 1 + i))
                }
            })
            .collect();
        let sent = server.change(&list, Reason::Batch)?;
        octets += sent.datagrams.iter().map(Vec::len).sum::<usize>();
        // Seconds without a change have beacons too, fewer and fewer: 1, 2 and 4 s after one.
        let beacons = if tenths < 10 { 4 } else { 1 };
        octets += beacons * BEACON;
        changes += each;
    }
    Ok(f64::from(u32::try_from(octets)?) / f64::from(changes))
}
