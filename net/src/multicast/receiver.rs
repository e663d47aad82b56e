//! Receiving: many datagrams in one system call, handed out one by one.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::time::Instant;

use fec::Channel;
use quinn_udp::{RecvMeta, UdpSocketState};
use socket2::{SockAddr, Socket};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::interface::{Place, stays_on_link};
use super::sender::udp;
use super::{Interface, MulticastError, group};

/// Receive buffer in octets asked of the system, which may grant less (`net.core.rmem_max`): about 3,500 units, a burst
/// that arrives while the receiver verifies signatures.
pub const RECEIVE_BUFFER: usize = 4 << 20;

/// Sources of a receiver at the most: what Linux takes unless told otherwise (`net.ipv4.igmp_max_msf`).
pub const MAX_SOURCES: usize = 10;

/// Places for what one call brings. Each may be datagrams of equal length that the system has joined.
const PLACES: usize = 8;
/// Octets of a place: the system joins no more. Memory is only taken where something has arrived.
const PLACE: usize = 1 << 16;

/// What to receive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceiveOptions {
    /// On which interface. Default: the system's choice.
    pub interface: Interface,
    /// From these senders only (source-specific multicast, RFC 4607), at most [`MAX_SOURCES`]; for IPv4 groups only.
    /// Default: none, which means from all.
    pub sources: Vec<IpAddr>,
}

/// Loss made on purpose, for demonstrations and tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairment {
    /// Share of datagrams to drop, from 0 to 1.
    pub loss: f64,
    /// Mean length of bursts of losses in milliseconds; 0 if losses are independent.
    pub burst_ms: u32,
    /// The same seed drops the same positions in the sequence of datagrams; with bursts, if they come at the same times.
    pub seed: u64,
}

/// The channel that an impairment makes, in milliseconds, and when it was asked last.
#[derive(Debug)]
struct Impaired(Channel, Instant);

impl Impaired {
    fn new(Impairment { loss, burst_ms, seed }: Impairment) -> Self {
        let channel = match burst_ms {
            0 => Channel::independent(loss, seed),
            ms => Channel::bursts(loss, ms.into(), seed),
        };
        Self(channel, Instant::now())
    }

    fn drops(&mut self) -> bool {
        let before = std::mem::replace(&mut self.1, Instant::now());
        self.0.lost((self.1 - before).as_secs_f64() * 1e3)
    }
}

/// Receives the datagrams of one group address and port. Any number of receivers on a host each get all of them.
#[derive(Debug)]
pub struct Receiver {
    socket: UdpSocket,
    offload: UdpSocketState,
    /// The interface, where the system does not tell apart which it was (IPv6); 0 for all.
    index: u32,
    places: Vec<u8>,
    /// What has arrived in `places`, and from where.
    waiting: VecDeque<(Range<usize>, SocketAddr)>,
    impaired: Option<Impaired>,
    dropped: u64,
}

impl Receiver {
    /// Joins the group at `address`. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`MulticastError`].
    pub fn open(address: SocketAddr, options: &ReceiveOptions) -> Result<Self, MulticastError> {
        let group = group(address)?;
        let ReceiveOptions { interface, sources } = options;
        let place = interface.place(group)?;
        let step = |what| move |source| MulticastError::Socket { what, address, interface: interface.clone(), source };
        let socket = udp(group).map_err(step("make a socket"))?;
        socket.set_reuse_address(true).map_err(step("share the port"))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(step("set the receive buffer"))?;
        // Bound to the group, so that datagrams of other groups on the same port, and unicast, do not come in.
        match place {
            Place::V4(group, at) => {
                // Nor what others on this host have joined on other interfaces.
                socket.set_multicast_all_v4(false).map_err(step("leave others' groups alone"))?;
                socket.bind(&SockAddr::from(address)).map_err(step("bind"))?;
                if sources.is_empty() {
                    socket.join_multicast_v4(&group, &at).map_err(step("join"))?;
                }
                for source in sources {
                    let IpAddr::V4(source) = source else {
                        return Err(MulticastError::Sources { address, why: "they must be IPv4 addresses too" });
                    };
                    socket.join_ssm_v4(source, &group, &at).map_err(step("join for a source"))?;
                }
            }
            // No library offers the call without unsafe code.
            Place::V6(..) if !sources.is_empty() => {
                return Err(MulticastError::Sources { address, why: "that is possible for IPv4 groups only" });
            }
            Place::V6(group, index, _) => {
                let zone = if stays_on_link(group) { index } else { 0 };
                let local = SocketAddrV6::new(group, address.port(), 0, zone);
                socket.set_only_v6(true).map_err(step("leave IPv4 out"))?;
                socket.bind(&SockAddr::from(local)).map_err(step("bind"))?;
                socket.join_multicast_v6(&group, index).map_err(step("join"))?;
            }
        }
        // Of IPv6 groups of a wide scope the system brings those of all interfaces on which anybody here has joined.
        let index = if let Place::V6(_, index, _) = place { index } else { 0 };
        Self::finish(socket, index).map_err(step("look at the socket"))
    }

    /// What is sent to this address of this host itself, port 0 for one of the system's choice. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`MulticastError`].
    pub fn unicast(address: SocketAddr) -> Result<Self, MulticastError> {
        let step = |what| move |source| MulticastError::Socket { what, address, interface: Interface::Any, source };
        if address.ip().is_multicast() {
            return Err(MulticastError::Host { address });
        }
        let socket = udp(address.ip()).map_err(step("make a socket"))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(step("set the receive buffer"))?;
        socket.bind(&SockAddr::from(address)).map_err(step("bind"))?;
        Self::finish(socket, 0).map_err(step("look at the socket"))
    }

    fn finish(socket: Socket, index: u32) -> io::Result<Self> {
        let offload = UdpSocketState::new((&socket).into())?;
        let socket = UdpSocket::from_std(socket.into())?;
        let (places, waiting) = (vec![0; PLACES * PLACE], VecDeque::new());
        Ok(Self { socket, offload, index, places, waiting, impaired: None, dropped: 0 })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The same, dropping received datagrams at random. **A danger in production.**
    ///
    /// # Errors
    /// The loss is no fraction.
    pub fn with_impairment(self, impairment: Impairment) -> Result<Self, MulticastError> {
        match (0.0..=1.0).contains(&impairment.loss) {
            true => Ok(Self { impaired: (impairment.loss > 0.0).then(|| Impaired::new(impairment)), ..self }),
            false => Err(MulticastError::Loss(impairment.loss)),
        }
    }

    /// The next datagram into `buf`: its length, cut to that of `buf`, and its source. Safe to cancel.
    ///
    /// # Errors
    /// What the system says.
    pub async fn recv(&mut self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let Some((at, from)) = self.waiting.pop_front() else {
                self.fill().await?;
                continue;
            };
            if self.impaired.as_mut().is_some_and(Impaired::drops) {
                self.dropped += 1;
                continue;
            }
            let datagram = &self.places[at];
            let length = datagram.len().min(buf.len());
            buf[..length].copy_from_slice(&datagram[..length]);
            return Ok((length, from));
        }
    }

    /// Waits until something arrives. Only while nothing is waiting.
    async fn fill(&mut self) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); PLACES];
        let Self { socket, offload, places, .. } = self;
        let receive = || {
            let mut places = places.chunks_exact_mut(PLACE);
            let mut slices =
                std::array::from_fn::<_, PLACES, _>(|_| IoSliceMut::new(places.next().unwrap_or_default()));
            offload.recv((&*socket).into(), &mut slices, &mut metas)
        };
        let count = socket.async_io(Interest::READABLE, receive).await?;
        for (place, meta) in metas.iter().take(count).enumerate() {
            if self.index != 0 && meta.interface_index.is_some_and(|index| index != self.index) {
                continue;
            }
            let start = place * PLACE;
            let end = start + meta.len.min(PLACE);
            // At least once: a datagram may be empty.
            for at in (start..end.max(start + 1)).step_by(meta.stride.max(1)) {
                self.waiting.push_back((at..end.min(at + meta.stride), meta.addr));
            }
        }
        Ok(())
    }

    /// Datagrams that the impairment dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
