//! The tokio shell: owns the clock, the sockets and the store, and holds no rule of the protocol.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the shell owns the clock and the sockets")]

mod admin;
mod commands;
mod engine;
mod events;
mod latch;
mod offline;
mod policy;
mod presence;
mod publisher;
mod queues;
mod registrars;
mod relays;
mod requests;
mod standby;
mod subscribers;
mod turn;

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use net::admission::Admission;
use net::config::ConfigError;
use net::entropy::OsEntropy;
use net::exit::Exit;
use net::reload::Reloads;
use net::secret_file::SecretFileError;
use net::shutdown::Shutdown;
use thiserror::Error;
use tokio::net::TcpListener;

use crate::config::{Checked, Place};
use crate::core::{Core, RestoreError};
use crate::store::{BackupError, Badge, Journal, RedbBackend, SiteKey, Stopping, Store, StoreError, ZooKeeperBackend};
use commands::{Command, commands};
use engine::{Engine, Ways};
use latch::ByLatch;
pub use offline::{recover, restore};
use presence::Presence;
use publisher::Publisher;
use relays::Relays;
use turn::{Alone, Turn};

/// Why the key server does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store's key file cannot be used.
    #[error(transparent)]
    StoreKey(#[from] SecretFileError),
    /// Another process has it.
    #[error("the store's key {} is in use by another process; each key server has a copy of its own", .0.display())]
    KeyInUse(PathBuf),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A backup cannot be read.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A backup is restored to an empty store only.
    #[error("the store is not empty; a backup is restored to a store that does not exist yet")]
    NotEmpty,
    /// The store holds what this key server cannot start from.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A port or socket cannot be had.
    #[error("cannot listen on {what}: {source}")]
    Listen {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A multicast socket cannot be had.
    #[error(transparent)]
    Multicast(#[from] net::multicast::MulticastError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] net::tls::TlsError),
    /// Another key server has begun a reign.
    #[error("another key server reigns now; started again, this one stands by for it")]
    Deposed,
    /// Another process runs with the same Noise key.
    #[error(
        "{0} runs as this key server: it has the same Noise key, and this one ends. Two key servers of a site share their name \
         and have keys and files of their own (`keystone pki init --standbys`)"
    )]
    Twin(String),
    /// The store failed while running; what was not acknowledged is lost, what was is not.
    #[error("the store failed; stopped so that nothing is acknowledged that is not durable")]
    Halted,
}

/// What drains at a stop gets this long.
const DRAIN: Duration = Duration::from_secs(5);

/// The binary `keyserver`.
pub fn main(args: net::Args) -> ExitCode {
    if let Err(error) = net::logs::init(args.log_json) {
        eprintln!("keyserver: {error}");
        return Exit::Usage.into();
    }
    let checked = match Checked::load(&args.config) {
        Ok(checked) => checked,
        Err(error) => {
            eprintln!("keyserver: {error}");
            return Exit::Usage.into();
        }
    };
    if args.check {
        println!("{}: ok", args.config.display());
        return Exit::Ok.into();
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("keyserver: cannot start the runtime: {error}");
            return Exit::Failure.into();
        }
    };
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(|source| RunError::Listen { what: "signals".into(), source })?;
        run(checked, shutdown).await
    });
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("keyserver: {error}");
            match error {
                RunError::Config(_) | RunError::StoreKey(_) => Exit::Usage.into(),
                _ => Exit::Failure.into(),
            }
        }
    }
}

/// Runs until `shutdown`, then finishes what was accepted.
pub async fn run(checked: Checked, shutdown: Shutdown) -> Result<(), RunError> {
    let Checked { core: config, file, store: place, publish, credentials, keys, key_files, policy } = checked;
    // There is one. It is the name of this process for as long as it runs, whatever becomes of the key.
    let noise = keys.noise.public().next().copied().unwrap_or_default();
    let (key, _lock) = site_key(&place, &file.store_key)?;
    let mut presence = match &place {
        Place::File(_) => None,
        Place::ZooKeeper(options) => {
            let badge = Badge::new(&key, &noise);
            Some(Presence::new(options.clone(), badge, &this_process(file.listen_requests))?)
        }
    };
    if let Some(presence) = &mut presence {
        tokio::select! {
            begun = presence.begin() => begun?,
            () = shutdown.wait() => return Ok(()),
        }
    }
    let groups = config.groups.clone();
    let turn: Box<dyn Turn> = match &place {
        Place::File(_) => Box::new(Alone),
        Place::ZooKeeper(options) => Box::new(ByLatch::new(options.clone())),
    };
    let stopping = StopAtEnd(Stopping::default());
    // In ZooKeeper this waits for a quorum.
    let opening = tokio::task::spawn_blocking({
        let stopping = stopping.0.clone();
        move || {
            let mut store = open_store(place, key, stopping)?;
            store.load().map(|loaded| (store, loaded))
        }
    });
    let (store, loaded) = tokio::select! {
        opened = opening => opened.map_err(|_| RunError::Halted)??,
        () = shutdown.wait() => return Ok(()),
    };
    let snapshot = loaded.snapshot.as_ref().map(|snapshot| snapshot.as_slice());
    let core = Core::stand_by(Duration::ZERO, config, Box::new(OsEntropy), snapshot, &loaded.records)?;
    drop(loaded);

    let requests = listen("requests", file.listen_requests)?;
    let registrars = listen("registrars", file.listen_registrars)?;
    let admin = admin::bind(&file)
        .map_err(|source| RunError::Listen { what: file.admin_socket.display().to_string(), source })?;
    let ways = Ways {
        multicast: file.multicast(),
        relays: Relays::open(&file.relays, file.dscp)?,
        publisher: Publisher::start(publish),
    };
    let (reloads, commands) = (Reloads::default(), commands());
    let handle = commands.0.clone();
    let keys = policy::follow_keys(key_files, keys, handle.clone(), &reloads)?;
    let mut engine = Engine::new(core, store, turn, ways, keys.clone(), commands);
    groups.iter().try_for_each(|group| engine.add_destination(group.destination))?;
    let identity = credentials.identity().clone();
    let door = registrars::Door::follow(file.tls.clone(), credentials, &reloads)?;
    let _policy = policy::follow(policy, handle.clone(), &reloads)?;
    // Before anybody is answered.
    engine.command(Command::Revoked(policy::revoked(&door)));
    let taken = engine.take_keys(policy::for_core(&keys.get()));
    taken.map_err(|why| ConfigError::invalid("signing_key", why))?;
    tracing::info!(
        name = %file.name,
        requests = %file.listen_requests,
        registrars = %file.listen_registrars,
        %identity,
        "key server is up"
    );
    let about =
        admin::About { keys: keys.clone(), reloads, requests: requests::admission(), registrars: Admission::default() };
    let request_door = requests::Door::new(file.name.clone(), keys, handle.clone(), about.requests.clone());
    let doors = async {
        tokio::join!(
            requests::serve(requests, request_door),
            registrars::serve(registrars, door.clone(), handle.clone(), about.registrars.clone()),
            policy::tell_revoked(door, handle.clone()),
            admin::serve(admin, &file, about.clone(), handle.clone()),
        )
    };
    let engine = engine.run(shutdown.clone(), DRAIN);
    let patience = async {
        shutdown.wait().await;
        tokio::time::sleep(DRAIN).await;
        stopping.0.stop();
        std::future::pending::<()>().await;
    };
    let doubled = async {
        match &mut presence {
            Some(presence) => presence.is_doubled().await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = engine => result,
        _ = doors => Ok(()),
        () = patience => Ok(()),
        twin = doubled => Err(twin),
    };
    if let Some(presence) = presence {
        presence.end().await;
    }
    result
}

/// As an operator would look for it.
fn this_process(requests: SocketAddr) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "an unnamed host" } else { host.trim() };
    format!("process {} on {host}, which takes requests at {requests},", std::process::id())
}

/// Opens the journal. In ZooKeeper it waits for a quorum, here and later, until `stopping`.
fn open_store(place: Place, key: SiteKey, stopping: Stopping) -> Result<Box<dyn Store>, StoreError> {
    let entropy = Box::new(OsEntropy);
    Ok(match place {
        Place::File(path) => Box::new(Journal::open(RedbBackend::open(&path)?, key, entropy)?),
        Place::ZooKeeper(options) => Box::new(Journal::open(ZooKeeperBackend::new(options, stopping)?, key, entropy)?),
    })
}

/// The key that seals the store, and what keeps others from it as long as it is held: two processes that replace the file could
/// leave an empty one. A file and its key are made together; a store without its key is not overwritten.
fn site_key(place: &Place, path: &Path) -> Result<(SiteKey, File), RunError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let io = |source| SecretFileError::Io { path: name.clone().into(), source };
    let lock = File::create(&name).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(RunError::KeyInUse(path.to_owned())),
        Err(TryLockError::Error(source)) => return Err(io(source).into()),
    }
    if matches!(place, Place::File(store) if !store.exists() && !path.exists()) {
        SiteKey::create(path, &mut OsEntropy)?;
    }
    Ok((SiteKey::open(path)?, lock))
}

/// However the key server ends, nobody waits for its store any longer.
struct StopAtEnd(Stopping);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn listen(what: &str, address: SocketAddr) -> Result<TcpListener, RunError> {
    net::listen(address).map_err(|source| RunError::Listen { what: format!("{address} for {what}"), source })
}
