//! The complete key graph: a secret for every set of members. For comparison only.

use std::collections::BTreeMap;

use smallvec::smallvec;

use crate::error::ChangeError;
use crate::plan::{Source, Update, Wrap, Wraps};
use crate::types::{KeyRef, MemberId, NodeId, Version};

/// Members at the most: 2^16 - 1 secrets, as far as anybody wants to go to see that it does not work.
pub const MAX_COMPLETE: usize = 16;

/// Every non-empty set of members shares a secret of its own (Wong, Gouda, Lam: a complete key graph). A leave costs
/// nothing, because those who stay have a secret without the leaver already; a join doubles everything.
///
/// A set's "place" is its bit mask over the members' seats, 1 to 2^16 - 1. Such a secret can be the group key again
/// after a leave, and of the same members as before; that alone keeps this graph out of [`Tree`](crate::Tree)s.
#[derive(Debug, Clone, Default)]
pub struct CompleteGraph {
    seats: Vec<Option<MemberId>>,
    versions: BTreeMap<NodeId, Version>,
}

impl CompleteGraph {
    /// Nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Secrets that the key server holds: 2^n - 1.
    pub fn secrets(&self) -> usize {
        self.versions.len()
    }

    /// The secrets that a member holds: 2^(n-1), of all sets that it is in.
    pub fn held(&self, member: MemberId) -> Vec<KeyRef> {
        let Some(seat) = self.seat(member) else {
            return Vec::new();
        };
        self.versions.iter().filter(|(set, _)| set.0 & seat != 0).map(|(set, version)| key(*set, *version)).collect()
    }

    /// The group key: of the set of all. `None` of nobody.
    pub fn root(&self) -> Option<KeyRef> {
        let all = NodeId(self.mask());
        self.versions.get(&all).map(|version| key(all, *version))
    }

    /// Every set with the joiner gets a fresh secret, wrapped under that of the set without; the joiner is given all of
    /// them in a sealed reply.
    ///
    /// Errors: [`ChangeError::AlreadyMember`]; [`ChangeError::TooLarge`] beyond [`MAX_COMPLETE`].
    pub fn join(&mut self, member: MemberId, epoch: Version) -> Result<Vec<Update>, ChangeError> {
        if self.seat(member).is_some() {
            return Err(ChangeError::AlreadyMember { member });
        }
        let free = self.seats.iter().position(Option::is_none).unwrap_or(self.seats.len());
        if free == MAX_COMPLETE {
            return Err(ChangeError::TooLarge { node: NodeId(self.mask()) });
        }
        let seat = 1 << free;
        let mut updates =
            vec![Update { node: NodeId(seat), source: Source::Fresh, wraps: Wraps::new(), replied: 1, silent: true }];
        for (set, version) in &self.versions {
            let wrap = Wrap { child: *set, kek: key(*set, *version) };
            let node = NodeId(set.0 | seat);
            updates.push(Update { node, source: Source::Fresh, wraps: smallvec![wrap], replied: 1, silent: false });
        }
        self.versions.extend(updates.iter().map(|update| (update.node, epoch)));
        self.seats.resize(self.seats.len().max(free + 1), None);
        self.seats[free] = Some(member);
        Ok(updates)
    }

    /// Forgets all sets with the leaver. Nothing is sent.
    ///
    /// Errors: [`ChangeError::NotMember`].
    pub fn leave(&mut self, member: MemberId) -> Result<(), ChangeError> {
        let seat = self.seat(member).ok_or(ChangeError::NotMember { member })?;
        self.versions.retain(|set, _| set.0 & seat == 0);
        self.seats.iter_mut().filter(|taken| **taken == Some(member)).for_each(|taken| *taken = None);
        Ok(())
    }

    fn seat(&self, member: MemberId) -> Option<u32> {
        self.seats.iter().position(|taken| *taken == Some(member)).map(|seat| 1 << seat)
    }

    fn mask(&self) -> u32 {
        (0..).zip(&self.seats).filter(|(_, taken)| taken.is_some()).map(|(seat, _)| 1u32 << seat).sum()
    }
}

fn key(node: NodeId, version: Version) -> KeyRef {
    KeyRef { node, version }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_the_literature() {
        let mut graph = CompleteGraph::new();
        for n in 1..=10u32 {
            let updates = graph.join(MemberId(n), n.into()).unwrap();
            let wraps: usize = updates.iter().map(|update| update.wraps.len()).sum();
            // 2^(n-1) - 1 for the others and 2^(n-1) for the joiner: 2^n with n members, less one.
            let sets = 1usize << (n - 1);
            assert_eq!((wraps, graph.held(MemberId(n)).len()), (sets - 1, sets));
            assert_eq!((graph.secrets(), graph.held(MemberId(1)).len()), (2 * sets - 1, sets));
        }
        graph.leave(MemberId(4)).unwrap();
        assert_eq!(graph.secrets(), (1 << 9) - 1);
        assert_eq!(graph.leave(MemberId(4)), Err(ChangeError::NotMember { member: MemberId(4) }));
        assert_eq!(graph.join(MemberId(5), 11), Err(ChangeError::AlreadyMember { member: MemberId(5) }));
    }

    #[test]
    fn nobody_holds_the_group_key_who_is_not_in() {
        let mut graph = CompleteGraph::new();
        let mut held: BTreeMap<MemberId, Vec<KeyRef>> = BTreeMap::new();
        let mut present = Vec::new();
        let script = [1i32, 2, 3, -2, 4, 2, -1, 5, -4, -5, 1, -3, 6];
        for (step, epoch) in script.into_iter().zip(1..) {
            let member = MemberId(step.unsigned_abs());
            let before = graph.root();
            if step > 0 {
                // Who is in follows by unwrapping; who is out knows no wrapping key.
                for update in graph.join(member, epoch).unwrap() {
                    for keys in held.values_mut() {
                        if update.wraps.iter().any(|wrap| keys.contains(&wrap.kek)) {
                            keys.push(key(update.node, epoch));
                        }
                    }
                }
                held.entry(member).or_default().extend(graph.held(member));
                present.push(member);
            } else {
                graph.leave(member).unwrap();
                present.retain(|present| *present != member);
            }
            assert_ne!(graph.root(), before, "the group key changes");
            for (member, keys) in &held {
                assert_eq!(graph.root().is_some_and(|root| keys.contains(&root)), present.contains(member));
            }
        }
        let mut full = CompleteGraph::new();
        (0..16).for_each(|member| drop(full.join(MemberId(member), 1).unwrap()));
        assert_eq!(full.join(MemberId(16), 2), Err(ChangeError::TooLarge { node: NodeId(0xffff) }));
    }
}
