//! What another process needs, as the system counts it (`proc(5)`), and its tasks, as it counts them itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Failure;
use crate::crowd::ask::ask;

/// Time between counts of descriptors, threads and tasks.
const LOOK: Duration = Duration::from_millis(50);

/// A process that is watched from one call of `begin` to the next of `end`.
pub(super) struct Process {
    folder: PathBuf,
    socket: PathBuf,
    watch: Option<(Arc<Seen>, JoinHandle<()>)>,
}

#[derive(Default)]
struct Seen {
    descriptors: AtomicUsize,
    threads: AtomicUsize,
    tasks: AtomicUsize,
    is_over: AtomicBool,
}

/// The most of each.
#[derive(Clone, Copy)]
pub(super) struct Used {
    /// Resident, MiB.
    pub(super) memory: f64,
    pub(super) descriptors: usize,
    pub(super) threads: usize,
    pub(super) tasks: usize,
}

impl Process {
    pub(super) fn new((id, socket): (u32, PathBuf)) -> Self {
        Self { folder: format!("/proc/{id}").into(), socket, watch: None }
    }

    /// What it needs now; from here on the most is looked for.
    pub(super) fn begin(&mut self) -> Result<Used, Failure> {
        // Forgets the highest memory.
        std::fs::write(self.folder.join("clear_refs"), "5")?;
        let now = Used {
            memory: self.memory()?,
            descriptors: count(&self.folder, "fd"),
            threads: count(&self.folder, "task"),
            tasks: tasks(&self.socket).ok_or("it does not say how many tasks it has")?,
        };
        let (seen, folder, socket) = (Arc::new(Seen::default()), self.folder.clone(), self.socket.clone());
        let watched = Arc::clone(&seen);
        let watch = move || {
            while !watched.is_over.load(Ordering::Relaxed) {
                watched.descriptors.fetch_max(count(&folder, "fd"), Ordering::Relaxed);
                watched.threads.fetch_max(count(&folder, "task"), Ordering::Relaxed);
                watched.tasks.fetch_max(tasks(&socket).unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        };
        self.watch = Some((seen, std::thread::spawn(watch)));
        Ok(now)
    }

    pub(super) fn end(&mut self) -> Result<Used, Failure> {
        let (seen, thread) = self.watch.take().ok_or("not begun")?;
        seen.is_over.store(true, Ordering::Relaxed);
        thread.join().map_err(|_| "the watch died")?;
        Ok(Used {
            memory: self.memory()?,
            descriptors: seen.descriptors.load(Ordering::Relaxed),
            threads: seen.threads.load(Ordering::Relaxed),
            tasks: seen.tasks.load(Ordering::Relaxed),
        })
    }

    /// The highest resident memory.
    fn memory(&self) -> Result<f64, Failure> {
        let status = std::fs::read_to_string(self.folder.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1_024.0)
    }
}

fn count(folder: &std::path::Path, what: &str) -> usize {
    std::fs::read_dir(folder.join(what)).map_or(0, Iterator::count)
}

fn tasks(socket: &std::path::Path) -> Option<usize> {
    ask(socket, "GET", "/v1/status").ok()?["tasks"].as_u64()?.try_into().ok()
}
