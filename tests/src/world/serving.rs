//! The key server and its store, and what is noted of what it does.

use std::collections::BTreeSet;
use std::time::Duration;

use keygraph::Degree;
use keyserver::core as server;
use keyserver::store::Store;
use protocol::identity::IdentityPattern;
use protocol::{Authentication, GroupId, MemberId};

use super::{GROUPS, Happening, World, Write, delay, identity, signing_key};

/// Everybody may join. In the second group nobody may be silent for long.
fn access(group: &str) -> server::Access {
    let lease = (group == GROUPS[1]).then_some(LEASE);
    let rule = server::Rule {
        who: IdentityPattern::parse("spiffe://sim/member/*").unwrap(),
        kinds: Authentication::ALL.to_vec(),
        grant: Some(server::Grant { lease, ..server::Grant::ALL }),
        place: "the only rule".into(),
    };
    server::Access::new([rule]).unwrap()
}

/// Shorter than most are cut off for.
const LEASE: Duration = Duration::from_secs(5);

impl World {
    pub(super) fn start_server(&mut self) {
        let group = |id: u32, name: &str| server::GroupConfig {
            published: self.story.published,
            degree: Degree::new(self.degree).unwrap(),
            suite: self.suite,
            strategy: self.strategy,
            splicing: self.splicing,
            batch: self.batch,
            compaction: 3,
            repair: self.story.repair,
            max_members: 100,
            refresh: Some(Duration::from_secs(17)),
            beacon: Duration::from_secs(1),
            beacon_max: Duration::from_secs(1),
            resync_wait: Duration::from_millis(500),
            send_delay: Duration::from_millis(200),
            keep_old: Duration::from_secs(3),
            ..server::GroupConfig::plain(
                GroupId(id),
                name,
                ([239, 0, 0, u8::try_from(id).unwrap()], 7_000).into(),
                access(name),
            )
        };
        let config = server::Config {
            registrars: vec![(
                identity("registrar/r"),
                vec![(Authentication::Certificate, IdentityPattern::parse("spiffe://sim/member/*").unwrap())],
            )],
            groups: vec![group(1, GROUPS[0]), group(2, GROUPS[1])],
            bits_per_second: 8_000_000,
            ..server::Config::plain("ks", signing_key(self.signs))
        };
        let loaded = self.store.load().unwrap();
        let snapshot = loaded.snapshot.as_ref().map(|snapshot| snapshot.as_slice());
        let entropy = Box::new(self.dice.fork());
        self.server = Some(server::Core::start(config, entropy, snapshot, &loaded.records).expect("a start"));
        self.server_life += 1;
        self.record.count("server starts");
        self.reconcile();
        self.drain_server();
        if self.issued.is_some() {
            self.tell_keys();
        }
        self.server_input(server::Input::RegistrarUp { link: 1, identity: identity("registrar/r") });
    }

    /// What a killed key server had written and not told may be true or not; from here on it is what the new one says.
    /// What was told is true in any case: `record` holds no more than that, so nobody may be missing.
    pub(super) fn reconcile(&mut self) {
        let Some(core) = self.server.as_mut() else { return };
        for (id, name) in (1..).map(GroupId).zip(GROUPS) {
            for command in [server::Admin::Members { group: name.into() }, server::Admin::Status] {
                core.handle(self.now + self.server_ahead, server::Input::Admin { ticket: 0, command });
            }
            let mut answers = Vec::new();
            let mut others = Vec::new();
            while let Some(output) = core.poll_output() {
                match output {
                    server::Output::AdminReply { result, .. } => answers.push(result.unwrap()),
                    other => others.push(other),
                }
            }
            let life = self.server_life;
            for output in others {
                if let server::Output::Persist(records) = output {
                    let records = records.iter().map(|record| record.to_vec()).collect();
                    self.numbers += 1;
                    let at = (self.now + Duration::from_millis(2), self.numbers);
                    self.queue.insert(at, Happening::Persisted { life, write: Write::Append(records) });
                }
            }
            let (members, epoch) = match (&answers[0], &answers[1]) {
                (server::AdminReply::Members(members), server::AdminReply::Status(status)) => {
                    let members: BTreeSet<MemberId> = members.members.iter().map(|member| member.client).collect();
                    (members, status.groups.iter().find(|group| group.id == id).unwrap().epoch)
                }
                other => panic!("{other:?}"),
            };
            let group = self.record.groups.entry(id).or_default();
            let told = group.rights.keys().last().copied().unwrap_or(0);
            if epoch < told {
                self.record.complaints.push(format!("group {id} fell back from epoch {told} to {epoch}"));
            } else if epoch == told && members != group.members {
                self.record
                    .complaints
                    .push(format!("group {id}: members are {members:?}, told were {:?}", group.members));
            }
            for missed in told + 1..=epoch {
                group.rights.insert(missed, members.clone());
            }
            group.members = members;
        }
    }

    pub(super) fn store_write(&mut self, write: Write) {
        match write {
            Write::Append(records) => {
                let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
                self.store.append(&records).unwrap();
            }
            Write::Snapshot(snapshot) => self.store.snapshot(&snapshot).unwrap(),
        }
    }

    pub(super) fn kill_server(&mut self) {
        self.server = None;
        self.sessions.clear();
        // Whether they were evicted nobody was told: nothing is promised to them.
        for (group, client) in std::mem::take(&mut self.tickets).into_values() {
            self.clients[client].evicted.insert(group);
        }
        self.record.count("server crashes");
        // What was being written is durable or it is not.
        let keys: Vec<(Duration, u64)> = (self.queue.iter())
            .filter(|(_, happening)| matches!(happening, Happening::Persisted { .. }))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            if let Some(Happening::Persisted { write, .. }) = self.queue.remove(&key)
                && self.dice.chance(50)
            {
                self.store_write(write);
            }
        }
        if self.story.dead_from.is_some_and(|from| from <= self.now) {
            return;
        }
        let after = delay(&mut self.dice, 3_000);
        self.at(self.now + after, Happening::ServerStarts);
    }

    pub(super) fn server_input(&mut self, input: server::Input<'_>) {
        let now = self.clock(self.server_ahead);
        if let Some(core) = self.server.as_mut() {
            core.handle(now, input);
            self.drain_server();
        }
    }

    pub(super) fn drain_server(&mut self) {
        let life = self.server_life;
        while let Some(output) = self.server.as_mut().and_then(server::Core::poll_output) {
            match output {
                server::Output::Persist(records) => {
                    let records = records.iter().map(|record| record.to_vec()).collect();
                    self.server_later(5, Happening::Persisted { life, write: Write::Append(records) });
                }
                server::Output::Snapshot(snapshot) => {
                    self.server_later(5, Happening::Persisted { life, write: Write::Snapshot(snapshot.to_vec()) });
                }
                server::Output::ToRegistrar { frame, .. } => self.on_registrar(&frame),
                server::Output::Reply { session, message } => {
                    let Some((client, life, id)) = self.sessions.remove(&session) else { continue };
                    if self.fails(client) {
                        self.record.count("replies lost");
                        self.later(client, 2_000, Happening::RequestFailed { client, life, id, refused: false });
                    } else {
                        self.later(client, 50, Happening::Reply { client, life, id, message: message.to_vec() });
                    }
                }
                server::Output::Datagram { destination, octets } => self.multicast(destination, &octets),
                server::Output::Publish(publication) => self.publish(*publication),
                server::Output::AdminReply { ticket, result } => {
                    if let (Some((group, client)), Ok(_)) = (self.tickets.remove(&ticket), result) {
                        self.clients[client].evicted.insert(group);
                        self.record.count("evictions");
                    }
                }
                server::Output::Event(event) => self.note(event),
                // Nobody has asked for that.
                server::Output::Subscribed { .. }
                | server::Output::Push { .. }
                | server::Output::EndSubscription { .. } => {}
                server::Output::Refuse { .. }
                | server::Output::CloseRegistrar { .. }
                | server::Output::Answer { .. }
                | server::Output::Halt => {
                    self.record.complaints.push("the key server refused something that was right".into());
                }
            }
        }
    }

    pub(super) fn note(&mut self, event: server::Event) {
        match event {
            server::Event::Epoch(epoch) => {
                let group = self.record.groups.entry(epoch.group).or_default();
                if group.rights.keys().last().is_some_and(|last| epoch.epoch <= *last) {
                    self.record.complaints.push(format!("epoch {} of group {} came again", epoch.epoch, epoch.group));
                }
                if group.terms.values().last().is_some_and(|last| epoch.term < *last) {
                    self.record.complaints.push(format!("term {} after a higher one", epoch.term));
                }
                group.terms.insert(epoch.epoch, epoch.term);
                group.newest_at = self.now;
                group.epoch(&epoch.plan);
                self.record.count("epochs");
            }
            server::Event::Given { group, client, keys, earlier } => {
                let group = self.record.groups.entry(group).or_default();
                group.given.extend(keys.into_iter().map(|key| (client, key)));
                group.given_data.extend(earlier.into_iter().map(|epoch| (client, epoch)));
            }
            server::Event::Ended { cause: Some(server::Cause::Lapsed), .. } => self.record.count("lapses"),
            server::Event::Misbehaved { peer, how } => self.record.complaints.push(format!("{peer}: {how}")),
            _ => {}
        }
    }
}
