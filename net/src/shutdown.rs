//! One token that tells every task of a daemon to finish what it began and end.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The order to drain. Clones are the same token; once triggered it stays so.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Shutdown {
    /// A token that only [`trigger`](Self::trigger) triggers: for tests and for daemons inside another process.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that SIGTERM and SIGINT trigger too. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system refuses the signal handlers.
    pub fn on_signals() -> io::Result<Self> {
        let token = Self::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let triggered = token.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
                _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
            }
            triggered.trigger();
        });
        Ok(token)
    }

    /// Tells everybody who waits.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Whether the order was given.
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once the order is given, at once if it was. Safe to drop and call again.
    pub async fn wait(&self) {
        // The sender lives in self, so the wait cannot end for lack of one.
        let _ = self.0.subscribe().wait_for(|triggered| *triggered).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn every_clone_hears_once_and_for_all() {
        let token = Shutdown::new();
        let waiter = tokio::spawn({
            let token = token.clone();
            async move { token.wait().await }
        });
        tokio::time::timeout(Duration::from_millis(20), token.wait()).await.unwrap_err();
        assert!(!token.is_triggered());
        token.clone().trigger();
        waiter.await.unwrap();
        token.wait().await;
        assert!(token.is_triggered());
    }

    #[tokio::test]
    async fn a_signal_triggers() {
        let token = Shutdown::on_signals().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        tokio::time::timeout(Duration::from_secs(5), token.wait()).await.unwrap();
    }
}
