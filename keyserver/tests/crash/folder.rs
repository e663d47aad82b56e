//! The folder of the site key: what a crash may leave under each name, as far as the syncs allow.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use keyserver::store::{FileStep, TakeStep};

use crate::disk::{Disk, Step};

pub(crate) const KEY: &str = "site.key";
pub(crate) const MARK: &str = "site.key.mark";

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().into()
}

/// Takes the steps of the process that has this disk: they stand in its log, and fail when it fails.
pub(crate) fn beside(disk: &Disk) -> TakeStep {
    let disk = disk.clone();
    Box::new(move |step| {
        disk.call(|| match step {
            FileStep::Put { path, content, durable } => {
                Step::Put { name: name(path), content: content.to_vec(), durable: *durable }
            }
            FileStep::Rename { from, to } => Step::Rename { from: name(from), to: name(to) },
            FileStep::SyncFolder(_) => Step::SyncFolder,
        })?;
        unsynced(step)
    })
}

/// Takes a step without waiting for the real disk, which nobody pulls the plug of.
pub(crate) fn unsynced(step: &FileStep<'_>) -> std::io::Result<()> {
    match step {
        FileStep::Put { path, content, .. } => FileStep::Put { path, content, durable: false }.take(),
        FileStep::Rename { .. } => step.take(),
        FileStep::SyncFolder(_) => Ok(()),
    }
}

#[derive(Clone)]
struct File {
    content: Vec<u8>,
    synced: bool,
}

/// What each name stood for when the folder was synced, and ever since.
#[derive(Default)]
pub(crate) struct Folder(BTreeMap<String, Vec<Option<File>>>);

impl Folder {
    /// A key that is on disk.
    pub(crate) fn with_key(content: &[u8]) -> Self {
        let file = File { content: content.to_vec(), synced: true };
        Self([(KEY.to_owned(), vec![Some(file)])].into())
    }

    fn stands_for(&mut self, name: &str, file: Option<File>) {
        self.0.entry(name.into()).or_insert_with(|| vec![None]).push(file);
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Put { name, content, durable } => {
                self.stands_for(name, Some(File { content: content.clone(), synced: *durable }));
            }
            Step::Rename { from, to } => {
                let file = self.0.get(from).and_then(|files| files.last().cloned()).flatten();
                self.stands_for(to, file);
                self.stands_for(from, None);
            }
            Step::SyncFolder => self.0.values_mut().for_each(|files| drop(files.drain(..files.len() - 1))),
            _ => {}
        }
    }

    /// Everything that this name may hold after a crash now; a file that was not synced is whole, empty, zeros or half.
    pub(crate) fn variants(&self, name: &str) -> Vec<Option<Vec<u8>>> {
        let mut variants = Vec::new();
        for file in self.0.get(name).map_or(&[None][..], Vec::as_slice) {
            let Some(File { content, synced }) = file else {
                variants.push(None);
                continue;
            };
            variants.push(Some(content.clone()));
            if !synced {
                variants.push(Some(Vec::new()));
                variants.push(Some(vec![0; content.len()]));
                variants.push(Some(content[..content.len() / 2].to_vec()));
            }
        }
        variants.sort();
        variants.dedup();
        variants
    }

    /// Everything that any name may hold.
    pub(crate) fn all(&self) -> impl Iterator<Item = Vec<u8>> {
        self.0.keys().flat_map(|name| self.variants(name)).flatten()
    }
}

/// A real folder for the files, in memory where there is such a place: no crash of this machine is meant.
pub(crate) fn place() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Makes a file what it may be after a crash.
pub(crate) fn put(path: &Path, content: Option<&[u8]>) {
    use std::io::Write;
    drop(std::fs::remove_file(path));
    if let Some(content) = content {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        file.write_all(content).unwrap();
    }
}
