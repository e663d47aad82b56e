//! The store: what a durable commit costs beside a bare write of the same octets, and a start beside bare reading.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use keyserver::core::{Core, RECORDS_PER_SNAPSHOT};
use keyserver::store::{Journal, Loaded, RedbBackend, SiteKey, Stopping, Store, ZooKeeperBackend};
use tokio::runtime::Runtime;
use zk::{Ensemble, Op, Options, Role, Session};

use crate::Failure;
use crate::keyserver::{Count, KeyServer, config};
use crate::table::Row;

/// Octets of a record: those of one join or leave are 120 to 150.
const RECORD: usize = 128;
/// Records in a commit.
const GROUPED: [usize; 3] = [1, 10, 100];
/// Commits of each kind, in turns with bare writes, so that both meet the same neighbours on the disk.
const ROUNDS: usize = 300;
/// Octets that the journal seals at once, and the bare reading opens at once.
const PIECE: usize = 512 * 1024;
/// Starts, of which the median counts.
const STARTS: usize = 5;

/// All rows; those of an ensemble if there is one, and a digest for it.
pub(crate) fn rows(members: u32, folder: &Path, zookeeper: Option<(&Ensemble, &Path)>) -> Result<Vec<Row>, Failure> {
    let place = Place::make(folder)?;
    let mut file = File::create(place.0.join("bare"))?;
    let bare = |octets: &[u8]| Ok(file.write_all(octets).and_then(|()| file.sync_data())?);
    let mut rows = commits("embedded", embedded(&place.0.join("commits"))?, ("write + fdatasync", bare))?;
    if let Some((ensemble, digest)) = zookeeper {
        let mut bare = Transactions::new(options(ensemble, "bare", digest)?)?;
        let store = in_zookeeper(options(ensemble, "store", digest)?, &place.0.join("zookeeper.key"))?;
        rows.extend(commits("zookeeper", store, ("transaction of one znode", |octets: &[u8]| bare.write(octets)))?);
    }
    rows.extend(start(members, &place.0)?);
    Ok(rows)
}

/// A folder of our own that goes when the measurement ends.
struct Place(PathBuf);

impl Place {
    fn make(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(format!("bench-store-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is seen by whoever looks.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The embedded store as a key server opens it, with its site key in a file beside it.
fn embedded(path: &Path) -> Result<Box<dyn Store>, Failure> {
    let key = path.with_extension("key");
    if !key.exists() {
        SiteKey::create(&key, &mut Count(7))?;
    }
    Ok(Box::new(Journal::open(RedbBackend::open(path)?, SiteKey::open(&key)?, Box::new(Count(8)))?))
}

/// A root of our own in an ensemble.
fn options(ensemble: &Ensemble, name: &str, digest: &Path) -> Result<Options, Failure> {
    Ok(Options {
        role: Role::Keeper,
        ensemble: format!("{ensemble}/{name}-{}", std::process::id()).parse()?,
        session_timeout: Duration::from_secs(10),
        tls: None,
        digest: Some(digest.into()),
        owners: Vec::new(),
    })
}

/// The journal as a key server opens it in an ensemble.
fn in_zookeeper(options: Options, key: &Path) -> Result<Box<dyn Store>, Failure> {
    SiteKey::create(key, &mut Count(7))?;
    let backend = ZooKeeperBackend::new(options, Stopping::default())?;
    Ok(Box::new(Journal::open(backend, SiteKey::open(key)?, Box::new(Count(8)))?))
}

/// What ZooKeeper does at the least to make octets durable.
struct Transactions {
    runtime: Runtime,
    session: Session,
    number: u64,
}

impl Transactions {
    fn new(options: Options) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { runtime, session: Session::new(options), number: 0 })
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), Failure> {
        let name = self.number.to_string();
        self.number += 1;
        Ok(self.runtime.block_on(self.session.multi(&[Op::Create { name: &name, value: octets }]))?)
    }
}

/// Commits to a store, each beside one bare write of the same octets.
fn commits(
    name: &str,
    mut store: Box<dyn Store>,
    (against, mut bare): (&'static str, impl FnMut(&[u8]) -> Result<(), Failure>),
) -> Result<Vec<Row>, Failure> {
    store.load()?;
    store.fence()?;
    // What either opens with is not measured.
    bare(&[1])?;
    let record = [1; RECORD];
    let mut rows = Vec::new();
    for grouped in GROUPED {
        let records = vec![record.as_slice(); grouped];
        let octets = records.concat();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(timed(|| store.append(&records))?);
            theirs.push(timed(|| bare(&octets))?);
        }
        let name = |of: &str| format!("store {name} {grouped} x {RECORD} octets a commit, {of}");
        let (slow, fast) = (micros(median(&mut ours)), micros(median(&mut theirs)));
        rows.push(Row::new(name("median"), (slow, "us"), (against, fast), None));
        rows.push(Row::new(name("added"), (slow - fast, "us"), (against, fast), None));
        let rate = |times: &[Duration]| Ok::<_, Failure>(f64::from(u32::try_from(ROUNDS * grouped)?) / seconds(times));
        rows.push(Row::new(name("records"), (rate(&ours)?, "a second"), (against, rate(&theirs)?), None));
    }
    Ok(rows)
}

/// A start from the snapshot of so many members and the records after it.
fn start(members: u32, folder: &Path) -> Result<Vec<Row>, Failure> {
    let path = folder.join("start");
    let stored = KeyServer::stored(members)?;
    let snapshot = stored.snapshot.as_ref().ok_or("no snapshot was written")?;
    let records: Vec<&[u8]> = stored.records.iter().map(|record| record.as_slice()).collect();
    let octets = snapshot.len() + records.concat().len();
    println!("{members} members: a snapshot of {} octets, {} records after it", snapshot.len(), records.len());
    let bare = Bare::write(&folder.join("sealed"), octets)?;
    let mut store = embedded(&path)?;
    store.load()?;
    store.fence()?;
    store.snapshot(snapshot)?;
    store.append(&records)?;
    drop(store);
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..STARTS {
        let begun = Instant::now();
        let mut store = embedded(&path)?;
        times[0].push(begun.elapsed());
        let begun = Instant::now();
        let Loaded { snapshot, records } = store.load()?;
        times[1].push(begun.elapsed());
        let begun = Instant::now();
        let snapshot = snapshot.as_ref().map(|snapshot| snapshot.as_slice());
        let core = Core::start(config(RECORDS_PER_SNAPSHOT)?, Box::new(Count(9)), snapshot, &records)?;
        times[2].push(begun.elapsed());
        drop(core);
        times[3].push(timed(|| bare.read())?);
    }
    let [open, load, replay, bare] = times.each_mut().map(|times| micros(median(times)) / 1_000.0);
    let name = |of: &str| format!("store embedded, start with {members} members, {of}");
    let against = ("read + decrypt", bare);
    Ok(vec![
        Row::new(name("open and check the file"), (open, "ms"), against, None),
        Row::new(name("read, open and check the journal"), (load, "ms"), against, None),
        Row::new(name("restore and replay"), (replay, "ms"), against, None),
        Row::new(name("all"), (open + load + replay, "ms"), against, None),
    ])
}

/// Sealed octets in a plain file.
struct Bare {
    path: PathBuf,
    key: LessSafeKey,
}

impl Bare {
    fn write(path: &Path, octets: usize) -> Result<Self, Failure> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[3; 32])?);
        let mut file = File::create(path)?;
        let mut left = octets;
        while left > 0 {
            let mut piece = vec![5; left.min(PIECE)];
            left -= piece.len();
            key.seal_in_place_append_tag(nonce(), Aad::empty(), &mut piece)?;
            file.write_all(&piece)?;
        }
        file.sync_all()?;
        Ok(Self { path: path.into(), key })
    }

    fn read(&self) -> Result<(), Failure> {
        let mut octets = fs::read(&self.path)?;
        for piece in octets.chunks_mut(PIECE + AES_256_GCM.tag_len()) {
            self.key.open_in_place(nonce(), Aad::empty(), piece)?;
        }
        Ok(())
    }
}

/// All pieces have the same: what is sealed here is no secret.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn timed<E>(work: impl FnOnce() -> Result<(), E>) -> Result<Duration, E> {
    let begun = Instant::now();
    work().map(|()| begun.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn seconds(times: &[Duration]) -> f64 {
    times.iter().sum::<Duration>().as_secs_f64()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
