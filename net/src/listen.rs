//! The door to the network: a port that a crowd may come to.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that the system keeps until they are accepted, at some hundred octets each. Whoever finds that queue full is dropped
/// without a word, and tries again after a second. The system has a bound of its own (`net.core.somaxconn`, 4,096 by default).
const BACKLOG: u32 = 4_096;

/// Listens at `address`.
///
/// # Errors
/// The system's: the port is taken, or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A daemon that starts again finds connections of its last run in the way otherwise.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
