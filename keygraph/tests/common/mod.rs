//! A group with its whole history: what was planned, and what each principal was ever given.

#![allow(dead_code, reason = "every test binary uses another part")]

use keygraph::closure::Knowledge;
use keygraph::{Change, Degree, KeyRef, MemberId, NodeId, Plan, Strategy, Tree, Version, Wrapped};

pub(crate) const STRATEGIES: [Strategy; 5] = Strategy::ALL;

pub(crate) fn degree(d: u8) -> Degree {
    Degree::new(d).unwrap()
}

pub(crate) fn members(ids: impl IntoIterator<Item = u32>) -> impl Iterator<Item = MemberId> {
    ids.into_iter().map(MemberId)
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).unwrap()
    }
}

/// One principal: a member from one fresh leaf to the next. Whoever took the member's state at any time in
/// between knows no more. What it was handed is its path in the reply; all else follows from the plans.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) member: MemberId,
    pub(crate) from: Version,
    pub(crate) until: Option<Version>,
    pub(crate) keys: Vec<KeyRef>,
}

impl Grant {
    pub(crate) fn has_right_to(&self, epoch: Version) -> bool {
        self.from <= epoch && self.until.is_none_or(|until| epoch < until)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) tree: Tree,
    pub(crate) plans: Vec<Plan>,
    pub(crate) grants: Vec<Grant>,
    /// The root of every epoch.
    pub(crate) roots: Vec<KeyRef>,
    /// The wrapped tree of every epoch: pages are seen by everybody.
    pub(crate) pages: Vec<Wrapped>,
}

impl World {
    pub(crate) fn new(tree: Tree) -> Self {
        let grant = |member| Grant { member, from: tree.epoch(), until: None, keys: tree.path(member).unwrap() };
        let (grants, pages) = (tree.members().map(grant).collect(), wrapped(&tree).collect());
        Self { grants, plans: Vec::new(), roots: vec![tree.root()], pages, tree }
    }

    /// Carries out one batch; the change list alone, not the plan, says who has which rights.
    pub(crate) fn step(&mut self, changes: &[Change]) -> &Plan {
        self.step_at(changes, self.tree.epoch() + 1)
    }

    pub(crate) fn step_at(&mut self, changes: &[Change], epoch: Version) -> &Plan {
        let staged = self.tree.stage(changes, epoch).unwrap_or_else(|error| panic!("{changes:?}: {error}"));
        let plan = self.tree.merge(staged).unwrap();
        for change in changes {
            match *change {
                Change::Join(member) => self.open(member, epoch),
                Change::Leave(member) => self.close(member, epoch),
                Change::Renew(member) => {
                    self.close(member, epoch);
                    self.open(member, epoch);
                }
                Change::Refresh | Change::Compact(_) => {}
            }
        }
        self.roots.push(self.tree.root());
        self.pages.extend(wrapped(&self.tree));
        self.plans.push(plan);
        self.plans.last().unwrap()
    }

    fn open(&mut self, member: MemberId, epoch: Version) {
        let keys = self.tree.path(member).unwrap();
        self.grants.push(Grant { member, from: epoch, until: None, keys });
    }

    fn close(&mut self, member: MemberId, epoch: Version) {
        let open = self.grants.iter_mut().find(|grant| grant.member == member && grant.until.is_none());
        open.unwrap().until = Some(epoch);
    }

    /// The first epoch whose root is reached by all principals together that have no right to it.
    pub(crate) fn leak(&self) -> Option<Version> {
        let mut outsider = Knowledge::new();
        self.plans.iter().for_each(|plan| outsider.observe(plan));
        self.pages.iter().for_each(|place| outsider.observe_wrapped(place));
        let leaks = |root: &&KeyRef| {
            let mut coalition = outsider.clone();
            let without_right = self.grants.iter().filter(|grant| !grant.has_right_to(root.version));
            without_right.flat_map(|grant| &grant.keys).for_each(|key| coalition.learn(*key));
            coalition.reaches(**root)
        };
        self.roots.iter().find(leaks).map(|root| root.version)
    }
}

fn wrapped(tree: &Tree) -> impl Iterator<Item = Wrapped> + '_ {
    tree.wrapped(NodeId::ROOT, tree.last_place())
}

/// One to eight changes that the tree accepts, of members with ids below `ids`.
pub(crate) fn random_batch(rng: &mut Rng, tree: &Tree, ids: u32) -> Vec<Change> {
    // Now many joins, now many leaves, so that the tree grows and shrinks.
    let eager = rng.below(4);
    let mut touched = std::collections::BTreeSet::new();
    let mut batch = Vec::new();
    for _ in 0..=rng.below(8) {
        let member = MemberId(rng.below(ids));
        if rng.below(16) == 0 {
            batch.push(Change::Refresh);
        } else if rng.below(8) == 0 {
            batch.push(Change::Compact(rng.below(12)));
        } else if touched.insert(member) {
            match (tree.contains(member), rng.below(4)) {
                (false, pick) if pick <= eager => batch.push(Change::Join(member)),
                (true, 0) => batch.push(Change::Renew(member)),
                (true, 1) => batch.extend([Change::Leave(member), Change::Join(member)]),
                (true, pick) if pick >= eager => batch.push(Change::Leave(member)),
                _ => {}
            }
        }
    }
    if batch.is_empty() {
        batch.push(Change::Refresh);
    }
    batch
}

/// Another strategy now and then, and another mind about splicing.
pub(crate) fn change_horses(rng: &mut Rng, tree: &mut Tree) {
    if rng.below(8) == 0 {
        tree.set_strategy(STRATEGIES[usize::try_from(rng.below(5)).unwrap()]);
    }
    if rng.below(8) == 0 {
        tree.set_splicing(!tree.splicing());
    }
}

/// Seeds of the random tests: those named, or the one in `KEYGRAPH_SEED` to look at a failure again.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("KEYGRAPH_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..count).collect(),
    }
}
