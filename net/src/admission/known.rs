//! Sources from which somebody has proved who it is. They keep places that strangers cannot fill.

use std::collections::BTreeSet;
use std::mem;
use std::net::IpAddr;

/// Sources of a generation: with two of them more than a site has networks, and some megabytes at the most. Only who proves
/// itself gets in.
const GENERATION: usize = 50_000;

/// The latest sources, in two generations: when the younger is full, the older is forgotten.
#[derive(Debug, Default)]
pub(super) struct Known {
    young: BTreeSet<IpAddr>,
    old: BTreeSet<IpAddr>,
}

impl Known {
    pub(super) fn contains(&self, source: &IpAddr) -> bool {
        self.young.contains(source) || self.old.contains(source)
    }

    pub(super) fn remember(&mut self, source: IpAddr) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_again_stays_and_who_does_not_is_forgotten() {
        let mut known = Known::default();
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        let all = u32::try_from(GENERATION).unwrap();
        known.remember(source(0));
        for n in 1..=2 * all {
            if n.is_multiple_of(1_000) {
                known.remember(source(0));
            }
            known.remember(source(n));
        }
        assert!(known.contains(&source(0)) && known.contains(&source(2 * all)) && !known.contains(&source(1)));
        assert!(known.young.len() + known.old.len() <= 2 * GENERATION);
    }
}
