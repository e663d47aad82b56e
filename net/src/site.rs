//! The site certificate as daemons find it: a file in hexadecimal digits, and the site's public key.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protocol::VerifyingKey;
use protocol::site::{SiteCertificate, SiteError};

use crate::ConfigError;
use crate::reload::{Reloaded, Reloads};
use crate::tls::ENDS_SOON;

/// Keys of the site that are trusted: the present one, and another while it is rolled.
const MAX_SITE_KEYS: usize = 2;

/// Where a daemon finds the site certificate, and the keys of the site that may sign it.
#[derive(Debug, Clone)]
pub struct SiteFiles {
    key: SiteKey,
    certificate: PathBuf,
    key_server: Option<String>,
}

#[derive(Debug, Clone)]
enum SiteKey {
    Given(VerifyingKey),
    File(PathBuf),
}

/// A site certificate that was verified, with its octets as they were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What it says.
    pub certificate: SiteCertificate,
    /// All of it, for whoever verifies it again.
    pub octets: Vec<u8>,
}

impl SiteFiles {
    /// `site_key`: the public key, 64 hexadecimal digits, or else a file of one or two such lines. Relative paths are meant from
    /// `folder`.
    pub fn new(site_key: &str, certificate: &Path, folder: &Path) -> Self {
        let key = match protocol::codec::from_hex(site_key, "site key") {
            Ok(key) => SiteKey::Given(VerifyingKey::Ed25519(key)),
            Err(_) => SiteKey::File(folder.join(site_key)),
        };
        Self { key, certificate: folder.join(certificate), key_server: None }
    }

    /// The same for certificates of this key server alone.
    #[must_use]
    pub fn of(mut self, key_server: &str) -> Self {
        self.key_server = Some(key_server.to_owned());
        self
    }

    /// All of them.
    pub fn all(&self) -> Vec<PathBuf> {
        let key = if let SiteKey::File(path) = &self.key { Some(path) } else { None };
        [&self.certificate].into_iter().chain(key).cloned().collect()
    }

    /// The file of the certificate.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Reads the certificate, which must hold now.
    ///
    /// # Errors
    /// What is wrong, under the keys `site_key` and `site_certificate` that every configuration gives them.
    pub fn load(&self) -> Result<Site, ConfigError> {
        let path = self.certificate.display();
        let text = std::fs::read_to_string(&self.certificate).map_err(|why| wrong(&path, &why))?;
        let digits: String =
            text.lines().filter(|line| !line.starts_with(['#', '-'])).flat_map(str::split_whitespace).collect();
        let octets = hex::decode(digits).map_err(|why| wrong(&path, &why))?;
        self.open(octets, &path)
    }

    /// Verifies a certificate that came `from` somewhere: signed by the site, for this key server, and holding now.
    ///
    /// # Errors
    /// As [`SiteFiles::load`].
    pub fn open(&self, octets: Vec<u8>, from: &dyn Display) -> Result<Site, ConfigError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut opened = Err(SiteError::Signature);
        for key in self.keys()? {
            match SiteCertificate::open(&octets, &key, now) {
                Err(SiteError::Signature) => {}
                other => opened = other,
            }
        }
        let certificate = opened.map_err(|why| wrong(from, &why))?;
        if let Some(wanted) = self.key_server.as_ref().filter(|wanted| **wanted != certificate.key_server) {
            let why = format!("it is for key server `{}`, expected `{wanted}`", certificate.key_server);
            return Err(wrong(from, &why));
        }
        Ok(Site { certificate, octets })
    }

    /// Keeps `site` up to date while the daemon runs, see [`Reloads::follow`] and [`Site::succeed`].
    ///
    /// # Errors
    /// The system refuses the signal handler.
    pub fn follow(self, site: Site, reloads: &Reloads) -> io::Result<Reloaded<Site>> {
        let files = self.all();
        reloads.follow("site certificate", site, files, move |now| now.succeed(self.load()?), Site::remind)
    }

    fn keys(&self) -> Result<Vec<VerifyingKey>, ConfigError> {
        let path = match &self.key {
            SiteKey::Given(key) => return Ok(vec![key.clone()]),
            SiteKey::File(path) => path,
        };
        let wrong = |why: &dyn Display| {
            let why = format!("expected 64 hexadecimal digits, or a file with such lines; {}: {why}", path.display());
            ConfigError::invalid("site_key", why)
        };
        let text = std::fs::read_to_string(path).map_err(|why| wrong(&why))?;
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if !(1..=MAX_SITE_KEYS).contains(&lines.len()) {
            return Err(wrong(&format!("{} keys, expected 1 to {MAX_SITE_KEYS}", lines.len())));
        }
        let key = |line| protocol::codec::from_hex(line, "site key").map(VerifyingKey::Ed25519);
        lines.into_iter().map(key).collect::<Result<_, _>>().map_err(|why| wrong(&why))
    }
}

impl Site {
    /// `fresh`, if it may follow this one: of the same key server, and beginning later. So whoever can replay an old file, or an
    /// old answer, brings nothing back that the site has taken out.
    ///
    /// # Errors
    /// Why not; this one stays.
    pub fn succeed(&self, fresh: Self) -> Result<Self, ConfigError> {
        let (old, new) = (&self.certificate, &fresh.certificate);
        if fresh.octets == self.octets {
            return Ok(fresh);
        }
        let refuse = |why: String| Err(ConfigError::invalid("site_certificate", why));
        if new.key_server != old.key_server {
            return refuse(format!("it is for key server `{}`, expected `{}`", new.key_server, old.key_server));
        }
        if new.not_before <= old.not_before {
            let (new, old) = (new.not_before, old.not_before);
            return refuse(format!(
                "it begins at {new}, the one in force at {old} (seconds since 1970): only a later one replaces it"
            ));
        }
        Ok(fresh)
    }

    /// Whole days for which it still holds.
    pub fn days_left(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.certificate.not_after.saturating_sub(now) / 86_400
    }

    /// Says in the log for how many days it still holds.
    pub fn remind(&self) {
        let (key_server, days) = (&self.certificate.key_server, self.days_left());
        match days < ENDS_SOON {
            true => tracing::warn!(key_server, days, "THE SITE CERTIFICATE ENDS SOON: make another"),
            false => tracing::info!(key_server, days, "site certificate is good"),
        }
    }
}

fn wrong(from: &dyn Display, why: &dyn Display) -> ConfigError {
    ConfigError::invalid("site_certificate", format!("{from}: {why}"))
}

#[cfg(test)]
mod tests {
    use protocol::SigningKey;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn site_key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32]).unwrap()
    }

    fn public(seed: u8) -> String {
        hex::encode(site_key(seed).public().octets())
    }

    fn certificate(begins: u64) -> SiteCertificate {
        let signing = vec![site_key(3).public()];
        SiteCertificate {
            key_server: "ks".into(),
            not_before: begins,
            not_after: 1 << 40,
            signing,
            noise: vec![[1; 32]],
        }
    }

    /// Writes a certificate, and says what becomes of it beside one that begins at [`NOW`].
    fn verdict(folder: &Path, files: &SiteFiles, certificate: &SiteCertificate, signer: u8) -> Result<Site, String> {
        std::fs::write(folder.join("ks.site"), hex::encode(certificate.sign(&site_key(signer)))).unwrap();
        let now = self::certificate(NOW);
        let in_force = Site { octets: now.sign(&site_key(8)), certificate: now };
        files.load().and_then(|fresh| in_force.succeed(fresh)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_certificate_follows_only_an_older_one_of_the_same_key_server_and_site() {
        let folder = tempfile::tempdir().unwrap();
        let files = SiteFiles::new(&public(8), Path::new("ks.site"), folder.path()).of("ks");
        let verdict = |certificate: &SiteCertificate, signer| verdict(folder.path(), &files, certificate, signer);
        assert_eq!(verdict(&certificate(NOW), 8).unwrap().certificate, certificate(NOW), "the same again");
        assert_eq!(verdict(&certificate(NOW + 1), 8).unwrap().certificate, certificate(NOW + 1));
        let other = SiteCertificate { noise: vec![[2; 32]], ..certificate(NOW) };
        let cases = [
            (certificate(NOW - 1), 8, "only a later one replaces it"),
            (other, 8, "only a later one replaces it"),
            (certificate(NOW + 1), 7, "not signed by this site's key"),
            (SiteCertificate { not_after: NOW + 2, ..certificate(NOW + 1) }, 8, "holds from"),
            (SiteCertificate { key_server: "other".into(), ..certificate(NOW + 1) }, 8, "for key server `other`"),
        ];
        for (bad, signer, named) in cases {
            let why = verdict(&bad, signer).unwrap_err();
            assert!(why.contains("site_certificate") && why.contains(named), "{why}");
        }
        std::fs::write(folder.path().join("ks.site"), "00zz").unwrap();
        assert!(files.load().unwrap_err().to_string().contains("ks.site"));
        std::fs::remove_file(folder.path().join("ks.site")).unwrap();
        assert!(files.load().unwrap_err().to_string().contains("ks.site"));
    }

    #[test]
    fn while_the_key_of_the_site_is_rolled_two_of_them_sign() {
        let folder = tempfile::tempdir().unwrap();
        let files = SiteFiles::new("site.pub", Path::new("ks.site"), folder.path());
        assert_eq!(files.all(), [folder.path().join("ks.site"), folder.path().join("site.pub")]);
        let trusts = |lines: &[String], signer| {
            std::fs::write(folder.path().join("site.pub"), lines.join("\n") + "\n").unwrap();
            verdict(folder.path(), &files, &certificate(NOW + 1), signer).map(drop)
        };
        let both = [public(8), public(9)];
        assert_eq!((trusts(&both, 8), trusts(&both, 9), trusts(&both[1..], 9)), (Ok(()), Ok(()), Ok(())));
        assert!(trusts(&both[1..], 8).unwrap_err().contains("not signed by this site's key"));
        for bad in [&[][..], &[public(1), public(2), public(3)], &["12".into()]] {
            let why = trusts(bad, 8).unwrap_err();
            assert!(why.contains("site_key") && why.contains("site.pub"), "{why}");
        }
    }
}
