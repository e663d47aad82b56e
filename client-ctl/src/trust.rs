//! The site certificate that this member trusts.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use net::ConfigError;
use net::reload::Reloaded;
use net::site::{Site, SiteFiles};

use crate::config::FileConfig;

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
    pub(crate) fn follow(&self) -> io::Result<Reloaded<()>> {
        let (read, kept) = (self.clone(), self.clone());
        let load = move |(): &()| read.files.load().and_then(|site| read.replace(site));
        Reloaded::follow("site certificate", (), self.files.all(), load, move |()| kept.get().remind())
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
