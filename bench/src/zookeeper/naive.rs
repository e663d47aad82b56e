//! The paper's way over a real ensemble: one znode that holds the newest key, and members that watch it. The key manager is a client of
//! ZooKeeper as far away as its members: for each join it saves the operation, waits, writes the key and waits. Members' own znodes
//! with the key encryption key are left out, in its favour.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fec::SplitMix64;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zk::{Op, Options, Role, Session};

use super::real::{DRAIN, RUN, Seen, arrivals};
use super::relay::{Relay, hop};
use crate::Failure;

const OPERATION: &str = "operation";
const KEY: &str = "key";

fn options(address: &str, role: Role, digest: Option<&Path>) -> Result<Options, Failure> {
    let digest = digest.map(Path::to_path_buf);
    let session_timeout = Duration::from_secs(10);
    Ok(Options { ensemble: address.parse()?, role, session_timeout, tls: None, digest, owners: Vec::new() })
}

/// Runs the experiment at a rate of joins a second, `pause` between two keys.
pub(super) async fn run(
    relay: &Relay,
    (root, digest): (&str, &Path),
    (rate, pause): (f64, Duration),
    seed: u64,
) -> Result<Seen, Failure> {
    let address = relay.address(root);
    let session = Session::new(options(&address, Role::Publisher, Some(digest))?);
    let make = [OPERATION, KEY].map(|name| Op::Create { name, value: &[0; 8] });
    session.multi(&make).await?;
    let mut random = SplitMix64::new(seed);
    let asked = arrivals(rate, &mut random);
    let (mut made, mut members) = (BTreeMap::new(), JoinSet::new());
    let begun = Instant::now();
    for (at, number) in asked.into_iter().zip(1u64..) {
        tokio::time::sleep_until(begun + at).await;
        if begun.elapsed() > RUN {
            break;
        }
        let (value, version) = (number.to_be_bytes(), number - 1);
        session.multi(&[Op::Set { name: OPERATION, value: &value, version }]).await?;
        made.insert(number, begun.elapsed());
        session.multi(&[Op::Set { name: KEY, value: &value, version }]).await?;
        let reader = Session::new(options(&address, Role::Reader, None)?);
        members.spawn(member(reader, number, begun, begun.elapsed() + hop(&mut random)));
        tokio::time::sleep(pause).await;
    }
    tokio::time::sleep_until(begun + RUN + DRAIN).await;
    let mut seen = Seen { made, ..Seen::default() };
    while let Some(got) = members.join_next().await {
        seen.members.push(got??);
    }
    Ok(seen)
}

/// A member with the key of this number from the reply to its join: when it had which others.
async fn member(
    session: Session,
    number: u64,
    begun: Instant,
    replied: Duration,
) -> Result<super::real::Member, String> {
    tokio::time::sleep_until(begun + replied).await;
    let got = Arc::new(Mutex::new(BTreeMap::new()));
    let watches = async {
        loop {
            let (held, watch) = session.watch(KEY).await.map_err(|error| error.to_string())?;
            let value = held.and_then(|held| held.value.try_into().ok()).map_or(0, u64::from_be_bytes);
            if value > number {
                got.lock().unwrap_or_else(PoisonError::into_inner).entry(value).or_insert(begun.elapsed());
            }
            watch.changed().await;
        }
    };
    let ended: Result<Result<(), String>, _> = tokio::time::timeout_at(begun + RUN + DRAIN, watches).await;
    ended.unwrap_or(Ok(()))?;
    let got = std::mem::take(&mut *got.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(super::real::Member { joined: number, got, asked_again: 0 })
}
