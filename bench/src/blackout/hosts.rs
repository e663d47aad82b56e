//! Lets each client register from an address of its own, as if it were a host of its own: a registrar bounds what comes from one
//! address. A client connects to its own address, and what listens there passes the connection on from that address.
#![allow(clippy::disallowed_types, reason = "a carrier of octets between sockets")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::Failure;
use crate::crowd::client::{dial, host};

pub(super) struct Hosts {
    /// Where each client finds its registrar.
    pub(super) addresses: Vec<String>,
    open: Arc<Open>,
    _listening: JoinSet<()>,
}

/// Connections to the registrar: now, and at the most.
#[derive(Default)]
struct Open(AtomicU32, AtomicU32);

impl Hosts {
    pub(super) async fn open(clients: u32, registrar: SocketAddr) -> Result<Self, Failure> {
        let (mut addresses, mut listening, open) = (Vec::new(), JoinSet::new(), Arc::<Open>::default());
        for number in 0..clients {
            let listener = TcpListener::bind((host(number), 0)).await?;
            addresses.push(listener.local_addr()?.to_string());
            let open = open.clone();
            listening.spawn(async move {
                while let Ok((near, _)) = listener.accept().await {
                    tokio::spawn(pass(near, number, registrar, open.clone()));
                }
            });
        }
        Ok(Self { addresses, open, _listening: listening })
    }

    pub(super) fn highest(&mut self) -> u32 {
        self.open.1.load(Ordering::Relaxed)
    }
}

async fn pass(mut near: TcpStream, number: u32, registrar: SocketAddr, open: Arc<Open>) {
    let passed = match dial(host(number), registrar).await {
        Ok(mut far) => {
            let now = open.0.fetch_add(1, Ordering::Relaxed) + 1;
            open.1.fetch_max(now, Ordering::Relaxed);
            let nodelay = near.set_nodelay(true).and(far.set_nodelay(true));
            let copied = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            open.0.fetch_sub(1, Ordering::Relaxed);
            nodelay.and(copied.map(drop))
        }
        Err(error) => Err(error),
    };
    if passed.is_err() {
        // As it was done to us.
        let _ = near.set_zero_linger();
    }
}
