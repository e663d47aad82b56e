//! What is read again and is no good: every daemon names it, counts it, and goes on as if it were not there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::ours::{Ours, now};
use common::{Daemon, hang_up, keystone};
use serde_json::Value;

const POLICY: &str = "allow = [\"spiffe://demo/member/*\"]";
const TLS: &str = "TLS credentials";
const KEYS: &str = "Noise and signing keys";

struct Running {
    ours: Ours,
    daemons: [(Daemon, &'static str); 3],
}

impl Running {
    fn start() -> Self {
        let ours = Ours::new(POLICY);
        let site = &ours.site;
        let with_list = site.registrar().replace("ca.pem\"", "ca.pem\", crls = [\"ca.crl\"]");
        site.write("r1.toml", &with_list);
        let key_server = site.start("keyserver", "ks");
        site.wait("ks.sock", |_| true);
        let registrar = site.start("registrar", "r1");
        site.wait("ks.sock", |status| status["registrars"] == 1);
        let member = ours.member("m1", now() + 3_600);
        let daemons = [(key_server, "ks.sock"), (registrar, "r1.sock"), (member, "m1.sock")];
        Self { ours, daemons }
    }

    /// What became of one thing at a daemon.
    fn readings(&self, socket: &str, what: &str) -> Value {
        self.ours.site.wait(socket, |_| true)["files"][what].clone()
    }

    /// Whether the daemons do what they did.
    fn goes_on(&self) {
        let order = self.ours.site.order("ks.sock", "/v1/groups/demo/refresh", "");
        let epoch = order["epoch"].as_u64();
        let member = self.ours.site.wait("m1.sock", |status| status["groups"][0]["epoch"].as_u64() >= epoch);
        assert_eq!(member["groups"][0]["status"], "member");
        let status = self.ours.site.wait("ks.sock", |status| status["registrars"] == 1);
        assert_eq!((&status["groups"][0]["members"], &status["clients"]), (&1.into(), &1.into()), "{status}");
    }

    /// A bad file is refused by these daemons, for this reason; the good one is taken again.
    fn refuses(&self, file: &str, bad: &str, by: &[(&str, &str)], why: &str) {
        let good = fs::read_to_string(self.ours.site.path(file)).unwrap();
        let before: Vec<Value> = by.iter().map(|(socket, what)| self.readings(socket, what)).collect();
        assert_ne!(good, bad);
        self.ours.site.write(file, bad);
        self.daemons.iter().for_each(|(daemon, _)| hang_up(daemon));
        for ((socket, what), before) in by.iter().zip(&before) {
            let is_named = |now: &Value| now["error"].as_str().is_some_and(|error| error.contains(why));
            let now = &self.ours.site.wait(socket, |status| is_named(&status["files"][what]))["files"][what];
            assert!(now["refused"].as_u64() > before["refused"].as_u64(), "{file}: {before}, then {now}");
            assert_eq!(now["taken"], before["taken"], "{file}");
        }
        self.goes_on();
        self.ours.site.write(file, &good);
        self.daemons.iter().for_each(|(daemon, _)| hang_up(daemon));
        for ((socket, what), before) in by.iter().zip(&before) {
            let now = &self.ours.site.wait(socket, |status| status["files"][what]["error"].is_null())["files"][what];
            assert!(now["taken"].as_u64() > before["taken"].as_u64(), "{file}: {before}, then {now}");
        }
    }

    fn shown(&self, socket: &str) -> String {
        let shown = keystone().args(["status", "--socket"]).arg(self.ours.site.path(socket)).output().unwrap();
        assert!(shown.status.success(), "{shown:?}");
        String::from_utf8(shown.stdout).unwrap()
    }
}

#[test]
fn what_is_refused_is_named_and_counted_and_changes_nothing() {
    let running = Running::start();
    running.goes_on();
    let read = |file: &str| fs::read_to_string(running.ours.site.path(file)).unwrap();
    let policy = read("policy.toml");
    let ks = |what| ("ks.sock", what);
    let both = [ks(TLS), ("r1.sock", TLS)];
    running.refuses(
        "policy.toml",
        &policy.replace("beacon_ms = 300", "beacon_ms = \"often\""),
        &[ks("policy")],
        "beacon_ms",
    );
    // Right by itself, and no successor of what is in force: the core says so.
    running.refuses(
        "policy.toml",
        &policy.replace("id = 1\n", "id = 1\ndegree = 8\n"),
        &[ks("policy")],
        "degree and suite",
    );
    running.refuses("ca.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", &both, "ca.crl");
    running.refuses("pki/ks.pem", &read("pki/m1.pem"), &[ks(TLS)], "ks.");
    running.refuses("pki/ks.signing", "0123\n", &[ks(KEYS)], "signing_key");
    running.refuses("pki/ks.noise", "", &[ks(KEYS)], "noise_key");
    running.refuses("pki/ks.site", "00\n", &[("m1.sock", "site certificate")], "site_certificate");

    // As an operator sees it, while it is so.
    assert!(!running.shown("ks.sock").contains("NOT IN FORCE"));
    running.ours.site.write("ca.crl", "nothing");
    running.daemons.iter().for_each(|(daemon, _)| hang_up(daemon));
    for (socket, what) in both {
        running.ours.site.wait(socket, |status| status["files"][what]["error"].is_string());
        let shown = running.shown(socket);
        assert!(shown.contains("on disk and NOT IN FORCE: TLS credentials: ") && shown.contains("ca.crl"), "{shown}");
    }
    let registrar = running.shown("r1.sock");
    assert!(
        registrar.contains("registrar spiffe://demo/registrar/r1") && registrar.contains("registered 1,"),
        "{registrar}"
    );
}
