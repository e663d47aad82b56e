//! The site key: a ratchet in a local file of each key server, and beside it how far this key server has seen the
//! journal go. Both stay outside the journal's engine and outside its backups.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use net::secret_file::{self, SecretFileError};
use protocol::Entropy;
use protocol::schedule::expand;
use zeroize::Zeroizing;

use super::seal::Link;

/// Generations that a key server may have slept through. Compactions are seconds apart at the most; a number beyond it
/// is no number of ours, and must not keep us computing.
const MAX_STEPS: u64 = 1 << 24;

/// Octets of the file: generation, key, key of names.
const LEN: usize = 8 + 32 + 32;

/// A step of putting a file in the place of another: what a crash can come before, into or after.
pub enum FileStep<'a> {
    /// A file of mode 0600 with this content; on disk when the step is done, if `durable`.
    Put {
        /// The file.
        path: &'a Path,
        /// All of it.
        content: &'a [u8],
        /// Whether it must survive a crash from now on.
        durable: bool,
    },
    /// A file takes the name of another.
    Rename {
        /// The file.
        from: &'a Path,
        /// Its new name.
        to: &'a Path,
    },
    /// The names in this folder are on disk when the step is done.
    SyncFolder(&'a Path),
}

impl FileStep<'_> {
    /// Takes the step on the file system.
    ///
    /// # Errors
    /// The file system's.
    pub fn take(&self) -> io::Result<()> {
        match self {
            Self::Put { path, content, durable } => {
                let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
                file.write_all(content)?;
                if *durable { file.sync_all() } else { Ok(()) }
            }
            Self::Rename { from, to } => fs::rename(from, to),
            Self::SyncFolder(path) => File::open(path)?.sync_all(),
        }
    }
}

/// Takes the steps: [`FileStep::take`], or what a test puts around it.
pub type TakeStep = Box<dyn FnMut(&FileStep<'_>) -> io::Result<()> + Send>;

/// How far the journal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    /// Of the next record.
    pub(super) number: u64,
    /// Of the last record.
    pub(super) last: Link,
}

/// Opens the journal's present generation. It cannot be turned back.
pub struct SiteKey {
    generation: u64,
    key: Zeroizing<[u8; 32]>,
    names: Zeroizing<[u8; 32]>,
    /// `None` in memory, for simulations.
    path: Option<PathBuf>,
    mark: Mark,
    /// Whether the mark that is on disk stands, whatever is read.
    is_mute: bool,
    take: TakeStep,
}

impl SiteKey {
    /// A key in memory, at generation 0: equal secrets are equal keys.
    pub fn in_memory(secret: &[u8; 32]) -> Self {
        let part = |label: &[u8]| Zeroizing::new(expand::<32>(secret, label, &[]));
        let (key, names) = (part(b"site key"), part(b"site names"));
        let take = Box::new(|step: &FileStep<'_>| step.take());
        Self { generation: 0, key, names, path: None, mark: Mark::default(), is_mute: false, take }
    }

    /// Makes a new key in a new file of mode 0600. All key servers of a site start from copies of it.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn create(path: &Path, entropy: &mut dyn Entropy) -> Result<(), SecretFileError> {
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(secret.as_mut());
        secret_file::create_private(path, &Self::in_memory(&secret).line())
    }

    /// Reads the file, and the mark beside it.
    ///
    /// # Errors
    /// See [`SecretFileError`].
    pub fn open(path: &Path) -> Result<Self, SecretFileError> {
        Self::open_with(path, Box::new(|step| step.take()))
    }

    /// As [`SiteKey::open`]; whatever is written is written by `take`, so that a test can stop between any two steps.
    ///
    /// # Errors
    /// As [`SiteKey::open`].
    pub fn open_with(path: &Path, take: TakeStep) -> Result<Self, SecretFileError> {
        let octets = secret_file::read_octets(path)?;
        let form = || SecretFileError::Form { path: path.to_owned(), expected: 2 * LEN, digits: 2 * octets.len() };
        let parts: &[u8; LEN] = octets.as_slice().try_into().map_err(|_| form())?;
        let mut generation = [0; 8];
        let (mut key, mut names) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        generation.copy_from_slice(&parts[..8]);
        key.copy_from_slice(&parts[8..40]);
        names.copy_from_slice(&parts[40..]);
        let mark = read_mark(&mark_path(path));
        let mark = mark.map_err(|source| SecretFileError::Io { path: mark_path(path), source })?;
        Ok(Self {
            generation: u64::from_be_bytes(generation),
            key,
            names,
            path: Some(path.to_owned()),
            mark,
            is_mute: false,
            take,
        })
    }

    /// Takes whatever the journal holds for all that there is: an operator has decided so.
    pub fn forget_mark(&mut self) {
        (self.mark, self.is_mute) = (Mark::default(), true);
    }

    /// Something was written that goes on from there: from now on it is noted again.
    pub(super) fn written(&mut self) {
        self.is_mute = false;
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn mark(&self) -> Mark {
        self.mark
    }

    /// The key of this or a later generation; `None` for an earlier one, which is gone, and beyond [`MAX_STEPS`].
    pub(super) fn of(&self, generation: u64) -> Option<Zeroizing<[u8; 32]>> {
        let steps = generation.checked_sub(self.generation).filter(|steps| *steps <= MAX_STEPS)?;
        let mut key = self.key.clone();
        for _ in 0..steps {
            *key = expand(&key, b"site ratchet", &[]);
        }
        Some(key)
    }

    /// The name under which the journal keeps a value: it says nothing to whoever has no key.
    pub(super) fn name(&self, kind: u8, generation: u64, number: u64) -> String {
        let parts: [&[u8]; 3] = [&[kind], &generation.to_be_bytes(), &number.to_be_bytes()];
        hex::encode(expand::<16>(&self.names, b"site name", &parts))
    }

    /// What seals [`super::Badge`]: like the names it stays the same for ever.
    pub(super) fn of_presences(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(expand(&self.names, b"site presence", &[]))
    }

    /// Goes on to a later generation; the key before is gone when this returns.
    pub(super) fn advance(&mut self, generation: u64) -> io::Result<()> {
        if generation == self.generation {
            return Ok(());
        }
        let key = self.of(generation).ok_or_else(|| io::Error::other("an earlier generation of the site key"))?;
        (self.generation, self.key) = (generation, key);
        let Some(path) = self.path.clone() else { return Ok(()) };
        let line = self.line();
        replace(&mut self.take, &path, &line, true).and_then(|()| self.note(self.mark, true))
    }

    /// Notes how far the journal went. A note that a crash loses is a note less, so it is on disk only at `durable`.
    pub(super) fn note(&mut self, mark: Mark, durable: bool) -> io::Result<()> {
        self.mark = mark;
        let Some(path) = self.path.as_ref().filter(|_| !self.is_mute) else { return Ok(()) };
        let line = format!("{} {}\n", mark.number, hex::encode(mark.last));
        replace(&mut self.take, &mark_path(path), line.as_bytes(), durable)
    }

    fn line(&self) -> Zeroizing<Vec<u8>> {
        let mut octets = Zeroizing::new([0; LEN]);
        octets[..8].copy_from_slice(&self.generation.to_be_bytes());
        octets[8..40].copy_from_slice(self.key.as_slice());
        octets[40..].copy_from_slice(self.names.as_slice());
        let mut line = Zeroizing::new(vec![b'\n'; 2 * LEN + 1]);
        // The destination has the right size, so this cannot fail.
        let _ = hex::encode_to_slice(octets.as_slice(), &mut line[..2 * LEN]);
        line
    }
}

fn mark_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".mark");
    name.into()
}

/// None, or one that a crash has emptied, is a mark that says nothing.
fn read_mark(path: &Path) -> io::Result<Mark> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut words = text.split_whitespace();
    let mut mark = Mark::default();
    let mut parse = || {
        mark.number = words.next()?.parse().ok()?;
        hex::decode_to_slice(words.next()?, &mut mark.last).ok()
    };
    Ok(if parse().is_some() { mark } else { Mark::default() })
}

/// Puts a file of mode 0600 in the place of another, whole or not at all.
fn replace(take: &mut TakeStep, path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    take(&FileStep::Put { path: &new, content, durable })?;
    take(&FileStep::Rename { from: &new, to: path })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if durable { take(&FileStep::SyncFolder(folder)) } else { Ok(()) }
}

impl std::fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SiteKey(generation {})", self.generation)
    }
}
