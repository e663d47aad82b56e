//! The site certificate as daemons find it: a file in hexadecimal digits, and the site's public key in a configuration.

use std::path::Path;
use std::time::SystemTime;

use protocol::VerifyingKey;
use protocol::site::SiteCertificate;

use crate::ConfigError;

/// Reads a site certificate that holds now and is signed by `site_key` (64 hexadecimal digits).
///
/// # Errors
/// What is wrong, under the keys `site_key` and `site_certificate` that every configuration gives them.
pub fn load(site_key: &str, path: &Path) -> Result<SiteCertificate, ConfigError> {
    let key = protocol::codec::from_hex(site_key, "site key")
        .map_err(|_| ConfigError::invalid("site_key", "expected 64 hexadecimal digits"))?;
    let wrong =
        |why: &dyn std::fmt::Display| ConfigError::invalid("site_certificate", format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|why| wrong(&why))?;
    let digits: String =
        text.lines().filter(|line| !line.starts_with(['#', '-'])).flat_map(str::split_whitespace).collect();
    let octets = hex::decode(digits).map_err(|why| wrong(&why))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|why| wrong(&why))?;
    SiteCertificate::open(&octets, &VerifyingKey::Ed25519(key), now.as_secs()).map_err(|why| wrong(&why))
}
