//! Joining an IPv6 group for one source, which neither socket2 nor rustix nor nix has a call for. nix has a macro that makes
//! one from the option's number and the type of its value, and the unsafe code in it is nix's. What is left for us to get right
//! is that type.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use nix::libc;
use nix::setsockopt_impl;
use nix::sys::socket::{SockaddrIn6, setsockopt};
use socket2::Socket;

/// The option `MCAST_JOIN_SOURCE_GROUP` (RFC 3678, section 5.1).
#[derive(Debug, Clone, Copy)]
struct JoinSource;

/// The option's value, C's `struct group_source_req`.
#[repr(C)]
struct GroupSource {
    /// Number of the interface, 0 for the system's choice.
    interface: u32,
    group: Storage,
    source: Storage,
}

/// C's `struct sockaddr_storage` with an IPv6 address in it.
#[repr(C)]
struct Storage {
    address: libc::sockaddr_in6,
    rest: [u8; size_of::<libc::sockaddr_storage>() - size_of::<libc::sockaddr_in6>()],
    /// Without length: the alignment, which the system's type has from a word as long.
    align: [libc::c_ulong; 0],
}

// The system reads as many octets as it thinks the value has.
const _: () = assert!(size_of::<GroupSource>() == size_of::<libc::group_source_req>());
const _: () = assert!(align_of::<GroupSource>() == align_of::<libc::group_source_req>());

setsockopt_impl!(
    JoinSource,
    libc::IPPROTO_IPV6,
    libc::MCAST_JOIN_SOURCE_GROUP,
    GroupSource,
    nix::sys::socket::sockopt::SetStruct<'_, GroupSource>
);

impl From<Ipv6Addr> for Storage {
    fn from(address: Ipv6Addr) -> Self {
        let address = SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0)).into();
        Self { address, rest: [0; _], align: [] }
    }
}

/// Joins `group` for what `source` sends, on the interface with this number, or 0 for the system's choice. Again for another
/// source.
pub(super) fn join_source(socket: &Socket, group: Ipv6Addr, source: Ipv6Addr, interface: u32) -> io::Result<()> {
    let value = GroupSource { interface, group: group.into(), source: source.into() };
    Ok(setsockopt(socket, JoinSource, &value)?)
}
