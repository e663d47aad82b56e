//! Limits on strangers: how many handshakes are under way, in all and from one source, and for how long. Whoever finds no place is
//! reset, or told when to come again.

mod known;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use socket2::SockRef;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::line::Line;

use known::Known;

/// What peers that have not proved who they are may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes under way. The default, 100, at the 64 KiB that a handshake may buffer is 6.4 MiB, and at 1 to 2 ms each
    /// some hundred milliseconds of work that a flood can put before an honest peer. Half as many more are for sources from which
    /// somebody has proved who it is ([`Admission::remember`]): strangers who hold all places shut out no member.
    pub in_flight: usize,
    /// Of these from one source: an IPv4 address or an IPv6 /64, which one host may own whole. The default, 10, lets ten
    /// floods stand side by side before others are refused, and a site behind one address translator still register.
    pub per_source: usize,
    /// Time for one handshake. The default, 10 s, is many round trips of a satellite link (0.6 s each) with
    /// retransmissions, and bounds what a peer that sends nothing holds.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: 100, per_source: 10, handshake: Duration::from_secs(10) }
    }
}

/// A handshake did not end in time. The peer, or the network, is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the handshake did not end within {} s", .0.as_secs_f32())]
pub struct TimedOut(pub Duration);

/// What became of connections at a door since the start of the daemon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// They had a place for a handshake.
    pub let_in: u64,
    /// Of these: they proved who they are. The others are still at it, or failed.
    pub proved: u64,
    /// They had no place.
    pub sent_away: u64,
}

/// What is said in clear to who is to come again so much later, all of it.
pub type Notice = fn(Duration) -> Vec<u8>;

/// Connections that were told to come again are kept open so long, and no more than so many, for their notice to arrive: who closes
/// with octets unread resets, and a reset can overtake what was said.
const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGERING: usize = 256;

/// The door of one listener. Clones are the same door.
#[derive(Debug, Clone)]
pub struct Admission {
    limits: Limits,
    /// What is said to who finds no place; otherwise it is reset.
    notice: Option<Notice>,
    started: Instant,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug)]
struct Inside {
    all: usize,
    by_source: BTreeMap<IpAddr, usize>,
    line: Line,
    /// Those who were told to come again, and when.
    lingering: VecDeque<(Instant, TcpStream)>,
    known: Known,
    tally: Tally,
}

/// A place for one handshake, given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    admission: Admission,
    source: IpAddr,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Admission {
    /// A door with these limits, which resets whoever finds no place.
    pub fn new(limits: Limits) -> Self {
        let line = Line::new(limits.in_flight);
        let inside = Inside {
            all: 0,
            by_source: BTreeMap::new(),
            line,
            lingering: VecDeque::new(),
            known: Known::default(),
            tally: Tally::default(),
        };
        Self { limits, notice: None, started: Instant::now(), inside: Arc::new(Mutex::new(inside)) }
    }

    /// A door that says when to come again.
    pub fn with_notice(limits: Limits, notice: Notice) -> Self {
        Self { notice: Some(notice), ..Self::new(limits) }
    }

    /// The next connection that has a place, with TCP_NODELAY set. Others are reset, or told when to come again. Never fails: a
    /// listener that is out of descriptors recovers when connections end. Safe to cancel.
    pub async fn next(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Ticket) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.let_go() => continue,
            };
            match accepted {
                Ok((stream, from)) => match self.admit(from.ip()) {
                    Ok(ticket) => {
                        // Without it requests are slower and still right.
                        let _ = stream.set_nodelay(true);
                        return (stream, from, ticket);
                    }
                    Err(wait) => self.send_away(stream, from, wait),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // The cause, mostly a lack of descriptors, stays for a while; do not spin on it.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// A place for a handshake with `source`, if there is one.
    pub fn enter(&self, source: IpAddr) -> Option<Ticket> {
        self.admit(source).ok()
    }

    /// A place, or when to come again, if that is said here.
    fn admit(&self, source: IpAddr) -> Result<Ticket, Option<Duration>> {
        let source = aggregate(source);
        let mut inside = self.inside();
        let here = inside.by_source.get(&source).copied().unwrap_or(0);
        let (all, now) = (inside.all, self.started.elapsed());
        let more = if inside.known.contains(&source) { self.limits.in_flight / 2 } else { 0 };
        let has_place = here < self.limits.per_source
            && match self.notice {
                Some(_) => inside.line.may_enter(now, source, all) || (more > 0 && all < self.limits.in_flight + more),
                None => all < self.limits.in_flight + more,
            };
        if !has_place {
            inside.tally.sent_away += 1;
            return Err(self.notice.map(|_| inside.line.send_away(now, source)));
        }
        inside.all += 1;
        inside.tally.let_in += 1;
        inside.by_source.insert(source, here + 1);
        Ok(Ticket { admission: self.clone(), source })
    }

    fn send_away(&self, stream: TcpStream, from: SocketAddr, wait: Option<Duration>) {
        tracing::debug!(%from, ?wait, "refused: too many handshakes under way");
        // If any of this fails, the connection is gone already.
        match self.notice.zip(wait) {
            Some((notice, wait)) => {
                let socket = SockRef::from(&stream);
                let _ = socket.send(&notice(wait));
                let _ = socket.shutdown(Shutdown::Write);
                let mut inside = self.inside();
                inside.lingering.push_back((Instant::now(), stream));
                if inside.lingering.len() > MAX_LINGERING {
                    inside.lingering.pop_front();
                }
            }
            // Reset and not closed, so that nobody takes it for the answer to what he has not even been asked.
            None => drop(stream.set_zero_linger()),
        }
    }

    /// Lets those go who were told long ago to come again. Never ends if there are none.
    async fn let_go(&self) {
        let first = self.inside().lingering.front().map(|(since, _)| *since);
        match first {
            Some(since) => tokio::time::sleep_until(since + LINGER).await,
            None => std::future::pending().await,
        }
        self.inside().lingering.retain(|(since, _)| since.elapsed() < LINGER);
    }

    /// Somebody who was let in has proved who it is, from this source.
    pub fn remember(&self, source: IpAddr) {
        let mut inside = self.inside();
        inside.known.remember(aggregate(source));
        inside.tally.proved += 1;
    }

    /// What became of those who came.
    pub fn tally(&self) -> Tally {
        self.inside().tally
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Nothing panics while it is held; if something did, the counts are still the best there are.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Runs a handshake within its time, then gives the place back.
    ///
    /// # Errors
    /// The time is over; the handshake was dropped.
    pub async fn during<F: Future>(self, handshake: F) -> Result<F::Output, TimedOut> {
        self.within(handshake).await
    }

    /// The same, and keeps the place.
    ///
    /// # Errors
    /// As [`Ticket::during`].
    pub async fn within<F: Future>(&self, handshake: F) -> Result<F::Output, TimedOut> {
        let limit = self.admission.limits.handshake;
        tokio::time::timeout(limit, handshake).await.map_err(|_| TimedOut(limit))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.admission.inside();
        let all = inside.all;
        if self.admission.notice.is_some() {
            inside.line.left(self.admission.started.elapsed());
        }
        inside.all = all.saturating_sub(1);
        if let Entry::Occupied(mut here) = inside.by_source.entry(self.source) {
            match here.get().checked_sub(1) {
                None | Some(0) => _ = here.remove(),
                Some(less) => _ = here.insert(less),
            }
        }
    }
}

fn aggregate(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
