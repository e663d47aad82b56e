//! What a running key server leaves beside the journal in ZooKeeper, so that no second one runs as the same one. Whoever has
//! no site key learns from it that some key server runs, and nothing else.

use aws_lc_rs::digest::{SHA256, digest};
use protocol::Entropy;

use super::seal::{Kind, START, Sealer};
use super::site_key::SiteKey;

/// The znode of one Noise key.
pub(crate) struct Badge {
    name: String,
    number: u64,
    sealer: Sealer,
}

impl Badge {
    /// Of the key server with this public Noise key.
    pub(crate) fn new(key: &SiteKey, noise: &[u8; 32]) -> Self {
        let mut number = [0; 8];
        for (octet, hashed) in number.iter_mut().zip(digest(&SHA256, noise).as_ref()) {
            *octet = *hashed;
        }
        let number = u64::from_be_bytes(number);
        // Not of one generation: key servers read each other's before they have read the journal.
        let sealer = Sealer::new(key.of_presences(), [0; 16], 0);
        Self { name: key.name(Kind::Presence as u8, 0, number), number, sealer }
    }

    /// Where it is, relative to the root.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Seals who runs; `None` only if the cipher refuses.
    pub(crate) fn seal(&self, who: &str, entropy: &mut dyn Entropy) -> Option<Vec<u8>> {
        self.sealer.seal(Kind::Presence, self.number, &START, who.as_bytes(), entropy)
    }

    /// Who runs, as far as it can be read.
    pub(crate) fn open(&self, value: &[u8]) -> String {
        let plain = self.sealer.open(Kind::Presence, self.number, &START, value);
        plain.map_or_else(|| "somebody unknown".into(), |plain| String::from_utf8_lossy(&plain).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use net::entropy::OsEntropy;

    use super::*;

    #[test]
    fn it_says_who_runs_to_those_who_have_the_site_key() {
        let badge = |secret: u8, noise: u8| Badge::new(&SiteKey::in_memory(&[secret; 32]), &[noise; 32]);
        let (ours, value) = (badge(1, 1), badge(1, 1).seal("process 7", &mut OsEntropy).unwrap());
        assert_eq!(ours.open(&value), "process 7");
        assert!(!value.windows(7).any(|octets| octets == b"process"));
        for other in [badge(1, 2), badge(2, 1)] {
            assert_ne!(other.name(), ours.name());
            assert_eq!(other.open(&value), "somebody unknown");
        }
        assert_eq!(ours.open(b""), "somebody unknown");
    }
}
