//! Other carriers than multicast, between real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of processes has a clock and sockets")]

mod common;

use std::net::UdpSocket;
use std::time::Duration;

use common::{Site, keystone, refused};
use serde_json::Value;

fn group(status: &Value) -> &Value {
    &status["groups"][0]
}

/// The data key of the newest epoch, and the epoch.
fn key(site: &Site, member: &str) -> (u64, String) {
    let keys = site.ask(&format!("{member}.sock"), "/v1/groups/demo/keys").unwrap();
    let newest = keys["keys"].as_array().unwrap().last().unwrap().clone();
    (newest["epoch"].as_u64().unwrap(), newest["secret"].as_str().unwrap().to_owned())
}

/// The daemons of a site in which member m1 has no multicast: the interface that it would need does not exist.
fn without_multicast(key_server: &str) -> Site {
    let site = Site::new();
    let m1 = site.member("m1", "demo").replace("\"127.0.0.1\"", "\"nosuch0\"\ncarrier = \"tcp\"");
    assert!(m1.contains("carrier"));
    site.write("m1.toml", &m1);
    site.write("m2.toml", &site.member("m2", "demo"));
    // A busy machine is not taken for silence.
    let text = site.key_server().replace("beacon_ms = 300", "beacon_ms = 1000");
    site.write("ks.toml", &text.replace("store = ", &format!("{key_server}\nstore = ")));
    site
}

#[test]
fn a_member_without_multicast_follows_over_tcp_and_relays_get_what_is_multicast() {
    let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
    relay.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let relays = format!("relays = [\"{}\", \"{nobody}\"]", relay.local_addr().unwrap());
    let site = without_multicast(&relays);
    let mut key_server = site.start("keyserver", "ks");
    let _registrar = site.start("registrar", "r1");
    site.wait("ks.sock", |status| status["registrars"] == 1);
    let _m1 = site.start("client-ctl", "m1");
    site.wait("m1.sock", |status| group(status)["status"] == "member" && status["tcp"]["open"] == true);
    site.wait("ks.sock", |status| status["subscribers"] == 1);

    // It follows joins, refreshes and leaves.
    let _m2 = site.start("client-ctl", "m2");
    site.wait("m2.sock", |status| group(status)["status"] == "member");
    (0..3).for_each(|_| drop(site.order("ks.sock", "/v1/groups/demo/refresh", "{}")));
    let epoch = site.ask("ks.sock", "/v1/status").unwrap()["groups"][0]["epoch"].clone();
    for member in ["m1.sock", "m2.sock"] {
        site.wait(member, |status| group(status)["epoch"] == epoch);
    }
    assert_eq!(key(&site, "m1"), key(&site, "m2"));
    site.order("m2.sock", "/v1/groups/demo/leave", "{}");
    let left = epoch.as_u64().unwrap() + 1;
    let status = site.wait("m1.sock", |status| group(status)["epoch"] == left);
    let counters = &group(&status)["counters"];
    assert_eq!((&counters["resyncs"], &counters["messages"]), (&0.into(), &5.into()), "{status}");
    assert_eq!((&counters["units_received"], &counters["units_duplicate"]), (&5.into(), &0.into()), "without copies");
    assert_eq!(group(&status)["carrier"], "tcp");

    // The relay that is there got all of it, copies and beacons too.
    let (mut buf, mut units, mut beacons) = ([0; 2_000], 0, 0);
    while units < 15 || beacons < 5 {
        let length = relay.recv(&mut buf).unwrap();
        units += usize::from(protocol::unit::Unit::decode(&buf[..length]).is_ok());
        beacons += usize::from(protocol::Beacon::decode(&buf[..length]).is_ok());
    }

    // A key server that was killed comes back, and so does its subscriber.
    let term = group(&status)["term"].as_u64().unwrap();
    key_server.0.kill().unwrap();
    key_server.0.wait().unwrap();
    site.wait("m1.sock", |status| status["tcp"]["open"] == false);
    let _key_server = site.start("keyserver", "ks");
    let again = |status: &Value| group(status)["term"] == term + 1 && status["tcp"]["open"] == true;
    let status = site.wait("m1.sock", again);
    assert!(status["tcp"]["ended"].as_u64() >= Some(1));
    let before = group(&status)["epoch"].as_u64().unwrap();
    site.order("ks.sock", "/v1/groups/demo/refresh", "{}");
    site.wait("m1.sock", |status| group(status)["epoch"].as_u64() > Some(before));

    // An eviction ends it.
    let evicted = site.order("ks.sock", "/v1/groups/demo/evict", r#"{ "identity": "spiffe://demo/member/m1" }"#);
    let status = site.wait("m1.sock", |status| group(status)["status"] == "evicted");
    assert!(group(&status)["epoch"].as_u64() < evicted["epoch"].as_u64(), "{status} {evicted}");
    assert_eq!(status["tcp"]["open"], false);
    site.wait("ks.sock", |status| status["subscribers"] == 0);
}

#[test]
fn a_wrong_configuration_of_a_carrier_is_named() {
    let site = Site::new();
    let address = "127.0.0.1:9";
    for (line, named) in [
        (format!("relays = [\"{address}\", \"{address}\"]"), "relays"),
        ("relays = [\"239.1.1.1:9\"]".into(), "relays"),
        ("relays = [\"0.0.0.0:9\"]".into(), "relays"),
        (format!("relays = [{}]", (1..=65).map(|n| format!("\"127.0.0.1:{n}\",")).collect::<String>()), "relays"),
    ] {
        site.write("bad.toml", &site.key_server().replace("store = ", &format!("{line}\nstore = ")));
        refused(&site.check("keyserver", "bad.toml"), named);
    }
    for line in ["carrier = \"pigeon\"", "carriers = { demo = \"pigeon\" }", "carriers = { \"\" = \"tcp\" }"] {
        site.write("bad.toml", &(site.member("m1", "demo") + line + "\n"));
        refused(&site.check("client-ctl", "bad.toml"), "carrier");
    }
    let site_key = std::fs::read_to_string(site.path("pki/site.pub")).unwrap();
    let good = format!(
        r#"site_key = "{}"
site_certificate = "pki/ks.site"
[[input]]
address = "239.1.1.1:7100"
interface = "lo"
[[output]]
address = "239.1.1.1:7100"
interface = "127.0.0.1"
dscp = 46
"#,
        site_key.trim()
    );
    let check = |text: &str| {
        site.write("relay.toml", text);
        keystone().args(["relay", "--check", "--config"]).arg(site.path("relay.toml")).output().unwrap()
    };
    assert!(check(&good).status.success());
    for (old, new, named) in [
        ("dscp = 46", "dscp = 64", "dscp"),
        ("dscp = 46", "ttl = 0", "ttl"),
        ("dscp = 46", "hops = 3", "hops"),
        ("[[input]]", "[[inputs]]", "input"),
        ("pki/ks.site", "pki/none", "pki/none"),
        ("pki/ks.site", "pki/ca.pem", "site_certificate"),
        ("site_key = \"", "site_key = \"ff", "site_key"),
        ("[[output]]\naddress = \"239.1.1.1:7100\"", "[[output]]\naddress = \"192.0.2.1:7100\"", "interface"),
        ("[[input]]\naddress = \"239.1.1.1:7100\"", "[[input]]\naddress = \"192.0.2.1:7100\"", "interface"),
        ("[[input]]\naddress = \"239.1.1.1:7100\"", "[[input]]\naddress = \"239.1.1.1:0\"", "port"),
        ("[[input]]", "report_s = 0\n[[input]]", "report_s"),
    ] {
        let bad = good.replacen(old, new, 1);
        assert_ne!(bad, good);
        refused(&check(&bad), named);
    }
}
