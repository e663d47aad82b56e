//! Asking the key server for a newer site certificate: now and then, and soon when an answer of the key server is not believed.

use std::time::Duration;

use protocol::request::Outcome;
use protocol::{Entropy, VerifyingKey};

use super::output::Output;
use super::{Core, Now};

/// After a start, within this time: members that start together do not ask together.
const FIRST: Duration = Duration::from_secs(3_600);
/// From one question to the next, or a random half of it less: a key that is rolled is known long before it is used.
const AGAIN: Duration = Duration::from_secs(86_400);
/// No two questions are closer, whatever happens.
const PAUSE: Duration = Duration::from_secs(30);

/// What this client knows of its site certificate.
#[derive(Default)]
pub(super) struct Certificate {
    /// When it began, in seconds since 1970; `None` as long as nobody has said so, and then nothing is asked.
    begins: Option<u64>,
    /// When to ask.
    at: Now,
    asked: Option<Now>,
}

impl Core {
    /// The shell has this site certificate. What was not believed until now may be, so whatever waits to be asked again is
    /// asked soon.
    pub(super) fn trust(&mut self, now: Now, signing: Vec<VerifyingKey>, begins: u64) {
        if self.certificate.begins.replace(begins).is_none() {
            self.certificate.at = now + self.random(FIRST);
        }
        self.verifier.trust(signing);
        for name in self.groups.keys().cloned().collect::<Vec<_>>() {
            self.with(now, &name, |group, env| group.retry_soon(env));
        }
    }

    /// When the next question is due.
    pub(super) fn certificate_due(&self) -> Option<Now> {
        self.certificate.begins.map(|_| self.certificate.at)
    }

    /// Since when the certificate holds, if it is time to ask for a newer one.
    pub(super) fn take_certificate(&mut self, now: Now) -> Option<u64> {
        let begins = self.certificate.begins.filter(|_| self.certificate.at <= now)?;
        self.certificate.asked = Some(now);
        self.certificate.at = now + AGAIN - self.random(AGAIN / 2);
        Some(begins)
    }

    /// A group could not believe an answer, because of who has signed it.
    pub(super) fn doubt(&mut self, now: Now) {
        let soonest = self.certificate.asked.map_or(now, |asked| now.max(asked + PAUSE));
        self.certificate.at = self.certificate.at.min(soonest);
    }

    /// The question found no answer.
    pub(super) fn certificate_not_answered(&mut self, now: Now) {
        self.certificate.at = now + PAUSE + self.random(PAUSE);
    }

    /// The key server's answer: the shell takes it, or does not.
    pub(super) fn certificate_answered(&mut self, outcome: Option<Outcome>) {
        if let Some(Outcome::Certificate(octets)) = outcome {
            self.outputs.push_back(Output::Certificate(octets));
        }
    }

    fn random(&mut self, within: Duration) -> Duration {
        Duration::from_millis(self.entropy.below(u64::try_from(within.as_millis()).unwrap_or(u64::MAX)))
    }
}
