//! Groups whose rekey messages and wrapped key tree are published in ZooKeeper: what is read there, and when. The shell says when
//! the newest beacon has changed and reads what it is asked to; nothing that it brings is believed unverified.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::pages::{Digest, KEPT_EPOCHS, Step, Units, Walk, epoch_name, head_name, page_name};
use protocol::{Beacon, GroupId};

use super::output::Output;
use super::stream::Carrier;
use super::{Core, Event, Now};

/// Epochs that are asked for at once: what a member keeps ahead of the installed one.
const EPOCHS_AT_ONCE: u64 = 16;
/// Time for an answer of ZooKeeper.
const READ_TIME: Duration = Duration::from_secs(10);
/// Pause after epochs could not be read.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a walk begins anew because the pages changed under it.
const MAX_RESTARTS: u32 = 5;

/// All groups that are read.
#[derive(Default)]
pub(super) struct Published {
    readers: BTreeMap<GroupId, Reader>,
    numbers: u64,
}

struct Reader {
    name: String,
    /// The newest beacon, not verified.
    now: Vec<u8>,
    /// Where this member stood and where that beacon was when the epochs between them were read.
    tried: Option<(u64, u64)>,
    /// When they are read again, because they could not be.
    again: Option<Now>,
    job: Option<Job>,
}

struct Job {
    id: u64,
    until: Now,
    what: What,
}

enum What {
    /// The epochs from the first to the last.
    Epochs {
        first: u64,
        last: u64,
    },
    /// All pieces but the first of an epoch; then on to the last epoch.
    Pieces {
        epoch: u64,
        last: u64,
    },
    Head {
        restarts: u32,
    },
    Pages {
        walk: Box<Walk>,
        wanted: Vec<Digest>,
        restarts: u32,
    },
}

impl Core {
    /// Follows the groups that are to be read, and begins what is due.
    pub(super) fn drive_published(&mut self, now: Now) {
        let mut wanted: BTreeMap<GroupId, String> = BTreeMap::new();
        for (name, group) in self.groups.iter().filter(|(_, group)| group.carrier == Carrier::Zookeeper) {
            if let Some(id) = group.id().filter(|_| group.is_present()) {
                wanted.insert(id, name.clone());
            }
        }
        let gone: BTreeSet<GroupId> =
            self.published.readers.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
        for id in gone {
            self.published.readers.remove(&id);
            self.outputs.push_back(Output::Unfollow(id));
        }
        for (id, name) in wanted {
            if !self.published.readers.contains_key(&id) {
                self.outputs.push_back(Output::Follow(id));
                self.published
                    .readers
                    .insert(id, Reader { name, now: Vec::new(), tried: None, again: None, job: None });
            }
            self.drive_reader(now, id);
        }
    }

    fn drive_reader(&mut self, now: Now, id: GroupId) {
        let Some(reader) = self.published.readers.get_mut(&id) else { return };
        if reader.job.as_ref().is_some_and(|job| job.until <= now) {
            self.job_failed(now, id, "ZooKeeper does not answer");
        }
        let Some(reader) = self.published.readers.get_mut(&id).filter(|reader| reader.job.is_none()) else { return };
        let Some(group) = self.groups.get_mut(&reader.name) else { return };
        if group.pages_due(now) {
            group.begin_pages();
            return self.read(now, id, What::Head { restarts: 0 }, vec![head_name(id)]);
        }
        let (Some((_, have)), Ok(beacon)) = (group.at(), Beacon::decode(&reader.now)) else { return };
        let newest = beacon.context.epoch;
        if reader.again.take_if(|at| *at <= now).is_some() {
            reader.tried = None;
        }
        if newest <= have || reader.tried == Some((have, newest)) {
            return;
        }
        reader.tried = Some((have, newest));
        if newest - have > KEPT_EPOCHS {
            let beacon = reader.now.clone();
            self.datagram(now, &beacon);
            return;
        }
        self.read_epochs(now, id, have + 1, newest);
    }

    fn read_epochs(&mut self, now: Now, id: GroupId, first: u64, last: u64) {
        let names = (first..=last).take(usize::try_from(EPOCHS_AT_ONCE).unwrap_or(usize::MAX));
        let names = names.map(|epoch| epoch_name(id, epoch, 0)).collect();
        self.read(now, id, What::Epochs { first, last }, names);
    }

    fn read(&mut self, now: Now, group: GroupId, what: What, names: Vec<String>) {
        self.published.numbers += 1;
        let id = self.published.numbers;
        if let Some(reader) = self.published.readers.get_mut(&group) {
            reader.job = Some(Job { id, until: now + READ_TIME, what });
            self.outputs.push_back(Output::Read { id, group, names });
        }
    }

    /// When [`Core::drive_published`] has something to do, and what.
    pub(super) fn next_published(&self) -> Option<(Now, &'static str)> {
        let reads = self.published.readers.values().filter_map(|reader| reader.job.as_ref());
        let due = self.published.readers.values().filter(|reader| reader.job.is_none());
        let due = due.filter_map(|reader| self.groups.get(&reader.name)?.pages_at());
        let again = self.published.readers.values().filter_map(|reader| reader.again.filter(|_| reader.job.is_none()));
        let times = reads.map(|job| (job.until, "an answer of ZooKeeper")).chain(due.map(|at| (at, "pages")));
        times.chain(again.map(|at| (at, "epochs"))).min()
    }

    /// What stands where the newest beacon is. Nothing is read because of one that is not signed.
    pub(super) fn found_now(&mut self, now: Now, id: GroupId, octets: &[u8]) {
        let Some(reader) = self.published.readers.get(&id) else { return };
        let Ok(beacon) = Beacon::decode(octets) else { return };
        if reader.now == octets || beacon.context.group != id {
            return;
        }
        let name = reader.name.clone();
        let have = self.groups.get(&name).and_then(|group| group.at()).map(|(_, epoch)| epoch);
        if have.is_none_or(|have| beacon.context.epoch <= have) {
            self.datagram(now, octets);
        } else {
            // One that is ahead waits until the epochs before it were read.
            let mut is_signed = false;
            self.with(now, &name, |group, env| is_signed = group.hurry(env, octets));
            if !is_signed {
                return;
            }
        }
        if let Some(reader) = self.published.readers.get_mut(&id) {
            reader.now = octets.to_vec();
        }
    }

    /// What was read, in the order of the names; `None` for a name that is not there.
    pub(super) fn has_read(&mut self, now: Now, group: GroupId, id: u64, values: &[Option<Vec<u8>>]) {
        let reader = self.published.readers.get_mut(&group);
        let Some(job) = reader.and_then(|reader| reader.job.take_if(|job| job.id == id)) else { return };
        match job.what {
            What::Epochs { first, last } => self.read_some_epochs(now, group, (first, last), values),
            What::Pieces { epoch, last } => {
                for octets in values.iter().flatten() {
                    self.take_units(now, octets);
                }
                if epoch < last { self.read_epochs(now, group, epoch + 1, last) } else { self.take_now(now, group) }
            }
            What::Head { restarts } => {
                let (keys, client) = (self.verifier.keys().to_vec(), self.client);
                let head = values.first().and_then(Option::as_ref);
                match head.zip(client).map(|(head, client)| Walk::new(head, &keys, client)) {
                    Some(Ok(walk)) => self.walk(now, group, Box::new(walk), restarts),
                    Some(Err(error)) => self.pages_failed(now, group, &error.to_string()),
                    None => self.pages_failed(now, group, "there are no pages"),
                }
            }
            What::Pages { mut walk, wanted, restarts } => {
                if values.iter().any(Option::is_none) {
                    if restarts >= MAX_RESTARTS {
                        return self.pages_failed(now, group, "the pages change faster than they can be read");
                    }
                    return self.read(now, group, What::Head { restarts: restarts + 1 }, vec![head_name(group)]);
                }
                let mut given = wanted.iter().zip(values.iter().flatten());
                match given.try_for_each(|(digest, octets)| walk.give(*digest, octets)) {
                    Ok(()) => self.walk(now, group, walk, restarts),
                    Err(error) => self.pages_failed(now, group, &error.to_string()),
                }
            }
        }
    }

    fn read_some_epochs(&mut self, now: Now, group: GroupId, (first, last): (u64, u64), values: &[Option<Vec<u8>>]) {
        for (epoch, octets) in (first..).zip(values) {
            // What is too old is not kept, and what is missing is learnt otherwise.
            let Some(octets) = octets else { return self.take_now(now, group) };
            let pieces = self.take_units(now, octets);
            if pieces > 1 {
                let names = (1..pieces).map(|piece| epoch_name(group, epoch, piece)).collect();
                return self.read(now, group, What::Pieces { epoch, last }, names);
            }
        }
        let next = first.saturating_add(u64::try_from(values.len()).unwrap_or(u64::MAX));
        if next <= last && !values.is_empty() {
            self.read_epochs(now, group, next, last)
        } else {
            self.take_now(now, group)
        }
    }

    /// How many pieces the epoch has.
    fn take_units(&mut self, now: Now, octets: &[u8]) -> u16 {
        let Ok(Units { pieces, units }) = Units::decode(octets) else {
            self.event(Event::Dropped { cause: "a published epoch that is none" });
            return 0;
        };
        for unit in units {
            self.datagram(now, unit);
        }
        pieces
    }

    /// The epochs before it were read, as far as there are any.
    fn take_now(&mut self, now: Now, group: GroupId) {
        if let Some(beacon) = self.published.readers.get(&group).map(|reader| reader.now.clone()) {
            self.datagram(now, &beacon);
        }
    }

    fn walk(&mut self, now: Now, group: GroupId, walk: Box<Walk>, restarts: u32) {
        match walk.step() {
            Ok(Step::Read(wanted)) => {
                let names = wanted.iter().map(|digest| page_name(group, digest)).collect();
                self.read(now, group, What::Pages { walk, wanted, restarts }, names);
            }
            Ok(Step::Done(found)) => {
                let name = self.published.readers.get(&group).map(|reader| reader.name.clone());
                self.with(now, &name.unwrap_or_default(), |group, env| group.read_pages(env, &found));
                // From the pages' epoch on to the newest.
                if let Some(reader) = self.published.readers.get_mut(&group) {
                    reader.tried = None;
                }
            }
            Err(error) => self.pages_failed(now, group, &error.to_string()),
        }
    }

    fn pages_failed(&mut self, now: Now, group: GroupId, why: &str) {
        let name = self.published.readers.get(&group).map(|reader| reader.name.clone()).unwrap_or_default();
        self.with(now, &name, |group, env| group.pages_failed(env, why));
    }

    /// ZooKeeper did not answer, or not in time.
    pub(super) fn read_failed(&mut self, now: Now, group: GroupId, id: u64) {
        let reader = self.published.readers.get(&group);
        if reader.and_then(|reader| reader.job.as_ref()).is_some_and(|job| job.id == id) {
            self.job_failed(now, group, "ZooKeeper cannot be read");
        }
    }

    fn job_failed(&mut self, now: Now, group: GroupId, why: &str) {
        let job = self.published.readers.get_mut(&group).and_then(|reader| reader.job.take());
        match job.map(|job| job.what) {
            Some(What::Head { .. } | What::Pages { .. }) => self.pages_failed(now, group, why),
            Some(What::Epochs { .. } | What::Pieces { .. }) => {
                if let Some(reader) = self.published.readers.get_mut(&group) {
                    reader.again = Some(now + AGAIN);
                }
                self.take_now(now, group);
            }
            None => {}
        }
    }
}
