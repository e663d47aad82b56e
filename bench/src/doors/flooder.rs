//! Who floods: threads of their own, many source addresses, connections that are reset at their end.
#![allow(clippy::disallowed_types, reason = "this floods sockets")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::Failure;

/// Connections at once of a flood by rate: ten times what a door lets in.
const AT_ONCE: u32 = 1_000;
/// For an answer, after which a connection is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between octets of a slow connection, and before the next after one that was closed.
const SLOW_STEP: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub(super) enum Sources {
    One,
    Many(u16),
}

impl Sources {
    fn address(self, number: u32) -> Ipv4Addr {
        let number = match self {
            Self::One => 0,
            Self::Many(count) => number % u32::from(count),
        };
        let [.., high, low] = (number + 1).to_be_bytes();
        Ipv4Addr::new(127, 3, high, low)
    }
}

#[derive(Clone, Copy)]
pub(super) enum Manner {
    /// So many connections a second: all that there is to say at once, an answer, a reset.
    Rate(f64),
    /// So many connections that say an octet now and then, and come again when they are closed.
    Slow(usize),
}

pub(super) struct Flood {
    to: Vec<SocketAddr>,
    sources: Sources,
    what: Vec<Vec<u8>>,
    manner: Manner,
}

/// What became of the connections.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) attempts: u32,
    pub(super) answered: u32,
    /// Most that were open at once, as far as the flooder knows.
    pub(super) open: u32,
}

impl Tally {
    pub(super) fn tell(&self, name: &str, wanted: f64, time: Duration) {
        let rate = f64::from(self.attempts) / time.as_secs_f64();
        let Self { attempts, answered, open } = self;
        let wanted = if wanted > 0.0 { format!(" of {wanted:.0}") } else { String::new() };
        println!(
            "{name}: {attempts} connections, {rate:.0}{wanted} a second, {answered} answered, {open} open at once"
        );
    }
}

struct Shared {
    flood: Flood,
    begun: Instant,
    next: AtomicU64,
    attempts: AtomicU32,
    answered: AtomicU32,
    open: AtomicU32,
    most_open: AtomicU32,
}

impl Flood {
    pub(super) fn new(to: Vec<SocketAddr>, sources: Sources, what: Vec<Vec<u8>>, manner: Manner) -> Self {
        Self { to, sources, what, manner }
    }

    /// Floods for so long, on two threads.
    pub(super) async fn run(self, time: Duration) -> Result<Tally, Failure> {
        let flooder = move || -> io::Result<Tally> {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let tally = runtime.block_on(self.for_so_long(time));
            runtime.shutdown_timeout(Duration::from_secs(1));
            Ok(tally)
        };
        Ok(tokio::task::spawn_blocking(flooder).await??)
    }

    async fn for_so_long(self, time: Duration) -> Tally {
        let manner = self.manner;
        let shared = Arc::new(Shared {
            flood: self,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            attempts: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            open: AtomicU32::new(0),
            most_open: AtomicU32::new(0),
        });
        match manner {
            Manner::Rate(rate) => (0..AT_ONCE).for_each(|_| drop(tokio::spawn(shared.clone().fast(rate)))),
            Manner::Slow(count) => {
                (0..u32::try_from(count).unwrap_or(0))
                    .for_each(|number| drop(tokio::spawn(shared.clone().slow(number))));
            }
        }
        sleep(time).await;
        Tally {
            attempts: shared.attempts.load(Ordering::Relaxed),
            answered: shared.answered.load(Ordering::Relaxed),
            open: shared.most_open.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    async fn fast(self: Arc<Self>, rate: f64) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if rate.is_finite() {
                let due = f64::from(u32::try_from(number).unwrap_or(u32::MAX)) / rate;
                sleep_until(self.begun + Duration::from_secs_f64(due)).await;
            }
            let number = u32::try_from(number % u64::from(u32::MAX)).unwrap_or(0);
            // Whatever becomes of it.
            let _ = timeout(PATIENCE, self.once(number)).await;
            if number.is_multiple_of(16) {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn once(&self, number: u32) -> io::Result<()> {
        let mut stream = self.connect(number).await?;
        let _open = self.opened();
        let what = self.what(number);
        stream.write_all(what).await?;
        let mut answer = [0; 4_096];
        // In kind: an alert of TLS, or a notice when to come again, is no answer.
        let octets = stream.read(&mut answer).await?;
        if octets > 0 && answer.first() == what.first() && octets != net::noise::notice(Duration::ZERO).len() {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn slow(self: Arc<Self>, number: u32) {
        // Not all in the same moment.
        sleep(SLOW_STEP.mul_f64(f64::from(number % 100) / 100.0)).await;
        loop {
            let _ = self.slowly(number).await;
            sleep(SLOW_STEP).await;
        }
    }

    async fn slowly(&self, number: u32) -> io::Result<()> {
        let mut stream = self.connect(number).await?;
        let _open = self.opened();
        let (mut octets, mut answer) = (self.what(number).iter(), [0; 4_096]);
        loop {
            if let Some(octet) = octets.next() {
                stream.write_all(&[*octet]).await?;
            }
            match timeout(SLOW_STEP, stream.read(&mut answer)).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(read) => drop(read?),
                Err(_) => {}
            }
        }
    }

    fn what(&self, number: u32) -> &[u8] {
        let what = &self.flood.what;
        &what[usize::try_from(number).unwrap_or(0) % what.len()]
    }

    async fn connect(&self, number: u32) -> io::Result<TcpStream> {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let socket = TcpSocket::new_v4()?;
        // At the end nothing waits for anything: no port stays in use.
        socket.set_zero_linger()?;
        socket.bind((self.flood.sources.address(number), 0).into())?;
        let to = &self.flood.to;
        socket.connect(to[usize::try_from(number).unwrap_or(0) % to.len()]).await
    }

    fn opened(&self) -> Open<'_> {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_open.fetch_max(open, Ordering::Relaxed);
        Open(self)
    }
}

struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
