//! Secrets in files: 32 octets as 64 hexadecimal digits, readable by their owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

/// Longest private file in octets. An RSA-4096 key in PEM takes 3,300; more is the wrong file.
const MAX_FILE: u64 = 64 * 1024;

/// Keys in one file: the present one, the one before and the next. A responder tries each of them for whoever comes.
pub const MAX_KEYS: usize = 3;

/// Why a private file is refused. Whoever keeps the file is to blame; nothing was changed.
#[derive(Debug, Error)]
pub enum SecretFileError {
    /// It cannot be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a folder, a device or a pipe.
    #[error("{}: not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may use it.
    #[error("{}: mode {mode:04o} lets others than its owner use it, expected 0600 or less (chmod 600)", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is longer than any secret.
    #[error("{}: longer than {MAX_FILE} octets", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It does not hold hexadecimal digits, two for each octet.
    #[error("{}: {digits} characters that are not all hexadecimal digits in pairs", path.display())]
    NotHex {
        /// The file.
        path: PathBuf,
        /// Characters without the white space around them.
        digits: usize,
    },
    /// It holds no key, or more than may stand in one file.
    #[error("{}: holds {keys} keys, one in a line, expected 1 to {MAX_KEYS}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// Keys in it.
        keys: usize,
    },
    /// It does not hold as many hexadecimal digits as its secret has.
    #[error("{}: expected {expected} hexadecimal digits, got {digits} characters", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Hexadecimal digits of the secret.
        expected: usize,
        /// Characters without the white space around them.
        digits: usize,
    },
}

/// Reads a secret of 32 octets.
///
/// # Errors
/// See [`SecretFileError`]; no error shows any of the content.
pub fn read(path: impl AsRef<Path>) -> Result<Zeroizing<[u8; 32]>, SecretFileError> {
    let path = path.as_ref();
    let content = read_private(path)?;
    let digits = content.trim_ascii();
    let mut secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, &mut *secret).map_err(|_| SecretFileError::Form {
        path: path.to_owned(),
        expected: 64,
        digits: digits.len(),
    })?;
    Ok(secret)
}

/// Reads a secret of any length, in hexadecimal: a private key in DER.
///
/// # Errors
/// See [`SecretFileError`]; no error shows any of the content.
pub fn read_octets(path: impl AsRef<Path>) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let path = path.as_ref();
    let content = read_private(path)?;
    let digits = content.trim_ascii();
    let octets = hex::decode(digits).map(Zeroizing::new);
    octets.map_err(|_| SecretFileError::NotHex { path: path.to_owned(), digits: digits.len() })
}

/// Reads keys of any length, in hexadecimal, 1 to 3 of them, one in a line: the present one first. So a key is rolled by
/// replacing its file.
///
/// # Errors
/// See [`SecretFileError`]; no error shows any of the content.
pub fn read_keys(path: impl AsRef<Path>) -> Result<Vec<Zeroizing<Vec<u8>>>, SecretFileError> {
    let path = path.as_ref();
    let content = read_private(path)?;
    let lines: Vec<&[u8]> = content.split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii).collect();
    let lines: Vec<&[u8]> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    if !(1..=MAX_KEYS).contains(&lines.len()) {
        return Err(SecretFileError::Keys { path: path.to_owned(), keys: lines.len() });
    }
    let not_hex = |digits: usize| SecretFileError::NotHex { path: path.to_owned(), digits };
    lines.into_iter().map(|line| hex::decode(line).map(Zeroizing::new).map_err(|_| not_hex(line.len()))).collect()
}

/// Reads secrets of 32 octets, see [`read_keys`].
///
/// # Errors
/// See [`SecretFileError`]; no error shows any of the content.
pub fn read_all(path: impl AsRef<Path>) -> Result<Vec<Zeroizing<[u8; 32]>>, SecretFileError> {
    let path = path.as_ref();
    let form = |digits| SecretFileError::Form { path: path.to_owned(), expected: 64, digits };
    let fixed = |key: Zeroizing<Vec<u8>>| {
        let octets: &[u8; 32] = key.as_slice().try_into().map_err(|_| form(2 * key.len()))?;
        Ok(Zeroizing::new(*octets))
    };
    read_keys(path)?.into_iter().map(fixed).collect()
}

/// Writes a secret of 32 octets into a new file of mode 0600.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn create(path: impl AsRef<Path>, secret: &[u8; 32]) -> Result<(), SecretFileError> {
    let mut digits = Zeroizing::new([0; 65]);
    digits[64] = b'\n';
    // The destination has the right size, so this cannot fail.
    let _ = hex::encode_to_slice(secret, &mut digits[..64]);
    create_private(path, &*digits)
}

/// Reads a whole private file: a regular one that only its owner may use; a symbolic link may lead to it.
///
/// # Errors
/// See [`SecretFileError`].
pub fn read_private(path: impl AsRef<Path>) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let path = path.as_ref();
    let io = |source| SecretFileError::Io { path: path.to_owned(), source };
    // Asked before opening, because to open a pipe without a writer waits for ever.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(SecretFileError::NotRegular { path: path.to_owned() });
    }
    let file = File::open(path).map_err(io)?;
    // Asked of the open file, so that what is checked is what is read.
    let metadata = file.metadata().map_err(io)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Mode { path: path.to_owned(), mode });
    }
    if metadata.len() > MAX_FILE {
        return Err(SecretFileError::TooLong { path: path.to_owned() });
    }
    // All the room at once, so that growth leaves no copy of a secret behind.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or_default()));
    file.take(MAX_FILE).read_to_end(&mut content).map_err(io)?;
    Ok(content)
}

/// Writes a new file of mode 0600 and waits until it is on disk, with its name in its folder.
///
/// # Errors
/// The file exists (it is left as it is), or cannot be written (what was begun is removed).
pub fn create_private(path: impl AsRef<Path>, content: &[u8]) -> Result<(), SecretFileError> {
    let path = path.as_ref();
    let io = |source| SecretFileError::Io { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| File::open(folder)?.sync_all())
        .inspect_err(|_| _ = fs::remove_file(path))
        .map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn round_trip_and_refusals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.key");
        create(&path, &[0xab; 32]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(*read(&path).unwrap(), [0xab; 32]);
        assert!(matches!(create(&path, &[1; 32]), Err(SecretFileError::Io { .. })));
        assert_eq!(*read(&path).unwrap(), [0xab; 32], "an existing file stays");

        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        read(&link).unwrap();

        for bad in [0o640, 0o604, 0o610, 0o601, 0o666] {
            mode(&path, bad);
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:04o}")) && error.contains("x.key"), "{error}");
        }
        mode(&path, 0o400);
        read(&path).unwrap();
        assert!(matches!(read(folder.path()), Err(SecretFileError::NotRegular { .. })));
        assert!(matches!(read(folder.path().join("none")), Err(SecretFileError::Io { .. })));
    }

    #[test]
    fn only_64_digits() {
        let folder = tempfile::tempdir().unwrap();
        for (i, bad) in ["", "ab", &"a".repeat(63), &"a".repeat(65), &"g".repeat(64)].into_iter().enumerate() {
            let path = folder.path().join(i.to_string());
            create_private(&path, bad.as_bytes()).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, SecretFileError::Form { digits, .. } if digits == bad.len()), "{error}");
            assert!(bad.len() < 60 || !error.to_string().contains(bad), "the content is not shown");
        }
        let several = folder.path().join("several");
        let line = |digit: &str| digit.repeat(64);
        create_private(&several, format!("{}\n\n{}\n", line("a"), line("b")).as_bytes()).unwrap();
        let keys = read_all(&several).unwrap();
        assert_eq!((keys.len(), *keys[0], *keys[1]), (2, [0xaa; 32], [0xbb; 32]));
        assert!(read(&several).is_err(), "one is meant");
        let many = folder.path().join("many");
        create_private(&many, format!("{}\n", line("a")).repeat(4).as_bytes()).unwrap();
        assert!(matches!(read_all(&many), Err(SecretFileError::Keys { keys: 4, .. })));
        for (name, bad) in [("short", "abcd\n".to_owned()), ("odd", line("a") + "\nx\n")] {
            let path = folder.path().join(name);
            create_private(&path, bad.as_bytes()).unwrap();
            assert!(read_all(&path).is_err(), "{name}");
        }
        let long = folder.path().join("long");
        create_private(&long, &vec![b'a'; 70_000]).unwrap();
        assert!(matches!(read(&long), Err(SecretFileError::TooLong { .. })));
    }
}
