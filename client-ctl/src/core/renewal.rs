//! Another credential is there while a registration still serves: registers again beside it, and keeps it until that is done.

use std::time::Duration;

use protocol::Entropy;

use super::backoff::backoff;
use super::output::Output;
use super::requests::{REGISTRATION_TIME, Registration};
use super::{Core, Now};

/// Many clients get their credentials at once, from one tool: they come to the registrars spread over this time.
const SPREAD: Duration = Duration::from_secs(10);

/// When to register again, or when to give up waiting for that.
pub(super) struct Renewal {
    at: Now,
    attempt: u32,
    is_underway: bool,
}

impl Core {
    /// The credential was replaced. A registration that is to be made anyway takes the new one.
    pub(super) fn renew_registration(&mut self, now: Now) {
        if !matches!(self.registration, Registration::Wanted { .. }) {
            let ms = u64::try_from(SPREAD.as_millis()).unwrap_or(u64::MAX);
            let at = now + Duration::from_millis(self.entropy.below(ms));
            self.renewal = Some(Renewal { at, attempt: 0, is_underway: false });
        }
    }

    /// Begins a renewal that is due, or gives up one that takes too long.
    pub(super) fn drive_renewal(&mut self, now: Now) {
        match &mut self.renewal {
            Some(renewal) if renewal.at <= now && renewal.is_underway => self.renewal_failed(now, None),
            Some(renewal) if renewal.at <= now => {
                (renewal.at, renewal.is_underway) = (now + REGISTRATION_TIME, true);
                self.outputs.push_back(Output::Register);
            }
            _ => {}
        }
    }

    /// It is tried again: the registration that there is serves as long as it may.
    pub(super) fn renewal_failed(&mut self, now: Now, retry_after: Option<Duration>) {
        let Some(renewal) = self.renewal.take_if(|renewal| renewal.is_underway) else {
            return;
        };
        let pause = backoff(&mut self.entropy, renewal.attempt);
        let at = now + retry_after.map_or(pause, |after| after.max(pause));
        self.renewal = Some(Renewal { at, attempt: renewal.attempt.saturating_add(1), is_underway: false });
    }

    /// The registrar has no place before this time.
    pub(super) fn renewal_later(&mut self, at: Now) {
        if let Some(renewal) = self.renewal.as_mut().filter(|renewal| renewal.is_underway) {
            (renewal.at, renewal.is_underway) = (at, false);
        }
    }

    /// When [`Core::drive_renewal`] has something to do.
    pub(super) fn next_renewal(&self) -> Option<(Now, &'static str)> {
        let is_registered = matches!(self.registration, Registration::Done { .. });
        self.renewal.as_ref().filter(|_| is_registered).map(|renewal| (renewal.at, "another credential"))
    }
}
