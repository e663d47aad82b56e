//! What the configuration refuses about suites and multicast.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use protocol::Ration;

use super::*;

const LOOPBACK: [&str; 3] = ["127.0.0.1"; 3];
const ELSEWHERE: [&str; 3] = ["192.0.2.1"; 3];

/// Addresses: for requests, for registrars, for multicast.
fn config(suite: &str, addresses: [&str; 3], signing: SigningKey) -> Result<core::Config, String> {
    parsed(&text(suite, addresses)).and_then(|file| checked(&file, signing))
}

fn checked(file: &FileConfig, signing: SigningKey) -> Result<core::Config, String> {
    let groups = policy::check(&file.group, file.is_loopback());
    groups.and_then(|groups| file.core(signing, groups)).map_err(|error| error.to_string())
}

fn parsed(text: &str) -> Result<FileConfig, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

fn text(suite: &str, [requests, registrars, interface]: [&str; 3]) -> String {
    format!(
        r#"
        name = "ks"
        listen_requests = "{requests}:1"
        listen_registrars = "{registrars}:2"
        interface = "{interface}"
        store = "s"
        store_key = "k"
        noise_key = "n"
        signing_key = "e"
        admin_socket = "a"
        tls = {{ certificate = "c", key = "k", roots = "r" }}
        [[registrar]]
        identity = "spiffe://example/registrar/r1"
        may_register.certificate = ["spiffe://example/*"]
        [[group]]
        id = 1
        name = "g"
        suite = "{suite}"
        address = "239.1.2.3:4000"
        allow = ["spiffe://example/*"]
        "#
    )
}

fn ed25519() -> SigningKey {
    SigningKey::from_seed(&[1; 32]).unwrap()
}

#[test]
fn suites_need_their_signing_keys() {
    for suite in ["aes256", "aes128"] {
        assert!(config(suite, ELSEWHERE, ed25519()).is_ok(), "{suite}");
    }
    let why = config("rsa", ELSEWHERE, ed25519()).unwrap_err();
    assert!(why.contains("group `g`: suite") && why.contains("signing key of its own"), "{why}");
    let why = config("rot13", ELSEWHERE, ed25519()).unwrap_err();
    assert!(why.contains("expected one of aes256, aes128, rsa"), "{why}");
}

#[cfg(feature = "paper")]
#[test]
fn the_papers_suite_is_for_loopback_only() {
    let why = config("paper", LOOPBACK, ed25519()).unwrap_err();
    assert!(why.contains("signing key of its own"), "{why}");
    let signing = || ed25519().with_paper(protocol::paper::SigningKey::generate().unwrap());
    assert!(config("paper", LOOPBACK, signing()).is_ok());
    assert!(config("paper", ["127.0.0.1", "127.0.0.1", "lo"], signing()).is_ok());
    for interface in ["0.0.0.0", "nosuch0"] {
        let why = config("paper", ["127.0.0.1", "127.0.0.1", interface], signing()).unwrap_err();
        assert!(why.contains("must be loopback"), "{why}");
    }
    for at in 0..3 {
        let mut addresses = LOOPBACK;
        addresses[at] = "192.0.2.1";
        let why = config("paper", addresses, signing()).unwrap_err();
        assert!(why.contains("must be loopback"), "{why}");
    }
}

#[cfg(not(feature = "paper"))]
#[test]
fn the_papers_suite_is_unknown_without_its_feature() {
    let why = config("paper", LOOPBACK, ed25519()).unwrap_err();
    assert!(why.contains("expected one of"), "{why}");
}

#[test]
fn multicast_of_both_families_as_it_is_meant() {
    let right = text("aes256", LOOPBACK);
    let core = |text: &str| parsed(text).and_then(|file| checked(&file, ed25519()));
    let changes = [
        ("interface = \"127.0.0.1\"", "interface = \"eth0\"\n dscp = 46", None),
        ("interface = \"127.0.0.1\"", "interface = \"fd00::2\"", None),
        ("239.1.2.3:4000", "[ff05::4b]:4000", None),
        ("interface = \"127.0.0.1\"", "interface = \"no name\"", Some("`no name` is neither")),
        ("interface = \"127.0.0.1\"", "interface = \"lo\"\n dscp = 64", Some("`dscp` is 64, expected 0 to 63")),
        ("interface = \"127.0.0.1\"", "interface = \"lo\"\n ttl = 0", Some("`ttl` is 0")),
        ("239.1.2.3:4000", "239.1.2.3:0", Some("group `g`: address")),
        ("239.1.2.3:4000", "192.0.2.3:4000", Some("no multicast address")),
        ("239.1.2.3:4000", "[fd00::4b]:4000", Some("no multicast address")),
        ("239.1.2.3:4000", "[ff02::4b%2]:4000", Some("without a zone")),
    ];
    for (from, to, why) in changes {
        assert!(right.contains(from), "{from}");
        match (core(&right.replacen(from, to, 1)), why) {
            (Ok(_), None) => {}
            (Err(error), Some(why)) => assert!(error.contains(why), "{to}: {error}"),
            (result, _) => panic!("{to}: {:?}", result.err()),
        }
    }
    let file = parsed(&right.replacen("127.0.0.1\"\n        store", "lo\"\n ttl = 9\n dscp = 46\n store", 1)).unwrap();
    assert_eq!(file.multicast(), SendOptions { interface: "lo".parse().unwrap(), ttl: 9, dscp: 46 });
}

#[test]
fn the_store_is_compacted_every_day_unless_told_otherwise() {
    let of = |line: &str| {
        let text = text("aes256", LOOPBACK).replace("name = \"ks\"", &format!("name = \"ks\"\n{line}"));
        let core = parsed(&text).and_then(|file| checked(&file, ed25519()));
        core.map(|core| core.compact_every)
    };
    let hours = |hours: u64| Ok(Duration::from_secs(hours * 3_600));
    assert_eq!(of(""), hours(24));
    assert_eq!(of("compact_every_hours = 1"), hours(1));
    assert_eq!(of("compact_every_hours = 720"), hours(720));
    for refused in ["0", "721"] {
        let why = of(&format!("compact_every_hours = {refused}")).unwrap_err();
        assert!(why.contains("`compact_every_hours`") && why.contains("expected 1 to 720"), "{why}");
    }
}

#[test]
fn registrations_of_one_client_are_rationed_unless_told_otherwise() {
    let of = |lines: &str| {
        let core = parsed(&format!("{lines}\n{}", text("aes256", LOOPBACK))).and_then(|file| checked(&file, ed25519()));
        core.map(|core| core.registrations)
    };
    let share = |burst, seconds| Ok(Ration { burst, each: Duration::from_secs(seconds) });
    assert_eq!(of(""), share(20, 10));
    assert_eq!(of("register_burst = 1000\nregister_each_s = 0"), share(1_000, 0));
    for (line, expected) in [
        ("register_burst = 0", "1 to 1000"),
        ("register_burst = 1001", "1 to 1000"),
        ("register_each_s = 3601", "0 to 3600"),
    ] {
        let why = of(line).unwrap_err();
        assert!(why.contains("register_") && why.contains(expected), "{why}");
    }
}

#[test]
fn joins_of_one_client_are_rationed_unless_told_otherwise() {
    let of = |lines: &str| {
        let text = text("aes256", LOOPBACK).replace("[[group]]", &format!("[[group]]\n{lines}\n"));
        let core = parsed(&text).and_then(|file| checked(&file, ed25519()));
        core.map(|core| core.groups[0].joins)
    };
    let share = |burst, seconds| Ok(Ration { burst, each: Duration::from_secs(seconds) });
    assert_eq!(of(""), share(5, 10));
    assert_eq!(of("join_burst = 1000\njoin_each_s = 0"), share(1_000, 0));
    for (line, expected) in
        [("join_burst = 0", "1 to 1000"), ("join_burst = 1001", "1 to 1000"), ("join_each_s = 3601", "0 to 3600")]
    {
        let why = of(line).unwrap_err();
        assert!(why.contains("group `g`: join_") && why.contains(expected), "{why}");
    }
}

#[test]
fn the_store_is_a_file_or_an_ensemble() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("digest", "ks:secret\n");
    write("no-digest", "secret\n");
    let place = |store: &str, table: &str| {
        let text = text("aes256", LOOPBACK).replace("store = \"s\"", &format!("store = \"{store}\""));
        let text = text.replace("[[registrar]]", &format!("{table}\n[[registrar]]"));
        let file = parsed(&text)?;
        let key = folder.path().join("k");
        Place::check(&file.store, file.zookeeper.as_ref(), false, &key, folder.path())
            .map_err(|error| error.to_string())
    };
    let refused = |store: &str, table: &str, why: &str| {
        let error = place(store, table).map(|_| ()).unwrap_err();
        assert!(error.contains(why), "{store}, {table}: {error}");
    };
    let (ensemble, digest) = ("zookeeper://h1:1,h2/keystone", "[zookeeper]\ndigest = \"digest\"");
    assert!(matches!(place("a/b", "").unwrap(), Place::File(path) if path == folder.path().join("a/b")));
    refused("a/b", digest, "`zookeeper`: `store` is a file");
    refused(ensemble, "", "the table is missing");
    refused("zookeeper://h1:1", digest, "is no path for us");
    refused("zookeeper://h1:x/keystone", digest, "`h1:x` has no port");
    refused(ensemble, "[zookeeper]", "neither a digest nor a certificate");
    refused(ensemble, "[zookeeper]\ndigest = \"no-digest\"", "expected one line `user:password`");
    refused(ensemble, "[zookeeper]\ndigest = \"none\"", "none");
    refused(ensemble, "[zookeeper]\npassword = \"x\"", "unknown field");
    refused(ensemble, "[zookeeper]\ncertificate = \"c\"", "belong together");
    refused(ensemble, "[zookeeper]\ncertificate = \"c\"\nkey = \"k\"", "with `roots` only");
    refused(ensemble, &format!("{digest}\nroots = \"none.pem\""), "none.pem");
    refused(ensemble, &format!("{digest}\nowners = [\"\"]"), "1 owners of 0 octets");
    refused(ensemble, &format!("{digest}\nsession_timeout_ms = 999"), "expected 1000 to 60000");
    // All is well, and the key of the journal is not there.
    refused(ensemble, digest, "`store_key`");
    refused(ensemble, digest, "site.store-key");
    write("k", "");
    match place(ensemble, digest).unwrap() {
        Place::ZooKeeper(options) => assert_eq!(options.ensemble.to_string(), "zookeeper://h1:1,h2:2181/keystone"),
        other => panic!("{other:?}"),
    }
}
