//! Signs of life: a member with a lease that has nothing else to ask shows that it is there.

use std::time::Duration;

use protocol::Entropy;
use protocol::request::{MAX_OPERATIONS, Operations};

use super::backoff::backoff;
use super::group::Group;
use super::{Core, Now};

/// When the next sign is due.
#[derive(Default)]
pub(super) struct Life {
    at: Option<Now>,
    /// Signs without an answer in a row.
    failures: u32,
}

impl Core {
    /// When this client has to show itself.
    pub(super) fn sign_due(&self) -> Option<Now> {
        self.life.at
    }

    /// The key server has answered a request that counts. The next sign is due when a third of the shortest lease has passed, or a
    /// random part of a quarter of that earlier, so that members that joined together do not stay a crowd; two more can get lost.
    pub(super) fn was_heard(&mut self, now: Now) {
        self.life = Life { at: self.next_sign(now), failures: 0 };
    }

    /// A standby may have answered: what is due stays so, but a shorter lease counts from now on.
    pub(super) fn was_answered(&mut self, now: Now) {
        let next = self.next_sign(now);
        self.life.at = self.life.at.into_iter().chain(next).min().filter(|_| next.is_some());
    }

    /// A sign found no answer.
    pub(super) fn was_not_heard(&mut self, now: Now) {
        if self.lease().is_some() {
            self.life.at = Some(now + backoff(&mut self.entropy, self.life.failures));
            self.life.failures = self.life.failures.saturating_add(1);
        }
    }

    fn lease(&self) -> Option<Duration> {
        self.groups.values().filter_map(Group::lease).min()
    }

    fn next_sign(&mut self, now: Now) -> Option<Now> {
        let third = self.lease()? / 3;
        let ms = u64::try_from(third.as_millis()).unwrap_or(u64::MAX);
        Some(now + third - Duration::from_millis(self.entropy.below(ms / 4 + 1)))
    }

    /// The sign, if it is due: a report of all groups, so that the answer says where this client is still a member.
    pub(super) fn take_sign(&mut self, now: Now) -> Option<Operations> {
        self.life.at.take_if(|at| *at <= now)?;
        let reports: Vec<_> =
            self.groups.values_mut().filter_map(|group| group.sign_of_life(now)).take(MAX_OPERATIONS).collect();
        (!reports.is_empty()).then_some(Operations::Reports(reports))
    }
}
