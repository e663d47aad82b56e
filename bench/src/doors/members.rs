//! Who is rekeyed, asks and registers while others flood.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client_ctl::{Registered, Settings, register, request};
use net::OsEntropy;
use protocol::Entropy;
use protocol::request::{Act, Losses, Operations, Outcome, Reply, Request, RequestId, Resync};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Failure;
use crate::crowd::client::{dial, host};
use crate::crowd::site::{GROUP, Site};
use crate::crowd::{Crowd, Gathered};

/// Between two keys of the group.
const REKEY: Duration = Duration::from_secs(1);
/// Between two requests of a member that asks, and between two registrations.
const ASK: Duration = Duration::from_secs(1);
/// Before a client comes again, at first; then twice as long each time, as clients do.
const AGAIN: Duration = Duration::from_millis(250);
/// Who registers, among those who wait.
const REGISTERING: u32 = u32::MAX;
/// In which the last key must come, or the flood has won.
const GIVE_UP: Duration = Duration::from_secs(60);

/// How long something took.
#[derive(Debug, Clone, Default)]
pub(super) struct Times {
    pub(super) count: usize,
    pub(super) median: Duration,
    /// 99 of 100.
    pub(super) most: Duration,
    pub(super) last: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
        let at = |share| at(share).copied().unwrap_or_default();
        Self { count: times.len(), median: at(50), most: at(99), last: at(100) }
    }
}

/// What happened in one flood.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// From the order to rekey to the key, each key at each member.
    pub(super) keys: Times,
    /// From the wish to the answer, through all attempts.
    pub(super) asked: Times,
    pub(super) registered: Times,
}

#[derive(Default)]
struct Noted {
    /// When each key was ordered, on the crowd's clock.
    ordered: BTreeMap<u64, Duration>,
    asked: Vec<Duration>,
    registered: Vec<Duration>,
    /// Who wants what since when, and has not got it.
    waiting: BTreeMap<u32, Instant>,
}

type Notes = Arc<Mutex<Noted>>;

fn of(notes: &Notes) -> MutexGuard<'_, Noted> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Members {
    site: Arc<Site>,
    all: Gathered,
    notes: Notes,
    tasks: JoinSet<Result<(), String>>,
}

impl Members {
    /// The group is rekeyed from here on, and these ask and register without an end.
    pub(super) async fn start(
        site: Arc<Site>,
        all: Gathered,
        asking: Vec<(u32, Settings)>,
        registering: Settings,
    ) -> Result<Self, Failure> {
        let (notes, mut tasks) = (Notes::default(), JoinSet::new());
        for (number, settings) in asking {
            let registered = register(&settings).await?;
            let asker = Asker { number, settings, registered, key_server: site.key_server(), notes: notes.clone() };
            asker.ask(Operations::Changes(vec![(Act::Join, GROUP.into())])).await;
            tasks.spawn(asker.live());
        }
        of(&notes).asked.clear();
        tasks.spawn(registers(registering, notes.clone()));
        tasks.spawn(rekeys(site.clone(), all.crowd.clone(), notes.clone()));
        Ok(Self { site, all, notes, tasks })
    }

    pub(super) fn site(&self) -> Arc<Site> {
        self.site.clone()
    }

    /// What was before does not count.
    pub(super) async fn begin(&mut self) {
        // Nobody waits because of the flood before.
        let until = Instant::now() + GIVE_UP;
        let waits = |notes: &Notes| of(notes).waiting.values().any(|since| since.elapsed() > AGAIN / 2);
        while waits(&self.notes) && Instant::now() < until {
            sleep(AGAIN / 10).await;
        }
        while self.all.told.try_recv().is_ok() {}
        let mut notes = of(&self.notes);
        *notes = Noted { waiting: std::mem::take(&mut notes.waiting), ..Noted::default() };
    }

    /// Everything since the beginning, when all have the last key that was ordered.
    pub(super) async fn end(&mut self) -> Result<Heard, Failure> {
        if let Some(ended) = self.tasks.try_join_next() {
            return Err(format!("somebody has ended: {ended:?}").into());
        }
        let ordered = of(&self.notes).ordered.clone();
        let (&last, _) = ordered.last_key_value().ok_or("no key was ordered")?;
        let mut keys: Vec<Duration> = Vec::new();
        let clients = self.all.living.len();
        let until = Instant::now() + GIVE_UP;
        // Who misses one and has a later one has waited for that long.
        let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
        while newest.values().filter(|epoch| **epoch >= last).count() < clients {
            let news = tokio::select! {
                Some(news) = self.all.told.recv() => news,
                () = sleep_until(until) => return Err(format!("epoch {last} did not come to all").into()),
            };
            let before = newest.insert(news.number, news.epoch).unwrap_or(0);
            let since = ordered.range(before + 1..=news.epoch).map(|(_, at)| news.at.saturating_sub(*at));
            keys.extend(since);
        }
        let mut notes = of(&self.notes);
        // Who still waits has waited for so long.
        let (mut asked, mut registered) = (std::mem::take(&mut notes.asked), std::mem::take(&mut notes.registered));
        for (number, since) in &notes.waiting {
            if *number == REGISTERING { &mut registered } else { &mut asked }.push(since.elapsed());
        }
        drop(notes);
        Ok(Heard { keys: Times::of(keys), asked: Times::of(asked), registered: Times::of(registered) })
    }
}

/// Orders a new key every second.
async fn rekeys(site: Arc<Site>, crowd: Arc<Crowd>, notes: Notes) -> Result<(), String> {
    loop {
        let (site, at) = (site.clone(), crowd.now());
        let epoch = tokio::task::spawn_blocking(move || site.refresh().map_err(|error| error.to_string()));
        let epoch = epoch.await.map_err(|error| error.to_string())??;
        of(&notes).ordered.insert(epoch, at);
        sleep_until(crowd.begun + at + REKEY).await;
    }
}

async fn registers(settings: Settings, notes: Notes) -> Result<(), String> {
    loop {
        let (begun, mut pause) = (Instant::now(), AGAIN);
        of(&notes).waiting.insert(REGISTERING, begun);
        while register(&settings).await.is_err() {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
        {
            let mut noted = of(&notes);
            noted.waiting.remove(&REGISTERING);
            noted.registered.push(begun.elapsed());
        }
        sleep_until(begun + ASK).await;
    }
}

struct Asker {
    number: u32,
    settings: Settings,
    registered: Registered,
    key_server: std::net::SocketAddr,
    notes: Notes,
}

impl Asker {
    async fn live(self) -> Result<(), String> {
        sleep(ASK.mul_f64(f64::from(self.number % 10) / 10.0)).await;
        loop {
            let begun = Instant::now();
            let resync = Resync { group: GROUP.into(), seen: (0, 0), have: u64::MAX, losses: Losses::default() };
            self.ask(Operations::Resyncs(vec![resync])).await;
            sleep_until(begun + ASK).await;
        }
    }

    /// Asks until there is an answer, and notes how long that took.
    async fn ask(&self, operations: Operations) {
        let (begun, mut pause) = (Instant::now(), AGAIN);
        of(&self.notes).waiting.insert(self.number, begun);
        let message = Request { id: RequestId(OsEntropy.array()), operations }.encode();
        loop {
            let from = host(self.number);
            let who = (self.registered.client, self.registered.registration);
            let dial = |_| dial(from, self.key_server);
            let reply = request(&self.settings, dial, who, &self.registered.key, &message).await;
            let is_granted = |reply: Reply| reply.outcomes.iter().all(|one| matches!(one, Outcome::Granted(_)));
            if reply.is_ok_and(|reply| Reply::decode(&reply).is_ok_and(is_granted)) {
                break;
            }
            sleep(pause / 2 + pause.mul_f64(f64::from(self.number % 10) / 20.0)).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
        let mut noted = of(&self.notes);
        noted.waiting.remove(&self.number);
        noted.asked.push(begun.elapsed());
    }
}
