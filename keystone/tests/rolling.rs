//! All keys of the service are rolled between real processes, while one member streams to another and nothing gets lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of processes has a clock and sockets")]

mod common;

use std::fs;
use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use certs::Authority;
use common::{Daemon, Site, hang_up, keystone};
use protocol::identity::Identity;
use serde_json::Value;

fn group(status: &Value) -> &Value {
    &status["groups"][0]
}

fn is_member(status: &Value) -> bool {
    group(status)["status"] == "member"
}

/// A site with all its daemons. Each member has a copy of the site certificate.
struct Running {
    site: Site,
    key_server: Daemon,
    registrar: Daemon,
    members: Vec<Daemon>,
}

const MEMBERS: [&str; 3] = ["m1", "m2", "m3"];

impl Running {
    fn start() -> Self {
        let site = Site::new();
        // A busy machine is not taken for silence.
        let trust = "site_certificate = \"pki/ks.site\"\nsite_key = \"pki/site.pub\"\nstore = ";
        let text =
            site.key_server().replace("store = ", trust).replace("beacon_ms = 300", "refresh_s = 2\nbeacon_ms = 1000");
        site.write("ks.toml", &text);
        for name in MEMBERS {
            let text = site.member(name, "demo");
            let key = text.lines().find(|line| line.starts_with("site_key")).unwrap().to_owned();
            let text =
                text.replace(&key, "site_key = \"pki/site.pub\"").replace("pki/ks.site", &format!("{name}.site"));
            site.write(&format!("{name}.toml"), &text);
            fs::copy(site.path("pki/ks.site"), site.path(&format!("{name}.site"))).unwrap();
        }
        let key_server = site.start("keyserver", "ks");
        let registrar = site.start("registrar", "r1");
        site.wait("ks.sock", |status| status["registrars"] == 1);
        let members: Vec<Daemon> = MEMBERS.iter().map(|name| site.start("client-ctl", name)).collect();
        for name in MEMBERS {
            site.wait(&format!("{name}.sock"), is_member);
        }
        Self { site, key_server, registrar, members }
    }

    /// A step, and the key server reads what has come of it.
    fn roll(&self, step: &str, key: &str) {
        let mut command = keystone();
        command.args(["pki", "roll", step, key, "--hours", "0", "--dir"]).arg(self.site.path("pki"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        hang_up(&self.key_server);
        let begins = self.begins("pki/ks.site");
        self.site.wait("ks.sock", |status| status["site_certificate"]["begins"] == begins);
    }

    fn begins(&self, certificate: &str) -> u64 {
        let octets = hex::decode(fs::read_to_string(self.site.path(certificate)).unwrap().trim()).unwrap();
        // After magic, version and the name, which has two letters.
        u64::from_be_bytes(octets[9..17].try_into().unwrap())
    }

    /// Gives members the present certificate.
    fn tell(&self, members: &[usize]) {
        for at in members {
            let name = MEMBERS[*at];
            fs::copy(self.site.path("pki/ks.site"), self.site.path(&format!("{name}.site"))).unwrap();
            hang_up(&self.members[*at]);
            let begins = self.begins("pki/ks.site");
            self.site.wait(&format!("{name}.sock"), |status| status["site_certificate"]["begins"] == begins);
        }
    }

    /// A member leaves and joins again: two requests under the Noise key that its certificate names.
    fn comes_again(&self, name: &str) {
        let socket = format!("{name}.sock");
        self.site.order(&socket, "/v1/groups/demo/leave", "{}");
        self.site.wait(&socket, |status| group(status)["status"] == "left");
        self.site.order(&socket, "/v1/groups/demo/join", "{}");
        self.site.wait(&socket, is_member);
    }

    fn status(&self) -> Value {
        self.site.ask("ks.sock", "/v1/status").unwrap()
    }
}

/// A stream from m1 to m2 that goes on until it is told to end.
struct Stream {
    sender: Child,
    receiver: Child,
    feeder: JoinHandle<Vec<u8>>,
    end: Arc<AtomicBool>,
}

impl Stream {
    fn start(site: &Site) -> Self {
        let to = format!("239.78.2.{}:{}", site.group.port() % 250 + 1, site.group.port());
        let mcast = |what: &str, name: &str| {
            let mut command = keystone();
            command.args(["mcast", what, "--group", "demo", "--socket"]).arg(site.path(&format!("{name}.sock")));
            command.stderr(fs::File::create(site.path(&format!("{name}.{what}"))).unwrap());
            command
        };
        let received = fs::File::create(site.path("received")).unwrap();
        let receiver =
            mcast("recv", "m2").args(["--listen", &to]).stdin(Stdio::null()).stdout(received).spawn().unwrap();
        // It has joined the multicast group by then.
        std::thread::sleep(Duration::from_millis(500));
        let mut command = mcast("send", "m1");
        command.args(["--to", &to, "--payload", "100"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut sender = command.spawn().unwrap();
        let (end, mut input) = (Arc::new(AtomicBool::new(false)), sender.stdin.take().unwrap());
        let feeder = std::thread::spawn({
            let end = end.clone();
            move || feed(&mut input, &end)
        });
        Self { sender, receiver, feeder, end }
    }

    /// What was sent, when all of it was received.
    fn end(mut self, site: &Site) -> Vec<u8> {
        self.end.store(true, Ordering::Relaxed);
        let sent = self.feeder.join().unwrap();
        assert!(self.sender.wait().unwrap().success());
        let code = self.receiver.wait().unwrap();
        assert!(code.success(), "{}", fs::read_to_string(site.path("m2.recv")).unwrap());
        assert!(fs::read(site.path("received")).unwrap() == sent, "what was received is what was sent");
        sent
    }
}

/// Some hundred octets every 10 ms, for two seconds at the least.
fn feed(input: &mut ChildStdin, end: &AtomicBool) -> Vec<u8> {
    let mut sent = Vec::new();
    while !end.load(Ordering::Relaxed) || sent.len() < 20_000 {
        let line = format!("{:>100}", sent.len());
        input.write_all(line.as_bytes()).unwrap();
        sent.extend_from_slice(line.as_bytes());
        std::thread::sleep(Duration::from_millis(10));
    }
    sent
}

#[test]
fn every_key_is_rolled_and_nothing_is_lost() {
    let running = Running::start();
    let site = &running.site;
    let stream = Stream::start(site);
    let first = running.status();

    // The Noise key: under the old one and the new one alike, then under the new one alone.
    running.roll("begin", "noise");
    assert_eq!(running.status()["noise_keys"].as_array().unwrap().len(), 2);
    running.comes_again("m3");
    running.tell(&[0, 1, 2]);
    running.roll("switch", "noise");
    running.tell(&[2]);
    running.comes_again("m3");
    running.roll("finish", "noise");
    running.comes_again("m3");
    let rolled = running.status();
    assert_eq!(rolled["noise_keys"].as_array().unwrap().len(), 1);
    assert_ne!(rolled["noise_keys"], first["noise_keys"]);

    // The signing key. Nobody tells m3: when it can believe nothing more it asks the key server.
    running.roll("begin", "signing");
    running.tell(&[0, 1]);
    assert_eq!(running.status()["signing_key"], first["signing_key"]);
    running.roll("switch", "signing");
    assert_ne!(running.status()["signing_key"], first["signing_key"]);
    let begins = running.begins("pki/ks.site");
    site.wait("m3.sock", |status| status["site_certificate"]["begins"] == begins && is_member(status));
    site.says("m3.log", "there may be a newer certificate");
    site.says("m3.log", "a newer site certificate came from the key server");
    assert_eq!(running.begins("m3.site"), begins, "it is in the file");
    running.roll("finish", "signing");
    running.tell(&[0, 1, 2]);

    // The site's own key: `site.pub` holds both for a while.
    running.roll("begin", "site");
    running.members.iter().for_each(hang_up);
    running.roll("switch", "site");
    running.tell(&[0, 1, 2]);
    running.roll("finish", "site");
    running.members.iter().for_each(hang_up);

    let sent = stream.end(site);
    println!("{} octets, all read", sent.len());
    for name in MEMBERS {
        let status = site.wait(&format!("{name}.sock"), is_member);
        let resyncs = group(&status)["counters"]["resyncs"].as_u64().unwrap();
        assert!(name == "m3" || resyncs == 0, "{name} had to ask: {status}");
    }
}

/// A certificate under this authority, in the place of the one that is there.
fn issue(site: &Site, authority: &Authority, role: &str, name: &str) {
    let identity = Identity::parse(&format!("spiffe://demo/{role}/{name}")).unwrap();
    let leaf = authority.issue(&identity, 1).unwrap();
    site.write(&format!("pki/{name}.pem"), &leaf.certificate);
    site.write(&format!("pki/{name}.key"), &leaf.key);
}

#[test]
fn the_roots_of_tls_are_rolled_and_a_mistake_leaves_the_last_good_ones() {
    let mut running = Running::start();
    let authority = Authority::new("next", 1).unwrap();
    let old = fs::read_to_string(running.site.path("pki/ca.pem")).unwrap();
    let registers_again = |running: &Running| {
        let before = running.site.ask("m1.sock", "/v1/status").unwrap()["registration"].as_u64();
        hang_up(&running.members[0]);
        let again = |status: &Value| status["registration"].as_u64() > before && is_member(status);
        running.site.wait("m1.sock", again);
    };
    let reads = |running: &Running| [&running.key_server, &running.registrar].into_iter().for_each(hang_up);
    // Both authorities, and then certificates under the new one.
    running.site.write("pki/ca.pem", &format!("{old}{}", authority.pem()));
    reads(&running);
    registers_again(&running);
    for (role, name) in [("keyserver", "ks"), ("registrar", "r1"), ("member", "m1")] {
        issue(&running.site, &authority, role, name);
    }
    reads(&running);
    registers_again(&running);
    // Only the new one. The link between registrar and key server is made anew under it.
    running.site.write("pki/ca.pem", authority.pem());
    reads(&running);
    running.registrar.0.kill().unwrap();
    running.registrar.0.wait().unwrap();
    running.registrar = running.site.start("registrar", "r1");
    running.site.wait("ks.sock", |status| status["registrars"] == 1);
    registers_again(&running);
    // No roots at all: everybody says so, and goes on with those that it has.
    running.site.write("pki/ca.pem", "nothing");
    for (log, daemon) in
        [("ks.log", &running.key_server), ("r1.log", &running.registrar), ("m1.log", &running.members[0])]
    {
        refuses(&running.site, log, "pki/ca.pem: holds no certificate", || hang_up(daemon));
    }
    running.comes_again("m1");
}

/// Does something, and waits until the log names the mistake, once more than before.
fn refuses(site: &Site, log: &str, named: &str, act: impl Fn()) {
    let count = || fs::read_to_string(site.path(log)).unwrap().matches(named).count();
    let (before, deadline) = (count(), Instant::now() + Duration::from_secs(20));
    act();
    while count() == before {
        assert!(Instant::now() < deadline, "{log} does not say `{named}`");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_mistake_is_named_and_changes_nothing() {
    let running = Running::start();
    let site = &running.site;
    let read = |name: &str| fs::read_to_string(site.path(name)).unwrap();
    let (certificate, noise) = (read("pki/ks.site"), read("pki/ks.noise"));
    running.roll("begin", "signing");
    running.tell(&[0]);
    let (good, both) = (read("pki/ks.site"), read("pki/ks.signing"));
    let before = running.status();
    let foreign = Site::new();
    let of_others = fs::read_to_string(foreign.path("pki/ks.site")).unwrap();
    let changes: [(&str, &str, &str); 7] = [
        ("pki/ks.site", &of_others, "not signed by this site's key"),
        ("pki/ks.site", &certificate, "only a later one replaces it"),
        ("pki/ks.site", "00", "malformed site certificate"),
        ("pki/ks.site", &good[..200], "not signed by this site's key"),
        ("pki/ks.signing", &"07".repeat(32), "does not name key 1"),
        ("pki/ks.signing", "no key", "hexadecimal digits"),
        ("pki/ks.noise", &"07".repeat(32), "names none of these keys"),
    ];
    for (file, content, named) in changes {
        site.write(file, content);
        refuses(site, "ks.log", named, || hang_up(&running.key_server));
        // A member takes no such certificate either.
        if file.ends_with(".site") {
            site.write("m1.site", content);
            refuses(site, "m1.log", named, || hang_up(&running.members[0]));
        }
        let now = running.status();
        let in_force = |status: &Value| {
            ["/signing_key", "/noise_keys", "/site_certificate/begins"].map(|key| status.pointer(key).cloned())
        };
        assert_eq!(in_force(&now), in_force(&before), "{named}");
        for (file, content) in [("pki/ks.site", &good), ("pki/ks.signing", &both), ("pki/ks.noise", &noise)] {
            site.write(file, content);
        }
    }
    let status = site.wait("m1.sock", is_member);
    assert_eq!(status["site_certificate"]["begins"], running.begins("pki/ks.site"));

    // At the start a key server says the same, and does not start.
    site.write("pki/ks.signing", &"07".repeat(32));
    let refused = Command::new(env!("CARGO_BIN_EXE_keystone"))
        .args(["daemon", "keyserver", "--check", "--config"])
        .arg(site.path("ks.toml"))
        .output()
        .unwrap();
    common::refused(&refused, "signing_key");
}
