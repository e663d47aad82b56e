//! What must hold: looked at whenever something is sent, heard or committed.

use std::sync::Arc;

use keyserver::store::Op;
use protocol::request::{Outcome, Reply};

use super::{Search, State, Way};
use crate::model::engine::carry_out;
use crate::model::facts::Facts;
use crate::model::server::{Ended, Sent};
use crate::model::tries::{Cause, Effect};

impl Search {
    pub(super) fn effect(&mut self, state: &mut State, server: usize, effect: &Effect) -> Result<(), String> {
        if let Some(why) = &effect.broken {
            return Err(why.clone());
        }
        let deposed = state.reigns.is_some_and(|reigns| reigns != server) && !self.server(state, server).stands_by;
        if let Some(end) = effect.ended {
            match (end.how, end.lost) {
                (Ended::Fenced | Ended::Written, true) if !end.done => self.count("a lost answer is settled as done"),
                (Ended::Fenced | Ended::Written, true) => self.count("a lost answer is settled as not done"),
                (Ended::Late, _) => self.count("a standby that has not read of a reign begins none"),
                (Ended::Deposed, true) => self.count("a lost answer is settled by another's reign"),
                (Ended::Failed, true) => self.count("a lost answer is never settled"),
                (Ended::Deposed, false) => self.count("a deposed key server is stopped by its next write"),
                _ => {}
            }
        }
        for sent in &effect.sent {
            match sent {
                Sent::Datagrams(datagrams) => {
                    let facts = self.facts(state.engine)?;
                    datagrams.iter().try_for_each(|datagram| facts.covers(datagram))?;
                    let bundle = self.world.bundles.number(datagrams.clone());
                    state.sent.insert(bundle);
                    if deposed {
                        self.count("a deposed key server sends late");
                    }
                }
                Sent::Reply { session, message } => {
                    let waits = |way: &Way| *way == Way::At(server, *session);
                    if let Some(member) = state.ways.iter().position(waits) {
                        self.check_reply(state, server, member, message)?;
                        state.ways[member] = Way::Answered(self.world.replies.number(message.clone()));
                    }
                }
                Sent::Frame(_) => {}
            }
        }
        Ok(())
    }

    /// What is granted is in the journal, and so is what it is granted with.
    fn check_reply(&mut self, state: &State, server: usize, member: usize, message: &[u8]) -> Result<(), String> {
        let facts = self.facts(state.engine)?;
        let (client, _) = self.world.setup.members[member];
        for outcome in Reply::decode(message).map_err(|error| error.to_string())?.outcomes {
            match outcome {
                Outcome::Granted(membership) => {
                    facts.covers_beacon(&membership.beacon).map_err(|why| format!("a reply: {why}"))?;
                    if !facts.members.contains(&client) {
                        return Err("a membership was acknowledged and is not in the journal".into());
                    }
                    let stands_by = self.server(state, server).stands_by;
                    let deposed = state.reigns != Some(server);
                    match (stands_by, deposed) {
                        (true, _) => self.count("a standby answers"),
                        (false, true) => self.count("a deposed key server answers"),
                        (false, false) => self.count("a reigning key server answers"),
                    }
                }
                Outcome::Later { .. } => self.count("a standby that is behind says so"),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn hear(&mut self, state: &mut State, member: usize, bundle: u32) -> Result<(), String> {
        let before = self.members[member].get(state.members[member]).at;
        let node = state.members[member];
        self.member(state, member, Cause::Hear(bundle))?;
        let term = self.world.bundles.get(bundle).iter().find_map(|datagram| term(datagram));
        if node == state.members[member] && before.map(|(known, _)| known) > term {
            self.count("a member refuses the deposed key server");
        }
        let after = self.members[member].get(state.members[member]).at;
        if after > before && before.map(|(known, _)| known) < after.map(|(known, _)| known) {
            self.count("a member follows a take-over by multicast");
        }
        Ok(())
    }

    pub(super) fn member(&mut self, state: &mut State, member: usize, cause: Cause) -> Result<(), String> {
        let before = self.members[member].get(state.members[member]).clone();
        state.members[member] = self.members[member].step(state.members[member], cause, &self.world);
        let after = self.members[member].get(state.members[member]);
        if let Some(why) = &after.broken {
            return Err(why.clone());
        }
        if after.at < before.at {
            return Err(format!("a member went back from {:?} to {:?}", before.at, after.at));
        }
        let other = self.members[1 - member].get(state.members[1 - member]);
        match after.keys.iter().find(|(epoch, key)| other.keys.get(epoch).is_some_and(|known| known != *key)) {
            Some((epoch, _)) => Err(format!("two members have different keys for epoch {epoch}")),
            None => Ok(()),
        }
    }

    /// A commit comes to the engine; whether it was carried out.
    pub(super) fn land(&mut self, state: &mut State, server: usize, ops: u32) -> Result<bool, String> {
        let done = match self.landed.get(&(state.engine, ops)) {
            Some(done) => *done,
            None => {
                let after = carry_out(self.world.states.get(state.engine), self.ops.get(ops), self.mutant);
                let done = after.map(|values| self.world.states.number(Arc::new(values)));
                self.landed.insert((state.engine, ops), done);
                done
            }
        };
        let Some(after) = done else { return Ok(false) };
        let replaces =
            |wanted: &str| self.ops.get(ops).iter().any(|op| matches!(op, Op::Replace { name, .. } if name == wanted));
        let (fences, writes) = (replaces("term"), replaces("head"));
        if fences {
            if state.held.iter().any(|(whose, _)| *whose != server) {
                self.count("a take-over with a write of the other held back");
            }
            state.reigns = Some(server);
        }
        let known = self.facts(state.engine)?;
        state.engine = after;
        // It is all the same to the check which of the two comes first: what was there stays there.
        let now = self.facts(after)?;
        if !now.records.starts_with(&known.records) {
            return Err("a record that was committed is gone or another".into());
        }
        if writes && state.reigns != Some(server) {
            return Err("a deposed key server commits after the other's fence".into());
        }
        Ok(true)
    }

    pub(super) fn facts(&mut self, engine: u32) -> Result<Arc<Facts>, String> {
        if let Some(facts) = self.facts.get(&engine) {
            return Ok(facts.clone());
        }
        let facts = Facts::of(self.world.states.get(engine), self.world.setup.members);
        let facts = Arc::new(facts.map_err(|why| format!("the journal cannot be carried out again: {why}"))?);
        self.facts.insert(engine, facts.clone());
        Ok(facts)
    }
}

fn term(datagram: &[u8]) -> Option<u64> {
    let beacon = protocol::Beacon::decode(datagram).ok().map(|beacon| beacon.context.term);
    beacon.or_else(|| protocol::unit::Unit::decode(datagram).ok().map(|unit| unit.header.epoch.term))
}
