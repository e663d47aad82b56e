//! Backups: a snapshot in a file, sealed under a key of its own. The site key's ratchet does not reach it.

use std::fs;
use std::path::{Path, PathBuf};

use net::secret_file::{self, SecretFileError};
use protocol::Entropy;
use thiserror::Error;
use zeroize::Zeroizing;

use super::age;
use super::seal::{FORMAT, Kind, START, Sealer};

const MAGIC: &[u8; 8] = b"KEYSTONB";
/// Largest backup in octets: a hundred million members.
const MAX_FILE: u64 = 16 << 30;

/// Why a backup cannot be written or read. Nothing else was changed.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The key's file is refused.
    #[error("the backup's key: {0}")]
    Key(SecretFileError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(SecretFileError),
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is none.
    #[error("{} is no backup", .0.display())]
    Form(PathBuf),
    /// It was written by another version.
    #[error(
        "{} was written by {} Keystone: format {found}, and this one knows format {FORMAT}",
        path.display(), age(*found, FORMAT)
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It was made with another key, or altered.
    #[error("{} is damaged, or was made with another backup key", .0.display())]
    Damaged(PathBuf),
}

/// Writes a snapshot to a new file of mode 0600.
///
/// # Errors
/// See [`BackupError`]; an existing file stays as it is.
pub fn write_backup(path: &Path, key: &Path, snapshot: &[u8], entropy: &mut dyn Entropy) -> Result<(), BackupError> {
    let sealed = sealer(key)?.seal(Kind::Backup, 0, &START, snapshot, entropy);
    let sealed = sealed.ok_or_else(|| BackupError::Damaged(path.to_owned()))?;
    let octets = [MAGIC.as_slice(), &FORMAT.to_be_bytes(), &sealed].concat();
    secret_file::create_private(path, &octets).map_err(BackupError::Write)
}

/// Reads what [`write_backup`] wrote.
///
/// # Errors
/// See [`BackupError`].
pub fn read_backup(path: &Path, key: &Path) -> Result<Zeroizing<Vec<u8>>, BackupError> {
    let sealer = sealer(key)?;
    let read = |source| BackupError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(read)?.len() > MAX_FILE {
        return Err(BackupError::Form(path.to_owned()));
    }
    let octets = fs::read(path).map_err(read)?;
    let form = || BackupError::Form(path.to_owned());
    let (format, sealed) = octets.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk()).ok_or_else(form)?;
    let found = u32::from_be_bytes(*format);
    if found != FORMAT {
        return Err(BackupError::Format { path: path.to_owned(), found });
    }
    sealer.open(Kind::Backup, 0, &START, sealed).ok_or_else(|| BackupError::Damaged(path.to_owned()))
}

fn sealer(key: &Path) -> Result<Sealer, BackupError> {
    secret_file::read(key).map(|key| Sealer::new(key, [0; 16], 0)).map_err(BackupError::Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Entropy for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(7);
        }
    }

    #[test]
    fn only_its_own_key_opens_it_and_nothing_overwrites_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        secret_file::create(at("key"), &[1; 32]).unwrap();
        secret_file::create(at("other"), &[2; 32]).unwrap();
        let snapshot = b"a very recognizable snapshot".as_slice();
        write_backup(&at("backup"), &at("key"), snapshot, &mut Fixed).unwrap();
        assert_eq!(read_backup(&at("backup"), &at("key")).unwrap().as_slice(), snapshot);
        let octets = fs::read(at("backup")).unwrap();
        assert!(!octets.windows(8).any(|window| window == &snapshot[..8]));
        assert!(matches!(read_backup(&at("backup"), &at("other")), Err(BackupError::Damaged(_))));
        assert!(matches!(write_backup(&at("backup"), &at("key"), b"", &mut Fixed), Err(BackupError::Write(_))));
        assert_eq!(fs::read(at("backup")).unwrap(), octets);
        for (at_octet, damaged) in [(0, false), (11, false), (20, true), (octets.len() - 1, true)] {
            let mut changed = octets.clone();
            changed[at_octet] ^= 1;
            fs::write(at("changed"), changed).unwrap();
            let refused = read_backup(&at("changed"), &at("key")).unwrap_err();
            assert_eq!(matches!(refused, BackupError::Damaged(_)), damaged, "{refused}");
        }
        for (format, age) in [(FORMAT + 1, "a newer"), (FORMAT - 1, "an older")] {
            let other = [MAGIC.as_slice(), &format.to_be_bytes(), &octets[12..]].concat();
            fs::write(at("other-format"), other).unwrap();
            let refused = read_backup(&at("other-format"), &at("key")).unwrap_err().to_string();
            let words = format!("was written by {age} Keystone: format {format}, and this one knows format {FORMAT}");
            assert!(refused.contains(&words), "{refused}");
        }
        fs::write(at("short"), &octets[..5]).unwrap();
        assert!(matches!(read_backup(&at("short"), &at("key")), Err(BackupError::Form(_))));
        assert!(matches!(read_backup(&at("none"), &at("key")), Err(BackupError::Read { .. })));
    }
}
