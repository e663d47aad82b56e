//! The key server's side: which pages there are, and what a change makes new of them.

use std::collections::{BTreeMap, BTreeSet};

use keygraph::{MemberId, NodeId, Tree, cores};

use super::{Digest, FAN, MEMBERS, PLACES, Page, Place, Top};
use crate::cipher::wrap;
use crate::execute::Secrets;
use crate::schedule::EpochContext;
use crate::{GroupId, Suite};

/// A group as it stands.
pub struct Standing<'a, S> {
    /// Its suite.
    pub suite: Suite,
    /// Its number.
    pub group: GroupId,
    /// Its tree.
    pub tree: &'a Tree,
    /// All secrets of the tree.
    pub secrets: &'a S,
}

/// What has changed since the pages were written last.
#[derive(Debug, Clone, Default)]
pub struct Changed {
    /// Ranges of places ([`Tree::rewrapped`]).
    pub places: Vec<(NodeId, NodeId)>,
    /// Members that have come, gone or moved.
    pub members: Vec<MemberId>,
}

/// Pages and indexes to be written, and those that nothing points to any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// New ones.
    pub added: Vec<(Digest, Vec<u8>)>,
    /// Old ones.
    pub gone: Vec<Digest>,
}

/// The names of all pages and indexes of a group; 35 octets of memory for 24 members, more or less.
#[derive(Debug, Clone, Default)]
pub struct Book {
    tree: Shelf,
    directory: Shelf,
}

impl Book {
    /// Everything anew, for a group that may have had other pages before.
    pub fn write<S: Secrets>(of: &Standing<'_, S>) -> (Self, Rewritten) {
        let mut book = Self::default();
        let all = Changed { places: vec![(NodeId::ROOT, of.tree.last_place())], members: of.tree.members().collect() };
        let rewritten = book.rewrite(of, &all);
        (book, rewritten)
    }

    /// What a change makes new. `of` is the group after it.
    pub fn rewrite<S: Secrets>(&mut self, of: &Standing<'_, S>, changed: &Changed) -> Rewritten {
        let ranges = changed.places.iter().map(|(first, last)| first.0 / PLACES..=last.0 / PLACES);
        // The first page stands even if nobody does.
        let places: BTreeSet<u32> = ranges.flatten().chain([0]).collect();
        let members: BTreeSet<u32> = changed.members.iter().map(|member| member.0 / MEMBERS).chain([0]).collect();
        let mut rewritten = Rewritten::default();
        self.tree.put(of.pages(places, |page| of.tree_page(page)), of.suite, &mut rewritten);
        self.directory.put(of.pages(members, |page| of.directory_page(page)), of.suite, &mut rewritten);
        rewritten
    }

    /// The tops: of the tree, of the directory.
    pub fn tops(&self) -> (Top, Top) {
        (self.tree.top(), self.directory.top())
    }
}

/// Number of a page, its octets and their digest; `None` if nothing stands on it.
type Numbered = (u32, Option<(Digest, Vec<u8>)>);

impl<S: Secrets> Standing<'_, S> {
    fn pages(&self, numbers: BTreeSet<u32>, page: impl Fn(u32) -> Page + Sync + Send) -> Vec<Numbered> {
        let numbers: Vec<u32> = numbers.into_iter().collect();
        let work = numbers.len().saturating_mul(usize::try_from(PLACES).unwrap_or(usize::MAX));
        cores::map_all(&numbers, work, |number| {
            let page = page(*number);
            let is_empty = matches!(&page, Page::Tree(items) if items.is_empty())
                || matches!(&page, Page::Directory(items) if items.is_empty());
            if is_empty && *number > 0 {
                return (*number, None);
            }
            let octets = page.encode(self.suite);
            (*number, Some((Digest::of(&octets), octets)))
        })
    }

    fn tree_page(&self, number: u32) -> Page {
        let first = number * PLACES;
        let standing = self.tree.wrapped(NodeId(first), NodeId(first + (PLACES - 1)));
        // What stands in the tree has its secret.
        let places = standing.filter_map(|at| {
            let (secret, target) = (self.secrets.secret(at.kek)?, self.secrets.secret(at.target)?);
            let context = EpochContext::lasting(self.suite, self.group, at.target.version);
            let leaf = at.member.map(|member| (member, context.check_leaf(secret, at.kek)));
            Some(Place { key: at.kek, leaf, wrapped: wrap(&context, secret, at.kek, at.target, target) })
        });
        Page::Tree(places.collect())
    }

    fn directory_page(&self, number: u32) -> Page {
        let first = number * MEMBERS;
        let members = self.tree.members_between(MemberId(first), MemberId(first + (MEMBERS - 1)));
        Page::Directory(members.collect())
    }
}

/// One digest tree.
#[derive(Debug, Clone, Default)]
struct Shelf {
    /// By height: pages, indexes of pages, indexes of those, up to a single one.
    levels: Vec<BTreeMap<u32, Digest>>,
}

impl Shelf {
    fn put(&mut self, pages: Vec<Numbered>, suite: Suite, out: &mut Rewritten) {
        let mut changed = self.replace(0, pages, out);
        for height in 0.. {
            // Once there is one, and nothing but it, it is the top.
            let last = self.levels.get(height).and_then(|level| level.last_key_value()).map_or(0, |(last, _)| *last);
            if last == 0 {
                for level in self.levels.drain(height + 1..) {
                    out.gone.extend(level.into_values());
                }
                return;
            }
            // A level that is new has everything to take up.
            if self.levels.len() == height + 1 {
                changed = self.levels[height].keys().copied().collect();
            }
            let above: BTreeSet<u32> = changed.iter().map(|number| number / FAN).collect();
            let indexes = above.into_iter().map(|number| {
                let below = self.levels[height].range(number * FAN..=number * FAN + (FAN - 1));
                let below: Vec<(u8, Digest)> =
                    below.map(|(at, digest)| (u8::try_from(at % FAN).unwrap_or(0), *digest)).collect();
                let octets = (!below.is_empty()).then(|| Page::Index(below).encode(suite));
                (number, octets.map(|octets| (Digest::of(&octets), octets)))
            });
            let indexes = indexes.collect();
            changed = self.replace(height + 1, indexes, out);
        }
    }

    /// Which of them are really new.
    fn replace(&mut self, height: usize, pages: Vec<Numbered>, out: &mut Rewritten) -> Vec<u32> {
        if self.levels.len() == height {
            self.levels.push(BTreeMap::new());
        }
        let level = &mut self.levels[height];
        let mut changed = Vec::new();
        for (number, page) in pages {
            let old = match &page {
                Some((digest, _)) => level.insert(number, *digest),
                None => level.remove(&number),
            };
            if old == page.as_ref().map(|(digest, _)| *digest) {
                continue;
            }
            out.gone.extend(old);
            out.added.extend(page);
            changed.push(number);
        }
        changed
    }

    fn top(&self) -> Top {
        let height = self.levels.len().saturating_sub(1);
        let digest = self.levels.last().and_then(|level| level.get(&0)).copied();
        Top { height: u8::try_from(height).unwrap_or(u8::MAX), digest: digest.unwrap_or(Digest([0; 32])) }
    }
}
