//! The site certificate that this member trusts.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use net::ConfigError;
use net::reload::{Reloaded, Reloads};
use net::site::{Site, SiteFiles};

use crate::config::FileConfig;

/// What it is called where readings are counted.
pub(crate) const SITE: &str = "site certificate";

/// The certificate in force, with the files that it comes from. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    files: SiteFiles,
    last: Arc<Mutex<Arc<Site>>>,
}

impl Trust {
    /// From the configuration: for the key server that is meant.
    pub(crate) fn check(config: &FileConfig, folder: &Path) -> Result<Self, ConfigError> {
        let files = SiteFiles::new(&config.site_key, &config.site_certificate, folder).of(&config.key_server);
        let site = files.load()?;
        Ok(Self { files, last: Arc::new(Mutex::new(Arc::new(site))) })
    }

    /// The one in force.
    pub(crate) fn get(&self) -> Arc<Site> {
        Arc::clone(&self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says when there is another, because its file has changed and is good, or SIGHUP came. Says once a day for how long it is
    /// still good.
    pub(crate) fn follow(&self, reloads: &Reloads) -> io::Result<Reloaded<()>> {
        let (read, kept) = (self.clone(), self.clone());
        let load = move |(): &()| read.files.load().and_then(|site| read.replace(site));
        reloads.follow(SITE, (), self.files.all(), load, move |()| kept.get().remind())
    }

    /// Takes one that the key server has sent, on the same terms as one from the file, and writes it there. Where that cannot be,
    /// it serves until the end of the process.
    pub(crate) fn take(&self, octets: Vec<u8>) -> Result<(), ConfigError> {
        let digits = hex::encode(&octets) + "\n";
        self.replace(self.files.open(octets, &"from the key server")?)?;
        let path = self.files.certificate();
        match write(path, &digits) {
            Ok(()) => tracing::info!(file = %path.display(), "a newer site certificate came from the key server"),
            Err(error) => tracing::warn!(
                file = %path.display(), %error,
                "a newer site certificate came from the key server; it cannot be written and serves until this process ends"
            ),
        }
        Ok(())
    }

    fn replace(&self, site: Site) -> Result<(), ConfigError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Arc::new(last.succeed(site)?);
        Ok(())
    }
}

/// Beside it and then in its place, so that nobody reads half of one; where a link leads.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?;
    let mut beside = path.clone().into_os_string();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use protocol::sign::SigningKey;
    use protocol::site::SiteCertificate;

    use crate::config::tests::Files;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32]).unwrap()
    }

    /// A certificate by the site of [`Files`], or another.
    fn certificate(begins: u64, site: u8) -> Vec<u8> {
        let signing = vec![key(3).public(), key(4).public()];
        let (key_server, noise) = ("ks".into(), vec![[7; 32]]);
        SiteCertificate { key_server, not_before: begins, not_after: u64::MAX, signing, noise }.sign(&key(site))
    }

    #[test]
    fn what_the_key_server_sends_is_taken_if_it_is_newer_and_the_sites_and_stands_in_the_file() {
        let files = Files::new([1; 32]);
        let settings = files.load(&files.text("127.0.0.1:1", "127.0.0.1:2")).unwrap();
        let (trust, path) = (&settings.trust, files.folder.path().join("ks.site"));
        let in_file = || std::fs::read_to_string(&path).unwrap().trim().to_owned();
        let before = (in_file(), trust.get());
        let refused: [(Vec<u8>, &str); 4] = [
            (certificate(5, 9), "not signed by this site's key"),
            (certificate(0, 8), "only a later one replaces it"),
            (certificate(u64::MAX, 8), "holds from"),
            (vec![1, 2, 3], "malformed"),
        ];
        for (octets, named) in refused {
            let why = trust.take(octets).unwrap_err().to_string();
            assert!(why.contains(named) && why.contains("site_certificate"), "{why}");
            assert_eq!((in_file(), trust.get()), before);
        }
        assert_eq!(settings.core().signing.len(), 1);
        trust.take(certificate(5, 8)).unwrap();
        assert_eq!((in_file(), settings.core().signing.len()), (hex::encode(certificate(5, 8)), 2));
        // Read again, it is the same; the one before is older.
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            trust.files.load().and_then(|site| trust.replace(site))
        };
        read(&hex::encode(certificate(5, 8))).unwrap();
        assert!(read(&before.0).is_err());
        // Where it cannot be written it serves all the same.
        std::fs::remove_file(&path).unwrap();
        trust.take(certificate(6, 8)).unwrap();
        assert_eq!((trust.get().certificate.not_before, path.exists()), (6, false));
    }
}
