//! The relay's configuration file. All of it, and the site certificate, is checked before anything is bound.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use net::ConfigError;
use net::config::in_range;
use net::multicast::{self, Interface, MAX_DSCP, MAX_SOURCES, ReceiveOptions, SendOptions};
use net::site::{Site, SiteFiles};
use protocol::VerifyingKey;
use serde::Deserialize;

/// Inputs, and outputs: more networks than one host is connected to. Each input has a socket and a buffer.
const MAX_PLACES: usize = 64;

/// The file, key by key. Relative paths start from the folder of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileConfig {
    /// The site's public key (Ed25519), 64 hexadecimal digits; or a file with one or, while it is rolled, two such lines, read again
    /// when it changes. Required.
    site_key: String,
    /// File with the site certificate of the key server, in hexadecimal digits; read again when it changes, and taken if it begins
    /// later than the one in force. Required.
    site_certificate: PathBuf,
    /// Unix socket, mode 0660, that answers `GET /v1/status`. Default none.
    #[serde(default)]
    status_socket: Option<PathBuf>,
    /// Seconds between two lines of counters in the log, 1 to 86,400; default 60.
    #[serde(default = "report_s")]
    report_s: u64,
    /// What is passed on, 1 to 64.
    input: Vec<InputConfig>,
    /// Where to, 1 to 64. What came from a group on an interface does not go back there.
    output: Vec<OutputConfig>,
}

/// `[[input]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputConfig {
    /// A multicast address and port, IPv4 or IPv6; or an address and port of this host, for a key server or relay that sends
    /// here. Required.
    address: SocketAddr,
    /// Of a multicast address: the interface that it comes in by, by name or by an address of it. Default: the system's choice.
    #[serde(default)]
    interface: Interface,
    /// Of an IPv4 multicast address: from these senders only, at most 10. Default: from anywhere.
    #[serde(default)]
    sources: Vec<IpAddr>,
}

/// `[[output]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputConfig {
    /// A multicast address and port, mostly the group's own; or the address and port of a further relay. Required.
    address: SocketAddr,
    /// Of a multicast address: the interface that it leaves by. Default: the system's choice.
    #[serde(default)]
    interface: Interface,
    /// Of a multicast address: hops that it may travel, 1 (default, this link) to 255.
    #[serde(default)]
    ttl: Option<u8>,
    /// Differentiated services code point, 0 (default) to 63.
    #[serde(default)]
    dscp: u8,
}

fn report_s() -> u64 {
    60
}

/// Where datagrams come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) address: SocketAddr,
    /// `None` for unicast.
    pub(super) multicast: Option<ReceiveOptions>,
}

/// Where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) address: SocketAddr,
    /// `None` for unicast.
    pub(super) multicast: Option<SendOptions>,
    pub(super) dscp: u8,
}

impl Output {
    /// Whether what came by this input would go back to where it came from.
    pub(super) fn leads_back_to(&self, input: &Input) -> bool {
        let here = self.multicast.as_ref().map(|options| &options.interface);
        self.address == input.address && here.is_some() && here == input.multicast.as_ref().map(|it| &it.interface)
    }
}

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) site: Site,
    pub(super) site_files: SiteFiles,
    pub(super) status_socket: Option<PathBuf>,
    pub(super) report: Duration,
    pub(super) inputs: Vec<Input>,
    pub(super) outputs: Vec<Output>,
}

/// What may sign what is passed on. What suite `paper` signs is not: it would leave the host.
pub(super) fn keys(site: &Site) -> Vec<VerifyingKey> {
    site.certificate.signing.iter().filter(|key| !key.is_broken()).cloned().collect()
}

impl FileConfig {
    /// Reads a file and checks it, and the site certificate.
    ///
    /// # Errors
    /// Whatever is wrong first, with its key.
    pub(super) fn load(path: &Path) -> Result<Settings, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        net::config::load::<Self>(path)?.check(folder)
    }

    fn check(self, folder: &Path) -> Result<Settings, ConfigError> {
        let site_files = SiteFiles::new(&self.site_key, &self.site_certificate, folder);
        let site = site_files.load()?;
        in_range("number of [[input]] tables", self.input.len(), 1..=MAX_PLACES)?;
        in_range("number of [[output]] tables", self.output.len(), 1..=MAX_PLACES)?;
        let inputs: Vec<Input> = self.input.into_iter().map(InputConfig::check).collect::<Result<_, _>>()?;
        let outputs: Vec<Output> = self.output.into_iter().map(OutputConfig::check).collect::<Result<_, _>>()?;
        let twice = |all: Vec<String>| all.len() > all.iter().collect::<BTreeSet<_>>().len();
        if twice(inputs.iter().map(|input| format!("{input:?}")).collect()) {
            return Err(ConfigError::invalid("input", "one stands there twice"));
        }
        if twice(outputs.iter().map(|output| format!("{output:?}")).collect()) {
            return Err(ConfigError::invalid("output", "one stands there twice"));
        }
        Ok(Settings {
            site,
            site_files,
            status_socket: self.status_socket.map(|path| folder.join(path)),
            report: Duration::from_secs(in_range("report_s", self.report_s, 1..=86_400)?),
            inputs,
            outputs,
        })
    }
}

impl InputConfig {
    fn check(self) -> Result<Input, ConfigError> {
        let Self { address, interface, sources } = self;
        let wrong = |field: &str, why: &dyn std::fmt::Display| {
            Err(ConfigError::invalid(format!("input `{address}`: {field}"), why))
        };
        in_range(format!("input `{address}`: number of sources"), sources.len(), 0..=MAX_SOURCES)?;
        if address.port() == 0 {
            return wrong("address", &"a port is missing");
        }
        if address.ip().is_multicast() {
            return match multicast::group(address) {
                Ok(_) => Ok(Input { address, multicast: Some(ReceiveOptions { interface, sources }) }),
                Err(why) => wrong("address", &why),
            };
        }
        if interface != Interface::Any || !sources.is_empty() {
            return wrong("interface, sources", &"these are for multicast addresses");
        }
        Ok(Input { address, multicast: None })
    }
}

impl OutputConfig {
    fn check(self) -> Result<Output, ConfigError> {
        let Self { address, interface, ttl, dscp } = self;
        let key = |field: &str| format!("output `{address}`: {field}");
        in_range(key("dscp"), dscp, 0..=MAX_DSCP)?;
        if address.ip().is_multicast() {
            multicast::group(address).map_err(|why| ConfigError::invalid(key("address"), why))?;
            let ttl = in_range(key("ttl"), ttl.unwrap_or(1), 1..=255)?;
            return Ok(Output { address, multicast: Some(SendOptions { interface, ttl, dscp }), dscp });
        }
        multicast::host(address).map_err(|why| ConfigError::invalid(key("address"), why))?;
        if interface != Interface::Any || ttl.is_some() {
            return Err(ConfigError::invalid(key("interface, ttl"), "these are for multicast addresses"));
        }
        Ok(Output { address, multicast: None, dscp })
    }
}
