//! What the journal says, read anew in every state of the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use keyserver::core::{Admin, AdminReply, Core, Input, Output};
use keyserver::store::{MemoryBackend, Store};
use protocol::request::{Losses, Operations, Outcome, Reply, Request, RequestId, Resync};
use protocol::unit::{Kind, Unit, kind};
use protocol::{Beacon, MemberId};

use super::GROUP;
use super::engine::Values;
use super::server::{config, journal};
use crate::dice::Dice;

/// A journal carried out again.
pub(super) struct Facts {
    /// Records, opened.
    pub(super) records: Vec<Vec<u8>>,
    /// The first beacon of each epoch in which there was a member.
    pub(super) epochs: BTreeMap<u64, Beacon>,
    /// Members now.
    pub(super) members: Vec<MemberId>,
    /// Digests of the groups.
    pub(super) digests: Vec<(u32, u64, [u8; 32])>,
}

impl Facts {
    pub(super) fn of(values: &Values, members: [(MemberId, u64); 2]) -> Result<Self, String> {
        let backend = MemoryBackend::default();
        backend.roll_back(values.clone());
        let mut journal = journal(backend, 77).map_err(|error| error.to_string())?;
        let loaded = journal.load().map_err(|error| error.to_string())?;
        let core = Core::stand_by(Duration::ZERO, config(), Box::new(Dice::new(1)), None, &[]);
        let mut core = core.map_err(|error| error.to_string())?;
        let mut now = Duration::from_secs(1);
        let mut epochs = BTreeMap::new();
        for record in &loaded.records {
            core.followed(now, std::slice::from_ref(record)).map_err(|error| error.to_string())?;
            for who in members {
                now += Duration::from_secs(10);
                if let Some(beacon) = beacon(&mut core, now, who) {
                    let known = *epochs.entry(beacon.context.epoch).or_insert(beacon);
                    if known != beacon {
                        return Err(format!("epoch {} has two beacons", beacon.context.epoch));
                    }
                }
            }
        }
        core.handle(now, Input::Admin { ticket: 1, command: Admin::Members { group: GROUP.into() } });
        let members = match core.poll_output() {
            Some(Output::AdminReply { result: Ok(AdminReply::Members(list)), .. }) => {
                list.members.into_iter().map(|member| member.client).collect()
            }
            _ => Vec::new(),
        };
        let records = loaded.records.iter().map(|record| record.to_vec()).collect();
        Ok(Self { records, epochs, members, digests: core.digests() })
    }

    /// Whether what this datagram says was committed.
    pub(super) fn covers(&self, datagram: &[u8]) -> Result<(), String> {
        match kind(datagram) {
            Ok(Kind::Unit) => {
                let unit = Unit::decode(datagram).map_err(|error| error.to_string())?;
                let header = unit.header.epoch;
                let known = self.epochs.get(&header.epoch);
                match known.is_some_and(|known| known.header_hash == header.hash(&known.commitment)) {
                    true => Ok(()),
                    false => Err(format!("a unit of ({}, {}) that is not in the journal", header.term, header.epoch)),
                }
            }
            Ok(Kind::Beacon) => self.covers_beacon(datagram),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The same for a beacon.
    pub(super) fn covers_beacon(&self, beacon: &[u8]) -> Result<(), String> {
        let beacon = Beacon::decode(beacon).map_err(|error| error.to_string())?;
        let (context, said) = (beacon.context, |b: &Beacon| (b.context, b.commitment, b.header_hash));
        match self.epochs.get(&context.epoch).is_some_and(|known| said(known) == said(&beacon)) {
            true => Ok(()),
            false => Err(format!("a beacon of ({}, {}) that is not in the journal", context.term, context.epoch)),
        }
    }
}

/// What a member that asks is told.
fn beacon(core: &mut Core, now: Duration, (client, registration): (MemberId, u64)) -> Option<Beacon> {
    let resync = Resync { group: GROUP.into(), seen: (0, 0), have: 0, losses: Losses::default() };
    let request = Request { id: RequestId([1; 16]), operations: Operations::Resyncs(vec![resync]) };
    core.handle(now, Input::Request { session: 1, client, registration, message: &request.encode() });
    let mut told = None;
    while let Some(output) = core.poll_output() {
        if let Output::Reply { message, .. } = output
            && let Some(Outcome::Granted(membership)) = Reply::decode(&message).ok()?.outcomes.first()
        {
            told = Beacon::decode(&membership.beacon).ok();
        }
    }
    told
}
