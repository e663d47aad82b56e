//! What the configuration refuses about suites.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use super::*;

const LOOPBACK: [&str; 3] = ["127.0.0.1"; 3];
const ELSEWHERE: [&str; 3] = ["192.0.2.1"; 3];

/// Addresses: for requests, for registrars, for multicast.
fn config(
    suite: &str,
    [requests, registrars, interface]: [&str; 3],
    signing: SigningKey,
) -> Result<core::Config, String> {
    let text = format!(
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
        may_register = ["spiffe://example/*"]
        [[group]]
        id = 1
        name = "g"
        suite = "{suite}"
        address = "239.1.2.3:4000"
        allow = ["spiffe://example/*"]
        "#
    );
    let file: FileConfig = toml::from_str(&text).unwrap();
    file.core(signing).map_err(|error| error.to_string())
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
