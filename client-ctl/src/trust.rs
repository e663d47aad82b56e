//! The site certificate that this member trusts.

use std::io;
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

    fn replace(&self, site: Site) -> Result<(), ConfigError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Arc::new(last.succeed(site)?);
        Ok(())
    }
}
