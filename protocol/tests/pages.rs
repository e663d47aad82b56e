//! Pages: what is rewritten step by step is what would be written anew, and a member that stopped at any epoch learns from the
//! pages alone what a sealed reply would give it, if and only if it is the member it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{Dice, Server, announcement};
use keygraph::{Change, Degree, MemberId, NodeId, Strategy};
use protocol::pages::{Book, Changed, Digest, Head, PagesError, Rewritten, Standing, Step, Walk};
use protocol::{Beacon, GroupId, HeaderHash, KeyPath, SigningKey, Suite, TagKey};

/// A key server with the store that it writes its pages to.
struct Site {
    server: Server,
    book: Book,
    store: BTreeMap<Digest, Vec<u8>>,
    key: SigningKey,
}

impl Site {
    fn new(suite: Suite, degree: Degree, strategy: Strategy) -> Self {
        let server = Server::of(suite, degree, strategy);
        let mut site = Self {
            server,
            book: Book::default(),
            store: BTreeMap::new(),
            key: SigningKey::from_seed(&[9; 32]).unwrap(),
        };
        let (book, rewritten) = Book::write(&site.standing());
        site.book = book;
        site.keep(rewritten);
        site
    }

    fn standing(&self) -> Standing<'_, crate::common::Held> {
        let Server { suite, tree, held } = &self.server;
        Standing { suite: *suite, group: GroupId(7), tree, secrets: held }
    }

    fn keep(&mut self, rewritten: Rewritten) {
        for (digest, octets) in rewritten.added {
            assert!(octets.len() <= protocol::pages::MAX_PAGE);
            assert_eq!(self.store.insert(digest, octets), None, "a page is written once");
        }
        for digest in rewritten.gone {
            assert!(self.store.remove(&digest).is_some(), "what goes was there");
        }
    }

    fn change(&mut self, changes: &[Change], seed: u8) {
        let staged = self.server.tree.stage(changes, self.server.epoch() + 1).unwrap();
        let touched = staged.places();
        let (_, plan) = self.server.change(changes, seed);
        let moved = plan.moved.iter().map(|moved| moved.member);
        let members = plan.joined.iter().chain(&plan.left).map(|(member, _)| *member).chain(moved).collect();
        let changed = Changed { places: self.server.tree.rewrapped(&touched), members };
        let mut book = std::mem::take(&mut self.book);
        let rewritten = book.rewrite(&self.standing(), &changed);
        self.book = book;
        self.keep(rewritten);
    }

    fn head(&self) -> Vec<u8> {
        let context = self.server.context(self.server.epoch());
        let root = &self.server.held.0[&NodeId::ROOT].1;
        let beacon = Beacon {
            context,
            commitment: context.commit(root),
            header_hash: HeaderHash([4; 32]),
            counter: 1,
            interval_ms: 1_000,
            resync_wait_ms: 1_000,
            report_one_in: 0,
        };
        let tag: TagKey = context.tag(root);
        let (tree, directory) = self.book.tops();
        let beacon = beacon.sign(&self.key, &tag).unwrap();
        let degree = self.server.tree.degree();
        Head { beacon, announcement: announcement(), degree, tree, directory }.sign(&self.key).unwrap()
    }

    /// What a member learns that holds `held`.
    fn learn(&self, head: &[u8], member: MemberId, held: &KeyPath) -> Result<KeyPath, PagesError> {
        let mut walk = Walk::new(head, &[self.key.public()], member)?;
        for _ in 0..20 {
            match walk.step()? {
                Step::Done(found) => return found.open(held),
                Step::Read(digests) => {
                    digests.iter().try_for_each(|digest| walk.give(*digest, &self.store[digest]))?;
                }
            }
        }
        panic!("the walk does not end");
    }
}

/// One to six changes.
fn batch(dice: &mut Dice, site: &Site, ids: u64) -> Vec<Change> {
    let (mut changes, mut touched) = (vec![], BTreeSet::new());
    for _ in 0..=dice.below(6) {
        let member = MemberId(u32::try_from(1 + dice.below(ids)).unwrap());
        if !touched.insert(member) {
            continue;
        }
        match (site.server.tree.contains(member), dice.below(6)) {
            (false, _) => changes.push(Change::Join(member)),
            (true, 0) => changes.push(Change::Renew(member)),
            (true, 1) => changes.push(Change::Refresh),
            (true, 2) => changes.push(Change::Compact(5)),
            (true, 3) => changes.extend([Change::Leave(member), Change::Join(member)]),
            (true, _) => changes.push(Change::Leave(member)),
        }
    }
    changes
}

#[test]
fn whoever_stopped_learns_what_a_reply_would_give() {
    let mut learnt = (0, 0);
    for seed in 0..30u64 {
        let mut dice = Dice(seed);
        let strategy = Strategy::ALL[usize::try_from(seed).unwrap() % Strategy::ALL.len()];
        let degree =
            [Degree::new(2).unwrap(), Degree::new(4).unwrap(), Degree::STAR][usize::try_from(seed / 5).unwrap() % 3];
        let suite = if seed % 4 == 0 { Suite::Aes128 } else { Suite::Aes256 };
        let mut site = Site::new(suite, degree, strategy);
        site.server.tree.set_splicing(seed % 2 == 1);
        // Some ID numbers are far apart, so that the directory has more than one page.
        let ids = if seed % 3 == 0 { 1_500 } else { 60 };
        if ids > 60 {
            let joins: Vec<Change> = (1..=400).map(|id| Change::Join(MemberId(id * 3))).collect();
            site.change(&joins, 250);
        }
        // What each member held when it heard something last; without those that a change has put out.
        let mut stopped: BTreeMap<MemberId, KeyPath> = BTreeMap::new();
        for round in 0..30 {
            let changes = batch(&mut dice, &site, ids);
            site.change(&changes, u8::try_from(round).unwrap());
            let (fresh, rewritten) = Book::write(&site.standing());
            assert_eq!(fresh.tops(), site.book.tops(), "seed {seed}, round {round}");
            assert_eq!(
                rewritten.added.into_iter().collect::<BTreeMap<_, _>>(),
                site.store,
                "seed {seed}, round {round}"
            );
            let head = site.head();
            let was_put_out: BTreeSet<MemberId> = (changes.iter())
                .filter_map(|change| match change {
                    Change::Leave(member) | Change::Renew(member) => Some(*member),
                    _ => None,
                })
                .collect();
            for (member, held) in stopped.clone() {
                let result = site.learn(&head, member, &held);
                if !was_put_out.contains(&member) {
                    assert_eq!(result.unwrap(), site.server.path(member), "seed {seed}, round {round}");
                    learnt.0 += 1;
                    continue;
                }
                let epoch = site.server.epoch();
                let expected = if site.server.tree.contains(member) {
                    PagesError::Leaf { epoch }
                } else {
                    PagesError::NotMember { epoch }
                };
                assert_eq!(result, Err(expected), "seed {seed}, round {round}");
                learnt.1 += 1;
                stopped.remove(&member);
            }
            for member in site.server.tree.members().filter(|_| dice.below(8) == 0).collect::<Vec<_>>() {
                stopped.insert(member, site.server.path(member));
            }
        }
    }
    assert!(learnt.0 > 5_000 && learnt.1 > 300, "{learnt:?}");
}

#[test]
fn what_was_altered_is_refused() {
    let mut site = Site::new(Suite::Aes256, Degree::new(4).unwrap(), Strategy::Group);
    site.change(&(1..=100).map(|id| Change::Join(MemberId(id))).collect::<Vec<_>>(), 1);
    let (head, member) = (site.head(), MemberId(7));
    let held = site.server.path(member);
    assert!(site.learn(&head, member, &held).is_ok());
    for at in 0..head.len() {
        let mut other = head.clone();
        other[at] ^= 1;
        // The tag of the beacon is checked by nobody here, and is signed all the same.
        assert!(site.learn(&other, member, &held).is_err(), "octet {at} of the head");
        assert!(Walk::new(&head[..at], &[site.key.public()], member).is_err());
    }
    let other = SigningKey::from_seed(&[8; 32]).unwrap();
    assert!(matches!(Walk::new(&head, &[other.public()], member), Err(PagesError::Signature(_))));
    let whole = site.store.clone();
    for (digest, octets) in &whole {
        let mut altered = octets.clone();
        *altered.last_mut().unwrap() ^= 1;
        let mut walk = Walk::new(&head, &[site.key.public()], member).unwrap();
        assert_eq!(walk.give(*digest, &altered), Err(PagesError::Digest));
        assert_eq!(walk.give(*digest, &vec![0; 1 << 20]), Err(PagesError::Digest));
    }
    // The pages of an epoch before, under its own head: whoever believes it is where it was, and no further.
    let before = (site.head(), site.store.clone());
    site.change(&[Change::Leave(MemberId(9))], 2);
    let now = std::mem::replace(&mut site.store, before.1);
    assert_eq!(site.learn(&before.0, member, &held), Ok(held.clone()));
    // The head of now finds no page of before.
    let mut walk = Walk::new(&site.head(), &[site.key.public()], member).unwrap();
    let Ok(Step::Read(wanted)) = walk.step() else { panic!("it has read nothing") };
    assert!(wanted.iter().all(|digest| walk.give(*digest, &now[digest]).is_ok()));
}

/// How many octets and pages there are, for docs/performance.md: run with `--ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn figures() {
    for members in [1_000u32, 10_000, 100_000] {
        let mut site = Site::new(Suite::Aes256, Degree::new(4).unwrap(), Strategy::Group);
        site.change(&(1..=members).map(|id| Change::Join(MemberId(id))).collect::<Vec<_>>(), 1);
        let (pages, octets) = (site.store.len(), site.store.values().map(Vec::len).sum::<usize>());
        println!("{members}: {pages} pages, {octets} octets");
        let before = site.store.clone();
        site.change(&[Change::Leave(MemberId(members / 2))], 2);
        let new: Vec<usize> =
            site.store.iter().filter(|(digest, _)| !before.contains_key(digest)).map(|(_, o)| o.len()).collect();
        println!("  a leave: {} pages, {} octets", new.len(), new.iter().sum::<usize>());
    }
}
