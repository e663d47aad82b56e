//! Where an ensemble is: `zookeeper://h1:2181,h2:2181,h3:2181/keystone`.

use std::fmt::{self, Display};
use std::str::FromStr;

use rustls_pki_types::ServerName;
use thiserror::Error;

const SCHEME: &str = "zookeeper://";
/// ZooKeeper's own.
const PORT: u16 = 2181;
/// More servers than any ensemble has voters; what an error lists stays readable.
const MAX_HOSTS: usize = 16;
/// Octets: each change in a transaction carries it, and a transaction has room for [`crate::Session::multi`]'s limit.
const MAX_ROOT: usize = 100;

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name or address (IPv6 without brackets). With TLS, its certificate must be for this.
    pub name: String,
    /// TCP port, not 0.
    pub port: u16,
}

/// The servers, and the znode below which everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensemble {
    hosts: Vec<Host>,
    root: String,
}

/// Why an address is refused. Whoever wrote it is to blame.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Another beginning.
    #[error("expected `{SCHEME}host:port,host:port/path`")]
    Scheme,
    /// None or too many.
    #[error("{0} hosts, expected 1 to {MAX_HOSTS}")]
    Hosts(usize),
    /// Neither a name nor an address.
    #[error("`{0}` is no host: expected a name, an IPv4 address, or an IPv6 address in brackets")]
    Host(String),
    /// Not a number from 1 to 65,535.
    #[error("`{0}` has no port from 1 to 65535 behind its last colon")]
    Port(String),
    /// Named twice.
    #[error("host `{0}` stands here twice")]
    Twice(String),
    /// No path, or one that is not ours to use.
    #[error(
        "`{0}` is no path for us: expected `/name` or `/name/name`, at most {MAX_ROOT} octets of letters, digits, `.`, `_`, \
         `-`, not below `/zookeeper`"
    )]
    Root(String),
}

impl Ensemble {
    /// Whether an address is one of an ensemble, right or wrong.
    pub fn is_meant(address: &str) -> bool {
        address.starts_with("zookeeper:")
    }

    /// The servers, at least one.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Path of the znode below which everything is, at least one name.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Path of the znode `name` below the root.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }
}

impl FromStr for Ensemble {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, AddressError> {
        let rest = address.strip_prefix(SCHEME).ok_or(AddressError::Scheme)?;
        let (hosts, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let names: Vec<&str> = hosts.split(',').filter(|host| !host.is_empty()).collect();
        if !(1..=MAX_HOSTS).contains(&names.len()) {
            return Err(AddressError::Hosts(names.len()));
        }
        let mut hosts: Vec<Host> = Vec::with_capacity(names.len());
        for name in names {
            let host = parse_host(name)?;
            if hosts.contains(&host) {
                return Err(AddressError::Twice(name.into()));
            }
            hosts.push(host);
        }
        let usable = |name: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !name.is_empty() && name != "." && name != ".." && name.chars().all(known)
        };
        let mut names = path.split('/').skip(1).peekable();
        let ours = names.peek().is_some_and(|first| *first != "zookeeper") && names.all(usable);
        match ours && path.len() <= MAX_ROOT {
            true => Ok(Self { hosts, root: path.into() }),
            false => Err(AddressError::Root(path.into())),
        }
    }
}

fn parse_host(text: &str) -> Result<Host, AddressError> {
    let host = || AddressError::Host(text.into());
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or_else(host)?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => PORT,
        digits => digits
            .and_then(|digits| digits.parse().ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| AddressError::Port(text.into()))?,
    };
    // What TLS could not name is refused here, with TLS or without.
    let known = ServerName::try_from(name).map_err(|_| host())?;
    let bracketed = text.starts_with('[');
    let v6 = matches!(known, ServerName::IpAddress(address) if matches!(address, rustls_pki_types::IpAddr::V6(_)));
    match bracketed == v6 {
        true => Ok(Host { name: name.into(), port }),
        false => Err(host()),
    }
}

impl Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

impl Display for Ensemble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "{SCHEME}{}{}", hosts.join(","), self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, shown) in [
            ("zookeeper://h1:2181,h2:2182,h3/keystone", "zookeeper://h1:2181,h2:2182,h3:2181/keystone"),
            ("zookeeper://127.0.0.1:21811/a/b.c_d-e", "zookeeper://127.0.0.1:21811/a/b.c_d-e"),
            ("zookeeper://[::1]:1,[fd00::2]/x", "zookeeper://[::1]:1,[fd00::2]:2181/x"),
        ] {
            let ensemble: Ensemble = text.parse().unwrap();
            assert_eq!(ensemble.to_string(), shown);
            assert_eq!(shown.parse(), Ok(ensemble));
        }
        let wrong = |text: &str, why: &str| {
            let error = text.parse::<Ensemble>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        };
        wrong("ks.store", "expected `zookeeper://");
        wrong("zookeeper:/h1/x", "expected `zookeeper://");
        wrong("zookeeper:///x", "0 hosts");
        wrong(&format!("zookeeper://{}/x", "h,".repeat(17)), "17 hosts");
        wrong("zookeeper://h1:0/x", "`h1:0` has no port");
        wrong("zookeeper://h1:65536/x", "`h1:65536` has no port");
        wrong("zookeeper://h1:/x", "`h1:` has no port");
        wrong("zookeeper://fd00::1/x", "no port");
        wrong("zookeeper://[fd00::1/x", "is no host");
        wrong("zookeeper://[h1]:1/x", "is no host");
        wrong("zookeeper://a b/x", "is no host");
        wrong("zookeeper://h1,h1:2181/x", "twice");
        for path in [
            "",
            "/",
            "/x/",
            "//x",
            "/..",
            "/x/./y",
            "/zookeeper",
            "/zookeeper/x",
            "/ä",
            &format!("/{}", "x".repeat(100)),
        ] {
            wrong(&format!("zookeeper://h1{path}"), "is no path for us");
        }
    }
}
