//! Reads what is published in ZooKeeper.

use std::sync::Arc;
use std::time::Duration;

use net::OsEntropy;
use protocol::pages::now_name;
use protocol::{Entropy, GroupId};
use tokio::sync::mpsc;
use zk::{Error, Session};

use super::Happened;

/// A watch may be lost without a word; so it is looked again after this, and a random part of it more.
const GLANCE: Duration = Duration::from_secs(30);
/// Pauses after a failure grow from this
const SHORTEST: Duration = Duration::from_millis(200);
/// to this.
const LONGEST: Duration = Duration::from_secs(5);

/// Tells the newest beacon at once and whenever it changes, until it is aborted.
pub(super) async fn follow(session: Arc<Session>, group: GroupId, happens: mpsc::Sender<Happened>) {
    let name = now_name(group);
    let mut pause = SHORTEST;
    loop {
        match session.watch(&name).await {
            Ok((held, watch)) => {
                pause = SHORTEST;
                if let Some(held) = held {
                    let _ = happens.send(Happened::Now { group, octets: held.value }).await;
                }
                let _ = tokio::time::timeout(spread(GLANCE), watch.changed()).await;
            }
            Err(error) => {
                tracing::debug!(%group, %error, "cannot follow what is published");
                tokio::time::sleep(spread(pause)).await;
                pause = (pause * 2).min(LONGEST);
            }
        }
    }
}

/// Reads all names at once.
pub(super) async fn read(session: Arc<Session>, (id, group): (u64, GroupId), names: Vec<String>) -> Happened {
    let reads = names.into_iter().map(|name| {
        let session = Arc::clone(&session);
        tokio::spawn(async move { session.read(&name).await })
    });
    // All are under way before the first is waited for.
    let reads: Vec<_> = reads.collect();
    let mut values = Vec::with_capacity(reads.len());
    for read in reads {
        let value = read.await.unwrap_or_else(|_| Err(Error::Unknown("the read was cut off".into())));
        match value {
            Ok(held) => values.push(held.map(|held| held.value)),
            Err(error) => {
                tracing::debug!(%group, %error, "cannot read what is published");
                return Happened::ReadFailed { id, group };
            }
        }
    }
    Happened::Read { id, group, values }
}

fn spread(time: Duration) -> Duration {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    time + Duration::from_millis(OsEntropy.below(millis / 2 + 1))
}
