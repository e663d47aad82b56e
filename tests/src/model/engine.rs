//! The engine below both journals: its values are numbered states, and what it answers is chosen by the search.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use keyserver::store::{Backend, CommitError, Held, MemoryBackend, Op};

use super::Mutant;

/// All values of the engine, by name.
pub(super) type Values = BTreeMap<String, Held>;

/// What a store asks of the engine and has no answer to yet.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Commit(Vec<Op>),
    Pause,
    Read,
}

/// An answer of the engine; a state of it is named by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    /// The commit took place.
    Done,
    /// The commit did not take place: a condition did not hold.
    Conflict,
    /// No answer to the commit.
    Lost,
    /// Whether to try again after a pause.
    Again(bool),
    /// Everything that is read until the next commit or pause is read of this state.
    Reads(u32),
}

#[derive(Default)]
struct Script {
    answers: VecDeque<(usize, Answer, Option<Arc<Values>>)>,
    /// Place of the last answer that was used.
    used: Option<usize>,
    lost: bool,
    done: bool,
    pending: Option<Call>,
    lost_is_done: bool,
}

/// A backend that answers by a script and stops where the script ends. Clones are the same backend.
#[derive(Clone, Default)]
pub(super) struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        let script = Script { lost_is_done: mutant == Some(Mutant::LostIsDone), ..Script::default() };
        Self(Arc::new(Mutex::new(script)))
    }

    /// Answers for the next operation, each with its place in the history.
    pub(super) fn script(&self, answers: VecDeque<(usize, Answer, Option<Arc<Values>>)>) {
        let mut script = self.0.lock().unwrap();
        let lost_is_done = script.lost_is_done;
        *script = Script { answers, lost_is_done, ..Script::default() };
    }

    /// The call at which the script ended.
    pub(super) fn pending(&self) -> Option<Call> {
        self.0.lock().unwrap().pending.clone()
    }

    /// Place of the last answer that was used; whether an answer was lost, and whether one said that it was done.
    pub(super) fn used(&self) -> (Option<usize>, bool, bool) {
        let script = self.0.lock().unwrap();
        (script.used, script.lost, script.done)
    }
}

impl Script {
    /// The answer to a commit or a pause.
    fn next(&mut self, call: Call) -> Result<Answer, CommitError> {
        while matches!(self.answers.front(), Some((_, Answer::Reads(_), _))) {
            self.answers.pop_front();
        }
        match self.answers.pop_front().filter(|_| self.pending.is_none()) {
            Some((place, answer, _)) => {
                self.used = Some(place);
                Ok(answer)
            }
            None => Err(self.ends(call)),
        }
    }

    fn ends(&mut self, call: Call) -> CommitError {
        self.pending.get_or_insert(call);
        CommitError::Refused("the script ends".into())
    }
}

impl Backend for Scripted {
    fn place(&self) -> String {
        "model".into()
    }

    fn read(&mut self, name: &str) -> Result<Option<Held>, CommitError> {
        let mut script = self.0.lock().unwrap();
        match script.answers.front().cloned().filter(|_| script.pending.is_none()) {
            Some((place, _, Some(values))) => {
                script.used = Some(place);
                Ok(values.get(name).cloned())
            }
            _ => Err(script.ends(Call::Read)),
        }
    }

    fn commit(&mut self, ops: &[Op]) -> Result<(), CommitError> {
        let mut script = self.0.lock().unwrap();
        match script.next(Call::Commit(ops.to_vec()))? {
            Answer::Done => {
                script.done = true;
                Ok(())
            }
            Answer::Conflict => Err(CommitError::Conflict),
            Answer::Lost => {
                script.lost = true;
                if script.lost_is_done { Ok(()) } else { Err(CommitError::Unknown("lost".into())) }
            }
            answer => panic!("{answer:?} to a commit"),
        }
    }

    fn pause(&mut self, _: u32) -> bool {
        matches!(self.0.lock().unwrap().next(Call::Pause), Ok(Answer::Again(true)))
    }
}

/// What becomes of the values by this commit; `None` if a condition does not hold.
pub(super) fn carry_out(values: &Values, ops: &[Op], mutant: Option<Mutant>) -> Option<Values> {
    let backend = MemoryBackend::default();
    backend.roll_back(values.clone());
    let no_fence = matches!(mutant, Some(Mutant::NoFence | Mutant::NoConditions));
    let no_head = matches!(mutant, Some(Mutant::HeadUnconditional | Mutant::NoConditions));
    let ops = ops.iter().filter(|op| !(no_fence && matches!(op, Op::Check { .. }))).cloned();
    let ops: Vec<Op> = ops.map(|op| if no_head { unconditional(values, op) } else { op }).collect();
    backend.clone().commit(&ops).is_ok().then(|| backend.values())
}

/// The same write, whatever stands there. The fence stays conditional.
fn unconditional(values: &Values, op: Op) -> Op {
    match op {
        Op::Create { name, value } | Op::Replace { name, value, .. } if name != "term" => match values.get(&name) {
            Some(held) => Op::Replace { name, value, version: held.version },
            None => Op::Create { name, value },
        },
        op => op,
    }
}
