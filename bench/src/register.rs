//! Registration: what a registrar does beside a bare handshake, and how many of them do how many a second.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use client_ctl::config::KeyMaking;
use client_ctl::{RegistrationFailed, Settings, register};
use net::OsEntropy;
use net::tls::{CredentialFiles, Credentials};
use protocol::Entropy;
use protocol::identity::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ServerConfig, version::TLS13};

use crate::Failure;
use crate::crowd::site::{Site, pin};
use crate::table::Row;

/// Clients at once for each registrar: it lets ten handshakes of one address be under way.
const AT_ONCE: u32 = 8;
/// Certificates; a client registers again and again.
const CLIENTS: u32 = 64;
/// Clients that all come at once.
const STORM: u32 = 1_000;
/// Rounds in turns, so that what else the machine does falls on both.
const ROUNDS: u32 = 5;
/// The protocol of the bare handshake.
const ALPN: &[u8] = b"bare";
/// Milliseconds for one SSL 3.0 connection in the paper's Table 1: 512-bit and 1024-bit RSA at both ends, Pentium II.
const PAPER_MS: [(&str, f64); 2] = [("the paper: RSA-512, Pentium II", 7.8), ("the paper: RSA-1024, Pentium II", 29.0)];

pub(crate) fn rows(count: u32) -> Result<Vec<Row>, Failure> {
    let mut rows = beside_a_handshake(count)?;
    let mut alone = None;
    for registrars in [1, 2, 4] {
        let site = Site::with(CLIENTS, registrars)?;
        let at_once = AT_ONCE * u32::try_from(registrars)?;
        registrations(&site, at_once, at_once, KeyMaking::Sealed)?;
        let used = || -> Result<[f64; 2], Failure> {
            let all = (0..registrars).map(|number| processor_time(&format!("registrar-{number}")));
            Ok([all.sum::<Result<f64, _>>()?, processor_time("keyserver")?])
        };
        let (since, before) = (Instant::now(), used()?);
        registrations(&site, count, at_once, KeyMaking::Sealed)?;
        let (took, after) = (since.elapsed().as_secs_f64(), used()?);
        let [registrar, key_server] = [0, 1].map(|who| after[who] - before[who]);
        let (all, rate) = (f64::from(count), f64::from(count) / took);
        let first = *alone.get_or_insert(rate);
        let case = |what: &str| format!("{what}, {registrars} registrars");
        rows.push(Row::new(case("registrations a second"), (rate, "/s"), ("one registrar", first), None));
        // What is left of a core was waiting: for clients, which share the machine, or for the store.
        let cores = ("one core each", f64::from(u32::try_from(registrars)?));
        rows.push(Row::new(case("cores in use by registrars"), (registrar / took, "cores"), cores, None));
        let beside = ("a registrar's", registrar / all * 1e6);
        let own = (key_server / all * 1e6, "us");
        rows.push(Row::new(case("key server's time each"), own, beside, None));
        let ceiling = (all / key_server, "/s");
        rows.push(Row::new(case("one core of it could do"), ceiling, ("what came", rate), None));
    }
    rows.push(storm()?);
    Ok(rows)
}

/// All at once, from one address, each coming back when it was told; beside as many that come some at a time.
fn storm() -> Result<Row, Failure> {
    let site = Site::with(STORM, 1)?;
    let settings = (0..STORM).map(|number| site.settings(number)).collect::<Result<Vec<Settings>, _>>()?;
    let settings = Arc::new(settings);
    registrations(&site, AT_ONCE, AT_ONCE, KeyMaking::Sealed)?;
    let since = Instant::now();
    crowd(STORM, STORM, move |turn| {
        let settings = settings.clone();
        async move {
            let mine = &settings[usize::try_from(turn).unwrap_or(0)];
            loop {
                match register(mine).await {
                    Ok(_) => return Ok(()),
                    Err(RegistrationFailed { retry_after: Some(after), in_line: true, .. }) => {
                        let most = u64::try_from(after.as_millis() / 8).unwrap_or(0).min(500);
                        tokio::time::sleep(after + Duration::from_millis(OsEntropy.below(most + 1))).await;
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
    })?;
    let all_at_once = since.elapsed().as_secs_f64();
    let since = Instant::now();
    registrations(&site, STORM, AT_ONCE, KeyMaking::Sealed)?;
    let beside = ("eight at a time", since.elapsed().as_secs_f64());
    Ok(Row::new(format!("{STORM} clients at once, until all are in"), (all_at_once, "s"), beside, None))
}

fn beside_a_handshake(count: u32) -> Result<Vec<Row>, Failure> {
    let site = Site::with(CLIENTS, 1)?;
    let bare = bare_server(&site)?;
    let mut of_bare = 0.0;
    // Of registrar and key server, and the time of all: sealed, exported.
    let mut spent = [[0.0; 3]; 2];
    registrations(&site, AT_ONCE, AT_ONCE, KeyMaking::Sealed)?;
    handshakes(&site, bare, AT_ONCE)?;
    let each = (count / ROUNDS).max(AT_ONCE);
    for _ in 0..ROUNDS {
        for (way, spent) in [KeyMaking::Sealed, KeyMaking::Exported].into_iter().zip(&mut spent) {
            let (daemons, since) = (["registrar-0", "keyserver"], Instant::now());
            let before = daemons.map(processor_time);
            registrations(&site, each, AT_ONCE, way)?;
            spent[2] += since.elapsed().as_secs_f64();
            for ((daemon, before), spent) in daemons.into_iter().zip(before).zip(&mut *spent) {
                *spent += processor_time(daemon)? - before?;
            }
        }
        let before = processor_time("bare")?;
        handshakes(&site, bare, each)?;
        of_bare += processor_time("bare")? - before;
    }
    let all = f64::from(each * ROUNDS);
    let [sealed, exported] = spent.map(|spent| spent.map(|seconds| seconds / all * 1e6));
    let (registration, handshake) = (sealed[0], of_bare / all * 1e6);
    let bare = ("bare handshake over TCP", handshake);
    let mut rows =
        vec![Row::new("registrar's processor time, registration".into(), (registration, "us"), bare, Some(1.3))];
    let what = ["registrar's processor time", "key server's processor time", "time of all, some at once"];
    for ((what, sealed), exported) in what.into_iter().zip(sealed).zip(exported) {
        let case = format!("{what}, sealed registration");
        rows.push(Row::new(case, (sealed, "us"), ("exported", exported), None));
    }
    for (paper, milliseconds) in PAPER_MS {
        let case = format!("registrar's processor time beside {paper}");
        rows.push(Row::new(case, (registration / 1e3, "ms"), ("Table 1", milliseconds), None));
    }
    Ok(rows)
}

/// Registers clients in turn, some at once.
fn registrations(site: &Site, count: u32, at_once: u32, way: KeyMaking) -> Result<(), Failure> {
    let settings = (0..CLIENTS).map(|number| site.settings_by(number, way)).collect::<Result<Vec<Settings>, _>>()?;
    let settings = Arc::new(settings);
    crowd(count, at_once, move |turn| {
        let settings = settings.clone();
        async move {
            let mine = &settings[usize::try_from(turn % CLIENTS).unwrap_or(0)];
            register(mine).await.map(drop).map_err(|error| error.to_string())
        }
    })
}

/// Shakes hands with the bare server and waits until it closes.
fn handshakes(site: &Site, address: SocketAddr, count: u32) -> Result<(), Failure> {
    let server = Identity::parse("spiffe://bench/registrar/r0")?;
    let configs = (0..CLIENTS)
        .map(|number| Ok(net::tls::client_config(&credentials(site, &format!("m{number}"))?, server.clone(), ALPN)?))
        .collect::<Result<Vec<_>, Failure>>()?;
    let configs = Arc::new(configs);
    crowd(count, AT_ONCE, move |turn| {
        let config = configs[usize::try_from(turn % CLIENTS).unwrap_or(0)].clone();
        async move {
            let limit = Duration::from_secs(9);
            let mut stream = net::tls::connect(address, config, limit).await.map_err(|error| error.to_string())?;
            stream.read_to_end(&mut Vec::new()).await.map(drop).map_err(|error| error.to_string())
        }
    })
}

/// Does something so many times, some at once.
fn crowd<F>(count: u32, at_once: u32, work: impl Fn(u32) -> F + Clone + Send + 'static) -> Result<(), Failure>
where
    F: Future<Output = Result<(), String>> + Send,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for first in 0..at_once {
            let work = work.clone();
            tasks.spawn(async move {
                let step = usize::try_from(at_once).unwrap_or(1);
                for turn in (first..count).step_by(step) {
                    work(turn).await?;
                }
                Ok::<_, String>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    })
}

fn credentials(site: &Site, name: &str) -> Result<Credentials, Failure> {
    let file = |end: &str| site.pki().join(format!("{name}.{end}"));
    let roots = site.pki().join("ca.pem");
    Ok(Credentials::load(&CredentialFiles { certificate: file("pem"), key: file("key"), roots, crls: Vec::new() })?)
}

/// TCP, a handshake of rustls with client certificate as the library does it, and nothing else, on the thread `bare`, where
/// the registrar is.
fn bare_server(site: &Site) -> Result<SocketAddr, Failure> {
    let roots = net::tls::load_roots(site.pki().join("ca.pem"))?;
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let chain = net::tls::load_chain(site.pki().join("r0.pem"))?;
    let key = net::tls::load_key(site.pki().join("r0.key"))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (tell, told) = mpsc::channel();
    thread::Builder::new().name("bare".into()).spawn(move || {
        pin(0);
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await else { return };
            drop(tell.send(listener.local_addr()));
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream.set_nodelay(true));
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        drop(stream.shutdown().await);
                        drop(stream.read(&mut [0; 16]).await);
                    }
                });
            }
        });
    })?;
    Ok(told.recv()??)
}

/// Processor time of the threads of this name so far, in seconds (`proc(5)`: schedstat).
fn processor_time(name: &str) -> Result<f64, Failure> {
    let mut all = None;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name) {
            let times = std::fs::read_to_string(task.join("schedstat"))?;
            let nanoseconds = times.split(' ').next().ok_or("no time")?;
            *all.get_or_insert(0.0) += nanoseconds.parse::<f64>()? / 1e9;
        }
    }
    all.ok_or_else(|| format!("no thread `{name}`").into())
}
