//! The key server's own keys, and the site certificate that names them: files that are read again, all together, while it runs.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use net::config::ConfigError;
use net::noise::StaticKeys;
use net::secret_file;
use net::site::{Site, SiteFiles};
use protocol::SigningKey;

use super::FileConfig;

/// Where the keys are.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    noise: PathBuf,
    signing: PathBuf,
    rsa: Option<PathBuf>,
    paper: Option<PathBuf>,
    site: Option<SiteFiles>,
}

/// The keys. Where there is a site certificate it names each key that signs, and at least one of the Noise keys: members believe
/// no other, and no certificate of a lie is made by a slip.
#[derive(Debug)]
pub struct Keys {
    /// Clients come under any of them.
    pub noise: StaticKeys,
    /// Signs: the first of each file.
    pub signing: SigningKey,
    /// What members are told of both.
    pub site: Option<Site>,
}

impl KeyFiles {
    /// From the configuration; its paths are meant from `folder`.
    pub(super) fn of(file: &FileConfig, folder: &Path) -> Result<Self, ConfigError> {
        let site = match (&file.site_key, &file.site_certificate) {
            (None, None) => None,
            (Some(key), Some(certificate)) => Some(SiteFiles::new(key, certificate, folder).of(&file.name)),
            _ => return Err(ConfigError::invalid("site_certificate", "it and `site_key` are given together")),
        };
        let within = |path: &PathBuf| folder.join(path);
        #[cfg(feature = "paper")]
        let paper = file.signing_key_paper.as_ref().map(within);
        #[cfg(not(feature = "paper"))]
        let paper = None;
        let rsa = file.signing_key_rsa.as_ref().map(within);
        Ok(Self { noise: within(&file.noise_key), signing: within(&file.signing_key), rsa, paper, site })
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// The first flaw, with its key of the configuration, and its file.
    pub fn load(&self) -> Result<Keys, ConfigError> {
        let noise = StaticKeys::load(&self.noise).map_err(|e| ConfigError::invalid("noise_key", e))?;
        let (signing, site) = (self.signing()?, self.site.as_ref().map(SiteFiles::load).transpose()?);
        if let Some(Site { certificate, .. }) = &site {
            let unnamed = signing.all_public().into_iter().find(|key| !certificate.signing.contains(key));
            if let Some(key) = unnamed {
                let why = format!("the site certificate does not name {key:?}, so no member would believe it");
                return Err(ConfigError::invalid("signing_key", why));
            }
            if !noise.public().any(|key| certificate.noise.contains(key)) {
                let why = "the site certificate names none of these keys, so no member would come";
                return Err(ConfigError::invalid("noise_key", why));
            }
        }
        Ok(Keys { noise, signing, site })
    }

    /// All files.
    pub fn all(&self) -> Vec<PathBuf> {
        let paths = [&self.noise, &self.signing].into_iter().chain(&self.rsa).chain(&self.paper).cloned();
        paths.chain(self.site.iter().flat_map(SiteFiles::all)).collect()
    }

    /// Reads them again, to follow those in force. They are taken together or not at all: a key is used when the site certificate that
    /// names it is here, in whatever order the files come.
    ///
    /// # Errors
    /// As [`KeyFiles::load`]; or the site certificate may not follow the one in force.
    pub fn reload(&self, now: &Keys) -> Result<Keys, ConfigError> {
        let mut fresh = self.load()?;
        if let (Some(old), Some(new)) = (&now.site, fresh.site.take()) {
            fresh.site = Some(old.succeed(new)?);
        }
        Ok(fresh)
    }

    fn signing(&self) -> Result<SigningKey, ConfigError> {
        let wrong = |name: &str, why: &dyn Display| ConfigError::invalid(name, why);
        let seeds = secret_file::read_all(&self.signing).map_err(|e| wrong("signing_key", &e))?;
        let seed = seeds.first().ok_or_else(|| wrong("signing_key", &"no key"))?;
        let mut signing = SigningKey::from_seed(seed).map_err(|e| wrong("signing_key", &e))?;
        if let Some(path) = &self.rsa {
            let key = first(path).map_err(|e| wrong("signing_key_rsa", &e))?;
            signing = signing.with_rsa(&key).map_err(|e| wrong("signing_key_rsa", &e))?;
        }
        #[cfg(feature = "paper")]
        if let Some(path) = &self.paper {
            let key = first(path).map_err(|e| wrong("signing_key_paper", &e))?;
            let key = protocol::paper::SigningKey::from_pkcs8(&key);
            signing = signing.with_paper(key.ok_or_else(|| wrong("signing_key_paper", &"no RSA-512 key"))?);
        }
        Ok(signing)
    }
}

/// The present key of a file.
fn first(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, secret_file::SecretFileError> {
    // There is at least one.
    Ok(secret_file::read_keys(path)?.into_iter().next().unwrap_or_default())
}
