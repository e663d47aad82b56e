//! A site of its own on loopback: PKI, key server, registrar, and the configurations of its clients.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use client_ctl::config::{Danger, KeyMaking, RegistrarConfig, ZooKeeperConfig};
use client_ctl::core::Carrier;
use client_ctl::{FileConfig, OnStop, Settings};
use net::{OsEntropy, Shutdown};
use protocol::Entropy;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;
use tempfile::TempDir;

use super::ask::ask;
use crate::Failure;

/// Name of the only group.
pub(crate) const GROUP: &str = "g";
/// Time for both daemons to come up.
const UP: Duration = Duration::from_secs(30);

/// Dropping it ends the daemons and removes the folder.
pub(crate) struct Site {
    folder: TempDir,
    requests: SocketAddr,
    /// The key server's door for registrars.
    link: SocketAddr,
    registrars: Vec<SocketAddr>,
    /// Where the group is published, if it is.
    published: Option<String>,
    shutdown: Shutdown,
    /// Key server and registrars.
    daemons: Vec<Daemon>,
    /// Each is a process of its own.
    processes: bool,
}

enum Daemon {
    Thread(Option<JoinHandle<Result<(), String>>>),
    Process(Child),
}

impl Site {
    /// A site with certificates for clients `m0`, `m1`, …, whose daemons are up. Everything that the configuration leaves open
    /// is as it is by default, except that joins wait for each other, and nothing refreshes the group.
    pub(crate) fn start(clients: u32) -> Result<Self, Failure> {
        Self::with(clients, 1)
    }

    /// The same with more than one registrar: threads `keyserver`, `registrar-0` and so on.
    pub(crate) fn with(clients: u32, registrars: usize) -> Result<Self, Failure> {
        Self::up(clients, registrars, ("", "batch_ms = 1000"), None, false)
    }

    /// A site whose daemons are processes of their own, of this executable.
    pub(crate) fn of_processes(clients: u32) -> Result<Self, Failure> {
        Self::up(clients, 1, ("", "batch_ms = 1000"), None, true)
    }

    /// A site whose group is published at an address of ZooKeeper, where members read it; joins do not wait for each other.
    pub(crate) fn publishing(clients: u32, address: &str, digest: &Path) -> Result<Self, Failure> {
        let digest = digest.canonicalize()?;
        let top = format!("publish = {{ ensemble = \"{address}\" }}\nzookeeper = {{ digest = {digest:?} }}");
        Self::up(clients, 1, (&top, "publish = true"), Some(address.to_owned()), false)
    }

    fn up(
        clients: u32,
        registrars: usize,
        (top, pace): (&str, &str),
        published: Option<String>,
        processes: bool,
    ) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("keystone-bench-").tempdir()?;
        let spec = certs::Spec {
            domain: "bench".into(),
            key_servers: vec!["ks".into()],
            standbys: 0,
            registrars: (0..registrars).map(|number| format!("r{number}")).collect(),
            members: (0..clients).map(|number| format!("m{number}")).collect(),
            days: 1,
            suites: Vec::new(),
        };
        certs::create(&folder.path().join("pki"), &spec)?;
        let [requests, link] = free_ports::<2>()?;
        let doors = (0..registrars).map(|_| free_ports::<1>().map(|[port]| port)).collect::<Result<Vec<_>, _>>()?;
        // Other measurements on this machine have other groups.
        let dice = |bound: u64| u16::try_from(OsEntropy.below(bound)).unwrap_or(0);
        let [third, _] = (dice(250) + 1).to_le_bytes();
        let group = SocketAddr::from(([239, 78, third, 1], 20_000 + dice(10_000)));
        let admitted: String = (0..registrars)
            .map(|number| {
                format!(
                    "[[registrar]]\nidentity = \"spiffe://bench/registrar/r{number}\"\n\
                     may_register.certificate = [\"spiffe://bench/member/*\"]\n"
                )
            })
            .collect();
        let key_server = format!(
            r#"name = "ks"
listen_requests = "{requests}"
listen_registrars = "{link}"
interface = "127.0.0.1"
store = "ks.store"
store_key = "ks.store-key"
noise_key = "pki/ks.noise"
signing_key = "pki/ks.signing"
admin_socket = "ks.sock"
register_each_s = 0
tls = {{ certificate = "pki/ks.pem", key = "pki/ks.key", roots = "pki/ca.pem" }}
{top}
{admitted}[[group]]
id = 1
name = "{GROUP}"
address = "{group}"
allow = ["spiffe://bench/member/*"]
{pace}
refresh_s = 0
"#
        );
        let door = |number: usize, registrar: &SocketAddr| {
            format!(
                r#"listen = "{registrar}"
key_server_address = "{link}"
key_server_identity = "spiffe://bench/keyserver/ks"
clients = ["spiffe://bench/member/*"]
status_socket = "r{number}.sock"
tls = {{ certificate = "pki/r{number}.pem", key = "pki/r{number}.key", roots = "pki/ca.pem" }}
"#
            )
        };
        std::fs::write(folder.path().join("ks.toml"), key_server)?;
        for (number, at) in doors.iter().enumerate() {
            std::fs::write(folder.path().join(format!("r{number}.toml")), door(number, at))?;
        }
        let shutdown = Shutdown::new();
        let mut site =
            Self { folder, requests, link, registrars: doors, published, shutdown, daemons: Vec::new(), processes };
        site.run()?;
        Ok(site)
    }

    /// Starts all daemons, and waits until they are up.
    pub(crate) fn run(&mut self) -> Result<(), Failure> {
        let folder = self.folder.path().to_owned();
        for number in 0..=self.registrars.len() {
            let name = number.checked_sub(1).map_or("ks".to_owned(), |number| format!("r{number}"));
            let config = folder.join(format!("{name}.toml"));
            let daemon = match (self.processes, number) {
                (true, _) => Daemon::Process(process(number == 0, &config, &folder.join(format!("{name}.log")))?),
                (false, 0) => {
                    let (checked, end) = (keyserver::config::Checked::load(&config)?, self.shutdown.clone());
                    thread("keyserver", || async { keyserver::run(checked, end).await.map_err(|e| e.to_string()) })?
                }
                (false, _) => {
                    let (checked, end) = (registrar::config::Checked::load(&config)?, self.shutdown.clone());
                    let name = format!("registrar-{}", number - 1);
                    thread(&name, move || async move {
                        pin(number - 1);
                        registrar::run(checked, end).await.map_err(|e| e.to_string())
                    })?
                }
            };
            self.daemons.push(daemon);
        }
        let begun = Instant::now();
        while !self.status().is_ok_and(|status| status["registrars"] == self.registrars.len()) {
            self.check()?;
            if begun.elapsed() > UP {
                return Err("the key server and its registrars did not come up".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `kill -9` for all daemons that are processes.
    pub(crate) fn power_off(&mut self) -> Result<(), Failure> {
        for daemon in self.daemons.drain(..) {
            if let Daemon::Process(mut child) = daemon {
                child.kill()?;
                child.wait()?;
            }
        }
        Ok(())
    }

    /// The processes, key server first, each with the socket that tells how it is.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (u32, PathBuf)> {
        self.daemons.iter().enumerate().filter_map(|(number, daemon)| match daemon {
            Daemon::Process(child) => {
                let name = number.checked_sub(1).map_or("ks.sock".to_owned(), |number| format!("r{number}.sock"));
                Some((child.id(), self.folder.path().join(name)))
            }
            Daemon::Thread(_) => None,
        })
    }

    /// Octets that daemons have written to their logs.
    pub(crate) fn logged(&self) -> u64 {
        let length = |name: &str| std::fs::metadata(self.folder.path().join(name)).map_or(0, |file| file.len());
        length("ks.log") + (0..self.registrars.len()).map(|number| length(&format!("r{number}.log"))).sum::<u64>()
    }

    /// The checked configuration of a client.
    pub(crate) fn settings(&self, number: u32) -> Result<Settings, Failure> {
        let registrar = usize::try_from(number)? % self.registrars.len();
        self.settings_at(number, &self.registrars[registrar].to_string(), KeyMaking::default())
    }

    /// The same, with the individual key made in this way.
    pub(crate) fn settings_by(&self, number: u32, individual_key: KeyMaking) -> Result<Settings, Failure> {
        let registrar = usize::try_from(number)? % self.registrars.len();
        self.settings_at(number, &self.registrars[registrar].to_string(), individual_key)
    }

    /// The same, with the registrar at another address.
    pub(crate) fn settings_at(
        &self,
        number: u32,
        address: &str,
        individual_key: KeyMaking,
    ) -> Result<Settings, Failure> {
        let pki = self.pki();
        let registrar = usize::try_from(number)? % self.registrars.len();
        let config = FileConfig {
            key_server: "ks".into(),
            key_server_address: self.requests.to_string(),
            standby_addresses: Vec::new(),
            registrars: vec![RegistrarConfig {
                address: address.to_owned(),
                identity: format!("spiffe://bench/registrar/r{registrar}"),
            }],
            site_key: std::fs::read_to_string(pki.join("site.pub"))?.trim().to_owned(),
            site_certificate: "ks.site".into(),
            certificate: Some(format!("m{number}.pem").into()),
            token_file: None,
            identity: None,
            private_key: Some(format!("m{number}.key").into()),
            individual_key,
            trust_roots: "ca.pem".into(),
            groups: vec![GROUP.into()],
            carrier: self.published.as_ref().map_or(Carrier::Multicast, |_| Carrier::Zookeeper),
            zookeeper: self.published.clone().map(|ensemble| ZooKeeperConfig {
                ensemble,
                session_timeout_ms: 10_000,
                roots: None,
                certificate: None,
                key: None,
            }),
            carriers: std::collections::BTreeMap::new(),
            interface: Ipv4Addr::LOCALHOST.to_string().parse()?,
            sources: Vec::new(),
            socket: self.socket(number),
            allow_uids: Vec::new(),
            on_stop: OnStop::Stay,
            danger: Danger::default(),
        };
        Ok(config.check(&pki)?)
    }

    /// The folder with all certificates.
    pub(crate) fn pki(&self) -> PathBuf {
        self.folder.path().join("pki")
    }

    /// A client's feed.
    pub(crate) fn socket(&self, number: u32) -> PathBuf {
        self.folder.path().join(format!("m{number}.sock"))
    }

    /// Where the key server takes requests.
    pub(crate) fn key_server(&self) -> SocketAddr {
        self.requests
    }

    /// Where the key server takes registrars.
    pub(crate) fn link(&self) -> SocketAddr {
        self.link
    }

    /// Where registrars take clients.
    pub(crate) fn registrars(&self) -> &[SocketAddr] {
        &self.registrars
    }

    /// Members of the group and its epoch, as the key server has them.
    pub(crate) fn group(&self) -> Result<(u64, u64), Failure> {
        let status = self.status()?;
        let number = |of: &str| status["groups"][0][of].as_u64().ok_or_else(|| format!("no {of} in {status}"));
        Ok((number("members")?, number("epoch")?))
    }

    /// The members' numbers and identities.
    pub(crate) fn members(&self) -> Result<BTreeSet<String>, Failure> {
        let answer = self.ask("GET", &format!("/v1/groups/{GROUP}/members"))?;
        let members = answer["members"].as_array().ok_or("no members")?;
        Ok(members.iter().map(|one| format!("{} {}", one["client_id"], one["identity"])).collect())
    }

    /// A new key for the group. Its epoch.
    pub(crate) fn refresh(&self) -> Result<u64, Failure> {
        let answer = self.ask("POST", &format!("/v1/groups/{GROUP}/refresh"))?;
        Ok(answer["epoch"].as_u64().ok_or_else(|| format!("no new epoch: {answer}"))?)
    }

    /// Why a daemon has ended, if one has.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        for daemon in &mut self.daemons {
            let why = match daemon {
                Daemon::Thread(thread) => match thread.take_if(|thread| thread.is_finished()) {
                    Some(ended) => ended.join().unwrap_or_else(|_| Err("it panicked".into())).err().unwrap_or_default(),
                    None => continue,
                },
                Daemon::Process(child) => match child.try_wait()? {
                    Some(status) => status.to_string(),
                    None => continue,
                },
            };
            return Err(format!("a daemon ended: {why}").into());
        }
        Ok(())
    }

    fn status(&self) -> Result<Value, Failure> {
        self.ask("GET", "/v1/status")
    }

    /// An operator's command.
    fn ask(&self, method: &str, path: &str) -> Result<Value, Failure> {
        ask(&self.folder.path().join("ks.sock"), method, path)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shutdown.trigger();
        for daemon in &mut self.daemons {
            // However it ended, it has.
            match daemon {
                Daemon::Thread(thread) => drop(thread.take().map(JoinHandle::join)),
                Daemon::Process(child) => drop((child.kill(), child.wait())),
            }
        }
    }
}

/// Keeps this thread on one core, as a machine of its own would; registrars stand apart from each other as far as there are cores.
pub(crate) fn pin(number: usize) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let mut set = CpuSet::new();
    set.set(cores - 1 - number % cores);
    // Where it may not, the figures are those of a machine that moves threads.
    let _ = sched_setaffinity(None, &set);
}

/// One thread for a daemon, so that it takes one core at the most; what it writes, another thread of the same name writes.
fn thread<F: Future<Output = Result<(), String>>>(
    name: &str,
    daemon: impl FnOnce() -> F + Send + 'static,
) -> Result<Daemon, Failure> {
    let own = name.to_owned();
    let run = move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.thread_name(own).enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(daemon())
    };
    Ok(Daemon::Thread(Some(thread::Builder::new().name(name.into()).spawn(run)?)))
}

/// A process of this executable (`bench daemon`), with one thread for all that does not wait for the disk: so this machine can ask
/// more of it than it can do.
fn process(is_key_server: bool, config: &Path, log: &Path) -> Result<Child, Failure> {
    let log = std::fs::File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["daemon", if is_key_server { "keyserver" } else { "registrar" }, "--config"]).arg(config);
    command.env("TOKIO_WORKER_THREADS", "1");
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
}

/// Ports of this machine that nobody uses now.
fn free_ports<const N: usize>() -> Result<[SocketAddr; N], Failure> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held = (0..N).map(bind).collect::<Result<Vec<_>, _>>()?;
    let ports = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    ports.try_into().map_err(|_| "no ports".into())
}
