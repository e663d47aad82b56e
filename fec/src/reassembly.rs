//! The rekey messages that a receiver has in progress.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Assembly, AssemblyError, Coder, Progress, ReedSolomon, Unit};

/// Complete messages remembered so that their late units are ignored. More than a receiver ever completes
/// between two epochs; beyond it the oldest are forgotten as [`Reassembly::forget_below`] does.
pub const MAX_COMPLETED: usize = 1024;

/// Rekey messages in progress, by the caller's key `K` for a message. Only verified units may be given to it.
///
/// Keys are ordered by age: of two messages the older has the smaller key, as with
/// (term, epoch, number of the message). Keep one table for each group.
///
/// Memory: at most `max_messages` times [`MAX_MESSAGE`](crate::MAX_MESSAGE) octets, and [`MAX_COMPLETED`] keys.
pub struct Reassembly<K, C = ReedSolomon> {
    max_messages: usize,
    coder: C,
    in_progress: BTreeMap<K, (u16, Assembly)>,
    completed: BTreeSet<K>,
    /// Keys below are ignored.
    floor: Option<K>,
}

impl<K: Ord + Clone> Reassembly<K> {
    /// An empty table for at most `max_messages` messages in progress (0 counts as 1).
    pub fn new(max_messages: usize) -> Self {
        Self::with_coder(max_messages, ReedSolomon::new())
    }
}

impl<K: Ord + Clone, C: Coder> Reassembly<K, C> {
    /// As [`Reassembly::new`], with a coder of the caller's.
    pub fn with_coder(max_messages: usize, coder: C) -> Self {
        Self {
            max_messages: max_messages.max(1),
            coder,
            in_progress: BTreeMap::new(),
            completed: BTreeSet::new(),
            floor: None,
        }
    }

    /// Takes in a verified unit of the message `key`, whose headers say that it has `message_len`
    /// octets in `blocks` blocks.
    ///
    /// A message new to a full table replaces the oldest one in progress, unless it is older
    /// itself: then it is [`Progress::Stale`], as is everything below [`Reassembly::forget_below`].
    /// On an error nothing has changed, and the signer of the unit is to blame.
    pub fn insert(
        &mut self,
        key: K,
        message_len: usize,
        blocks: u16,
        unit: Unit<'_>,
    ) -> Result<Progress, AssemblyError> {
        if self.completed.contains(&key) {
            return Ok(Progress::Duplicate);
        }
        if self.floor.as_ref().is_some_and(|floor| key < *floor) {
            return Ok(Progress::Stale);
        }
        let progress = match self.in_progress.get_mut(&key) {
            Some((known_blocks, assembly)) => {
                let (expected_len, expected_blocks) = (assembly.message_len(), *known_blocks);
                if (message_len, blocks) != (expected_len, expected_blocks) {
                    return Err(AssemblyError::Message { expected_len, expected_blocks, len: message_len, blocks });
                }
                assembly.insert(unit, &self.coder)?
            }
            None => return self.insert_first(key, message_len, blocks, unit),
        };
        if matches!(progress, Progress::Complete { .. }) {
            self.in_progress.remove(&key);
            self.remember(key);
        }
        Ok(progress)
    }

    /// Forgets everything about messages below `key`, complete or not, and ignores their units from now on.
    /// A lower key than before changes nothing.
    pub fn forget_below(&mut self, key: &K) {
        if self.floor.as_ref().is_none_or(|floor| floor < key) {
            self.in_progress = self.in_progress.split_off(key);
            self.completed = self.completed.split_off(key);
            self.floor = Some(key.clone());
        }
    }

    /// Octets of units of the messages in progress.
    pub fn octets(&self) -> usize {
        self.in_progress.values().map(|(_, assembly)| assembly.octets()).sum()
    }

    /// Forgets what has arrived of the oldest message in progress, if there is one. Its units may come again.
    pub fn forget_oldest(&mut self) {
        self.in_progress.pop_first();
    }

    /// Keys of the messages in progress, oldest first.
    pub fn in_progress(&self) -> impl Iterator<Item = &K> {
        self.in_progress.keys()
    }

    /// The first unit of a message: it is tried on its own before the table changes.
    fn insert_first(
        &mut self,
        key: K,
        message_len: usize,
        blocks: u16,
        unit: Unit<'_>,
    ) -> Result<Progress, AssemblyError> {
        let mut assembly = Assembly::new(message_len, blocks)?;
        let progress = assembly.insert(unit, &self.coder)?;
        if matches!(progress, Progress::Complete { .. }) {
            self.remember(key);
            return Ok(progress);
        }
        if self.in_progress.len() >= self.max_messages {
            if self.in_progress.first_key_value().is_some_and(|(oldest, _)| key < *oldest) {
                return Ok(Progress::Stale);
            }
            self.in_progress.pop_first();
        }
        self.in_progress.insert(key, (blocks, assembly));
        Ok(progress)
    }

    fn remember(&mut self, key: K) {
        self.completed.insert(key);
        if self.completed.len() > MAX_COMPLETED
            && let Some(second) = self.completed.iter().nth(1).cloned()
        {
            self.forget_below(&second);
        }
    }
}
