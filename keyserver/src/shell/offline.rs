//! What an operator does to a store while no key server uses it.

use std::path::Path;
use std::time::Duration;

use net::entropy::OsEntropy;

use super::{RunError, open_store, site_key};
use crate::config::Checked;
use crate::core::{Core, RecoveryPlan};
use crate::store::{self, Loaded, Stopping};

/// Fills an empty store from a backup. The key server issues nothing before [`recover`].
///
/// # Errors
/// See [`RunError`]; a store that is not empty stays as it is.
pub fn restore(checked: Checked, backup: &Path, key: &Path) -> Result<(), RunError> {
    let Checked { core: config, file, store: place, .. } = checked;
    let snapshot = store::read_backup(backup, key)?;
    let (key, _lock) = site_key(&place, &file.store_key)?;
    let mut store = open_store(place, key, Stopping::default())?;
    let Loaded { snapshot: present, records } = store.load()?;
    if present.is_some() || !records.is_empty() {
        return Err(RunError::NotEmpty);
    }
    let mark = [Core::restored_record()];
    let core = Core::stand_by(Duration::ZERO, config, Box::new(OsEntropy), Some(&snapshot), &mark)?;
    store.fence()?;
    Ok(store.snapshot(&core.snapshot(Duration::ZERO))?)
}

/// Lets the key server go on from a store that was restored, that has gone back, or that members know to have lost
/// something: with a higher term and with epochs far beyond the highest known. `seen`: a term and an epoch that somebody has
/// seen, as far as the operator knows.
///
/// # Errors
/// See [`RunError`].
pub fn recover(checked: Checked, seen: (u64, u64)) -> Result<RecoveryPlan, RunError> {
    let Checked { core: config, file, store: place, .. } = checked;
    let (mut key, _lock) = site_key(&place, &file.store_key)?;
    key.forget_mark();
    let mut store = open_store(place, key, Stopping::default())?;
    store.fence()?;
    let Loaded { snapshot, records } = store.load()?;
    let snapshot = snapshot.as_ref().map(|snapshot| snapshot.as_slice());
    let mut core = Core::stand_by(Duration::ZERO, config, Box::new(OsEntropy), snapshot, &records)?;
    let (plan, record) = core.recover(seen)?;
    store.append(&[&record])?;
    Ok(plan)
}
