//! UDP multicast: one socket that sends to a group, one that receives from it. IPv4 for now.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::UdpSocket;

/// Receive buffer in octets asked of the system, which may grant less (`net.core.rmem_max`): about 3,500 units, a burst
/// that arrives while the receiver verifies signatures.
pub const RECEIVE_BUFFER: usize = 4 << 20;

/// Send buffer in octets asked of the system: sending is paced, so it only covers jitter of the pacer.
pub const SEND_BUFFER: usize = 1 << 20;

/// Why there is no multicast socket. The configuration or the host is to blame.
#[derive(Debug, Error)]
pub enum MulticastError {
    /// Not an IPv4 multicast address with a port.
    #[error("{address} is no IPv4 multicast address (224.0.0.0 to 239.255.255.255) with a port")]
    Address {
        /// The address.
        address: SocketAddr,
    },
    /// The share of datagrams to lose is no fraction.
    #[error("a loss of {0} is no fraction from 0 to 1")]
    Loss(f64),
    /// The system refuses.
    #[error("cannot {what} for {address} on interface {interface}: {source}")]
    Socket {
        /// The step that failed.
        what: &'static str,
        /// The group and its port.
        address: SocketAddr,
        /// Address of the interface.
        interface: Ipv4Addr,
        /// What the system says.
        source: io::Error,
    },
}

/// Sends datagrams to one group address and port.
#[derive(Debug)]
pub struct Sender {
    socket: UdpSocket,
    destination: SocketAddr,
}

impl Sender {
    /// A sender to `destination` out of the interface with the address `interface`, at most `ttl` hops far (1 stays on the
    /// link). Receivers on this host hear it too. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`MulticastError`].
    pub fn open(destination: SocketAddr, interface: Ipv4Addr, ttl: u8) -> Result<Self, MulticastError> {
        group(destination)?;
        let step = |what| move |source| MulticastError::Socket { what, address: destination, interface, source };
        let socket = udp().map_err(step("make a socket"))?;
        socket.set_multicast_if_v4(&interface).map_err(step("choose the interface"))?;
        socket.set_multicast_ttl_v4(ttl.into()).map_err(step("set the TTL"))?;
        socket.set_multicast_loop_v4(true).map_err(step("loop back"))?;
        socket.set_send_buffer_size(SEND_BUFFER).map_err(step("set the send buffer"))?;
        let local = SockAddr::from(SocketAddr::from((interface, 0)));
        socket.bind(&local).map_err(step("bind"))?;
        let socket = UdpSocket::from_std(socket.into()).map_err(step("register"))?;
        Ok(Self { socket, destination })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// What the system says. A lost datagram is no error.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, self.destination).await.map(|_| ())
    }

    /// The group and its port.
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }

    /// Where the datagrams come from.
    ///
    /// # Errors
    /// What the system says.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Loss made on purpose, for demonstrations and tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairment {
    /// Share of datagrams to drop, from 0 to 1.
    pub loss: f64,
    /// The same seed drops the same positions in the sequence of datagrams.
    pub seed: u64,
}

/// Receives the datagrams of one group address and port. Any number of receivers on a host each get all of them.
#[derive(Debug)]
pub struct Receiver {
    socket: UdpSocket,
    impairment: Impairment,
    dropped: u64,
}

impl Receiver {
    /// Joins `group` on the interface with the address `interface`. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`MulticastError`].
    pub fn open(address: SocketAddr, interface: Ipv4Addr) -> Result<Self, MulticastError> {
        let group = group(address)?;
        let step = |what| move |source| MulticastError::Socket { what, address, interface, source };
        let socket = udp().map_err(step("make a socket"))?;
        socket.set_reuse_address(true).map_err(step("share the port"))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(step("set the receive buffer"))?;
        // Bound to the group, so that datagrams of other groups on the same port, and unicast, do not come in.
        socket.bind(&SockAddr::from(address)).map_err(step("bind"))?;
        socket.join_multicast_v4(&group, &interface).map_err(step("join"))?;
        let socket = UdpSocket::from_std(socket.into()).map_err(step("register"))?;
        Ok(Self { socket, impairment: Impairment { loss: 0.0, seed: 0 }, dropped: 0 })
    }

    /// The same, dropping received datagrams at random. **A danger in production.**
    ///
    /// # Errors
    /// The loss is no fraction.
    pub fn with_impairment(self, impairment: Impairment) -> Result<Self, MulticastError> {
        match (0.0..=1.0).contains(&impairment.loss) {
            true => Ok(Self { impairment, ..self }),
            false => Err(MulticastError::Loss(impairment.loss)),
        }
    }

    /// The next datagram into `buf`: its length, cut to that of `buf`, and its source. Safe to cancel.
    ///
    /// # Errors
    /// What the system says.
    pub async fn recv(&mut self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let received = self.socket.recv_from(buf).await?;
            if !self.impairment.drops() {
                return Ok(received);
            }
            self.dropped += 1;
        }
    }

    /// Datagrams that the impairment dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Impairment {
    fn drops(&mut self) -> bool {
        // SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to choose what gets lost.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [a, b, c, d, ..] = z.to_be_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0) < self.loss
    }
}

fn udp() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn group(address: SocketAddr) -> Result<Ipv4Addr, MulticastError> {
    match address.ip() {
        IpAddr::V4(group) if group.is_multicast() && address.port() != 0 => Ok(group),
        _ => Err(MulticastError::Address { address }),
    }
}
