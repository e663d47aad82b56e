//! What is logged of what happened.

use crate::core::{Cause, Event};

pub(super) fn log(event: &Event) {
    match event {
        Event::Reign { term, incarnation } => {
            tracing::info!(term, incarnation = %hex::encode(incarnation.0), "a new reign");
        }
        Event::Registered { client, identity, registration, sealed } => {
            tracing::info!(%client, %identity, registration, sealed, "registered");
        }
        Event::Unopened { registrar, identity } => {
            tracing::warn!(%registrar, %identity, "refused: what the client has sealed is for none of this key server's static keys");
        }
        Event::Epoch(epoch) => tracing::info!(
            group = %epoch.group,
            term = epoch.term,
            epoch = epoch.epoch,
            reason = ?epoch.reason,
            members = epoch.members,
            joined = epoch.plan.joined.len(),
            left = epoch.plan.left.len(),
            moved = epoch.plan.compaction.moves,
            messages = epoch.messages,
            octets = epoch.octets,
            units = epoch.units,
            repair_units = epoch.repair_units,
            "new epoch"
        ),
        Event::Given { group, client, .. } => tracing::debug!(%group, %client, "keys given"),
        Event::Ended { group, epoch, client, cause } => {
            tracing::info!(%group, epoch, %client, cause = cause.map_or("left", Cause::name), "membership ended");
        }
        Event::ClockLeapt { seconds, believed } => tracing::error!(
            seconds,
            believed,
            "the wall clock has leapt ahead by more than an hour; for ten minutes it is not believed, then what has ended by it \
             is evicted"
        ),
        Event::KeysDropped { clients } => {
            tracing::info!(?clients, "individual keys dropped: their credentials were revoked");
        }
        Event::PolicyTaken { groups } => tracing::info!(groups, "the policy is in force"),
        Event::PolicyRefused { why } => {
            tracing::error!(
                why,
                "the new policy cannot be taken while the key server runs; the one before stays in force"
            );
        }
        Event::SignsWith { key } => tracing::info!(?key, "another key signs from here on"),
        Event::KeysRefused { why } => tracing::error!(why, "the new signing key is not used; the one before goes on"),
        Event::Denied { group, client, denial } => tracing::info!(group, %client, %denial, "denied"),
        Event::Misbehaved { peer, how } => tracing::warn!(peer, how, "refused"),
        Event::EvictionSent { group, epoch, took } => {
            tracing::info!(%group, epoch, took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX), "eviction sent");
        }
        Event::Stopped { group, witness, seen, known } => tracing::error!(
            %group,
            %witness,
            ?seen,
            ?known,
            "GROUP STOPPED: a member has seen a later signed term or epoch than this key server knows; its store has lost \
             something. Nothing is issued for the group until `keystone recover`"
        ),
        Event::Overflow { datagrams } => tracing::warn!(datagrams, "the sending queue is full"),
    }
}
