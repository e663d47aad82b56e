//! The ensemble that `tests/zookeeper` has prepared: its servers are started, paused and killed from here.
#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use zk::{Options, Role, TlsFiles};

pub(crate) const SERVERS: [u16; 3] = [1, 2, 3];
pub(crate) const SESSION: Duration = Duration::from_secs(2);
/// Two fifths of it, which are the time for an answer, are enough for a server that does its first handshake on a busy machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(30);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// All three servers serve when a test begins.
pub(crate) struct Ensemble {
    pub(crate) folder: PathBuf,
    session: Duration,
    _alone: MutexGuard<'static, ()>,
}

impl Ensemble {
    /// Its sessions last [`SESSION`].
    pub(crate) fn serving() -> Self {
        Self::with(SESSION)
    }

    /// For tests in which no session is meant to expire.
    pub(crate) fn patient() -> Self {
        Self::with(PATIENT)
    }

    fn with(session: Duration) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = std::env::var_os("KEYSTONE_ZOOKEEPER").expect("run by tests/zookeeper");
        let ensemble = Self { folder: folder.into(), session, _alone: alone };
        let digest = ensemble.folder.join("digest");
        for (name, line) in [("digest", "ks:secret of the site\n".replace(' ', "-")), ("stranger", "ks:guess\n".into())]
        {
            fs::write(ensemble.folder.join(name), line).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(digest.with_file_name(name), mode).unwrap();
        }
        SERVERS.iter().for_each(|n| ensemble.resume(*n));
        SERVERS.iter().for_each(|n| ensemble.start(*n));
        ensemble.await_all();
        ensemble
    }

    fn pid(&self, n: u16) -> Option<String> {
        let pid = fs::read_to_string(self.folder.join(n.to_string()).join("pid")).ok()?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).ok()?;
        (!stat.contains(") Z ")).then(|| pid.trim().to_owned())
    }

    fn signal(&self, n: u16, signal: &str) {
        if let Some(pid) = self.pid(n) {
            Command::new("kill").args([signal, &pid]).status().unwrap();
        }
    }

    /// Starts a server that does not run. Whether it serves is another matter.
    pub(crate) fn start(&self, n: u16) {
        if self.pid(n).is_some() {
            return;
        }
        let mut command = Command::new(self.folder.join("server"));
        let mut child = command.arg(n.to_string()).stdin(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while self.pid(n).is_none() {
            assert!(started.elapsed() < Duration::from_secs(10), "server {n} does not start");
            sleep(Duration::from_millis(10));
        }
        std::thread::spawn(move || child.wait());
    }

    /// `kill -9`
    pub(crate) fn kill(&self, n: u16) {
        self.signal(n, "-KILL");
        while self.pid(n).is_some() {
            sleep(Duration::from_millis(10));
        }
    }

    /// SIGSTOP
    pub(crate) fn pause(&self, n: u16) {
        self.signal(n, "-STOP");
    }

    /// SIGCONT
    pub(crate) fn resume(&self, n: u16) {
        self.signal(n, "-CONT");
    }

    /// What a server says about itself, if it says something.
    pub(crate) fn srvr(&self, n: u16) -> Option<String> {
        let address = ([127, 0, 0, 1], 21_810 + n).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
        stream.write_all(b"srvr").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The leader, once there is one.
    pub(crate) fn leader(&self) -> u16 {
        self.until("a leader", || {
            SERVERS.into_iter().find(|n| self.srvr(*n).is_some_and(|s| s.contains("Mode: leader")))
        })
    }

    pub(crate) fn await_all(&self) {
        for n in SERVERS {
            self.until("all servers serve", || self.srvr(n).filter(|answer| serves(answer)));
        }
    }

    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(since.elapsed() < Duration::from_secs(60), "{what}");
            sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn tls(&self, name: &str) -> PathBuf {
        self.folder.join("tls").join(name)
    }

    fn options(&self, root: &str, ports: u16) -> Options {
        let hosts: Vec<String> = SERVERS.iter().map(|n| format!("127.0.0.1:{}", ports + n)).collect();
        let ensemble = format!("zookeeper://{}/{root}", hosts.join(",")).parse().unwrap();
        Options {
            ensemble,
            role: Role::Keeper,
            session_timeout: self.session,
            tls: None,
            digest: None,
            owners: Vec::new(),
        }
    }

    /// In the clear, by digest.
    pub(crate) fn by_digest(&self, root: &str) -> Options {
        Options { digest: Some(self.folder.join("digest")), ..self.options(root, 21_810) }
    }

    /// Over TLS, by the certificate of `name` (`ks1`, `ks2`), for both.
    pub(crate) fn by_certificate(&self, root: &str, name: &str) -> Options {
        let identity = Some((self.tls(&format!("{name}.crt")), self.tls(&format!("{name}.key"))));
        let tls = Some(TlsFiles { roots: self.tls("ca.pem"), identity });
        Options { tls, owners: vec!["CN=ks1".into(), "CN=ks2".into()], ..self.options(root, 22_810) }
    }

    /// Every octet that the servers have written: their logs and snapshots.
    pub(crate) fn everything_written(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        for n in SERVERS {
            collect(&self.folder.join(n.to_string()).join("data"), &mut files);
        }
        files
    }
}

/// Alone, a server is read-only.
fn serves(answer: &str) -> bool {
    answer.contains("Mode:") && !answer.contains("Mode: read-only")
}

fn collect(folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, files),
            false => files.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
}

/// With all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        // Also after a failure: nobody is left asleep. The script ends the servers.
        SERVERS.iter().for_each(|n| self.resume(*n));
    }
}
