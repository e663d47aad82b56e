//! For lines in a log that strangers can cause: a few of them are said, the others are counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two lines: an operator sees what goes on, and a flood writes some megabytes a day at the most.
const PAUSE: Duration = Duration::from_secs(10);

/// Says when a line may be written.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Whether this line may be written: how many were not since the one before.
    pub fn turn(&self) -> Option<u64> {
        // Nothing panics while it is held.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| last.elapsed() < PAUSE) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(Instant::now());
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_writes_one_line_in_ten_seconds() {
        let seldom = Seldom::default();
        assert_eq!(seldom.turn(), Some(0));
        assert!((0..1_000).all(|_| seldom.turn().is_none()));
        tokio::time::advance(PAUSE).await;
        assert_eq!((seldom.turn(), seldom.turn()), (Some(1_000), None));
    }
}
