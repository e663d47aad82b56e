//! Sending: one datagram, or many in few system calls.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::interface::Place;
use super::{Interface, MulticastError, group, host};

/// Send buffer in octets asked of the system: sending is paced, so it only covers jitter of the pacer.
pub const SEND_BUFFER: usize = 1 << 20;

/// The largest differentiated services code point (RFC 2474: six bits).
pub const MAX_DSCP: u8 = 63;

/// Octets that one system call takes at the most: the payload of the largest IPv4 datagram.
const MAX_CALL: usize = 65_507;

/// How datagrams leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendOptions {
    /// Out of which interface. Default: the system's choice.
    pub interface: Interface,
    /// How many hops far (IPv6: the hop limit), 1 to 255; 1, the default, stays on the link.
    pub ttl: u8,
    /// Differentiated services code point, 0 (default) to [`MAX_DSCP`].
    pub dscp: u8,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self { interface: Interface::Any, ttl: 1, dscp: 0 }
    }
}

/// Sends datagrams to one group, or one host, and port. They are never fragmented: one that is longer than a link takes is an
/// error.
#[derive(Debug)]
pub struct Sender {
    socket: UdpSocket,
    destination: SocketAddr,
    /// Datagrams in one call at the most; 1 where there is no offload.
    most: AtomicUsize,
}

impl Sender {
    /// A sender to `destination`. Receivers on this host hear it too. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`MulticastError`].
    pub fn open(destination: SocketAddr, options: &SendOptions) -> Result<Self, MulticastError> {
        let group = group(destination)?;
        let SendOptions { interface, ttl, dscp } = options;
        if *dscp > MAX_DSCP {
            return Err(MulticastError::Dscp(*dscp));
        }
        let place = interface.place(group)?;
        let step = |what| {
            move |source| MulticastError::Socket { what, address: destination, interface: interface.clone(), source }
        };
        let socket = udp(group).map_err(step("make a socket"))?;
        let (hops, class) = (u32::from(*ttl), u32::from(*dscp) << 2);
        let local: SocketAddr = match place {
            Place::V4(_, address) => {
                socket.set_multicast_if_v4(&address).map_err(step("choose the interface"))?;
                socket.set_multicast_ttl_v4(hops).map_err(step("set the TTL"))?;
                socket.set_multicast_loop_v4(true).map_err(step("loop back"))?;
                socket.set_tos_v4(class).map_err(step("set the DSCP"))?;
                (address, 0).into()
            }
            Place::V6(_, index, address) => {
                socket.set_multicast_if_v6(index).map_err(step("choose the interface"))?;
                socket.set_multicast_hops_v6(hops).map_err(step("set the hop limit"))?;
                socket.set_multicast_loop_v6(true).map_err(step("loop back"))?;
                socket.set_tclass_v6(class).map_err(step("set the DSCP"))?;
                let zone = if address.is_unicast_link_local() { index } else { 0 };
                SocketAddrV6::new(address, 0, 0, zone).into()
            }
        };
        socket.set_send_buffer_size(SEND_BUFFER).map_err(step("set the send buffer"))?;
        socket.bind(&SockAddr::from(local)).map_err(step("bind"))?;
        Self::finish(socket, destination).map_err(step("look at the socket"))
    }

    /// A sender to one host, which is never waited for; its datagrams travel as far as others do. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`MulticastError`].
    pub fn unicast(destination: SocketAddr, dscp: u8) -> Result<Self, MulticastError> {
        let step = |what| {
            move |source| MulticastError::Socket { what, address: destination, interface: Interface::Any, source }
        };
        if dscp > MAX_DSCP {
            return Err(MulticastError::Dscp(dscp));
        }
        let socket = udp(host(destination)?).map_err(step("make a socket"))?;
        let class = u32::from(dscp) << 2;
        match destination {
            SocketAddr::V4(_) => socket.set_tos_v4(class),
            SocketAddr::V6(_) => socket.set_tclass_v6(class),
        }
        .map_err(step("set the DSCP"))?;
        socket.set_send_buffer_size(SEND_BUFFER).map_err(step("set the send buffer"))?;
        Self::finish(socket, destination).map_err(step("look at the socket"))
    }

    fn finish(socket: Socket, destination: SocketAddr) -> io::Result<Self> {
        // It knows what the system can, and forbids fragments.
        let offload = UdpSocketState::new((&socket).into())?;
        let most = offload.max_gso_segments().into();
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, destination, most })
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// What the system says. A lost datagram is no error.
    pub async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, self.destination).await.map(|_| ())
    }

    /// Sends datagrams in their order, those of equal length that follow each other in one system call, up to 64 at a
    /// time (generic segmentation offload). Where that is impossible they leave one by one; a socket on which it fails
    /// once does not try again. All are back to back: whoever paces them calls with as many as may leave at once.
    ///
    /// # Errors
    /// The first thing that the system says; the other datagrams are sent nevertheless.
    pub async fn send_all(&self, datagrams: &[Vec<u8>]) -> io::Result<()> {
        let (mut rest, mut result) = (datagrams, Ok(()));
        while !rest.is_empty() {
            let (now, later) = rest.split_at(run(rest, self.most.load(Ordering::Relaxed)));
            let sent = match now {
                [one] => self.send(one).await,
                many => self.send_segments(many).await,
            };
            match sent {
                Err(why) if now.len() > 1 && why.raw_os_error().map(Errno::from_raw).is_some_and(no_offload) => {
                    self.most.store(1, Ordering::Relaxed);
                    let to = self.destination;
                    tracing::info!(%to, %why, "no segmentation offload here: datagrams leave one by one");
                }
                sent => (rest, result) = (later, result.and(sent)),
            }
        }
        result
    }

    /// One call for datagrams of one length. Not by `quinn-udp`, which writes the whole traffic class of each call, so that
    /// the code point would be lost, and which wants the datagrams copied into one buffer.
    async fn send_segments(&self, datagrams: &[Vec<u8>]) -> io::Result<()> {
        let length = u16::try_from(datagrams.first().map_or(0, Vec::len)).map_err(io::Error::other)?;
        let slices: Vec<IoSlice<'_>> = datagrams.iter().map(|datagram| IoSlice::new(datagram)).collect();
        let (segments, to) = ([ControlMessage::UdpGsoSegments(&length)], SockaddrStorage::from(self.destination));
        let send = || {
            let sent = sendmsg(self.socket.as_raw_fd(), &slices, &segments, MsgFlags::empty(), Some(&to));
            sent.map(|_| ()).map_err(io::Error::from)
        };
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    /// The group, or the host, and its port.
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

/// What the system says where a device or a driver cannot do it.
fn no_offload(why: Errno) -> bool {
    matches!(why, Errno::EIO | Errno::EINVAL)
}

/// How many of the first datagrams one call takes: of one length, at most `most`. At least 1 if there is any.
fn run(datagrams: &[Vec<u8>], most: usize) -> usize {
    let length = datagrams.first().map_or(0, Vec::len);
    let most = most.min(MAX_CALL.checked_div(length).unwrap_or(1)).max(1);
    datagrams.iter().take(most).take_while(|datagram| datagram.len() == length).count()
}

/// A socket of the family of `group` that does not block.
pub(super) fn udp(group: IpAddr) -> io::Result<Socket> {
    let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multicast::{ReceiveOptions, Receiver};

    #[tokio::test]
    async fn what_the_system_refuses_leaves_one_by_one_from_then_on() {
        let interface: Interface = "lo".parse().unwrap();
        let group = SocketAddr::from(([239, 79, 251, 1], 30_000 + u16::try_from(std::process::id() % 30_000).unwrap()));
        let mut receiver =
            Receiver::open(group, &ReceiveOptions { interface: interface.clone(), sources: vec![] }).unwrap();
        let mut sender = Sender::open(group, &SendOptions { interface, ..SendOptions::default() }).unwrap();
        if *sender.most.get_mut() == 1 {
            println!("skipped, this system has no segmentation offload");
            return;
        }
        // More than any kernel takes (`UDP_MAX_SEGMENTS`, 64 or 128).
        *sender.most.get_mut() = 1_000;
        let datagrams: Vec<Vec<u8>> = (0..300u16).map(|i| i.to_be_bytes().repeat(5)).collect();
        for _ in 0..2 {
            sender.send_all(&datagrams).await.unwrap();
            assert_eq!(*sender.most.get_mut(), 1);
            for datagram in &datagrams {
                let mut buffer = [0; 20];
                let received =
                    tokio::time::timeout(std::time::Duration::from_secs(5), receiver.recv(&mut buffer)).await;
                assert_eq!(&buffer[..received.unwrap().unwrap().0], datagram);
            }
        }
    }

    #[test]
    fn runs_are_of_one_length_and_fit_a_call() {
        let lengths = |lengths: &[usize]| lengths.iter().map(|length| vec![0; *length]).collect::<Vec<_>>();
        assert_eq!(run(&[], 64), 0);
        assert_eq!(run(&lengths(&[700, 700, 700, 600, 700]), 64), 3);
        assert_eq!(run(&lengths(&[600, 700]), 64), 1);
        assert_eq!(run(&lengths(&[700; 200]), 64), 64);
        assert_eq!(run(&lengths(&[700; 200]), 1), 1);
        assert_eq!(run(&lengths(&[1_400; 200]), 64), 46);
        assert_eq!(run(&lengths(&[0, 0]), 64), 1);
        assert_eq!(run(&lengths(&[70_000, 70_000]), 64), 1);
    }
}
