//! A key set from an HTTPS address: asked for again and again, the last good one stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use net::reload::Reloads;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use crate::authentication::{KeySet, MAX_OCTETS};

/// What they are called where readings are counted.
pub(super) const KEYS: &str = "token keys";
const ROOTS: &str = "roots for token keys";
/// Time between fetches: an issuer announces a key at least so long before it signs with it.
const AGAIN: Duration = Duration::from_secs(300);
/// Time between tries after a failure.
const RETRY: Duration = Duration::from_secs(10);
/// Time for one fetch.
const LIMIT: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the key set of an address, until nobody wants it any more. The roots that its server is verified under are read again
/// each time.
pub(super) async fn follow(
    address: Uri,
    (roots, mut tls): (PathBuf, Arc<ClientConfig>),
    keys: watch::Sender<Arc<KeySet>>,
    reloads: Reloads,
) {
    loop {
        match net::tls::web_client_config(&roots) {
            Ok(fresh) => {
                reloads.taken(ROOTS);
                tls = fresh;
            }
            Err(error) => reloads.refused(ROOTS, &error),
        }
        let fetched = tokio::time::timeout(LIMIT, fetch(&address, tls.clone())).await;
        let fetched = fetched.unwrap_or_else(|_| Err("it took too long".into()));
        let wait = match fetched.and_then(|octets| Ok(KeySet::parse(&octets)?)) {
            Ok(set) => {
                reloads.taken(KEYS);
                keys.send_replace(Arc::new(set));
                AGAIN
            }
            Err(error) => {
                reloads.refused(KEYS, &format!("{address}: {error}"));
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = keys.closed() => return,
        }
    }
}

/// One GET over HTTP/1.1. No redirects: what the operator wrote is what is asked.
async fn fetch(address: &Uri, tls: Arc<ClientConfig>) -> Result<Bytes, Failure> {
    let host = address.host().ok_or("no host")?;
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), address.port_u16().unwrap_or(443))).await?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let target = address.path_and_query().map_or("/", |path| path.as_str());
        let authority = address.authority().map_or(host, |authority| authority.as_str());
        let request = Request::get(target).header("host", authority).header("accept", "application/json");
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the answer is {}", answer.status()).into());
        }
        Ok::<_, Failure>(Limited::new(answer.into_body(), MAX_OCTETS).collect().await?.to_bytes())
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // The server may close as soon as it has answered.
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}
