//! Sending: units per second and core, beside a loop that does nothing but send segments.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net::multicast::{SendOptions, Sender};
use quinn_udp::{Transmit, UdpSocketState};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::Failure;
use crate::table::Row;

const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 77, 93, 1), 7_193);
/// Octets of the datagram of a unit of a block of 17 to 32: magic and version, header and index, signature, path, payload, tag.
const OCTETS: usize = 4 + 84 + 64 + 5 * 16 + 512 + 8;
/// Units in a round, so that a round is much longer than the clock's grain and much shorter than a noisy neighbour.
const ROUND: usize = 6_400;
/// Rounds of each way, in turn.
const ROUNDS: usize = 60;
/// The least share of the bare loop's rate.
const SHARE: f64 = 0.7;

/// All rows.
pub(crate) fn rows() -> Result<Vec<Row>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut rows = Vec::new();
        for call in [20, 64] {
            rows.extend(measure(call, false).await?);
        }
        for call in [20, 64] {
            rows.extend(measure(call, true).await?);
        }
        Ok(rows)
    })
}

/// Calls of so many units each. Heard: a socket has joined, so that the system cuts what it was given into datagrams in
/// the sender's time, as it does for a network; what nobody reads it drops. Unheard: it throws the whole away uncut.
async fn measure(call: usize, heard: bool) -> Result<Vec<Row>, Failure> {
    let _joined = heard.then(join).transpose()?;
    let units: Vec<Vec<u8>> = (0u8..).take(call).map(|i| vec![i; OCTETS]).collect();
    let options = SendOptions { interface: "lo".parse()?, ..SendOptions::default() };
    let sender = Sender::open(GROUP.into(), &options)?;
    let bare = Bare::open()?;
    let contents = units.concat();
    let mut spent = [Duration::ZERO; 3];
    let calls = ROUND / call;
    for round in 0..=ROUNDS {
        let mut times = [Duration::ZERO; 3];
        let begun = cpu();
        for _ in 0..calls {
            sender.send_all(&units).await?;
        }
        times[0] = cpu() - begun;
        let begun = cpu();
        for _ in 0..calls {
            bare.send(&contents)?;
        }
        times[1] = cpu() - begun;
        let begun = cpu();
        for _ in 0..calls {
            for unit in &units {
                sender.send(unit).await?;
            }
        }
        times[2] = cpu() - begun;
        // The first round warms up.
        if round > 0 {
            spent.iter_mut().zip(times).for_each(|(sum, time)| *sum += time);
        }
    }
    let count = f64::from(u32::try_from(calls * call * ROUNDS)?);
    let [ours, bare, plain] = spent.map(|time| time.as_secs_f64() / count);
    let who = if heard { "heard" } else { "unheard" };
    let case = |what: &str| format!("send {OCTETS} octets, {call} units a call, {who}: {what}");
    let nanos = |seconds: f64| (seconds * 1e9, "ns");
    Ok(vec![
        Row::new(case("time of a unit"), nanos(ours), ("bare GSO loop", bare * 1e9), heard.then_some(1.0 / SHARE)),
        Row::new(case("units of a core"), (1.0 / ours, "/s"), ("bare GSO loop", 1.0 / bare), None),
        Row::new(case("one by one"), nanos(plain), ("bare GSO loop", bare * 1e9), None),
    ])
}

/// A socket that hears the group and is not read.
fn join() -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(SocketAddr::from(GROUP)))?;
    socket.join_multicast_v4(&GROUP.0, &Ipv4Addr::LOCALHOST)?;
    Ok(socket)
}

/// Nothing but the library and a socket.
struct Bare {
    socket: Socket,
    state: UdpSocketState,
}

impl Bare {
    fn open() -> Result<Self, Failure> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST)?;
        socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
        let state = UdpSocketState::new((&socket).into())?;
        if state.max_gso_segments() == 1 {
            return Err("this system has no segmentation offload".into());
        }
        Ok(Self { socket, state })
    }

    fn send(&self, contents: &[u8]) -> std::io::Result<()> {
        let (destination, segment_size) = (GROUP.into(), Some(OCTETS));
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        loop {
            match self.state.try_send((&self.socket).into(), &transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

/// Time that this thread has had a core: what others do on this machine does not count.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.try_into().unwrap_or(0))
}
