//! Why there is no session: each host is asked by hand, with the one command that servers answer to anybody (`srvr`).

use std::io;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::{Error, Host, Options};

/// For each step with each host. Whoever asks has waited for a session already.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of an answer; what matters stands in the first lines.
const MAX_ANSWER: u64 = 4 * 1024;

enum Finding {
    Unreachable(io::Error),
    Tls(io::Error),
    /// It runs, and is part of no quorum.
    Idle,
    /// It runs; why it gives us no session is not known.
    Serves,
}

/// Why the ensemble gave no session.
pub(crate) async fn diagnose(options: &Options, why: &str) -> Error {
    let mut findings = Vec::new();
    for host in options.ensemble.hosts() {
        findings.push((host, look(options, host).await));
    }
    let told: Vec<String> = findings.iter().map(|(host, finding)| format!("{host} {}", tell(finding))).collect();
    let told = told.join("; ");
    let any = |wanted: fn(&Finding) -> bool| findings.iter().any(|(_, finding)| wanted(finding));
    if any(|finding| matches!(finding, Finding::Serves)) {
        Error::NoSession(format!("{why}: {told}"))
    } else if any(|finding| matches!(finding, Finding::Idle)) {
        Error::NoQuorum(told)
    } else if any(|finding| matches!(finding, Finding::Tls(_))) {
        Error::Tls(told)
    } else {
        Error::Unreachable(told)
    }
}

fn tell(finding: &Finding) -> String {
    match finding {
        Finding::Unreachable(why) => format!("cannot be reached ({why})"),
        Finding::Tls(why) => format!("refuses or is refused ({why})"),
        Finding::Idle => "runs and is part of no quorum".into(),
        Finding::Serves => "runs".into(),
    }
}

async fn look(options: &Options, host: &Host) -> Finding {
    let connect = TcpStream::connect((host.name.as_str(), host.port));
    let stream = match within(connect).await {
        Ok(stream) => stream,
        Err(why) => return Finding::Unreachable(why),
    };
    let answer = match (options.client_config(), ServerName::try_from(host.name.clone())) {
        (Ok(Some(config)), Ok(name)) => match within(TlsConnector::from(config).connect(name, stream)).await {
            Ok(stream) => ask(stream).await,
            Err(why) if why.kind() == io::ErrorKind::InvalidData => return Finding::Tls(why),
            Err(why) => return Finding::Unreachable(why),
        },
        _ => ask(stream).await,
    };
    match answer {
        // The second where servers may serve reads alone (`readonlymode.enabled`), which would not do for us.
        Ok(answer) if answer.contains("not currently serving") || answer.contains("Mode: read-only") => Finding::Idle,
        Ok(_) => Finding::Serves,
        // With TLS 1.3 a server refuses our certificate after our side of the handshake is done.
        Err(why) if why.kind() == io::ErrorKind::InvalidData => Finding::Tls(why),
        Err(why) => Finding::Unreachable(why),
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<String> {
    within(async {
        stream.write_all(b"srvr").await?;
        let mut answer = Vec::new();
        // Servers end with a bare close, which TLS reports as an error after the answer.
        let read = stream.take(MAX_ANSWER).read_to_end(&mut answer).await;
        match answer.is_empty() {
            true => read.map(|_| String::new()),
            false => Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    })
    .await
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
