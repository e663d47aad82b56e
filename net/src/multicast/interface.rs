//! Which network interface: by name, by an address of it, or the system's choice.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use serde::Deserialize;

use super::MulticastError;

/// Octets of an interface's name (`IFNAMSIZ` without its final zero).
const MAX_NAME: usize = 15;

/// A network interface as a configuration names it: `eth0`, `192.0.2.1`, `fd00::2`; `0.0.0.0` or `::` leaves the choice to
/// the system. Whether the host has it is found out when it is used, since interfaces come and go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Interface {
    /// The system's choice.
    #[default]
    Any,
    /// The one that has this address. A sender sends from this address.
    Address(IpAddr),
    /// The one with this name.
    Name(String),
}

/// A group on an interface, in the words of the system's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The interface by an address of it, which is sent from too; unspecified for the system's choice.
    V4(Ipv4Addr, Ipv4Addr),
    /// The interface by its number, 0 for the system's choice, and the address to send from, unspecified if the system
    /// chooses one that fits the scope of the group.
    V6(Ipv6Addr, u32, Ipv6Addr),
}

impl Interface {
    /// Whether what is sent there stays on this host: the loopback interface, or an address of it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Address(address) => address.is_loopback(),
            Self::Name(name) => {
                interfaces().is_some_and(|mut all| all.any(|it| it.interface_name == *name && is_loopback(&it)))
            }
        }
    }

    /// Finds it on this host, for a group of that address.
    pub(super) fn place(&self, group: IpAddr) -> Result<Place, MulticastError> {
        let wrong = |why| MulticastError::Interface { interface: self.clone(), why };
        if *self == Self::Any {
            return match group {
                IpAddr::V4(group) => Ok(Place::V4(group, Ipv4Addr::UNSPECIFIED)),
                IpAddr::V6(group) if stays_on_link(group) => {
                    Err(wrong("the scope of the group needs an interface, by name or by address"))
                }
                IpAddr::V6(group) => Ok(Place::V6(group, 0, Ipv6Addr::UNSPECIFIED)),
            };
        }
        let all: Vec<InterfaceAddress> = interfaces().ok_or_else(|| wrong("cannot list interfaces"))?.collect();
        let found = all.iter().find(|it| self.is(it)).ok_or_else(|| wrong("this host has no such interface"))?;
        match (group, self) {
            (IpAddr::V4(group), Self::Address(IpAddr::V4(address))) => Ok(Place::V4(group, *address)),
            (IpAddr::V4(group), _) => (all.iter())
                .filter(|it| it.interface_name == found.interface_name)
                .find_map(|it| it.address?.as_sockaddr_in().map(|address| Place::V4(group, address.ip())))
                .ok_or_else(|| wrong("it has no IPv4 address, which an IPv4 group needs")),
            (IpAddr::V6(group), _) => {
                let index = if_nametoindex(found.interface_name.as_str()).map_err(|_| wrong("it is gone"))?;
                let address = match self {
                    Self::Address(IpAddr::V6(address)) => *address,
                    _ => Ipv6Addr::UNSPECIFIED,
                };
                Ok(Place::V6(group, index, address))
            }
        }
    }

    fn is(&self, it: &InterfaceAddress) -> bool {
        match self {
            Self::Any => false,
            Self::Name(name) => it.interface_name == *name,
            // All of 127.0.0.0/8 is this host's, but only one address of it is listed.
            Self::Address(IpAddr::V4(address)) if address.is_loopback() => is_loopback(it),
            Self::Address(address) => ip(it) == Some(*address),
        }
    }
}

/// Whether the scope of the group is one interface or link, so that its address means nothing without one (RFC 4291, §2.7).
pub(super) fn stays_on_link(group: Ipv6Addr) -> bool {
    group.octets()[1] & 15 <= 2
}

fn interfaces() -> Option<impl Iterator<Item = InterfaceAddress>> {
    getifaddrs().ok()
}

fn is_loopback(it: &InterfaceAddress) -> bool {
    it.flags.contains(InterfaceFlags::IFF_LOOPBACK)
}

fn ip(it: &InterfaceAddress) -> Option<IpAddr> {
    let address = it.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(if address.is_unspecified() { Self::Any } else { Self::Address(address) });
        }
        let fits = (1..=MAX_NAME).contains(&text.len());
        match fits && text.chars().all(|c| c.is_ascii_graphic() && !"/:%".contains(c)) {
            true => Ok(Self::Name(text.to_owned())),
            false => Err(format!(
                "`{}` is neither the name of a network interface (1 to {MAX_NAME} characters) nor an IP address",
                text.chars().take(32).collect::<String>()
            )),
        }
    }
}

impl TryFrom<String> for Interface {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<IpAddr> for Interface {
    fn from(address: IpAddr) -> Self {
        if address.is_unspecified() { Self::Any } else { Self::Address(address) }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("of the system's choice"),
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        let parse = |text: &str| text.parse::<Interface>();
        assert_eq!(parse("eth0.7"), Ok(Interface::Name("eth0.7".into())));
        assert_eq!(parse("192.0.2.1"), Ok(Interface::Address([192, 0, 2, 1].into())));
        assert_eq!(parse("fd00::2"), Ok(Interface::Address("fd00::2".parse().unwrap())));
        assert_eq!((parse("0.0.0.0"), parse("::")), (Ok(Interface::Any), Ok(Interface::Any)));
        for bad in ["", "a name", "a/b", "fe80::1%eth0", "sixteen-or-more-", "127.0.0.1:80", "eth0\n"] {
            assert!(parse(bad).unwrap_err().contains("neither"), "{bad}");
        }
    }

    #[test]
    fn what_stays_on_this_host_is_known_by_any_name() {
        let loopback = |text: &str| text.parse::<Interface>().unwrap().is_loopback();
        assert!(loopback("lo") && loopback("127.0.0.1") && loopback("127.1.2.3") && loopback("::1"));
        assert!(!loopback("0.0.0.0") && !loopback("192.0.2.1") && !loopback("lo9") && !loopback("fe80::1"));
    }

    #[test]
    fn the_host_is_asked() {
        let (v4, v6) = (Ipv4Addr::new(239, 1, 2, 3), "ff05::1".parse::<Ipv6Addr>().unwrap());
        let place = |text: &str, group: IpAddr| text.parse::<Interface>().unwrap().place(group);
        assert_eq!(place("lo", v4.into()).unwrap(), Place::V4(v4, Ipv4Addr::LOCALHOST));
        assert_eq!(place("127.0.0.9", v4.into()).unwrap(), Place::V4(v4, [127, 0, 0, 9].into()));
        assert_eq!(place("0.0.0.0", v4.into()).unwrap(), Place::V4(v4, Ipv4Addr::UNSPECIFIED));
        let lo = if_nametoindex("lo").unwrap();
        for name in ["lo", "127.0.0.1"] {
            assert_eq!(place(name, v6.into()).unwrap(), Place::V6(v6, lo, Ipv6Addr::UNSPECIFIED), "{name}");
        }
        for text in ["nosuch0", "203.0.113.77", "2001:db8::77"] {
            for group in [v4.into(), v6.into()] {
                let error = place(text, group).unwrap_err().to_string();
                assert!(error.contains(text) && error.contains("no such interface"), "{error}");
            }
        }
        let error = place("::", "ff02::1".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("needs an interface"), "{error}");
        assert!(stays_on_link("ff31::8000:1".parse().unwrap()) && !stays_on_link(v6));
    }
}
