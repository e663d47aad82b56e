//! Standing by, and taking over.

use std::time::Duration;

use net::shutdown::Shutdown;
use tokio::time::Instant;

use super::RunError;
use super::engine::{Call, Engine, finished};
use crate::core::{Core, Now, RestoreError};
use crate::store::{Followed, Store, StoreError};

/// Time between two looks of a standby at what was committed: a member that asks it is at most this far behind.
const FOLLOW: Duration = Duration::from_millis(100);
/// A take-over that others disturb is tried again: whoever else wants to reign wins at most as often.
const TAKE_OVERS: u32 = 3;

/// Carries out what others have written.
pub(super) fn carry_out(core: &mut Core, now: Now, followed: &Followed) -> Result<(), RestoreError> {
    match followed {
        Followed::Records(records) => core.followed(now, records),
        Followed::Anew(loaded) => {
            let snapshot = loaded.snapshot.as_ref().map(|snapshot| snapshot.as_slice());
            core.anew(now, snapshot, &loaded.records)
        }
    }
}

impl Engine {
    /// Follows the key server that reigns, and answers out of what it has committed. Whether a reign has begun.
    pub(super) async fn stand_by(&mut self, shutdown: &Shutdown) -> Result<bool, RunError> {
        for _ in 0..TAKE_OVERS {
            if !self.wait_for_turn(shutdown).await? {
                return Ok(false);
            }
            // Whoever does not understand what was written takes nothing over: not even the fence.
            let followed = self.with_store(|store| store.follow()).await?;
            self.followed(followed)?;
            match self.with_store(|store| store.fence()).await {
                // What was written before the fence belongs to the state that goes on.
                Ok(()) => {
                    let followed = self.with_store(|store| store.follow()).await?;
                    self.followed(followed)?;
                    self.tell_clock();
                    self.core.reign(self.started.elapsed())?;
                    return Ok(true);
                }
                // Somebody else has begun a reign that this one has not read of yet.
                Err(StoreError::Deposed(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RunError::Deposed)
    }

    /// Until the turn comes (`true`) or the key server is to stop. A store that does not answer keeps nobody waiting who asks
    /// for what is known already.
    async fn wait_for_turn(&mut self, shutdown: &Shutdown) -> Result<bool, RunError> {
        let mut following: Option<Call<Followed>> = None;
        let mut next = Instant::now();
        let mut is_mine = false;
        while !is_mine || following.is_some() {
            tokio::select! {
                () = self.turn.comes(), if !is_mine => is_mine = true,
                done = finished(&mut following) => {
                    (following, next) = (None, Instant::now() + FOLLOW);
                    let (store, followed) = done.ok_or(RunError::Halted)?;
                    self.store = Some(store);
                    self.followed(followed?)?;
                }
                () = tokio::time::sleep_until(next), if following.is_none() && !is_mine => {
                    following = self.store.take().map(|mut store| tokio::task::spawn_blocking(move || {
                        let followed = store.follow();
                        (store, followed)
                    }));
                }
                command = self.queue.recv() => match command {
                    Some(command) => self.command(command),
                    None => return Ok(false),
                },
                () = shutdown.wait() => return Ok(false),
            }
            self.drain().await;
        }
        Ok(true)
    }

    fn followed(&mut self, followed: Followed) -> Result<(), RunError> {
        Ok(carry_out(&mut self.core, self.started.elapsed(), &followed)?)
    }

    async fn with_store<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Stopped("of this process".into());
        let mut store = self.store.take().ok_or_else(gone)?;
        let task = tokio::task::spawn_blocking(move || {
            let result = work(store.as_mut());
            (store, result)
        });
        let (store, result) = task.await.map_err(|_| gone())?;
        self.store = Some(store);
        result
    }
}

#[cfg(test)]
pub(super) mod tests;
