//! A site of real processes on loopback: a key server, a registrar, members.
#![allow(dead_code, reason = "every test file uses another part")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of processes has a clock and sockets")]

pub(crate) mod ours;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) fn keystone() -> Command {
    Command::new(env!("CARGO_BIN_EXE_keystone"))
}

pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) requests: SocketAddr,
    pub(crate) registrars: SocketAddr,
    pub(crate) clients: SocketAddr,
    pub(crate) group: SocketAddr,
}

/// A process that ends with its test.
pub(crate) struct Daemon(pub(crate) Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(3)
    }

    /// With certificates for so many members, `m1` and so on.
    pub(crate) fn with(members: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let spec = certs::Spec {
            domain: "demo".into(),
            key_servers: names(&["ks"]),
            standbys: 0,
            registrars: names(&["r1"]),
            members: (1..=members).map(|number| format!("m{number}")).collect(),
            days: 1,
            suites: Vec::new(),
        };
        certs::create(&folder.path().join("pki"), &spec).unwrap();
        let requests = free_port();
        let last = u8::try_from(requests.port() % 250).unwrap() + 1;
        let site = Self {
            folder,
            requests,
            registrars: free_port(),
            clients: free_port(),
            group: SocketAddr::from(([239, 78, 1, last], requests.port())),
        };
        for (name, text) in [("ks", site.key_server()), ("r1", site.registrar()), ("m1", site.member("m1", "demo"))] {
            site.write(&format!("{name}.toml"), &text);
        }
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn key_server(&self) -> String {
        format!(
            r#"name = "ks"
listen_requests = "{}"
listen_registrars = "{}"
interface = "127.0.0.1"
store = "ks.store"
store_key = "ks.store-key"
noise_key = "pki/ks.noise"
signing_key = "pki/ks.signing"
admin_socket = "ks.sock"
tls = {{ certificate = "pki/ks.pem", key = "pki/ks.key", roots = "pki/ca.pem" }}
[[registrar]]
identity = "spiffe://demo/registrar/r1"
may_register.certificate = ["spiffe://demo/member/*"]
[[group]]
id = 1
name = "demo"
address = "{}"
allow = ["spiffe://demo/member/*"]
beacon_ms = 300
"#,
            self.requests, self.registrars, self.group
        )
    }

    pub(crate) fn registrar(&self) -> String {
        format!(
            r#"listen = "{}"
key_server_address = "{}"
key_server_identity = "spiffe://demo/keyserver/ks"
clients = ["spiffe://demo/member/*"]
status_socket = "r1.sock"
tls = {{ certificate = "pki/r1.pem", key = "pki/r1.key", roots = "pki/ca.pem" }}
"#,
            self.clients, self.registrars
        )
    }

    pub(crate) fn member(&self, name: &str, group: &str) -> String {
        let site = fs::read_to_string(self.path("pki/site.pub")).unwrap();
        format!(
            r#"key_server = "ks"
key_server_address = "{}"
registrars = [{{ address = "{}", identity = "spiffe://demo/registrar/r1" }}]
site_key = "{}"
site_certificate = "pki/ks.site"
certificate = "pki/{name}.pem"
private_key = "pki/{name}.key"
trust_roots = "pki/ca.pem"
groups = ["{group}"]
interface = "127.0.0.1"
socket = "{name}.sock"
"#,
            self.requests,
            self.clients,
            site.trim()
        )
    }

    pub(crate) fn check(&self, daemon: &str, config: &str) -> Output {
        keystone().args(["daemon", daemon, "--check", "--config"]).arg(self.path(config)).output().unwrap()
    }

    pub(crate) fn start(&self, daemon: &str, name: &str) -> Daemon {
        let log = fs::File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut command = keystone();
        command.args(["daemon", daemon, "--config"]).arg(self.path(&format!("{name}.toml")));
        Daemon(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub(crate) fn ask(&self, socket: &str, path: &str) -> Option<Value> {
        let answer = self.exchange(socket, &format!("GET {path} HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n"))?;
        json_of(&answer)
    }

    /// A command that must be carried out; what it answers, if that is JSON.
    pub(crate) fn order(&self, socket: &str, path: &str, body: &str) -> Value {
        let head = "Host: k\r\nConnection: close\r\nContent-Type: application/json";
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = self.exchange(socket, &request).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 2"), "{path}: {answer}");
        json_of(&answer).unwrap_or_default()
    }

    fn exchange(&self, socket: &str, request: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.path(socket)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Waits until this stands in the log.
    pub(crate) fn says(&self, log: &str, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(self.path(log)).unwrap().contains(text) {
            assert!(Instant::now() < deadline, "{log}: {}", fs::read_to_string(self.path(log)).unwrap());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn wait(&self, socket: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.ask(socket, "/v1/status").filter(&wanted) {
                return status;
            }
            assert!(Instant::now() < deadline, "{socket}: {:?}", self.ask(socket, "/v1/status"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// SIGHUP: read your files again.
pub(crate) fn hang_up(daemon: &Daemon) {
    let id = daemon.0.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
}

fn json_of(answer: &str) -> Option<Value> {
    serde_json::from_str(&answer[answer.find("\r\n\r\n")?..]).ok()
}

pub(crate) fn refused(output: &Output, named: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(named), "`{named}` is not named: {said}");
    assert!(!said.contains("panicked"), "{said}");
}
