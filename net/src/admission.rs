//! Limits on strangers: how many handshakes are under way, in all and from one source, and for how long.

mod known;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};

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

/// The door of one listener. Clones are the same door.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    limits: Limits,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    by_source: BTreeMap<IpAddr, usize>,
    known: Known,
}

/// A place for one handshake, given back when dropped.
#[derive(Debug)]
pub struct Ticket {
    admission: Admission,
    source: IpAddr,
}

impl Admission {
    /// A door with these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, inside: Arc::default() }
    }

    /// The next connection that has a place, with TCP_NODELAY set. Others are reset at once. Never fails: a listener
    /// that is out of descriptors recovers when connections end. Safe to cancel.
    pub async fn next(&self, listener: &TcpListener) -> (TcpStream, SocketAddr, Ticket) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => match self.enter(from.ip()) {
                    Some(ticket) => {
                        // Without it requests are slower and still right.
                        let _ = stream.set_nodelay(true);
                        return (stream, from, ticket);
                    }
                    None => {
                        // Reset and not closed, so that nobody takes it for the answer to what he has not even been asked. If that
                        // fails, the connection is gone already.
                        let _ = stream.set_zero_linger();
                        tracing::debug!(%from, "refused: too many handshakes under way");
                    }
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
        let source = aggregate(source);
        let mut inside = self.inside();
        let here = inside.by_source.get(&source).copied().unwrap_or(0);
        let more = if inside.known.contains(&source) { self.limits.in_flight / 2 } else { 0 };
        if inside.all >= self.limits.in_flight + more || here >= self.limits.per_source {
            return None;
        }
        inside.all += 1;
        inside.by_source.insert(source, here + 1);
        Some(Ticket { admission: self.clone(), source })
    }

    /// Somebody has proved who it is, from this source.
    pub fn remember(&self, source: IpAddr) {
        self.inside().known.remember(aggregate(source));
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
        let limit = self.admission.limits.handshake;
        tokio::time::timeout(limit, handshake).await.map_err(|_| TimedOut(limit))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.admission.inside();
        inside.all = inside.all.saturating_sub(1);
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
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn counts_in_all_and_per_source() {
        let door = Admission::new(Limits { in_flight: 3, per_source: 2, ..Limits::default() });
        let first = door.enter(v4(1)).unwrap();
        let _second = door.enter(v4(1)).unwrap();
        assert!(door.enter(v4(1)).is_none(), "two from one source");
        assert!(door.enter("::ffff:10.0.0.1".parse().unwrap()).is_none(), "the same source in other clothes");
        let _third = door.enter(v4(2)).unwrap();
        assert!(door.enter(v4(3)).is_none(), "three in all");
        drop(first);
        drop(door.enter(v4(1)).unwrap());
        drop(door.enter(v4(3)).unwrap());
        assert_eq!(door.inside().by_source.len(), 2, "sources that left are forgotten");
    }

    #[test]
    fn strangers_shut_out_nobody_who_is_known() {
        let door = Admission::new(Limits { in_flight: 4, per_source: 2, ..Limits::default() });
        let _flood: Vec<Ticket> = (1..=4).map(|n| door.enter(v4(n)).unwrap()).collect();
        assert!(door.enter(v4(9)).is_none(), "not known");
        door.remember(v4(9));
        let _member = door.enter(v4(9)).unwrap();
        assert!(door.enter(v4(10)).is_none(), "only who is known");
        door.remember(v4(1));
        let _another = door.enter(v4(1)).unwrap();
        assert!(door.enter(v4(9)).is_none(), "these places end too");
    }

    #[tokio::test]
    async fn who_finds_no_place_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Admission::new(Limits { per_source: 1, ..Limits::default() });
        let _held = door.enter([127, 0, 0, 1].into()).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::select! {
            read = client.read_u8() => assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
            _ = door.next(&listener) => panic!("the door is full"),
        }
    }

    #[test]
    fn a_64_is_one_source() {
        let door = Admission::new(Limits { per_source: 1, ..Limits::default() });
        let _held = door.enter("2001:db8::1".parse().unwrap()).unwrap();
        assert!(door.enter("2001:db8::ffff:2".parse().unwrap()).is_none());
        assert!(door.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
    }

    #[tokio::test]
    async fn a_silent_peer_is_dropped() {
        let limit = Duration::from_millis(30);
        let door = Admission::new(Limits { handshake: limit, ..Limits::default() });
        let ticket = door.enter(v4(1)).unwrap();
        let error = ticket.during(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(error, TimedOut(limit));
        assert_eq!(door.inside().all, 0);
    }
}
