//! UDP multicast, IPv4 and IPv6: one socket that sends to a group, one that receives from it; and the same to and from one
//! host. Both move many datagrams in one system call where the system can.
//!
//! Several groups may share one address and port; what belongs to whom is then told by the group's number in the datagram.

mod interface;
mod receiver;
mod sender;

use std::io;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

pub use interface::Interface;
pub use receiver::{Impairment, MAX_SOURCES, RECEIVE_BUFFER, ReceiveOptions, Receiver};
pub use sender::{MAX_DSCP, SEND_BUFFER, SendOptions, Sender};

/// Why there is no multicast socket. The configuration or the host is to blame.
#[derive(Debug, Error)]
pub enum MulticastError {
    /// Not a multicast address with a port.
    #[error("{address} is no multicast address (224.0.0.0 to 239.255.255.255, ff00::/8, without a zone) with a port")]
    Address {
        /// The address.
        address: SocketAddr,
    },
    /// Not the address of a host with a port.
    #[error("{address} is no address of a host with a port")]
    Host {
        /// The address.
        address: SocketAddr,
    },
    /// This host has no such interface, or it cannot be used for the group.
    #[error("interface {interface}: {why}")]
    Interface {
        /// As configured.
        interface: Interface,
        /// What is missing.
        why: &'static str,
    },
    /// The sources cannot be joined for this group.
    #[error("cannot join {address} for single sources: {why}")]
    Sources {
        /// The group and its port.
        address: SocketAddr,
        /// What is wrong with the sources.
        why: &'static str,
    },
    /// The code point does not fit.
    #[error("a DSCP of {0}, expected 0 to {MAX_DSCP}")]
    Dscp(u8),
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
        /// As configured.
        interface: Interface,
        /// What the system says.
        source: io::Error,
    },
}

/// The group, if `address` is one with a port. The interface is told apart, so an IPv6 address has no zone.
///
/// # Errors
/// [`MulticastError::Address`].
pub fn group(address: SocketAddr) -> Result<IpAddr, MulticastError> {
    let zone = matches!(address, SocketAddr::V6(address) if address.scope_id() != 0);
    match address.ip().is_multicast() && address.port() != 0 && !zone {
        true => Ok(address.ip()),
        false => Err(MulticastError::Address { address }),
    }
}

/// The host, if `address` is that of one, with a port.
///
/// # Errors
/// [`MulticastError::Host`].
pub fn host(address: SocketAddr) -> Result<IpAddr, MulticastError> {
    let ip = address.ip();
    match !ip.is_multicast() && !ip.is_unspecified() && address.port() != 0 {
        true => Ok(ip),
        false => Err(MulticastError::Host { address }),
    }
}
