//! What is read from files is read again when they change, while the daemon runs; and how often that went well is counted.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// Time between looks at the files. A look is one system call for each.
const LOOK: Duration = Duration::from_secs(5);
/// Time between reminders of what ends soon.
const REMIND: Duration = Duration::from_secs(86_400);

/// A value that is replaced while others use it. Clones are the same value.
#[derive(Debug)]
pub struct Reloaded<T>(watch::Receiver<Arc<T>>);

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Reloaded<T> {
    /// A value, and the end that replaces it.
    pub fn new(value: T) -> (watch::Sender<Arc<T>>, Self) {
        let (replace, value) = watch::channel(Arc::new(value));
        (replace, Self(value))
    }

    /// The value in force.
    pub fn get(&self) -> Arc<T> {
        self.0.borrow().clone()
    }

    /// Waits for another value; for ever if there cannot be one.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// What became of one thing that is read again, since the start of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Readings {
    /// How often what was read came into force.
    pub taken: u64,
    /// How often it was refused; the last good one stayed in force.
    pub refused: u64,
    /// Why the last one was refused; nothing once a good one has come. As long as it is there, the files differ from what is in force.
    pub error: Option<String>,
}

/// All that a daemon reads again, by name. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Reloads(Arc<Mutex<BTreeMap<&'static str, Readings>>>);

impl Reloads {
    /// How it went so far.
    pub fn readings(&self) -> BTreeMap<&'static str, Readings> {
        self.all().clone()
    }

    /// `what` was read again and is in force.
    pub fn taken(&self, what: &'static str) {
        let mut all = self.all();
        let readings = all.entry(what).or_default();
        readings.taken += 1;
        readings.error = None;
    }

    /// `what` was read again and is no good, which is in the log too.
    pub fn refused(&self, what: &'static str, error: &dyn Display) {
        tracing::error!(%error, "{what}: refused; the last good ones stay in force");
        let mut all = self.all();
        let readings = all.entry(what).or_default();
        readings.refused += 1;
        readings.error = Some(error.to_string());
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<&'static str, Readings>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `value`, which was read from `files`, up to date: `load`, given the value in force, reads it again on SIGHUP and
    /// when a file changes. An error leaves the value in force, is in the log and counted. `remind` is called for every new
    /// value, and once a day. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system refuses the signal handler.
    pub fn follow<T: Send + Sync + 'static, E: Display + Send>(
        &self,
        what: &'static str,
        value: T,
        files: Vec<PathBuf>,
        mut load: impl FnMut(&T) -> Result<T, E> + Send + 'static,
        remind: impl Fn(&T) + Send + 'static,
    ) -> std::io::Result<Reloaded<T>> {
        self.follow_asking(what, value, files, move |now| std::future::ready(load(&now)), remind)
    }

    /// As [`Reloads::follow`], for what somebody else has a word in.
    ///
    /// # Errors
    /// The same.
    pub fn follow_asking<T: Send + Sync + 'static, E: Display + Send, F: Future<Output = Result<T, E>> + Send>(
        &self,
        what: &'static str,
        value: T,
        files: Vec<PathBuf>,
        mut load: impl FnMut(Arc<T>) -> F + Send + 'static,
        remind: impl Fn(&T) + Send + 'static,
    ) -> std::io::Result<Reloaded<T>> {
        let mut hangup = signal(SignalKind::hangup())?;
        let (replace, followed) = Reloaded::new(value);
        let reloads = self.clone();
        reloads.all().entry(what).or_default();
        let mut seen = marks(&files);
        tokio::spawn(async move {
            let mut reminded = Instant::now();
            remind(&replace.borrow().clone());
            loop {
                let told = tokio::select! {
                    _ = hangup.recv() => true,
                    () = tokio::time::sleep(LOOK) => false,
                    () = replace.closed() => return,
                };
                let now = marks(&files);
                let in_force = replace.borrow().clone();
                if told || now != seen {
                    // Seen before it is read: what changes meanwhile is read again.
                    seen = now;
                    match load(in_force.clone()).await {
                        Ok(value) => {
                            tracing::info!("{what}: read again, in force");
                            reloads.taken(what);
                            replace.send_replace(Arc::new(value));
                            reminded = Instant::now();
                            remind(&replace.borrow().clone());
                        }
                        Err(error) => reloads.refused(what, &error),
                    }
                } else if reminded.elapsed() >= REMIND {
                    reminded = Instant::now();
                    remind(&in_force);
                }
            }
        });
        Ok(followed)
    }
}

/// What changes with a file: where it is on disk, its length, and when it was written, in seconds and nanoseconds.
type Mark = Option<(u64, u64, i64, i64)>;

fn marks(files: &[PathBuf]) -> Vec<Mark> {
    let mark = |file: &PathBuf| {
        let about = std::fs::metadata(file).ok()?;
        Some((about.ino(), about.size(), about.mtime(), about.mtime_nsec()))
    };
    files.iter().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signal is for all of a process: one test at a time.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    fn number(path: &std::path::Path) -> Result<u32, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|_| format!("{}: not a number", path.display()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_good_replaces_and_what_is_bad_does_not() {
        let _alone = ALONE.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let (file, reminders) = (path.clone(), Arc::new(Mutex::new(Vec::new())));
        let kept = reminders.clone();
        let remind = move |n: &u32| kept.lock().unwrap().push(*n);
        let reloads = Reloads::default();
        let mut followed = reloads.follow("a number", 1, vec![path.clone()], move |_| number(&file), remind).unwrap();
        let readings = || reloads.readings()["a number"].clone();
        assert_eq!(readings(), Readings::default());
        std::fs::write(&path, "many").unwrap();
        tokio::time::sleep(3 * LOOK).await;
        assert_eq!(*followed.get(), 1);
        let why = format!("{}: not a number", path.display());
        assert_eq!(readings(), Readings { taken: 0, refused: 1, error: Some(why) });
        std::fs::write(&path, "22").unwrap();
        followed.changed().await;
        assert_eq!(*followed.get(), 22);
        assert_eq!(readings(), Readings { taken: 1, refused: 1, error: None });
        std::fs::remove_file(&path).unwrap();
        tokio::time::sleep(REMIND + 2 * LOOK).await;
        assert_eq!((*followed.get(), &*reminders.lock().unwrap()), (22, &vec![1, 22, 22]));
        assert_eq!(readings().refused, 2, "a file that is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_reads_again_what_looks_the_same() {
        let _alone = ALONE.lock().await;
        let mut n = 0;
        let load = move |_: &u32| {
            n += 1;
            Ok::<_, String>(n)
        };
        let mut followed = Reloads::default().follow("a number", 0, Vec::new(), load, |_| {}).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        followed.changed().await;
        assert_eq!(*followed.get(), 1);
    }
}
