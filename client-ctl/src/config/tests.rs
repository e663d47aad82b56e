use super::*;
use std::os::unix::fs::PermissionsExt;

use protocol::sign::SigningKey;
use protocol::site::SiteCertificate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

/// A folder with everything that a configuration needs, and the text of one that is right.
pub(crate) struct Files {
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) const REGISTRAR: &str = "spiffe://example.org/registrar/r1";

impl Files {
    /// `noise` is the key server's static public key.
    pub(crate) fn new(noise: [u8; 32]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("ca.pem", &ca.pem());
        for (name, uri) in [("member", "spiffe://example.org/member/m1"), ("registrar", REGISTRAR)] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
            write(&format!("{name}.pem"), &params.signed_by(&key, &ca).unwrap().pem());
            write(&format!("{name}.key"), &key.serialize_pem());
        }
        let site = SigningKey::from_seed(&[8; 32]).unwrap();
        let certificate = SiteCertificate {
            key_server: "ks".into(),
            not_before: 0,
            not_after: u64::MAX,
            signing: vec![SigningKey::from_seed(&[3; 32]).unwrap().public()],
            noise: vec![noise],
        };
        write("ks.site", &hex::encode(certificate.sign(&site)));
        let expired = SiteCertificate { not_after: 1, ..certificate };
        write("expired.site", &hex::encode(expired.sign(&site)));
        Self { folder }
    }

    pub(crate) fn text(&self, key_server: &str, registrar: &str) -> String {
        format!(
            r#"key_server = "ks"
key_server_address = "{key_server}"
site_key = "{}"
site_certificate = "ks.site"
certificate = "member.pem"
private_key = "member.key"
trust_roots = "ca.pem"
groups = ["g"]
interface = "127.0.0.1"
socket = "client.sock"
allow_uids = [1000]
on_stop = "leave"

[[registrars]]
address = "{registrar}"
identity = "{REGISTRAR}"

[danger]
receive_loss_percent = 0
seed = 1
"#,
            hex::encode(SigningKey::from_seed(&[8; 32]).unwrap().public().octets())
        )
    }

    pub(crate) fn load(&self, text: &str) -> Result<Settings, ConfigError> {
        let path = self.folder.path().join("client-ctl.toml");
        std::fs::write(&path, text).unwrap();
        FileConfig::load(&path)
    }
}

#[test]
fn a_right_configuration_is_taken() {
    let files = Files::new([1; 32]);
    let settings = files.load(&files.text("ks.example:7700", "127.0.0.1:7800")).unwrap();
    assert_eq!(settings.socket, files.folder.path().join("client.sock"), "relative to the file");
    assert_eq!(settings.credential.identity().as_str(), "spiffe://example.org/member/m1");
    assert_eq!(settings.on_stop, OnStop::Leave);
}

#[test]
fn every_flaw_is_named() {
    let files = Files::new([1; 32]);
    let right = files.text("127.0.0.1:7700", "127.0.0.1:7800");
    let long = format!("groups = [\"{}\"]", "x".repeat(65));
    let many = format!("groups = {:?}", (0..65).map(|i| i.to_string()).collect::<Vec<_>>());
    let socket = format!("socket = \"{}\"", "s".repeat(108));
    let sources = format!("sources = {:?}", ["192.0.2.1"; 11]);
    let table: [(&str, &str, &[&str]); 26] = [
        ("groups = [\"g\"]", "grops = [\"g\"]", &["grops", ":8:"]),
        ("groups = [\"g\"]", "groups = [\"g\", \"g\"]", &["groups", "twice"]),
        ("groups = [\"g\"]", "groups = [\"\"]", &["groups", "0 octets"]),
        ("groups = [\"g\"]", &long, &["groups", "65 octets", "1 to 64"]),
        ("groups = [\"g\"]", &many, &["number of groups", "65", "0 to 64"]),
        ("key_server = \"ks\"", "", &["key_server"]),
        ("key_server = \"ks\"", "key_server = \"other\"", &["site_certificate", "other"]),
        ("127.0.0.1:7700", "127.0.0.1", &["key_server_address", "host:port"]),
        ("127.0.0.1:7800", "127.0.0.1:99999", &["registrars[0].address", "host:port"]),
        ("spiffe://example.org/registrar/r1", "https://example.org", &["registrars[0].identity", "spiffe"]),
        ("site_key = \"", "site_key = \"00", &["site_key", "64 hexadecimal digits"]),
        ("\"ks.site\"", "\"none.site\"", &["site_certificate", "none.site"]),
        ("\"ks.site\"", "\"ca.pem\"", &["site_certificate", "ca.pem"]),
        ("\"ks.site\"", "\"expired.site\"", &["site_certificate", "holds from 0 to 1"]),
        ("\"member.key\"", "\"registrar.key\"", &["registrar.key"]),
        ("\"member.pem\"", "\"ca.pem\"", &["ca.pem"]),
        ("\"ca.pem\"", "\"none.pem\"", &["none.pem"]),
        ("interface = \"127.0.0.1\"", "interface = \"no name\"", &["no name", "interface", ":9:"]),
        ("interface = \"127.0.0.1\"", "sources = [\"ks.example\"]", &["sources", ":9:"]),
        ("interface = \"127.0.0.1\"", "sources = [\"239.1.1.1\"]", &["sources", "239.1.1.1"]),
        ("interface = \"127.0.0.1\"", &sources, &["number of sources", "11", "0 to 10"]),
        ("socket = \"client.sock\"", "socket = \"none/x.sock\"", &["socket", "does not exist"]),
        ("socket = \"client.sock\"", &socket, &["socket", "107"]),
        ("on_stop = \"leave\"", "on_stop = \"run\"", &["run", "leave"]),
        ("receive_loss_percent = 0", "receive_loss_percent = 91", &["receive_loss_percent", "91", "0 to 90"]),
        ("seed = 1", "sed = 1", &["sed"]),
    ];
    for (from, to, named) in table {
        assert!(right.contains(from), "{from}");
        let error = files.load(&right.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(named.iter().all(|name| error.contains(name)), "{to}: {error}");
    }
    let error = files.load(&right.replace("[[registrars]]", "[[registrarz]]")).unwrap_err().to_string();
    assert!(error.contains("registrarz"), "{error}");
    let key = files.folder.path().join("member.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = files.load(&right).unwrap_err().to_string();
    assert!(error.contains("member.key") && error.contains("0644"), "{error}");
    assert!(!files.folder.path().join("client.sock").exists(), "nothing was bound");
}

#[test]
fn a_client_with_a_token_keeps_the_last_good_roots() {
    let files = Files::new([1; 32]);
    let write = |name: &str, text: &str| std::fs::write(files.folder.path().join(name), text).unwrap();
    write("token", "a.b.c");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(files.folder.path().join("token"), private).unwrap();
    let text = files.text("127.0.0.1:7700", "127.0.0.1:7800");
    let text = text.replace("certificate = \"member.pem\"", "token_file = \"token\"");
    let text = text.replace("private_key = \"member.key\"", "identity = \"spiffe://example.org/member/m1\"");
    let settings = files.load(&text).unwrap();
    let (registrar, reloads) = (Identity::parse(REGISTRAR).unwrap(), &settings.reloads);
    let begins = || settings.credential.begin(&registrar, "ks", Vec::new(), reloads).is_ok();
    assert!(begins());
    write("ca.pem", "nothing");
    assert!(begins(), "with those before");
    let readings = &reloads.readings()["TLS credentials"];
    assert!(readings.refused == 1 && readings.error.as_ref().is_some_and(|why| why.contains("ca.pem")), "{readings:?}");
    std::fs::remove_file(files.folder.path().join("token")).unwrap();
    assert!(!begins(), "a token is good for one registration, so the one before is worth nothing");
}
