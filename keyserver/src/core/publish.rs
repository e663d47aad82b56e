//! What is published for members without multicast, wherever the shell puts it: rekey messages and the newest beacon at once,
//! the wrapped key tree in pages as often as is worth it.

use std::collections::BTreeSet;
use std::time::Duration;

use keygraph::{MemberId, NodeId, Plan};
use protocol::pages::{Book, Changed, Head, Rewritten, Standing};
use protocol::unit::Unit;
use protocol::{GroupId, SigningKey};

use super::group::{Group, Named};
use super::{Now, Output};

/// Pages follow a change after this time, with whatever has changed meanwhile: members that read them go on with the messages
/// that came since.
const PAGES_AFTER: Duration = Duration::from_millis(500);
/// Places that are remembered as changed; if there are more, all pages are written anew.
const MAX_TOUCHED: usize = 100_000;

/// What is to be published of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The group.
    pub group: GroupId,
    /// What.
    pub part: Published,
}

/// One part of what is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// The newest beacon; it stands in the place of the one before.
    Beacon(Vec<u8>),
    /// A new epoch.
    Epoch {
        /// Its number.
        epoch: u64,
        /// All units of its rekey messages, without repair units.
        units: Vec<Vec<u8>>,
    },
    /// The wrapped key tree.
    Pages {
        /// Its signed head; it stands in the place of the one before.
        head: Vec<u8>,
        /// What is new, and what is not needed any more once the head stands.
        rewritten: Rewritten,
        /// It is all there is: whatever else stands there is from before.
        is_whole: bool,
    },
}

/// What has to be remembered for that.
#[derive(Default)]
pub(super) struct Publishing {
    /// `None` before this reign's first pages, and if too much has changed since the last.
    book: Option<Book>,
    touched: BTreeSet<NodeId>,
    members: BTreeSet<MemberId>,
    pub(super) due: Option<Now>,
}

impl Publishing {
    /// All pages are written then; what has changed before was not remembered.
    pub(super) fn anew(due: Option<Now>) -> Self {
        Self { due, ..Self::default() }
    }
}

impl Group {
    /// An epoch was merged: its units, with the beacon, are published, and the pages are due.
    pub(super) fn publish_epoch<'a>(
        &mut self,
        now: Now,
        (plan, touched): (&Plan, Vec<NodeId>),
        datagrams: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Vec<Output> {
        if !self.config.published {
            return Vec::new();
        }
        let publishing = &mut self.publishing;
        // The first of a reign at once: what stands is of another.
        let after = if publishing.book.is_some() { PAGES_AFTER } else { Duration::ZERO };
        publishing.due.get_or_insert(now + after);
        publishing.touched.extend(touched);
        let moved = plan.moved.iter().map(|moved| moved.member);
        publishing.members.extend(plan.joined.iter().chain(&plan.left).map(|(member, _)| *member).chain(moved));
        if publishing.touched.len() + publishing.members.len() > MAX_TOUCHED {
            *publishing = Publishing { due: publishing.due, ..Publishing::default() };
        }
        let needed = datagrams.filter(|octets| Unit::decode(octets).is_ok_and(|unit| !unit.is_spare()));
        let epoch = Published::Epoch { epoch: self.epoch(), units: needed.cloned().collect() };
        vec![self.published(epoch), self.published(Published::Beacon(self.beacons.newest().to_vec()))]
    }

    /// The newest beacon again.
    pub(super) fn publish_beacon(&self) -> Option<Output> {
        self.config.published.then(|| self.published(Published::Beacon(self.beacons.newest().to_vec())))
    }

    /// The pages, if they are due.
    pub(super) fn publish_pages(&mut self, now: Now, key: &SigningKey) -> Option<Output> {
        self.publishing.due.take_if(|at| *at <= now)?;
        let Publishing { book, touched, members, .. } = std::mem::take(&mut self.publishing);
        let secrets = Named { tree: &self.tree, held: &self.held };
        let standing = Standing { suite: self.at.context.suite, group: self.id(), tree: &self.tree, secrets: &secrets };
        let is_whole = book.is_none();
        let (book, rewritten) = match book {
            None => Book::write(&standing),
            Some(mut book) => {
                let touched: Vec<NodeId> = touched.into_iter().collect();
                let changed = Changed { places: self.tree.rewrapped(&touched), members: members.into_iter().collect() };
                let rewritten = book.rewrite(&standing, &changed);
                (book, rewritten)
            }
        };
        let (tree, directory) = book.tops();
        self.publishing.book = Some(book);
        let (beacon, announcement) = (self.beacons.newest().to_vec(), self.at.announcement);
        let head = Head { beacon, announcement, degree: self.tree.degree(), tree, directory };
        // A start without a key for the group's suite is refused.
        let head = head.sign(key).ok()?;
        Some(self.published(Published::Pages { head, rewritten, is_whole }))
    }

    fn published(&self, part: Published) -> Output {
        Output::Publish(Box::new(Publication { group: self.id(), part }))
    }
}
