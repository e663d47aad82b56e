//! A network between clients and ZooKeeper: whatever goes through takes 50 to 250 ms more, uniformly, in each direction; order is kept.
#![allow(clippy::disallowed_types, reason = "this is a shell: its sockets are what is measured")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fec::SplitMix64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zk::Ensemble;

use super::HOP;
use crate::Failure;

/// Time of a hop.
pub(super) fn hop(random: &mut SplitMix64) -> Duration {
    Duration::from_secs_f64(HOP.0 + (HOP.1 - HOP.0) * random.fraction())
}

/// Ends with its last handle.
pub(super) struct Relay {
    addresses: Vec<SocketAddr>,
    _doors: JoinSet<()>,
}

impl Relay {
    /// A door for each server of the ensemble.
    pub(super) async fn open(ensemble: &Ensemble, seed: u64) -> Result<Self, Failure> {
        let (mut addresses, mut doors, mut random) = (Vec::new(), JoinSet::new(), SplitMix64::new(seed));
        for host in ensemble.hosts() {
            let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(door.local_addr()?);
            doors.spawn(serve(door, host.to_string(), random.fork()));
        }
        Ok(Self { addresses, _doors: doors })
    }

    /// A root in the ensemble behind it, as in configurations.
    pub(super) fn address(&self, root: &str) -> String {
        let hosts: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        format!("zookeeper://{}/{root}", hosts.join(","))
    }
}

async fn serve(door: TcpListener, to: String, mut random: SplitMix64) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = door.accept().await {
        // A server that is away is a connection that closes.
        let Ok(far) = TcpStream::connect(&to).await else { continue };
        let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
        let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
        connections.spawn(pass(from_near, to_far, random.fork()));
        connections.spawn(pass(from_far, to_near, random.fork()));
        while connections.try_join_next().is_some() {}
    }
}

/// Passes octets on, each some time after it came, until one side closes.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut random: SplitMix64) {
    let (send, mut held) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let hear = async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(length) = from.read(&mut buffer).await {
            let due = Instant::now() + hop(&mut random);
            if length == 0 || send.send((due, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    };
    let say = async move {
        while let Some((due, octets)) = held.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&octets).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(hear, say);
}
