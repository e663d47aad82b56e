//! Rolling keys: another key is made and named beside the present one, then takes its place, then stands alone. Each step writes
//! files for daemons to read while they run; between two steps everybody who has to know is given time.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::agreement::{PrivateKey, X25519};
use protocol::SigningKey;
use protocol::site::SiteCertificate;
use zeroize::Zeroizing;

use super::{MAX_KEYS, PkiError, hex_line, of_one_name, random, rsa_key, validity, write};

/// What is rolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rolled {
    /// A key server's static Noise key.
    Noise,
    /// The keys that a key server signs with, of all its suites.
    Signing,
    /// The site's own key, which signs site certificates.
    Site,
}

/// How far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Makes another key. It stands second, and everybody is told of both.
    Begin,
    /// The other one stands first: it is used from now on. Once more, and all is as before.
    Switch,
    /// Only the first one stays.
    Finish,
}

/// Takes one step, for the key server (or standby) `name` in a folder that [`create`](super::create) has filled. Certificates that
/// follow from it hold for `days`. A switch and a finish are refused before `wait` is over since the step before. Returns the files
/// that were written.
///
/// # Errors
/// See [`PkiError`]; what cannot be done is found before anything is written.
pub fn roll(
    folder: &Path,
    name: &str,
    (what, step): (Rolled, Step),
    days: u32,
    wait: Duration,
) -> Result<Vec<PathBuf>, PkiError> {
    let kinds: &[&str] = match what {
        Rolled::Noise => &["noise"],
        Rolled::Signing => &["signing", "rsa", "paper"],
        Rolled::Site => &["key"],
    };
    let stem = if what == Rolled::Site { "site" } else { name };
    let mut files = Files { folder, changed: Vec::new() };
    for kind in kinds {
        let name = format!("{stem}.{kind}");
        // Not every key server signs for every suite.
        if *kind != kinds[0] && !folder.join(&name).exists() {
            continue;
        }
        let lines = files.lines(&name)?;
        let expected = if step == Step::Begin { 1 } else { 2 };
        let path = folder.join(&name);
        if lines.len() != expected {
            return Err(PkiError::Rolled { path, have: lines.len(), expected });
        }
        let age = fs::metadata(&path).and_then(|about| about.modified()).ok();
        let age = age.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        if step != Step::Begin && age < wait {
            return Err(PkiError::TooSoon { path, left: wait - age });
        }
        let mut lines = lines;
        match step {
            Step::Begin => lines.push(fresh(kind)?),
            Step::Switch => lines.reverse(),
            Step::Finish => lines.truncate(1),
        }
        files.change(name, 0o600, joined(&lines));
    }
    if what == Rolled::Site {
        let keys = files.site_keys()?.iter().map(|key| hex::encode(key.public().octets()) + "\n").collect();
        files.change("site.pub".into(), 0o644, Zeroizing::new(keys));
    }
    match (what, step) {
        // As long as the first key stays, what it has signed does.
        (Rolled::Site, Step::Begin | Step::Finish) => {}
        (Rolled::Site, Step::Switch) => {
            for name in files.key_servers()? {
                files.certify(&name, days)?;
            }
        }
        _ => files.certify(&files.key_server_of(name), days)?,
    }
    files.write()
}

/// A new site certificate for the keys that a key server and its standbys have. Returns its file.
///
/// # Errors
/// See [`PkiError`].
pub fn renew(folder: &Path, key_server: &str, days: u32) -> Result<Vec<PathBuf>, PkiError> {
    let mut files = Files { folder, changed: Vec::new() };
    files.certify(key_server, days)?;
    files.write()
}

/// A folder, and what is to be written into it.
struct Files<'a> {
    folder: &'a Path,
    changed: Vec<(String, u32, Zeroizing<String>)>,
}

impl Files<'_> {
    fn change(&mut self, name: String, mode: u32, content: Zeroizing<String>) {
        self.changed.push((name, mode, content));
    }

    /// A file as it is going to be.
    fn content(&self, name: &str) -> Result<Zeroizing<String>, PkiError> {
        if let Some((_, _, content)) = self.changed.iter().find(|(changed, _, _)| changed == name) {
            return Ok(content.clone());
        }
        let path = self.folder.join(name);
        fs::read_to_string(&path).map(Zeroizing::new).map_err(|source| PkiError::Io { path, source })
    }

    fn lines(&self, name: &str) -> Result<Vec<Zeroizing<Vec<u8>>>, PkiError> {
        let no_key = || PkiError::NoKey(self.folder.join(name));
        let content = self.content(name)?;
        let lines = content.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| hex::decode(line).map(Zeroizing::new).map_err(|_| no_key())).collect()
    }

    fn keys_of<T>(&self, name: &str, key: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, PkiError> {
        let lines = self.lines(name)?;
        let keys = lines.iter().map(|line| key(line).ok_or_else(|| PkiError::NoKey(self.folder.join(name))));
        keys.collect()
    }

    fn site_keys(&self) -> Result<Vec<SigningKey>, PkiError> {
        self.keys_of("site.key", |seed| SigningKey::from_seed(seed.try_into().ok()?).ok())
    }

    /// The names of all key servers with a site certificate.
    fn key_servers(&self) -> Result<Vec<String>, PkiError> {
        let io = |source| PkiError::Io { path: self.folder.to_owned(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(self.folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let stem = path.file_stem().and_then(OsStr::to_str).filter(|_| path.extension() == Some("site".as_ref()));
            names.extend(stem.map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Whose certificate names the keys in the files of `name`: its own, or that of whom it stands by for.
    fn key_server_of(&self, name: &str) -> String {
        let own = self.folder.join(format!("{name}.site")).exists();
        let first = name.rsplit_once('-').map(|(first, _)| first).filter(|_| !own);
        first.unwrap_or(name).to_owned()
    }

    /// Certifies the keys of a key server and its standbys as they are going to be, the present ones first.
    fn certify(&mut self, key_server: &str, days: u32) -> Result<(), PkiError> {
        if !(1..=3_650).contains(&days) {
            return Err(PkiError::Days(days));
        }
        let (mut signing, mut noise) = (Vec::new(), Vec::new());
        let is_there = |name: &String| self.folder.join(format!("{name}.signing")).exists();
        for name in of_one_name(key_server, 4).filter(is_there) {
            let seeds = self.lines(&format!("{name}.signing"))?;
            for at in 0..seeds.len() {
                signing.extend(self.signing_key(&name, at)?.all_public().into_iter().map(|key| (at, key)));
            }
            let public = |secret: &[u8]| {
                let key = PrivateKey::from_private_key(&X25519, secret).ok()?.compute_public_key().ok()?;
                key.as_ref().try_into().ok()
            };
            noise.extend(self.keys_of(&format!("{name}.noise"), public)?.into_iter().enumerate());
        }
        if signing.is_empty() {
            return Err(PkiError::NoKey(self.folder.join(format!("{key_server}.signing"))));
        }
        signing.sort_by_key(|(at, _)| *at);
        noise.sort_by_key(|(at, _)| *at);
        if signing.len() > MAX_KEYS || noise.len() > MAX_KEYS {
            return Err(PkiError::Names(signing.len().max(noise.len())));
        }
        let keys = self.site_keys()?;
        let site = keys.first().ok_or(PkiError::Key)?;
        let file = format!("{key_server}.site");
        let (mut not_before, not_after) = validity(days);
        // Daemons take only what begins later than what they have.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let before = hex::decode(self.content(&file)?.trim()).unwrap_or_default();
        let before = keys.iter().find_map(|key| SiteCertificate::open(&before, &key.public(), now).ok());
        not_before = before.map_or(not_before, |before| not_before.max(before.not_before + 1));
        let signing = signing.into_iter().map(|(_, key)| key).collect();
        let noise = noise.into_iter().map(|(_, key)| key).collect();
        let certificate = SiteCertificate { key_server: key_server.to_owned(), not_before, not_after, signing, noise };
        let content = hex_line(&certificate.sign(site));
        self.change(file, 0o644, content);
        Ok(())
    }

    /// The keys that stand at this place in the files of a key server.
    fn signing_key(&self, name: &str, at: usize) -> Result<SigningKey, PkiError> {
        let line = |kind: &str| {
            let file = format!("{name}.{kind}");
            let lines = if self.folder.join(&file).exists() { self.lines(&file)? } else { Vec::new() };
            Ok::<_, PkiError>(lines.into_iter().nth(at))
        };
        let seed = line("signing")?.ok_or(PkiError::Key)?;
        let seed = seed.as_slice().try_into().map_err(|_| PkiError::Key)?;
        let mut key = SigningKey::from_seed(seed).map_err(|_| PkiError::Key)?;
        if let Some(rsa) = line("rsa")? {
            key = key.with_rsa(&rsa).map_err(|_| PkiError::Key)?;
        }
        #[cfg(feature = "paper")]
        if let Some(paper) = line("paper")? {
            key = key.with_paper(protocol::paper::SigningKey::from_pkcs8(&paper).ok_or(PkiError::Key)?);
        }
        Ok(key)
    }

    /// Each beside what is there and then in its place, so that nobody reads half of one.
    fn write(self) -> Result<Vec<PathBuf>, PkiError> {
        let mut written = Vec::new();
        for (name, mode, content) in self.changed {
            let (path, beside) = (self.folder.join(&name), format!("{name}.new"));
            // Left behind by one that was killed.
            let _ = fs::remove_file(self.folder.join(&beside));
            write(self.folder, &beside, &content, mode)?;
            fs::rename(self.folder.join(beside), &path)
                .map_err(|source| PkiError::Io { path: path.clone(), source })?;
            written.push(path);
        }
        Ok(written)
    }
}

/// Another key of the kind that stands in such a file.
fn fresh(kind: &str) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    match kind {
        "rsa" => rsa_key(),
        #[cfg(feature = "paper")]
        "paper" => {
            let key = protocol::paper::SigningKey::generate().and_then(|key| key.to_pkcs8());
            Ok(Zeroizing::new(key.ok_or(PkiError::Key)?.to_vec()))
        }
        _ => Ok(Zeroizing::new(random()?.to_vec())),
    }
}

fn joined(lines: &[Zeroizing<Vec<u8>>]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(lines.iter().map(|line| 2 * line.len() + 1).sum()));
    for line in lines {
        text.push_str(&hex_line(line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::*;
    use crate::{Spec, create, site_public};

    fn opened(folder: &Path) -> SiteCertificate {
        let octets = hex::decode(fs::read_to_string(folder.join("ks.site")).unwrap().trim()).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        SiteCertificate::open(&octets, &site_public(folder).unwrap(), now).unwrap()
    }

    fn lines(folder: &Path, name: &str) -> Vec<String> {
        fs::read_to_string(folder.join(name)).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_key_stands_second_then_first_then_alone_and_the_certificate_follows() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        create(folder, &Spec { standbys: 1, suites: vec![protocol::Suite::Rsa], ..spec() }).unwrap();
        let step = |what, step| roll(folder, "ks", (what, step), 30, Duration::ZERO).unwrap();
        let first = opened(folder);
        assert_eq!((first.signing.len(), first.noise.len()), (4, 2));
        for (what, file) in [(Rolled::Signing, "ks.signing"), (Rolled::Noise, "ks.noise")] {
            let (old, before) = (lines(folder, file), opened(folder));
            assert!(step(what, Step::Begin).iter().any(|path| path.ends_with("ks.site")));
            let (both, during) = (lines(folder, file), opened(folder));
            assert!(both[0] == old[0] && both.len() == 2 && both[1] != both[0]);
            assert!(during.not_before > before.not_before);
            assert!(before.signing.iter().all(|key| during.signing.contains(key)));
            assert!(before.noise.iter().all(|key| during.noise.contains(key)));
            step(what, Step::Switch);
            assert_eq!(lines(folder, file), [both[1].clone(), both[0].clone()]);
            let switched = opened(folder);
            let sorted = |certificate: &SiteCertificate| {
                let (mut signing, mut noise) = (certificate.signing.clone(), certificate.noise.clone());
                signing.sort();
                noise.sort_unstable();
                (signing, noise)
            };
            assert!(sorted(&switched) == sorted(&during) && switched != during);
            step(what, Step::Finish);
            assert_eq!(lines(folder, file), [both[1].clone()]);
            let after = opened(folder);
            assert_eq!((after.signing.len(), after.noise.len()), (4, 2));
            match what {
                // The standby's stay.
                Rolled::Noise => assert_eq!(after.noise[1], before.noise[1]),
                _ => assert!(after.signing.iter().filter(|key| before.signing.contains(key)).count() == 2),
            }
        }
        // The standby's own, in the same certificate.
        let before = opened(folder);
        roll(folder, "ks-2", (Rolled::Noise, Step::Begin), 30, Duration::ZERO).unwrap();
        assert_eq!((opened(folder).noise.len(), &opened(folder).noise[..2]), (3, &before.noise[..]));
    }

    #[test]
    fn the_key_of_the_site_signs_anew_in_the_middle() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        create(folder, &spec()).unwrap();
        let step = |step| roll(folder, "", (Rolled::Site, step), 30, Duration::ZERO).unwrap();
        let (old, certificate) = (lines(folder, "site.pub"), lines(folder, "ks.site"));
        step(Step::Begin);
        let both = lines(folder, "site.pub");
        assert!(both[0] == old[0] && both.len() == 2 && lines(folder, "ks.site") == certificate);
        step(Step::Switch);
        assert_eq!(lines(folder, "site.pub"), [both[1].clone(), both[0].clone()]);
        assert_ne!(lines(folder, "ks.site"), certificate);
        opened(folder);
        step(Step::Finish);
        assert_eq!(lines(folder, "site.pub"), [both[1].clone()]);
        opened(folder);
        let before = opened(folder).not_before;
        renew(folder, "ks", 60).unwrap();
        assert!(opened(folder).not_before > before);
    }

    #[test]
    fn a_step_out_of_turn_or_too_soon_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        create(folder, &spec()).unwrap();
        let all = || ["ks.signing", "ks.site", "site.pub"].map(|name| lines(folder, name));
        let step = |step, days, hours: u64| {
            roll(folder, "ks", (Rolled::Signing, step), days, Duration::from_secs(3_600 * hours))
        };
        let before = all();
        assert!(matches!(step(Step::Switch, 30, 0), Err(PkiError::Rolled { have: 1, expected: 2, .. })));
        assert!(matches!(step(Step::Finish, 30, 0), Err(PkiError::Rolled { .. })));
        assert!(matches!(step(Step::Begin, 0, 0), Err(PkiError::Days(0))));
        assert!(matches!(
            roll(folder, "no", (Rolled::Noise, Step::Begin), 30, Duration::ZERO),
            Err(PkiError::Io { .. })
        ));
        assert!(matches!(renew(folder, "no", 30), Err(PkiError::NoKey(_))));
        assert_eq!(all(), before);
        step(Step::Begin, 30, 48).unwrap();
        let before = all();
        assert!(matches!(step(Step::Switch, 30, 48), Err(PkiError::TooSoon { .. })));
        assert!(matches!(step(Step::Begin, 30, 0), Err(PkiError::Rolled { have: 2, expected: 1, .. })));
        fs::write(folder.join("site.key"), "no key").unwrap();
        assert!(matches!(step(Step::Switch, 30, 0), Err(PkiError::NoKey(_))));
        assert_eq!(all(), before);
    }
}
