//! Standing by: the state of the key server that reigns, followed record by record. A standby answers whoever has missed
//! something out of what is committed, signs nothing, and can take over at any time.

use protocol::request::{Denial, Operations, Outcome, Reply, Request};
use protocol::{Entropy, MemberId};
use zeroize::Zeroizing;

use super::clients::Clients;
use super::restore::RestoreError;
use super::{Admin, AdminError, Config, Core, Input, Now, Output};

/// What a member is told that has seen more than this standby has read yet, in milliseconds: it reads ten times a second.
const CATCH_UP_MS: u32 = 500;

impl Core {
    /// Starts as a standby: restores what the store holds, and goes on with [`Core::followed`].
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn stand_by(
        now: Now,
        config: Config,
        entropy: Box<dyn Entropy>,
        snapshot: Option<&[u8]>,
        records: &[Zeroizing<Vec<u8>>],
    ) -> Result<Self, RestoreError> {
        let mut core = Self::empty(config, entropy)?;
        core.anew(now, snapshot, records)?;
        Ok(core)
    }

    /// Carries out what the key server that reigns has committed since.
    ///
    /// # Errors
    /// See [`RestoreError`]; this core is of no use any more, the store is.
    pub fn followed(&mut self, now: Now, records: &[Zeroizing<Vec<u8>>]) -> Result<(), RestoreError> {
        for record in records {
            self.records += 1;
            self.replay(now, record, self.records)?;
        }
        Ok(())
    }

    /// Forgets everything and begins with this: more was written than could be followed record by record.
    ///
    /// # Errors
    /// As [`Core::followed`].
    pub fn anew(
        &mut self,
        now: Now,
        snapshot: Option<&[u8]>,
        records: &[Zeroizing<Vec<u8>>],
    ) -> Result<(), RestoreError> {
        (self.term, self.records) = (0, 0);
        self.clients = Clients::default();
        self.groups.clear();
        snapshot.map_or(Ok(()), |snapshot| self.restore(snapshot))?;
        self.loaded = records.len();
        self.followed(now, records)
    }

    /// Whether another key server reigns, as far as this one knows.
    pub fn stands_by(&self) -> bool {
        self.standing_by
    }

    /// Digests of all groups, by number: two key servers that have followed the same records have the same.
    pub fn digests(&self) -> Vec<(u32, u64, [u8; 32])> {
        self.groups.values().map(|group| (group.id().0, group.epoch(), group.at.digest)).collect()
    }

    pub(super) fn while_standing_by(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::RegistrarUp { link, .. } => self.outputs.push_back(Output::CloseRegistrar { link }),
            Input::Request { session, client, registration, message } => {
                self.request_while_standing_by(now, session, (client, registration), message);
            }
            Input::Admin { ticket, command: command @ (Admin::Status | Admin::Members { .. } | Admin::Backup) } => {
                self.admin(now, ticket, command);
            }
            Input::Clock { seconds } => self.wall_clock(now, seconds),
            Input::Revoked(names) => self.revoked(now, names),
            Input::Policy(groups) => self.new_policy(now, groups),
            Input::Keys(keys) => self.new_keys(now, keys),
            Input::Admin { ticket, .. } => {
                self.outputs.push_back(Output::AdminReply { ticket, result: Err(AdminError::Standby) });
            }
            Input::RegistrarDown { .. }
            | Input::FromRegistrar { .. }
            | Input::Answered { .. }
            | Input::SubscriberGone { .. }
            | Input::Persisted(_)
            | Input::Timeout => {}
        }
    }

    fn request_while_standing_by(
        &mut self,
        now: Now,
        session: u64,
        (client, registration): (MemberId, u64),
        message: &[u8],
    ) {
        let known = self.individual_key(client, registration).is_some();
        let Some(Request { id, operations }) = Request::decode(message).ok().filter(|_| known) else {
            return self.outputs.push_back(Output::Refuse { session });
        };
        let standby = |count: usize| (0..count).map(|_| Outcome::Denied(Denial::Standby)).collect();
        let outcomes: Vec<Outcome> = match &operations {
            // The first proof of a new key has to be written down, by the one who may write.
            Operations::Resyncs(resyncs) if !self.clients.is_first_proof(client, registration) => {
                let mut outcomes = Vec::with_capacity(resyncs.len());
                for resync in resyncs {
                    let group = self.group_id(&resync.group).and_then(|id| self.groups.get(&id));
                    outcomes.push(match group {
                        Some(group) if group.unrenewed.contains(&client) => Outcome::Denied(Denial::Standby),
                        Some(group) if resync.seen > (group.at.context.term, group.epoch()) => {
                            Outcome::Later { after_ms: CATCH_UP_MS }
                        }
                        // Whoever is no member here may have become one since.
                        Some(group) if !group.contains(client) => Outcome::Denied(Denial::Standby),
                        None => Outcome::Denied(Denial::Standby),
                        Some(_) => self.resync(now, client, resync),
                    });
                }
                outcomes
            }
            Operations::Certificate(begins) => vec![self.newer_certificate(*begins)],
            operations => standby(operations.len()),
        };
        self.reply(session, &Reply { id, outcomes });
    }
}
