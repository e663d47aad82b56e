//! A storm of real clients on loopback: each with a core, a multicast socket and requests of its own, before a real key server
//! with its store and its registrar. All of them miss one message.

pub(crate) mod ask;
pub(crate) mod client;
pub(crate) mod site;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client_ctl::core::How;
use client_ctl::{RequestFailed, Settings};
use net::admission::Limits;
use net::frame::FrameError;
use net::noise::NoiseError;
use protocol::DataKey;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::Failure;
use crate::table::Row;
use client::{Client, News};
use site::Site;

/// Seconds within which all clients have the present keys.
const ALL_WITHIN: f64 = 30.0;
/// Registrations at once: fewer than the registrar lets in from one address.
pub(crate) const REGISTRATIONS: usize = 8;
/// Descriptors beside those of the clients: the daemons' own, their store, the registrations.
pub(crate) const OTHERS: u64 = 200;
/// Time for all clients to register and to join.
const READY: Duration = Duration::from_secs(180);
/// After so long the storm is given up.
const GIVE_UP: Duration = Duration::from_secs(90);

/// What became of the requests since the message was missed.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) asked: u32,
    /// Now, and at the most.
    open: u32,
    pub(crate) highest: u32,
    pub(crate) later: u32,
    pub(crate) turned_away: u32,
    pub(crate) unanswered: u32,
    pub(crate) registered_again: u32,
    /// Attempts to register, and those that failed.
    pub(crate) registrations: u32,
    pub(crate) not_registered: u32,
}

/// What all clients share.
pub(crate) struct Crowd {
    pub(crate) begun: Instant,
    key_server: SocketAddr,
    /// The epoch whose units nobody hears; 0 for none.
    missed: AtomicU64,
    tally: Mutex<Tally>,
    news: mpsc::UnboundedSender<News>,
}

impl Crowd {
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn registration(&self, succeeded: bool) {
        let mut tally = self.tally();
        tally.registrations += 1;
        tally.not_registered += u32::from(!succeeded);
    }

    fn tell(&self, news: News) {
        // Nobody listens only at the end.
        let _ = self.news.send(news);
    }

    fn opened(&self) {
        let mut tally = self.tally();
        tally.asked += 1;
        tally.open += 1;
        tally.highest = tally.highest.max(tally.open);
    }

    fn closed(&self, reply: &Result<Zeroizing<Vec<u8>>, RequestFailed>, is_later: bool) {
        let mut tally = self.tally();
        tally.open -= 1;
        tally.later += u32::from(is_later);
        match reply {
            Ok(_) => {}
            Err(RequestFailed { error: NoiseError::Frame(FrameError::Io(why)), .. })
                if why.kind() == io::ErrorKind::TimedOut =>
            {
                tally.unanswered += 1;
            }
            // It comes again by itself, as after any connection that fails.
            Err(_) => tally.turned_away += 1,
        }
    }

    /// What was counted until now, but for what is under way; it counts no more.
    pub(crate) fn take_tally(&self) -> Tally {
        let mut tally = self.tally();
        let open = tally.open;
        std::mem::replace(&mut *tally, Tally { open, ..Tally::default() })
    }

    fn registered_again(&self) {
        self.tally().registered_again += 1;
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All rows for so many clients.
pub(crate) fn rows(clients: u32) -> Result<Vec<Row>, Failure> {
    // Each a multicast socket and, all at once at the worst, both ends of a connection.
    descriptors(3 * u64::from(clients) + OTHERS)?;
    let (last, tally) = storm(clients)?;
    let name = |of: &str| format!("storm {clients} clients {of}");
    let (asked, all) = (f64::from(tally.asked), ("of all", f64::from(tally.asked)));
    let requests = |count: u32| (f64::from(count), "requests");
    let door = f64::from(u32::try_from(Limits::default().in_flight)?);
    Ok(vec![
        Row::new(name("until all are current"), (last.as_secs_f64(), "s"), ("promised", ALL_WITHIN), Some(1.0)),
        Row::new(name("requests"), (asked, "requests"), ("clients", f64::from(clients)), None),
        Row::new(name("connections open"), (f64::from(tally.highest), ""), ("handshakes let in", door), None),
        Row::new(name("told to come back"), requests(tally.later), all, None),
        Row::new(name("turned away at the door"), requests(tally.turned_away), all, None),
        Row::new(name("without an answer"), requests(tally.unanswered), all, Some(0.0)),
        Row::new(
            name("registered again"),
            (f64::from(tally.registered_again), ""),
            ("clients", f64::from(clients)),
            None,
        ),
    ])
}

/// Sees to it that this process may open so many descriptors.
pub(crate) fn descriptors(needed: u64) -> Result<(), Failure> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Some(most) = maximum.filter(|most| *most < needed) {
        let why = "raise the hard limit (`ulimit -Hn`, as root) or take fewer";
        return Err(format!("{needed} descriptors are needed, {most} are allowed: {why}").into());
    }
    if current.is_some_and(|current| current < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum })?;
    }
    Ok(())
}

/// When the last client had the present keys, and what it took.
fn storm(clients: u32) -> Result<(Duration, Tally), Failure> {
    let mut site = Site::start(clients)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let all = Gathered::in_turns(&mut site, clients).await?;
        let Gathered { crowd, mut living, mut told, mut holds } = all;
        println!("{clients} clients have registered and joined after {:.1} s", crowd.now().as_secs_f64());

        let epoch = site.group()?.1 + 1;
        crowd.missed.store(epoch, Ordering::Relaxed);
        let _ = crowd.take_tally();
        let begun = crowd.now();
        if site.refresh()? != epoch {
            return Err("the key of the group has changed meanwhile".into());
        }
        let all = follow(&mut holds, &mut told, &mut living, clients, epoch, GIVE_UP).await?;
        let current: Vec<&News> = holds.values().filter(|news| news.epoch >= epoch).collect();
        if !all {
            return Err(
                format!("{} of {clients} clients have the present keys after {GIVE_UP:?}", current.len()).into()
            );
        }
        let keys: BTreeMap<u64, &DataKey> = current.iter().map(|news| (news.epoch, &news.key)).collect();
        if current.iter().any(|news| keys.get(&news.epoch) != Some(&&news.key)) {
            return Err("two clients have two keys of one epoch".into());
        }
        if current.iter().any(|news| news.epoch == epoch && news.how != How::Resync) {
            return Err("a client did not miss the message".into());
        }
        let last = current.iter().map(|news| news.at).max().unwrap_or_default() - begun;
        living.shutdown().await;
        Ok((last, crowd.take_tally()))
    })
}

/// Clients that live, and what they have told.
pub(crate) struct Gathered {
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) living: JoinSet<Result<(), String>>,
    pub(crate) told: mpsc::UnboundedReceiver<News>,
    pub(crate) holds: BTreeMap<u32, News>,
}

impl Gathered {
    /// All of them, some at a time, until they are members.
    pub(crate) async fn in_turns(site: &mut Site, clients: u32) -> Result<Self, Failure> {
        let mut all = Self::begin(site);
        let turns = Arc::new(Semaphore::new(REGISTRATIONS));
        for number in 0..clients {
            let turn = Arc::clone(&turns).acquire_owned().await?;
            all.add(number, site.settings(number)?, Some(turn));
        }
        all.ready(site, clients, READY).await?;
        Ok(all)
    }

    /// Nobody yet.
    pub(crate) fn begin(site: &Site) -> Self {
        let (news, told) = mpsc::unbounded_channel();
        let crowd = Arc::new(Crowd {
            begun: Instant::now(),
            key_server: site.key_server(),
            missed: AtomicU64::new(0),
            tally: Mutex::default(),
            news,
        });
        Self { crowd, living: JoinSet::new(), told, holds: BTreeMap::new() }
    }

    /// One client more, which keeps its turn until it is registered.
    pub(crate) fn add(&mut self, number: u32, settings: Settings, turn: Option<OwnedSemaphorePermit>) {
        self.living.spawn(Client::new(Arc::clone(&self.crowd), number, settings, turn).live());
    }

    /// Waits until there are so many members, and all clients hold the present key.
    pub(crate) async fn ready(&mut self, site: &mut Site, members: u32, limit: Duration) -> Result<(), Failure> {
        let until = self.crowd.now() + limit;
        let clients = u32::try_from(self.living.len())?;
        loop {
            let (there, epoch) = site.group()?;
            let are_all = there == u64::from(members);
            let (holds, told, living) = (&mut self.holds, &mut self.told, &mut self.living);
            if are_all && follow(holds, told, living, clients, epoch, Duration::from_secs(1)).await? {
                return Ok(());
            }
            site.check()?;
            if self.crowd.now() > until {
                return Err(format!("only {there} of {members} have joined after {limit:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Waits, for at most `limit`, until all clients hold the key of this epoch or of a later one. Whether they do.
pub(crate) async fn follow(
    holds: &mut BTreeMap<u32, News>,
    told: &mut mpsc::UnboundedReceiver<News>,
    living: &mut JoinSet<Result<(), String>>,
    clients: u32,
    epoch: u64,
    limit: Duration,
) -> Result<bool, Failure> {
    let until = Instant::now() + limit;
    let all = usize::try_from(clients)?;
    while holds.len() < all || holds.values().any(|news| news.epoch < epoch) {
        tokio::select! {
            Some(news) = told.recv() => drop(holds.insert(news.number, news)),
            Some(ended) = living.join_next() => ended??,
            () = tokio::time::sleep_until(until) => return Ok(false),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_crowd_passes() {
        let (last, tally) = storm(20).unwrap();
        assert!(last < Duration::from_secs(30), "{last:?}");
        assert_eq!((tally.unanswered, tally.registered_again), (0, 0));
        assert!(tally.asked >= 20 && (1..=20).contains(&tally.highest));
    }
}
