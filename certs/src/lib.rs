//! A development PKI in one command: certificates, Noise and signing keys, the site key and site certificates.
//!
//! For trying Keystone out and for tests. A production site has an authority of its own; what has to be in its
//! certificates is one URI SAN for each principal, and nothing else that Keystone looks at.
#![allow(clippy::disallowed_methods, reason = "certificates begin today, so the clock is asked")]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::agreement::{PrivateKey, X25519};
use protocol::identity::{Identity, IdentityError};
use protocol::site::SiteCertificate;
use protocol::{SigningKey, Suite, VerifyingKey};
use thiserror::Error;
use zeroize::Zeroizing;

pub use authority::{Authority, Leaf};
pub use roll::{Rolled, Step, renew, roll};
pub use tokens::TokenIssuer;

mod authority;
mod roll;
mod tokens;

/// Certificates begin this long ago, so that clocks that are a little behind accept them.
const EARLIER: Duration = Duration::from_secs(300);
/// Keys of a kind that a site certificate may hold.
const MAX_KEYS: usize = 10;

/// Who is to get certificates.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Trust domain of all identities.
    pub domain: String,
    /// Names of key servers: `spiffe://DOMAIN/keyserver/NAME`.
    pub key_servers: Vec<String>,
    /// Others of the same name for each key server, 0 to 4, with one site certificate for all of them.
    pub standbys: u8,
    /// Names of registrars: `spiffe://DOMAIN/registrar/NAME`.
    pub registrars: Vec<String>,
    /// Names of members: `spiffe://DOMAIN/member/NAME`.
    pub members: Vec<String>,
    /// Days for which everything holds, 1 to 3,650.
    pub days: u32,
    /// Suites for whose groups key servers need a signing key beside the Ed25519 one.
    pub suites: Vec<Suite>,
}

/// Why no PKI was made. Files that were made before the failure stay in the folder.
#[derive(Debug, Error)]
pub enum PkiError {
    /// The folder holds something already; nothing was changed.
    #[error("{} is not empty; a PKI is never written over another", .0.display())]
    NotEmpty(PathBuf),
    /// A name or number that cannot be.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Days out of range.
    #[error("days must be 1 to 3650, not {0}")]
    Days(u32),
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standbys out of range.
    #[error("standbys must be 0 to 4, with at most 10 keys of all suites together, not {0}")]
    Standbys(u8),
    /// A file of keys has not as many as this step begins with.
    #[error("{}: {have} keys, one in a line, and this step begins with {expected}", path.display())]
    Rolled {
        /// The file.
        path: PathBuf,
        /// Keys in it.
        have: usize,
        /// Keys that the step needs.
        expected: usize,
    },
    /// The step before was taken a short time ago.
    #[error("{}: changed a short time ago; give everybody who has to hear of it {} s more", path.display(), left.as_secs())]
    TooSoon {
        /// The file.
        path: PathBuf,
        /// Time to wait.
        left: Duration,
    },
    /// A site certificate cannot name so many keys of a kind.
    #[error("a site certificate names at most 10 keys of a kind, and there would be {0}: finish rolling one first")]
    Names(usize),
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key cannot be made.
    #[error("cannot make a key")]
    Key,
    /// A token cannot be signed.
    #[error("cannot sign a token: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    /// A file is not what it should be.
    #[error("{}: not a key in hexadecimal digits", .0.display())]
    NoKey(PathBuf),
}

/// Makes a whole PKI in `folder`:
///
/// ```text
/// ca.pem ca.key              the authority
/// NAME.pem NAME.key          certificate and key of each principal
/// NAME.noise NAME.signing    static Noise key and Ed25519 seed of each key server
/// NAME.rsa                   its RSA-3072 key (PKCS #8, hexadecimal), if wanted
/// NAME-2.pem and so on       the same for its first standby, NAME-3.pem and so on for the next
/// NAME.site                  the site certificate for all of this name, hexadecimal
/// site.key site.pub          the site's own key, Ed25519, hexadecimal
/// token.key token-keys.json  a key that signs tokens (PKCS #8, hexadecimal), and its public half as a JWK set
/// ```
///
/// # Errors
/// See [`PkiError`].
pub fn create(folder: &Path, spec: &Spec) -> Result<(), PkiError> {
    if !(1..=3_650).contains(&spec.days) {
        return Err(PkiError::Days(spec.days));
    }
    if spec.standbys > 4 || usize::from(spec.standbys + 1) * (1 + spec.suites.len()) > MAX_KEYS {
        return Err(PkiError::Standbys(spec.standbys));
    }
    let io = |source| PkiError::Io { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(io)?;
    if fs::read_dir(folder).map_err(io)?.next().is_some() {
        return Err(PkiError::NotEmpty(folder.to_owned()));
    }
    let roles = [("keyserver", &spec.key_servers), ("registrar", &spec.registrars), ("member", &spec.members)];
    let mut principals = Vec::new();
    for (role, names) in roles {
        for name in names {
            let identity = Identity::parse(&format!("spiffe://{}/{role}/{name}", spec.domain))?;
            let standbys = if role == "keyserver" { spec.standbys } else { 0 };
            principals.extend(of_one_name(name, standbys).map(|name| (name, identity.clone())));
        }
    }
    let authority = Authority::new(&format!("Keystone development authority of {}", spec.domain), spec.days)?;
    public(folder, "ca.pem", authority.pem())?;
    private(folder, "ca.key", &authority.issuer.key().serialize_pem())?;
    for (name, identity) in principals {
        let leaf = authority.issue(&identity, spec.days)?;
        public(folder, &format!("{name}.pem"), &leaf.certificate)?;
        private(folder, &format!("{name}.key"), &leaf.key)?;
    }
    let tokens = TokenIssuer::generate()?;
    private(folder, "token.key", &hex_line(tokens.key()))?;
    public(folder, "token-keys.json", &tokens.key_set()?)?;
    site(folder, spec)
}

/// The site's key, and for each key server its keys and a site certificate for them.
fn site(folder: &Path, spec: &Spec) -> Result<(), PkiError> {
    let (site_seed, site) = signing_key()?;
    private(folder, "site.key", &hex_line(&*site_seed))?;
    public(folder, "site.pub", &hex_line(site.public().octets()))?;
    let (not_before, not_after) = validity(spec.days);
    for key_server in &spec.key_servers {
        let (mut signing, mut noise) = (Vec::new(), Vec::new());
        for name in of_one_name(key_server, spec.standbys) {
            signing.extend(signing_keys(folder, &name, &spec.suites)?.all_public());
            let secret = random()?;
            private(folder, &format!("{name}.noise"), &hex_line(&*secret))?;
            let secret = PrivateKey::from_private_key(&X25519, &*secret).map_err(|_| PkiError::Key)?;
            let public = secret.compute_public_key().map_err(|_| PkiError::Key)?;
            noise.push(public.as_ref().try_into().map_err(|_| PkiError::Key)?);
        }
        let certificate = SiteCertificate { key_server: key_server.clone(), not_before, not_after, signing, noise };
        public(folder, &format!("{key_server}.site"), &hex_line(&certificate.sign(&site)))?;
    }
    Ok(())
}

/// Names of the files of a key server and of its standbys.
fn of_one_name(name: &str, standbys: u8) -> impl Iterator<Item = String> {
    (0..=standbys).map(move |n| if n == 0 { name.to_owned() } else { format!("{name}-{}", n + 1) })
}

/// One key server's keys for signing.
fn signing_keys(folder: &Path, name: &str, suites: &[Suite]) -> Result<SigningKey, PkiError> {
    let (seed, mut signing) = signing_key()?;
    private(folder, &format!("{name}.signing"), &hex_line(&*seed))?;
    for suite in suites {
        match suite {
            Suite::Aes256 | Suite::Aes128 => {}
            Suite::Rsa => {
                let key = rsa_key()?;
                private(folder, &format!("{name}.rsa"), &hex_line(&key))?;
                signing = signing.with_rsa(&key).map_err(|_| PkiError::Key)?;
            }
            #[cfg(feature = "paper")]
            Suite::Paper => {
                let key = protocol::paper::SigningKey::generate().ok_or(PkiError::Key)?;
                private(folder, &format!("{name}.paper"), &hex_line(&key.to_pkcs8().ok_or(PkiError::Key)?))?;
                signing = signing.with_paper(key);
            }
        }
    }
    Ok(signing)
}

/// The site's public key from `site.pub`, the first one if it is rolled.
///
/// # Errors
/// The file cannot be read or does not begin with 64 hexadecimal digits.
pub fn site_public(folder: &Path) -> Result<VerifyingKey, PkiError> {
    let path = folder.join("site.pub");
    let text = fs::read_to_string(&path).map_err(|source| PkiError::Io { path, source })?;
    protocol::codec::from_hex(text.lines().next().unwrap_or_default(), "site.pub")
        .map(VerifyingKey::Ed25519)
        .map_err(|_| PkiError::Key)
}

/// First and last second, since 1970.
fn validity(days: u32) -> (u64, u64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (now.saturating_sub(EARLIER).as_secs(), now.as_secs() + u64::from(days) * 86_400)
}

fn random() -> Result<Zeroizing<[u8; 32]>, PkiError> {
    let mut out = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(out.as_mut()).map_err(|_| PkiError::Key)?;
    Ok(out)
}

fn signing_key() -> Result<(Zeroizing<[u8; 32]>, SigningKey), PkiError> {
    let seed = random()?;
    let key = SigningKey::from_seed(&seed).map_err(|_| PkiError::Key)?;
    Ok((seed, key))
}

/// An RSA key of 3,072 bits, PKCS #8.
fn rsa_key() -> Result<Zeroizing<Vec<u8>>, PkiError> {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa3072).map_err(|_| PkiError::Key)?;
    let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| PkiError::Key)?;
    Ok(Zeroizing::new(der.as_ref().to_vec()))
}

fn hex_line(octets: &[u8]) -> Zeroizing<String> {
    let mut line = Zeroizing::new(hex::encode(octets));
    line.push('\n');
    line
}

fn public(folder: &Path, name: &str, content: &str) -> Result<(), PkiError> {
    write(folder, name, content, 0o644)
}

fn private(folder: &Path, name: &str, content: &str) -> Result<(), PkiError> {
    write(folder, name, content, 0o600)
}

fn write(folder: &Path, name: &str, content: &str, mode: u32) -> Result<(), PkiError> {
    let path = folder.join(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
    file.and_then(|mut file| file.write_all(content.as_bytes())).map_err(|source| PkiError::Io { path, source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    pub(super) fn spec() -> Spec {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Spec {
            domain: "demo".into(),
            key_servers: names(&["ks"]),
            standbys: 0,
            registrars: names(&["r1"]),
            members: names(&["m1", "m2"]),
            days: 30,
            suites: Vec::new(),
        }
    }

    #[test]
    fn private_files_are_private_and_the_site_certificate_opens_under_the_site_key() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), &spec()).unwrap();
        for name in ["ca.key", "ks.key", "r1.key", "m1.key", "ks.noise", "ks.signing", "site.key"] {
            let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let octets = hex::decode(fs::read_to_string(folder.path().join("ks.site")).unwrap().trim()).unwrap();
        let (now, _) = validity(1);
        let site = site_public(folder.path()).unwrap();
        let opened = SiteCertificate::open(&octets, &site, now + 400).unwrap();
        assert_eq!(opened.key_server, "ks");
        let seed = fs::read_to_string(folder.path().join("ks.signing")).unwrap();
        let seed = protocol::codec::from_hex(&seed, "seed").unwrap();
        assert_eq!(opened.signing, [SigningKey::from_seed(&seed).unwrap().public()]);
        assert!(SiteCertificate::open(&octets, &site, now + 31 * 86_400).is_err());
        assert!(SiteCertificate::open(&octets, &opened.signing[0], now + 400).is_err());
        assert!(SiteCertificate::open(&octets[1..], &site, now + 400).is_err());
    }

    #[test]
    fn one_site_certificate_is_for_all_of_one_name() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), &Spec { standbys: 2, ..spec() }).unwrap();
        let octets = hex::decode(fs::read_to_string(folder.path().join("ks.site")).unwrap().trim()).unwrap();
        let (now, _) = validity(1);
        let opened = SiteCertificate::open(&octets, &site_public(folder.path()).unwrap(), now).unwrap();
        let public = |name: &str| {
            let seed = fs::read_to_string(folder.path().join(name)).unwrap();
            SigningKey::from_seed(&protocol::codec::from_hex(&seed, "seed").unwrap()).unwrap().public()
        };
        assert_eq!(opened.signing, ["ks.signing", "ks-2.signing", "ks-3.signing"].map(public));
        assert_eq!(opened.noise.len(), 3);
        assert!(folder.path().join("ks-3.pem").exists() && !folder.path().join("r1-2.pem").exists());
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(create(empty.path(), &Spec { standbys: 5, ..spec() }), Err(PkiError::Standbys(5))));
    }

    #[test]
    fn nothing_is_overwritten_and_bad_names_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("mine"), "x").unwrap();
        assert!(matches!(create(folder.path(), &spec()), Err(PkiError::NotEmpty(_))));
        let empty = tempfile::tempdir().unwrap();
        let bad = Spec { members: vec!["m 1".into()], ..spec() };
        assert!(matches!(create(empty.path(), &bad), Err(PkiError::Identity(_))));
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
        assert!(matches!(create(empty.path(), &Spec { days: 0, ..spec() }), Err(PkiError::Days(0))));
    }
}
