//! What an operator does to a store while no key server uses it.

use std::path::Path;
use std::time::Duration;

use net::entropy::OsEntropy;

use super::standby::carry_out;
use super::{RunError, open_store, site_key};
use crate::config::Checked;
use crate::core::{Config, Core, RecoveryPlan};
use crate::store::{self, Loaded, Stopping, Store};

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
/// With `damaged` it goes on from what was stored before the first damaged record, and gives up the rest. How many records
/// that is, is returned too.
///
/// # Errors
/// See [`RunError`].
pub fn recover(checked: Checked, seen: (u64, u64), damaged: bool) -> Result<(RecoveryPlan, u64), RunError> {
    let Checked { core: config, file, store: place, .. } = checked;
    let (mut key, _lock) = site_key(&place, &file.store_key)?;
    key.forget_mark();
    go_on(open_store(place, key, Stopping::default())?.as_mut(), config, seen, damaged)
}

fn go_on(
    store: &mut dyn Store,
    config: Config,
    seen: (u64, u64),
    damaged: bool,
) -> Result<(RecoveryPlan, u64), RunError> {
    let (Loaded { snapshot, records }, lost) = if damaged { store.salvage()? } else { (store.load()?, 0) };
    let snapshot = snapshot.as_ref().map(|snapshot| snapshot.as_slice());
    // What cannot be read is refused before anything is changed; what was written meanwhile is read behind the fence.
    let mut core = Core::stand_by(Duration::ZERO, config, Box::new(OsEntropy), snapshot, &records)?;
    store.fence()?;
    carry_out(&mut core, Duration::ZERO, &store.follow()?)?;
    let (plan, record) = core.recover(seen)?;
    match lost {
        0 => store.append(&[&record])?,
        _ => {
            core.followed(Duration::ZERO, &[record])?;
            store.begin_anew(&core.snapshot(Duration::ZERO))?;
        }
    }
    Ok((plan, lost))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use super::super::standby::tests::{Server, config, journal, live};
    use super::*;
    use crate::core::LEAP;
    use crate::store::MemoryBackend;
    use protocol::request::Outcome;

    #[test]
    fn a_damaged_store_goes_on_from_what_is_whole_and_far_beyond_what_was_lost() {
        live(async {
            let backend = MemoryBackend::default();
            let first = Server::start(&backend, 1);
            first.reigns(1, 0).await;
            let who = first.register().await;
            let before = backend.values();
            assert!(matches!(first.join(who, 1).await, Some(Outcome::Granted(_))));
            first.shutdown.trigger();
            first.end().await.unwrap();
            // The first proof of the key, and the epoch with its member.
            let mut values = backend.values();
            let new: Vec<String> = values.keys().filter(|name| !before.contains_key(*name)).cloned().collect();
            assert_eq!(new.len(), 2);
            let damaged: u64 = new.iter().map(|name| u64::from(values.remove(name).is_some())).sum();
            backend.roll_back(values.clone());
            let go_on = |damaged| go_on(&mut journal(&backend, 2), config(), (0, 0), damaged);
            let refused = go_on(false).unwrap_err().to_string();
            assert!(refused.contains("`keystone recover --damaged` goes on without them"), "{refused}");
            assert!(backend.values() == values, "nothing was changed");
            assert_eq!(go_on(true).unwrap().1, damaged);
            let (plan, lost) = go_on(true).unwrap();
            assert_eq!(lost, 0, "once is enough");
            let second = Server::start(&backend, 3);
            let status = second.reigns(plan.term + 1, LEAP).await;
            assert_eq!(status.groups[0].members, 0, "a join that is lost has to be made again");
            assert!(matches!(second.join(who, 2).await, Some(Outcome::Granted(_))));
            second.shutdown.trigger();
            second.end().await.unwrap();
        });
    }

    #[test]
    fn what_cannot_be_read_is_not_fenced_off() {
        let backend = MemoryBackend::default();
        let mut newer = journal(&backend, 1);
        let mut record = Core::restored_record();
        record[0] += 1;
        newer.fence().unwrap();
        newer.append(&[&record]).unwrap();
        let written = backend.values();
        let refused = go_on(&mut journal(&backend, 2), config(), (0, 0), false).unwrap_err().to_string();
        assert!(refused.contains("a newer Keystone"), "{refused}");
        assert!(backend.values() == written);
        newer.append(&[&record]).unwrap();
    }
}
