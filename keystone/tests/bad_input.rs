//! Bad input to real processes: each gets a clear error naming what is wrong, and changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of processes has a clock and sockets")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use common::{Site, keystone, refused};

#[test]
fn a_wrong_configuration_is_named_and_nothing_is_bound_or_written() {
    let site = Site::new();
    for (daemon, config) in [("keyserver", "ks.toml"), ("registrar", "r1.toml"), ("client-ctl", "m1.toml")] {
        let good = site.check(daemon, config);
        assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    }
    let key_server: &[(&str, &str, &str)] = &[
        ("interface", "interfaze", "interfaze"),
        ("id = 1", "id = 0", "id"),
        ("beacon_ms = 300", "beacon_ms = 7", "beacon_ms"),
        ("beacon_ms = 300", "degree = 65", "degree"),
        ("beacon_ms = 300", "repair = \"rs9\"", "repair"),
        ("beacon_ms = 300", "strategy = \"best\"", "strategy"),
        ("beacon_ms = 300", "beacon_ms = \"300\"", "beacon_ms"),
        ("name = \"demo\"", "name = \"de mo\"", "name"),
        ("spiffe://demo/member/*", "spiffe://Demo/member/*", "Demo"),
        ("[[registrar]]", "[[registrars]]", "registrars"),
        ("pki/ks.noise", "pki/none", "pki/none"),
        ("pki/ks.signing", "pki/ca.pem", "pki/ca.pem"),
        ("pki/ks.key", "pki/r1.key", "tls"),
        ("name = \"ks\"", "name = \"ks\"\nname = \"ks\"", "name"),
        ("name = \"ks\"", "name = ", "bad.toml:1"),
    ];
    for (old, new, named) in key_server {
        let bad = site.key_server().replace(old, new);
        assert_ne!(bad, site.key_server());
        site.write("bad.toml", &bad);
        refused(&site.check("keyserver", "bad.toml"), named);
    }
    let address = format!("address = \"{}\"", site.group);
    site.write("bad.toml", &site.key_server().replace(&address, "address = \"10.0.0.1:7000\""));
    refused(&site.check("keyserver", "bad.toml"), "address");
    for (daemon, text) in [("registrar", site.registrar()), ("client-ctl", site.member("m1", "demo"))] {
        site.write("bad.toml", &(text + "surprise = 1\n"));
        refused(&site.check(daemon, "bad.toml"), "surprise");
    }
    refused(&site.check("keyserver", "missing.toml"), "missing.toml");
    fs::set_permissions(site.path("pki/ks.key"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(&site.check("keyserver", "ks.toml"), "ks.key");
    assert!(!site.path("ks.store").exists() && !site.path("ks.sock").exists());
}

#[test]
fn expired_foreign_and_ambiguous_certificates_are_refused() {
    let site = Site::new();
    let authority = certs::Authority::new("somebody else", 1).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let me = "spiffe://demo/member/m1";
    let cases: [(&[&str], (u64, u64), &str); 4] = [
        (&[me], (now - 1_000, now - 10), "valid from"),
        (&[me], (now + 5_000, now + 10_000), "valid from"),
        (&[me, "spiffe://demo/member/m2"], (now - 10, now + 1_000), "URI"),
        (&[], (now - 10, now + 1_000), "URI"),
    ];
    for (uris, validity, named) in cases {
        let leaf = authority.issue_uris(uris, &validity).unwrap();
        site.write("pki/m1.pem", &leaf.certificate);
        site.write("pki/m1.key", &leaf.key);
        refused(&site.check("client-ctl", "m1.toml"), named);
    }
}

/// Whatever the peer does with these octets, it must be there afterwards.
fn throw(address: SocketAddr, octets: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let _ = stream.write_all(octets);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0; 64]);
}

fn logs(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|kind| kind == "log"));
    logs.map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn running_daemons_survive_whatever_comes_and_change_nothing() {
    let site = Site::new();
    let mut key_server = site.start("keyserver", "ks");
    site.wait("ks.sock", |_| true);
    let mut registrar = site.start("registrar", "r1");
    site.wait("ks.sock", |status| status["registrars"] == 1);
    let mut member = site.start("client-ctl", "m1");
    site.wait("m1.sock", |status| status["groups"][0]["status"] == "member");
    let epoch = site.wait("ks.sock", |_| true)["groups"][0]["epoch"].clone();

    // A second key server on the same store, and on the same port.
    site.write("second.toml", &site.key_server().replace("ks.sock", "second.sock"));
    let second = keystone().args(["daemon", "keyserver", "--config"]).arg(site.path("second.toml")).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"), "{second:?}");
    site.write("third.toml", &site.key_server().replace("ks.sock", "third.sock").replace("ks.store", "third.store"));
    let third = keystone().args(["daemon", "keyserver", "--config"]).arg(site.path("third.toml")).output().unwrap();
    assert_eq!(third.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&third.stderr).contains("cannot listen"), "{third:?}");

    // Nonsense on every port.
    let noise: Vec<u8> = (0..3_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &noise[..200]].concat();
    let preamble = [&[0, 0, 0, 17, 1, 0, 2][..], b"ks", &[0, 0, 0, 1], &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
    let with_garbage = [preamble.as_slice(), &[0, 0, 0, 48], &noise[..48]].concat();
    let nonsense: [&[u8]; 8] =
        [b"", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4], &[0, 0, 0, 0], &noise, &hello, &preamble, &with_garbage];
    let before = site.wait("ks.sock", |_| true)["doors"].clone();
    for address in [site.requests, site.registrars, site.clients] {
        for octets in nonsense {
            throw(address, octets);
        }
    }
    // Each is counted, and none has proved anything.
    let thrown = u64::try_from(nonsense.len()).unwrap();
    let after = site.wait("ks.sock", |_| true)["doors"].clone();
    for door in ["requests", "registrars"] {
        let more = |of: &str| after[door][of].as_u64().unwrap() - before[door][of].as_u64().unwrap();
        assert!(more("let_in") >= thrown && more("proved") == 0, "{before} {after}");
    }
    let registrar_door = site.wait("r1.sock", |status| status["failed"].as_u64() >= Some(thrown));
    assert_eq!(registrar_door["registered"], 1, "{registrar_door}");
    for socket in ["ks.sock", "m1.sock"] {
        for octets in nonsense {
            let mut stream = UnixStream::connect(site.path(socket)).unwrap();
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = stream.write_all(octets);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0; 64]);
        }
    }
    // Forged units and beacons, of every length, to the group.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in (0..1_232).step_by(7) {
        let kind = u8::from(length % 2 == 0) + 1;
        let forged = [&b"KS\x01"[..], &[kind, 1, 0, 0, 0, 1], &noise[..length]].concat();
        udp.send_to(&forged, site.group).unwrap();
    }
    // A client of another authority, a group that does not exist.
    let authority = certs::Authority::new("somebody else", 1).unwrap();
    let identity = protocol::identity::Identity::parse("spiffe://demo/member/m2").unwrap();
    let leaf = authority.issue(&identity, 1).unwrap();
    fs::create_dir(site.path("foreign")).unwrap();
    site.write("foreign/m2.pem", &leaf.certificate);
    site.write("foreign/m2.key", &leaf.key);
    fs::set_permissions(site.path("foreign/m2.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let text = site.member("m2", "demo").replace("pki/m2", "foreign/m2").replace("m2.sock", "foreign.sock");
    site.write("foreign.toml", &text);
    let _foreign = site.start("client-ctl", "foreign");
    site.write("m2.toml", &site.member("m2", "nowhere"));
    let nowhere = site.start("client-ctl", "m2");
    let status = site.wait("m2.sock", |status| status["groups"][0]["status"] == "refused");
    assert_eq!(status["groups"][0]["detail"], "there is no such group");
    let status = site.wait("foreign.sock", |_| true);
    assert!(status["client_id"].is_null(), "{status}");

    let after = site.wait("ks.sock", |_| true);
    assert_eq!(after["groups"][0]["epoch"], epoch);
    assert_eq!(after["clients"], 2, "m1 and m2 have registered, and nobody else");
    for daemon in [&mut key_server, &mut registrar, &mut member] {
        assert!(daemon.0.try_wait().unwrap().is_none(), "a daemon has ended: {}", logs(site.folder.path()));
    }
    // Nothing secret is in any log.
    let logs = logs(site.folder.path());
    assert!(logs.contains("registered") && !logs.contains("panicked"));
    let feed = site.ask("m1.sock", "/v1/groups/demo/keys").unwrap();
    let data_key = feed["keys"][0]["secret"].as_str().unwrap().to_owned();
    for file in ["ks.store-key", "pki/ks.noise", "pki/ks.signing"] {
        assert!(!logs.contains(fs::read_to_string(site.path(file)).unwrap().trim()), "{file}");
    }
    assert!(!logs.contains(&data_key));
    // And whoever may still can.
    drop(nowhere);
    fs::remove_file(site.path("m2.sock")).ok();
    site.write("m2.toml", &site.member("m2", "demo"));
    let _m2 = site.start("client-ctl", "m2");
    site.wait("m2.sock", |status| status["groups"][0]["status"] == "member");
}

const ASK: &str = "
import socket, sys
for path in sys.argv[1:]:
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    stream.sendall(b'GET /v1/status HTTP/1.1\\r\\nhost: k\\r\\nconnection: close\\r\\n\\r\\n')
    print(stream.makefile('rb').readline().split()[1].decode())
";

/// Another user of the host, whom the modes of files let through.
#[test]
fn another_user_may_ask_a_registrar_how_it_goes_and_neither_order_nor_read_keys() {
    use std::os::unix::process::CommandExt;
    let site = Site::new();
    let _key_server = site.start("keyserver", "ks");
    site.wait("ks.sock", |_| true);
    let _registrar = site.start("registrar", "r1");
    let _member = site.start("client-ctl", "m1");
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let sockets = ["ks.sock", "m1.sock", "r1.sock"];
    for socket in sockets {
        site.wait(socket, |_| true);
        fs::set_permissions(site.path(socket), fs::Permissions::from_mode(0o666)).unwrap();
    }
    let ask = |uid: Option<u32>| {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", ASK]).args(sockets.map(|socket| site.path(socket))).current_dir("/");
        uid.map(|uid| command.uid(uid));
        let output = command.output();
        output.map(|output| String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(ask(None).unwrap(), "200\n200\n200\n");
    match ask(Some(65_534)) {
        Ok(heard) => assert_eq!(heard, "403\n403\n200\n"),
        Err(error) => println!("NOT CHECKED: this test cannot be another user: {error}"),
    }
}
