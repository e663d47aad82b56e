//! A store with many members that nobody runs, for measurements with real daemons.

use std::path::Path;

use keyserver::config::{Checked, Place};
use keyserver::store::{Journal, SiteKey, Stopping, Store, ZooKeeperBackend};
use net::OsEntropy;

use crate::Failure;
use crate::keyserver::KeyServer;

/// Fills the store of this configuration, which must be empty and in ZooKeeper.
pub(crate) fn fill(config: &Path, members: u32, prefix: &str) -> Result<(), Failure> {
    let Checked { core, file, store: place, .. } = Checked::load(config)?;
    let Place::ZooKeeper(options) = place else {
        return Err("the store is not in ZooKeeper".into());
    };
    let backend = ZooKeeperBackend::new(options, Stopping::default())?;
    let mut store = Journal::open(backend, SiteKey::open(&file.store_key)?, Box::new(OsEntropy))?;
    let loaded = store.load()?;
    if loaded.snapshot.is_some() || !loaded.records.is_empty() {
        return Err("the store is not empty".into());
    }
    let groups = core.groups.len();
    let snapshot = KeyServer::snapshot(members, core, prefix)?;
    store.fence()?;
    store.snapshot(&snapshot)?;
    println!("{groups} groups of {members} members: a snapshot of {} octets", snapshot.len());
    Ok(())
}
