//! Two processes that run as one key server: an ephemeral znode for each Noise key says that somebody runs with it. Safety
//! rests on the store's fence; this is for the operator, who has copied a configuration whole.

use std::time::Duration;

use net::entropy::OsEntropy;
use tokio::time::{Instant, sleep, timeout};
use zk::{Error, Latch, Options, Session, Taken};

use super::RunError;
use crate::store::{Badge, StoreError};

/// As for the latch: without an ensemble nobody else begins to run either.
const AGAIN: Duration = Duration::from_millis(500);

/// Says, as long as this process runs, that it runs.
pub(super) struct Presence {
    session: Session,
    badge: Badge,
    value: Vec<u8>,
    held: Option<Latch>,
}

impl Presence {
    /// `who` tells the operator which process this is. Nothing is sent yet.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the cipher refuses.
    pub(super) fn new(options: Options, badge: Badge, who: &str) -> Result<Self, StoreError> {
        let refused = || StoreError::Io { place: options.ensemble.to_string(), why: "the cipher refuses".into() };
        let value = badge.seal(who, &mut OsEntropy).ok_or_else(refused)?;
        Ok(Self { session: Session::new(options), badge, value, held: None })
    }

    /// Waits until nobody else runs with our Noise key: for a quorum, and for the session of our own former life.
    ///
    /// # Errors
    /// [`RunError::Twin`] if somebody does, [`RunError::Store`] if ZooKeeper refuses us.
    pub(super) async fn begin(&mut self) -> Result<(), RunError> {
        let mut seen: Option<Instant> = None;
        loop {
            match self.try_to_begin(&mut seen).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(RunError::Store(StoreError::Unsettled { why, .. })) => {
                    tracing::warn!(%why, "ZooKeeper does not say whether another process runs as this key server");
                    sleep(AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_to_begin(&mut self, seen: &mut Option<Instant>) -> Result<bool, RunError> {
        let taken =
            self.session.take_latch(self.badge.name(), &self.value).await.map_err(|error| self.wrong(&error))?;
        let value = match taken {
            Taken::Ours(latch) => {
                self.held = Some(latch);
                return Ok(true);
            }
            Taken::Others(value) => value,
        };
        // ZooKeeper notices the end of a session up to a tick too late, half of the shortest that it grants.
        let patience = self.session.timeout().await.map_err(|error| self.wrong(&error))?.mul_f32(1.5);
        let since = *seen.get_or_insert_with(|| {
            tracing::warn!(
                other = self.badge.open(&value),
                patience_ms = patience.as_millis(),
                "a process runs, or ran a moment ago, as this key server: waiting for its end"
            );
            Instant::now()
        });
        let left = patience.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(RunError::Twin(self.badge.open(&value)));
        }
        let (held, watch) = self.session.watch(self.badge.name()).await.map_err(|error| self.wrong(&error))?;
        if held.is_some() {
            let _ = timeout(left, watch.changed()).await;
        }
        Ok(false)
    }

    /// Returns when another process has begun to run as this key server, which it can only while our session is over.
    pub(super) async fn is_doubled(&mut self) -> RunError {
        loop {
            if let Some(latch) = self.held.take() {
                latch.lost().await;
            }
            match self.begin().await {
                Ok(()) => {}
                Err(twin @ RunError::Twin(_)) => return twin,
                // Whatever it is, the store meets it too, and there it counts.
                Err(error) => {
                    tracing::warn!(%error, "cannot say that this key server runs");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Lets the next one begin at once.
    pub(super) async fn end(mut self) {
        self.held = None;
        self.session.close().await;
    }

    fn wrong(&self, error: &Error) -> StoreError {
        let (place, why) = (self.session.ensemble().to_string(), error.to_string());
        match error.is_refusal() {
            true => StoreError::Io { place, why },
            false => StoreError::Unsettled { place, why },
        }
    }
}
