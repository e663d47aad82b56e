//! A site whose authority is the test's own, so that it can revoke and let end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use certs::{Authority, Leaf};
use protocol::identity::Identity;
use serde_json::Value;

use super::{Daemon, Site};

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// A site whose authority is ours, whose key server reads `policy.toml` and `ca.crl`.
pub(crate) struct Ours {
    pub(crate) site: Site,
    authority: Authority,
}

impl Ours {
    pub(crate) fn new(policy: &str) -> Self {
        let (site, authority) = (Site::new(), Authority::new("ours", 1).unwrap());
        fs::write(site.path("pki/ca.pem"), authority.pem()).unwrap();
        let ours = Self { site, authority };
        for (role, name) in [("keyserver", "ks"), ("registrar", "r1")] {
            ours.issue(role, name, now() + 3_600);
        }
        ours.revoke(&[]);
        let text = ours.site.key_server();
        let (head, _) = text.split_once("[[group]]").unwrap();
        let head = head.replace("roots = \"pki/ca.pem\"", "roots = \"pki/ca.pem\", crls = [\"ca.crl\"]");
        ours.site.write("ks.toml", &format!("policy = \"policy.toml\"\n{head}"));
        ours.write_policy(policy);
        ours
    }

    pub(crate) fn write_policy(&self, rules: &str) {
        let address = self.site.group;
        let text = format!(
            "[[group]]\nid = 1\nname = \"demo\"\naddress = \"{address}\"\nbeacon_ms = 300\nbeacon_max_ms = 1000\n{rules}\n"
        );
        self.site.write("policy.new", &text);
        fs::rename(self.site.path("policy.new"), self.site.path("policy.toml")).unwrap();
    }

    /// A certificate that ends then. Its serial number is in the file as `NAME.serial`.
    pub(crate) fn issue(&self, role: &str, name: &str, ends: u64) {
        let identity = Identity::parse(&format!("spiffe://demo/{role}/{name}")).unwrap();
        let Leaf { certificate, key } = self.authority.issue_uris(&[identity.as_str()], &(now() - 60, ends)).unwrap();
        fs::write(self.site.path(&format!("pki/{name}.pem")), certificate).unwrap();
        let path = self.site.path(&format!("pki/{name}.key"));
        fs::write(&path, key.as_bytes()).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    pub(crate) fn revoke(&self, names: &[&str]) {
        let serial = |name: &&str| {
            let chain = net::tls::load_chain(self.site.path(&format!("pki/{name}.pem"))).unwrap();
            // After the 32 octets of the issuer.
            net::identity::credential(&chain[0]).unwrap().name.split_off(32)
        };
        let serials: Vec<Vec<u8>> = names.iter().map(serial).collect();
        let serials: Vec<&[u8]> = serials.iter().map(Vec::as_slice).collect();
        let list = self.authority.revoke(&serials, (now() - 10, now() + 3_600)).unwrap();
        fs::write(self.site.path("ca.crl"), list).unwrap();
    }

    /// Starts a member, and waits until it is one.
    pub(crate) fn member(&self, name: &str, ends: u64) -> Daemon {
        if !self.site.path(&format!("pki/{name}.pem")).exists() || ends != 0 {
            self.issue("member", name, if ends == 0 { now() + 3_600 } else { ends });
        }
        self.site.write(&format!("{name}.toml"), &self.site.member(name, "demo"));
        let daemon = self.site.start("client-ctl", name);
        self.site.wait(&format!("{name}.sock"), |status| status["groups"][0]["status"] == "member");
        daemon
    }

    pub(crate) fn status_of(&self, name: &str) -> Value {
        self.site.ask(&format!("{name}.sock"), "/v1/status").unwrap_or_default()["groups"][0].clone()
    }
}
