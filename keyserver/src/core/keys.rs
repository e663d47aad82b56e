//! Other keys while the key server runs. What it signs from then on is signed with the new one; nothing else changes, least of all
//! an epoch: members believe all keys that their site certificate names.

use std::time::Duration;

use protocol::Suite;
use protocol::request::Outcome;
use protocol::sign::{SigningKey, VerifyingKey};
use thiserror::Error;

use super::{Core, Event, Now};

/// Between the beacons of two groups under another key: ten thousand groups take twenty seconds, and no more of a core than a
/// take-over does.
const BETWEEN: Duration = Duration::from_millis(2);

/// What a key server signs with, and whom it believes.
#[derive(Debug)]
pub struct Keys {
    /// Signs from now on.
    pub signing: SigningKey,
    /// Keys with which key servers of the site sign, see [`Config::others`](super::Config::others).
    pub others: Vec<VerifyingKey>,
    /// The site certificate that says so.
    pub certificate: Option<Issued>,
}

/// A site certificate for members whose own is older.
#[derive(Debug)]
pub struct Issued {
    /// When it begins, in seconds since 1970.
    pub begins: u64,
    /// All of it, signed.
    pub octets: Vec<u8>,
}

/// No key for a group's suite. Nothing was changed: the keys before are used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no signing key for suite `{suite}` of group `{group}`")]
pub struct KeysError {
    /// The group.
    pub group: String,
    /// Its suite.
    pub suite: Suite,
}

impl Core {
    /// Whether these keys can follow those that are used.
    ///
    /// # Errors
    /// [`KeysError`]: the first group that they leave without.
    pub fn check_keys(&self, keys: &Keys) -> Result<(), KeysError> {
        match self.config.groups.iter().find(|group| !keys.signing.signs(group.suite)) {
            Some(group) => Err(KeysError { group: group.name.clone(), suite: group.suite }),
            None => Ok(()),
        }
    }

    pub(super) fn new_keys(&mut self, now: Now, keys: Keys) {
        if let Err(error) = self.check_keys(&keys) {
            return self.event(Event::KeysRefused { why: error.to_string() });
        }
        let is_other = keys.signing.all_public() != self.config.signing.all_public();
        (self.config.signing, self.config.others, self.issued) = (keys.signing, keys.others, keys.certificate);
        if !is_other {
            return;
        }
        self.event(Event::SignsWith { key: self.config.signing.public() });
        if self.standing_by {
            return;
        }
        // Replies carry the newest beacon, and pages the newest head: soon nothing is given out that the old key has signed.
        let mut at = now;
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            if let Some(group) = self.groups.get_mut(&id) {
                group.hasten(at);
                self.arm(id);
                at += BETWEEN;
            }
        }
    }

    /// The site certificate, if it begins later than a client's own. A standby gives it as well.
    pub(super) fn newer_certificate(&self, begins: u64) -> Outcome {
        let newer = self.issued.as_ref().filter(|issued| issued.begins > begins);
        newer.map_or(Outcome::Noted, |issued| Outcome::Certificate(issued.octets.clone()))
    }
}
