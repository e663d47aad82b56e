//! Clients with and without certificates, between real processes, and credentials that are replaced while they run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of processes has a clock and sockets")]

mod common;

use std::fs;

use common::{Site, hang_up, keystone, refused};
use serde_json::Value;

fn is_member(status: &Value) -> bool {
    status["groups"][0]["status"] == "member"
}

impl Site {
    fn token(&self, name: &str, identity: &str) {
        let mut command = keystone();
        command.args(["pki", "token", "--dir"]).arg(self.path("pki")).args(["--identity", identity, "--out"]);
        assert!(command.arg(self.path(name)).status().unwrap().success());
    }

    /// A member's configuration that has a token in place of a certificate.
    fn by_token(&self, name: &str, identity: &str, token: &str) -> String {
        let text = self.member(name, "demo");
        let text = text.replace(&format!("certificate = \"pki/{name}.pem\""), &format!("token_file = \"{token}\""));
        text.replace(&format!("private_key = \"pki/{name}.key\""), &format!("identity = \"{identity}\""))
    }
}

#[test]
fn tokens_and_certificates_side_by_side() {
    let site = Site::new();
    let both =
        "may_register.certificate = [\"spiffe://demo/member/*\"]\nmay_register.token = [\"spiffe://demo/member/*\"]";
    let key_server = site.key_server();
    let text = key_server.replace("may_register.certificate = [\"spiffe://demo/member/*\"]", both);
    assert_ne!(text, key_server);
    site.write("ks.toml", &text);
    let token = "[token]\nkeys = \"pki/token-keys.json\"\nissuer = \"keystone-pki\"\naudience = \"keystone\"\n\
                 algorithms = [\"ES256\"]\n";
    site.write("r1.toml", &(site.registrar() + token));
    let me = "spiffe://demo/member/t1";
    site.token("t1.token", me);
    site.write("t1.toml", &site.by_token("m1", me, "t1.token").replace("m1.sock", "t1.sock"));
    // One of them as the paper has it.
    site.write("m2.toml", &("individual_key = \"exported\"\n".to_owned() + &site.member("m2", "demo")));
    let key_server = site.start("keyserver", "ks");
    let registrar = site.start("registrar", "r1");
    site.wait("ks.sock", |status| status["registrars"] == 1);
    let _t1 = site.start("client-ctl", "t1");
    let m2 = site.start("client-ctl", "m2");
    let first = site.wait("t1.sock", is_member);
    site.wait("m2.sock", is_member);
    assert_eq!((&first["registration"], &first["identity"]), (&1.into(), &me.into()));

    // The same token again, by a copy of that member on another host: refused by the key server.
    let used = fs::read_to_string(site.path("t1.token")).unwrap();
    site.write("t9.toml", &site.by_token("m1", me, "t1.token").replace("m1.sock", "t9.sock"));
    let copy = site.start("client-ctl", "t9");
    site.says("t9.log", "this token has been used");
    drop(copy);

    // Another token, put in place: another registration, and the member stays one.
    site.token("t1.token", me);
    assert_ne!(fs::read_to_string(site.path("t1.token")).unwrap(), used);
    let second = site.wait("t1.sock", |status| status["registration"].as_u64() > Some(1) && is_member(status));
    assert_eq!(second["client_id"], first["client_id"]);

    // SIGHUP ends nobody: all read their files again, and a member registers with what it finds.
    [&key_server, &registrar, &m2].into_iter().for_each(hang_up);
    site.wait("m2.sock", |status| status["registration"] == 2 && is_member(status));
    site.says("ks.log", "TLS credentials: read again");
    site.says("r1.log", "TLS credentials: read again");
    fs::write(site.path("pki/ks.pem"), "nonsense").unwrap();
    hang_up(&key_server);
    site.says("ks.log", "the last good ones stay in force");
    let registered = site.ask("ks.sock", "/v1/status").unwrap();
    assert_eq!((&registered["clients"], &registered["registrars"]), (&2.into(), &1.into()), "{registered}");
    let ways = &registered["registrations"];
    assert_eq!((&ways["sealed"], &ways["exported"]), (&2.into(), &2.into()), "{registered}");
}

#[test]
fn a_registrar_that_may_know_no_key() {
    let site = Site::new();
    let key_server = site.key_server();
    let text = key_server.replace("may_register", "sealed_only = true\nmay_register");
    assert_ne!(text, key_server);
    site.write("ks.toml", &text);
    site.write("m2.toml", &("individual_key = \"exported\"\n".to_owned() + &site.member("m2", "demo")));
    let _daemons = [("keyserver", "ks"), ("registrar", "r1")].map(|(daemon, name)| site.start(daemon, name));
    site.wait("ks.sock", |status| status["registrars"] == 1);
    let _members = ["m1", "m2"].map(|name| site.start("client-ctl", name));
    site.wait("m1.sock", is_member);
    site.says("m2.log", "may register sealed only");
    let status = site.ask("ks.sock", "/v1/status").unwrap();
    let ways = &status["registrations"];
    assert_eq!((&status["clients"], &ways["sealed"], &ways["exported"]), (&1.into(), &1.into(), &0.into()), "{status}");
    assert!(ways["exported_refused"].as_u64() > Some(0), "{status}");
}

#[test]
fn a_client_has_one_credential() {
    let site = Site::new();
    let me = "spiffe://demo/member/m1";
    site.token("m1.token", me);
    site.write("good.toml", &site.by_token("m1", me, "m1.token"));
    assert!(site.check("client-ctl", "good.toml").status.success());
    let bad = [
        (site.by_token("m1", me, "none.token"), "none.token"),
        (site.by_token("m1", me, "pki/ca.pem"), "pki/ca.pem"),
        (site.by_token("m1", "spiffe://Demo/member/m1", "m1.token"), "identity"),
        (site.by_token("m1", me, "m1.token").replace("token_file", "certificate"), "token_file"),
        ("certificate = \"pki/m1.pem\"\n".to_owned() + &site.by_token("m1", me, "m1.token"), "token_file"),
        (site.member("m1", "demo").replace("private_key", "# private_key"), "private_key"),
    ];
    for (text, named) in bad {
        site.write("bad.toml", &text);
        refused(&site.check("client-ctl", "bad.toml"), named);
    }
}
