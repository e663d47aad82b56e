//! The journal's values as znodes below one root of a ZooKeeper ensemble, crate `zk`. What is in them, and their names, are
//! sealed by the journal above.
#![allow(clippy::disallowed_methods, reason = "a store belongs to the shell, which owns the clock")]

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use net::entropy::OsEntropy;
use protocol::Entropy;
use tokio::runtime::{Builder, Runtime};
use zk::{Error, Options, Session};

use super::StoreError;
use super::backend::{Backend, CommitError, Held, Op};

/// How soon a waiting thread sees that the process stops.
const GLANCE: Duration = Duration::from_millis(100);
/// Pauses grow from this
const SHORTEST: Duration = Duration::from_millis(50);
/// to this, so that a quorum that is back is used within seconds, and many key servers do not come in step.
const LONGEST: Duration = Duration::from_secs(3);

/// Says to everybody who waits for ZooKeeper that the process stops. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Stopping(Arc<AtomicBool>);

impl Stopping {
    /// From now on nobody waits.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A root in an ensemble. Calls block; they wait as long as there is no quorum, until [`Stopping::stop`].
pub struct ZooKeeperBackend {
    session: Arc<Session>,
    /// A thread of its own, so that calls may block any other. `None` only while it is dropped.
    runtime: Option<Runtime>,
    stopping: Stopping,
}

impl ZooKeeperBackend {
    /// Checks the options; nothing is sent.
    ///
    /// # Errors
    /// [`StoreError::Io`] with the flaw.
    pub fn new(options: Options, stopping: Stopping) -> Result<Self, StoreError> {
        let place = options.ensemble.to_string();
        let io = |why: &dyn Display| StoreError::Io { place: place.clone(), why: why.to_string() };
        options.check().map_err(|error| io(&error))?;
        if options.digest.is_some() && options.tls.is_none() {
            tracing::warn!(%place, "ZooKeeper's password crosses the network in the clear: no TLS is configured");
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("zookeeper").enable_all().build();
        let runtime = Some(runtime.map_err(|error| io(&error))?);
        Ok(Self { session: Arc::new(Session::new(options)), runtime, stopping })
    }

    /// Does `work` on the runtime; the answer of one that is still under way when the process stops is lost.
    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, CommitError> {
        let unknown = |why: &str| CommitError::Unknown(why.into());
        let runtime = self.runtime.as_ref().ok_or_else(|| unknown("ended"))?;
        let (answer, answered) = mpsc::sync_channel(1);
        runtime.spawn(async move { answer.send(work.await) });
        loop {
            match answered.recv_timeout(GLANCE) {
                Ok(result) => return result.map_err(outcome),
                Err(RecvTimeoutError::Timeout) if !self.stopping.is_set() => {}
                Err(RecvTimeoutError::Timeout) => return Err(unknown("the key server stops")),
                Err(RecvTimeoutError::Disconnected) => return Err(unknown("the call was cut off")),
            }
        }
    }
}

fn outcome(error: Error) -> CommitError {
    match error {
        Error::Conflict { .. } => CommitError::Conflict,
        error if error.is_refusal() => CommitError::Refused(error.to_string()),
        error => {
            tracing::warn!(%error, "ZooKeeper");
            CommitError::Unknown(error.to_string())
        }
    }
}

fn change(op: &Op) -> zk::Op<'_> {
    match op {
        Op::Check { name, version } => zk::Op::Check { name, version: *version },
        Op::Create { name, value } => zk::Op::Create { name, value },
        Op::Replace { name, value, version } => zk::Op::Set { name, value, version: *version },
        Op::Delete { name } => zk::Op::Delete { name },
    }
}

impl Backend for ZooKeeperBackend {
    fn place(&self) -> String {
        self.session.ensemble().to_string()
    }

    fn read(&mut self, name: &str) -> Result<Option<Held>, CommitError> {
        let (session, name) = (self.session.clone(), name.to_owned());
        let held = self.wait(async move { session.read(&name).await })?;
        Ok(held.map(|zk::Held { value, version }| Held { value, version }))
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), CommitError> {
        let (session, ops) = (self.session.clone(), ops.to_vec());
        self.wait(async move { session.multi(&ops.iter().map(change).collect::<Vec<_>>()).await })
    }

    fn pause(&mut self, attempt: u32) -> bool {
        let bound = LONGEST.min(SHORTEST.saturating_mul(1 << attempt.min(10)));
        let mut random = [0; 2];
        OsEntropy.fill(&mut random);
        // Half of it at least.
        let share = 0.5 + f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX) / 2.0;
        let until = Instant::now() + bound.mul_f64(share);
        while !self.stopping.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(GLANCE));
        }
        false
    }
}

impl Drop for ZooKeeperBackend {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            let (session, (done, ended)) = (self.session.clone(), mpsc::sync_channel(1));
            runtime.spawn(async move {
                session.close().await;
                done.send(())
            });
            let _ = ended.recv_timeout(Duration::from_secs(1));
            // Waiting for what is still under way could take as long as the ensemble likes.
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for ZooKeeperBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ZooKeeperBackend({})", self.place())
    }
}
