//! The processes of the demonstration, and the folder that they live in.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use net::entropy::OsEntropy;
use protocol::{Entropy, Suite};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Failure;
use crate::unix_http::ask;

/// The group of the demonstration.
pub(super) const GROUP: &str = "demo";
/// Time for a daemon to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Folder, addresses and processes. Dropping it ends all processes and removes the folder.
pub(super) struct World {
    folder: TempDir,
    program: PathBuf,
    requests: SocketAddr,
    registrars: [SocketAddr; 2],
    rekey: SocketAddr,
    data: SocketAddr,
    loss: u8,
    burst: u16,
    daemons: Vec<(String, Child)>,
}

impl World {
    /// Makes folder and PKI, and starts key server and registrars.
    pub(super) async fn start(members: &[String], (loss, burst): (u8, u16), suite: Suite) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("keystone-demo-").tempdir()?;
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let spec = certs::Spec {
            domain: GROUP.into(),
            key_servers: names(&["ks"]),
            standbys: 0,
            registrars: names(&["r1", "r2"]),
            members: members.to_vec(),
            days: 1,
            suites: vec![suite],
        };
        certs::create(&folder.path().join("pki"), &spec)?;
        // Other demonstrations on this machine have other groups.
        let site_local = |last: u8| Ipv4Addr::new(239, 77, u8::try_from(OsEntropy.below(250)).unwrap_or(0) + 1, last);
        let port = |base: u16| base + u16::try_from(OsEntropy.below(10_000)).unwrap_or(0);
        let mut world = Self {
            program: std::env::current_exe()?,
            requests: free_port()?,
            registrars: [free_port()?, free_port()?],
            rekey: SocketAddr::from((site_local(1), port(20_000))),
            data: SocketAddr::from((site_local(2), port(40_000))),
            loss,
            burst,
            folder,
            daemons: Vec::new(),
        };
        let registrar_door = free_port()?;
        world.daemon("keyserver", "keyserver", &world.key_server_config(registrar_door, suite))?;
        world.wait("the key server", "ks.sock", "/v1/status", |_| true).await?;
        for name in ["r1", "r2"] {
            world.daemon(name, "registrar", &world.registrar_config(name, registrar_door))?;
        }
        world.wait("the registrars", "ks.sock", "/v1/status", |status| status["registrars"] == 2).await?;
        Ok(world)
    }

    fn key_server_config(&self, registrar_door: SocketAddr, suite: Suite) -> String {
        let repair = if self.burst > 0 { "adaptive" } else { "loss=0.1,miss=0.001" };
        let signing_key = match suite {
            Suite::Aes256 | Suite::Aes128 => String::new(),
            own => format!("signing_key_{own} = \"pki/ks.{own}\"\n"),
        };
        format!(
            r#"name = "ks"
listen_requests = "{}"
listen_registrars = "{registrar_door}"
interface = "127.0.0.1"
store = "ks.store"
store_key = "ks.store-key"
noise_key = "pki/ks.noise"
signing_key = "pki/ks.signing"
{signing_key}admin_socket = "ks.sock"
tls = {{ certificate = "pki/ks.pem", key = "pki/ks.key", roots = "pki/ca.pem" }}
[[registrar]]
identity = "spiffe://demo/registrar/r1"
may_register.certificate = ["spiffe://demo/member/*"]
[[registrar]]
identity = "spiffe://demo/registrar/r2"
may_register.certificate = ["spiffe://demo/member/*"]
[[group]]
id = 1
name = "{GROUP}"
suite = "{suite}"
repair = "{repair}"
address = "{}"
allow = ["spiffe://demo/member/*"]
refresh_s = 7
beacon_ms = 400
resync_wait_ms = 300
send_delay_ms = 300
"#,
            self.requests, self.rekey
        )
    }

    fn registrar_config(&self, name: &str, registrar_door: SocketAddr) -> String {
        let listen = self.registrars[usize::from(name == "r2")];
        format!(
            r#"listen = "{listen}"
key_server_address = "{registrar_door}"
key_server_identity = "spiffe://demo/keyserver/ks"
clients = ["spiffe://demo/member/*"]
tls = {{ certificate = "pki/{name}.pem", key = "pki/{name}.key", roots = "pki/ca.pem" }}
"#
        )
    }

    /// Starts the client control manager of a member; it registers and joins.
    pub(super) fn start_member(&mut self, name: &str, number: usize) -> Result<(), Failure> {
        let site_key = fs::read_to_string(self.path("pki/site.pub"))?;
        // Members share the work of the registrars.
        let order = if number.is_multiple_of(2) { [0, 1] } else { [1, 0] };
        let registrars: Vec<String> = (order.iter())
            .map(|at| {
                let address = self.registrars[*at];
                format!("{{ address = \"{address}\", identity = \"spiffe://demo/registrar/r{}\" }}", at + 1)
            })
            .collect();
        let config = format!(
            r#"key_server = "ks"
key_server_address = "{}"
registrars = [{}]
site_key = "{}"
site_certificate = "pki/ks.site"
certificate = "pki/{name}.pem"
private_key = "pki/{name}.key"
trust_roots = "pki/ca.pem"
groups = ["{GROUP}"]
interface = "127.0.0.1"
socket = "{name}.sock"
danger = {{ receive_loss_percent = {}, receive_burst_ms = {}, seed = {number} }}
"#,
            self.requests,
            registrars.join(", "),
            site_key.trim(),
            self.loss,
            self.burst
        );
        self.daemon(name, "client-ctl", &config)
    }

    /// Starts the receiver of a member; it waits for the member's socket.
    pub(super) fn start_receiver(&mut self, name: &str) -> Result<Child, Failure> {
        let output = File::create(self.path(&format!("{name}.out")))?;
        let mut command = self.mcast("recv", name);
        command.arg("--listen").arg(self.data.to_string());
        command.arg("--log").arg(self.path(&format!("{name}.ranges"))).arg("--keep-listening");
        command.stdin(Stdio::null()).stdout(output);
        Ok(command.spawn()?)
    }

    /// Starts the sender with the first `octets` of `input`.
    pub(super) fn start_sender(&mut self, name: &str, input: File, bits_per_second: u64) -> Result<Child, Failure> {
        let mut command = self.mcast("send", name);
        command.arg("--to").arg(self.data.to_string());
        command.arg("--rate").arg(bits_per_second.to_string());
        command.arg("--log").arg(self.path(&format!("{name}.ranges")));
        command.stdin(input).stdout(Stdio::null());
        Ok(command.spawn()?)
    }

    fn mcast(&self, what: &str, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["daemon", "mcast", what, "--group", GROUP, "--interface", "127.0.0.1", "--socket"]);
        command.arg(self.path(&format!("{name}.sock")));
        command.stderr(self.log(&format!("{name}.{what}"))).kill_on_drop(true);
        command
    }

    fn daemon(&mut self, name: &str, kind: &str, config: &str) -> Result<(), Failure> {
        let path = self.path(&format!("{name}.toml"));
        fs::write(&path, config)?;
        let mut command = Command::new(&self.program);
        command.args(["daemon", kind, "--config"]).arg(&path);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(self.log(name)).kill_on_drop(true);
        let child = command.spawn()?;
        self.daemons.push((name.to_owned(), child));
        Ok(())
    }

    fn log(&self, name: &str) -> Stdio {
        File::create(self.path(&format!("{name}.log"))).map_or_else(|_| Stdio::null(), Stdio::from)
    }

    /// A file in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Asks a daemon.
    pub(super) async fn ask(&self, socket: &str, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        Ok(ask(&self.path(socket), path, body).await?)
    }

    /// Waits until an answer is as wanted.
    pub(super) async fn wait(
        &mut self,
        what: &str,
        socket: &str,
        path: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value, Failure> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) = self.ask(socket, path, None).await
                && wanted(&answer)
            {
                return Ok(answer);
            }
            self.check()?;
            if tokio::time::Instant::now() > deadline {
                return Err(format!("{what} did not come up within {} s", PATIENCE.as_secs()).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// No daemon may end while the story is told.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        for (name, child) in &mut self.daemons {
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                return Err(format!("{name} ended ({status}); it said:\n{}", last.join("\n")).into());
            }
        }
        Ok(())
    }

    /// Ends all daemons in order, members first, so that each can say goodbye; what is left is killed on drop.
    pub(super) async fn stop(mut self) {
        for (_, child) in self.daemons.iter_mut().rev() {
            if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
                terminate(pid);
            }
        }
        let ends = async {
            for (_, child) in &mut self.daemons {
                drop(child.wait().await);
            }
        };
        drop(tokio::time::timeout(Duration::from_secs(8), ends).await);
    }
}

/// Asks a process of ours to end.
pub(super) fn terminate(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // A process that is gone already has ended.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// A port of this machine that nobody uses now.
fn free_port() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The first `octets` of a file, in a file of the folder.
pub(super) fn first_octets(input: &Path, octets: u64, to: &Path) -> Result<File, Failure> {
    let mut from = std::io::Read::take(File::open(input)?, octets);
    std::io::copy(&mut from, &mut File::create(to)?)?;
    Ok(File::open(to)?)
}
