//! Publishes rekey messages and pages in ZooKeeper, for members without multicast. Nothing ever waits for it: while the ensemble
//! is away, what is newer takes the place of what is older.
//!
//! Every transaction checks the version of `owner`, which each reign replaces once: a key server that was deposed changes
//! nothing more, however late it is.

#[cfg(test)]
mod tests;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::GroupId;
use protocol::pages::{FOLDERS, head_name, now_name};
use tokio::sync::Notify;
use zk::{Error, Op, Options, Session};

use self::wanted::{Change, Listing, Step, Wanted};
use crate::core::Publication;

/// Who publishes: the term of the reign.
const OWNER: &str = "owner";
/// Pauses after a failure grow from this
const SHORTEST: Duration = Duration::from_millis(100);
/// to this.
const LONGEST: Duration = Duration::from_secs(3);
/// At the end, what is not written yet gets so long.
const FLUSH: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    term: u64,
    groups: BTreeMap<GroupId, Wanted>,
    /// Groups of which it is known what stands.
    listed: BTreeSet<GroupId>,
    /// Another reign publishes.
    is_over: bool,
}

/// What the engine talks to. Without an ensemble it forgets whatever it is told.
#[derive(Clone, Default)]
pub(super) struct Publisher(Option<Arc<Shared>>);

struct Shared {
    state: Mutex<State>,
    news: Notify,
    written: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever died while holding it was carrying out one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    /// Starts a task that ends with the process.
    pub(super) fn start(options: Option<Options>) -> Self {
        let Some(options) = options else { return Self(None) };
        let shared = Arc::new(Shared { state: Mutex::default(), news: Notify::new(), written: Notify::new() });
        tokio::spawn(run(shared.clone(), Session::new(options)));
        Self(Some(shared))
    }

    /// A reign has begun: from here on it is the one that publishes.
    pub(super) fn reign(&self, term: u64) {
        if let Some(shared) = &self.0 {
            shared.lock().term = term;
        }
    }

    pub(super) fn publish(&self, Publication { group, part }: Publication) {
        if let Some(shared) = &self.0 {
            shared.lock().groups.entry(group).or_insert_with(|| Wanted::new(group)).publish(part);
            shared.news.notify_one();
        }
    }

    /// Waits until all is written, half a second at the most.
    pub(super) async fn flush(&self) {
        let Some(shared) = &self.0 else { return };
        let written = async {
            while shared.lock().next().is_some() {
                shared.written.notified().await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, written).await;
    }
}

impl State {
    /// A group that has something to be written.
    fn next(&self) -> Option<GroupId> {
        let mut groups = self.groups.iter().filter(|_| !self.is_over);
        groups.find(|(_, wanted)| wanted.step().is_some()).map(|(group, _)| *group)
    }

    /// The step of each group that has one.
    fn steps(&self) -> Vec<(GroupId, Step)> {
        self.groups.iter().filter_map(|(group, wanted)| Some((*group, wanted.step()?))).collect()
    }
}

async fn run(shared: Arc<Shared>, session: Session) {
    let mut pause = SHORTEST;
    let mut fails = false;
    loop {
        match work(&shared, &session).await {
            Ok(()) => {
                tracing::warn!("another key server publishes; this one does not any more");
                shared.lock().is_over = true;
                return;
            }
            Err(error) => {
                if !fails {
                    tracing::warn!(%error, "cannot publish in ZooKeeper; trying on");
                }
                fails = true;
            }
        }
        // What stands has to be looked at anew, whatever the answer was.
        let wrote = !std::mem::take(&mut shared.lock().listed).is_empty();
        pause = if wrote { SHORTEST } else { (pause * 2).min(LONGEST) };
        fails &= !wrote;
        tokio::time::sleep(pause).await;
    }
}

/// Writes until it is not this key server's any more, or a call fails.
async fn work(shared: &Shared, session: &Session) -> Result<(), Error> {
    let mut owner: Option<(u64, u64)> = None;
    loop {
        let (term, steps) = {
            let state = shared.lock();
            (state.term, state.steps())
        };
        if steps.is_empty() {
            shared.written.notify_waiters();
            shared.news.notified().await;
            continue;
        }
        let version = match owner {
            Some((of, version)) if of == term => version,
            _ => match claim(session, term).await? {
                None => return Ok(()),
                Some(version) => owner.insert((term, version)).1,
            },
        };
        for (group, step) in steps {
            if !shared.lock().listed.contains(&group) {
                let listing = list(session, group, version).await?;
                let mut state = shared.lock();
                state.listed.insert(group);
                if let Some(wanted) = state.groups.get_mut(&group) {
                    wanted.listed(listing);
                }
                continue;
            }
            if !step.changes.is_empty() {
                write(session, &step.changes, version).await?;
            }
            if let Some(wanted) = shared.lock().groups.get_mut(&group) {
                wanted.done(step);
            }
        }
    }
}

/// The version of `owner` under this term; `None` if a later reign has it.
async fn claim(session: &Session, term: u64) -> Result<Option<u64>, Error> {
    let value = term.to_be_bytes();
    let Some(held) = session.read(OWNER).await? else {
        session.multi(&[Op::Create { name: OWNER, value: &value }]).await?;
        return Ok(Some(0));
    };
    let before = held.value.as_slice().try_into().map_or(0, u64::from_be_bytes);
    match before.cmp(&term) {
        std::cmp::Ordering::Greater => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(held.version)),
        std::cmp::Ordering::Less => {
            session.multi(&[Op::Set { name: OWNER, value: &value, version: held.version }]).await?;
            Ok(Some(held.version + 1))
        }
    }
}

async fn write(session: &Session, changes: &[Change], owner: u64) -> Result<(), Error> {
    let mut ops = vec![Op::Check { name: OWNER, version: owner }];
    ops.extend(changes.iter().map(|change| match change {
        Change::Make(name, value) => Op::Create { name, value },
        Change::Replace(name, value, version) => Op::Set { name, value, version: *version },
        Change::Remove(name) => Op::Delete { name },
    }));
    session.multi(&ops).await
}

/// What stands of a group; its folders are made if they are missing.
async fn list(session: &Session, group: GroupId, owner: u64) -> Result<Listing, Error> {
    let (top, epochs, pages) = (group.to_string(), format!("{group}/e"), format!("{group}/p"));
    let folders: Vec<String> = (0..FOLDERS).map(|folder| format!("{pages}/{folder:x}")).collect();
    let Some(standing) = session.children(&epochs).await? else {
        let all = [&top, &epochs, &pages].into_iter().chain(&folders);
        let made: Vec<Change> = all.map(|name| Change::Make(name.clone(), Vec::new())).collect();
        write(session, &made, owner).await?;
        return Ok(Listing::default());
    };
    let mut listing = Listing {
        now: session.read(&now_name(group)).await?.map(|held| held.version),
        head: session.read(&head_name(group)).await?.map(|held| held.version),
        epochs: standing,
        pages: Vec::new(),
    };
    for folder in &folders {
        listing.pages.extend(session.children(folder).await?.unwrap_or_default());
    }
    Ok(listing)
}
