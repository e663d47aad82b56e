//! The turn of a key server whose journal is in ZooKeeper: a latch that one of them has at a time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use zk::{Error, Latch, Options, Session, Taken};

use super::turn::{Turn, Waiting};
use crate::store::TERM;

/// Beside the journal's values. It is empty, and says no more than that somebody reigns.
const LATCH: &str = "latch";
/// Without an ensemble nobody can reign; whoever comes back soon enough is found soon enough.
const AGAIN: Duration = Duration::from_millis(500);
/// A watch is a hint, and may be lost with a connection: we look this often anyway.
const GLANCE: Duration = Duration::from_secs(5);

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whoever has the latch reigns. It goes with its session: when that ends, or expires.
pub(super) struct ByLatch {
    session: Arc<Session>,
    /// Under way until the latch is ours. Kept, because whoever waits is interrupted often.
    taking: Option<Work<(Latch, u64)>>,
    /// Under way while it is: until another reign has begun.
    holding: Option<Work<()>>,
}

impl ByLatch {
    pub(super) fn new(options: Options) -> Self {
        Self { session: Arc::new(Session::new(options)), taking: None, holding: None }
    }
}

impl Turn for ByLatch {
    fn comes(&mut self) -> Waiting<'_> {
        Box::pin(async {
            let session = &self.session;
            let taking = self.taking.get_or_insert_with(|| Box::pin(take(session.clone())));
            let (latch, term) = taking.await;
            self.taking = None;
            self.holding = Some(Box::pin(hold(self.session.clone(), latch, term)));
        })
    }

    fn is_over(&mut self) -> Waiting<'_> {
        Box::pin(async {
            match &mut self.holding {
                Some(holding) => holding.await,
                None => std::future::pending().await,
            }
        })
    }

    fn pass(&mut self) -> Waiting<'_> {
        Box::pin(async {
            (self.taking, self.holding) = (None, None);
            self.session.close().await;
        })
    }
}

/// Waits for the latch. With it comes the number that the fence of our reign will have.
async fn take(session: Arc<Session>) -> (Latch, u64) {
    loop {
        match try_to_take(&session).await {
            Ok(Some(taken)) => return taken,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "no turn");
                sleep(AGAIN).await;
            }
        }
    }
}

async fn try_to_take(session: &Session) -> Result<Option<(Latch, u64)>, Error> {
    if let Taken::Ours(latch) = session.take_latch(LATCH, b"").await? {
        let term = session.read(TERM).await?.map_or(0, |held| held.version);
        return Ok(Some((latch, term + 1)));
    }
    let (held, watch) = session.watch(LATCH).await?;
    if held.is_some() {
        let _ = timeout(GLANCE, watch.changed()).await;
    }
    Ok(None)
}

/// Returns when another reign has begun. A latch that goes with an expired session is taken again if nobody was faster.
async fn hold(session: Arc<Session>, latch: Latch, term: u64) {
    let mut latch = Some(latch);
    loop {
        let watch = match session.watch(TERM).await {
            Ok((Some(held), _)) if held.version > term => return,
            Ok((_, watch)) => watch,
            Err(error) => {
                tracing::warn!(%error, "cannot see who reigns");
                sleep(AGAIN).await;
                continue;
            }
        };
        if latch.is_none()
            && let Ok(Taken::Ours(again)) = session.take_latch(LATCH, b"").await
        {
            latch = Some(again);
        }
        let lost = async {
            match &latch {
                Some(latch) => latch.lost().await,
                None => sleep(AGAIN).await,
            }
        };
        let still = tokio::select! {
            _ = timeout(GLANCE, watch.changed()) => true,
            () = lost => false,
        };
        if !still {
            latch = None;
        }
    }
}
