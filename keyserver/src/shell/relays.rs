//! Relays: whatever is multicast goes to each of them too, by unicast UDP. Nothing ever waits for one.

use std::net::SocketAddr;

use net::multicast::{MulticastError, Sender};

struct Relay {
    sender: Sender,
    /// The last datagram could not be sent; said once.
    fails: bool,
}

/// All of them, of every group.
pub(super) struct Relays(Vec<Relay>);

impl Relays {
    pub(super) fn open(addresses: &[SocketAddr], dscp: u8) -> Result<Self, MulticastError> {
        let open = |address: &SocketAddr| Ok(Relay { sender: Sender::unicast(*address, dscp)?, fails: false });
        addresses.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// The same octets to each. What is lost is noticed by members, and that a relay is there by nobody.
    pub(super) async fn send(&mut self, datagrams: &[Vec<u8>]) {
        for Relay { sender, fails } in &mut self.0 {
            let (relay, failed) = (sender.destination(), sender.send_all(datagrams).await.err());
            match &failed {
                Some(error) if !*fails => tracing::warn!(%relay, %error, "cannot send to a relay"),
                None if *fails => tracing::info!(%relay, "a relay can be sent to again"),
                _ => {}
            }
            *fails = failed.is_some();
        }
    }
}
