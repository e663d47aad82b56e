//! TLS 1.3 (RFC 8446) between daemons: both ends prove one identity; no tickets, no early data.
//!
//! Only aws-lc-rs does cryptography here, with X25519MLKEM768 offered first, so that a recording of today's handshake is
//! no use to a quantum computer of tomorrow.

mod credentials;
mod overheard;
mod verify;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use protocol::identity::Identity;
use protocol::{Credential, IndividualKey};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, CommonState, ConnectionCommon, RootCertStore, ServerConfig};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use zeroize::Zeroizing;

pub(crate) use credentials::ENDS_SOON;
pub use credentials::{CredentialFiles, Credentials, CredentialsError, load_chain, load_key, load_roots};
pub use overheard::{MAX_OVERHEARD, Overheard};

use crate::admission::{Ticket, TimedOut};
use crate::exit::Exit;
use crate::identity::{CertificateIdentityError, credential, from_certificate};

/// Label of the TLS exporter (RFC 8446, section 7.5) from which both ends of a registration make the individual key.
pub const INDIVIDUAL_KEY_LABEL: &[u8] = b"EXPORTER-keystone-individual-key";

/// Why there is no TLS connection.
#[derive(Debug, Error)]
pub enum TlsError {
    /// Nobody answers at the address.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// Where it was tried.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The handshake failed: which end is to blame stands in the text.
    #[error("TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// Instead of a handshake there came this frame, in clear. Anybody on the way can say it: it is a hint.
    #[error("instead of a handshake there came {} octets in clear", .0.len())]
    InClear(Vec<u8>),
    /// The handshake took too long.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
    /// The peer does not speak the protocol that this end expects (ALPN, RFC 7301). The peer is to blame.
    #[error("the peer does not speak the application protocol `{expected}`")]
    Alpn {
        /// The protocol that was expected.
        expected: String,
    },
    /// The peer showed no certificate with one identity.
    #[error("the peer's certificate: {0}")]
    Identity(#[from] CertificateIdentityError),
    /// There is nothing to prove this end's identity with. Whoever keeps the files is to blame.
    #[error("{0}")]
    Credential(String),
    /// The library refuses: a defect of Keystone.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
}

impl From<&TlsError> for Exit {
    fn from(error: &TlsError) -> Self {
        match error {
            TlsError::Unreachable { .. } | TlsError::InClear(_) | TlsError::TimedOut(_) => Self::Unreachable,
            // rustls reports what the peer did wrong as invalid data; other errors are the network's.
            TlsError::Handshake(why) if why.kind() != io::ErrorKind::InvalidData => Self::Unreachable,
            TlsError::Handshake(_) | TlsError::Alpn { .. } | TlsError::Identity(_) => Self::Authentication,
            TlsError::Library(_) | TlsError::Credential(_) => Self::Failure,
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A server that speaks `alpn` and requires of clients a certificate under the roots with exactly one identity. Which
/// identities may do what is decided after the handshake.
///
/// # Errors
/// [`TlsError::Library`].
pub fn server_config(credentials: &Credentials, alpn: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    server(credentials, alpn, false)
}

/// The same for clients of which some have no certificate and authenticate in another way, later. One that is shown is
/// verified all the same. Use [`accept_anybody`].
///
/// # Errors
/// [`TlsError::Library`].
pub fn open_server_config(credentials: &Credentials, alpn: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    server(credentials, alpn, true)
}

fn server(credentials: &Credentials, alpn: &[u8], optional: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = verify::AnyIdentity::new(credentials, provider.clone(), optional)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    // Each connection proves the identity anew: no way past an expired certificate or an eviction.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A client that speaks `alpn` and accepts one server only: a certificate under the roots whose one identity is
/// `expected_peer`, byte for byte. DNS names are not looked at.
///
/// # Errors
/// [`TlsError::Library`].
pub fn client_config(
    credentials: &Credentials,
    expected_peer: Identity,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, TlsError> {
    client(&credentials.roots, Some(credentials), expected_peer, alpn)
}

/// The same for a client without a certificate.
///
/// # Errors
/// [`TlsError::Library`].
pub fn anonymous_client_config(
    roots: &Arc<RootCertStore>,
    expected_peer: Identity,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, TlsError> {
    client(roots, None, expected_peer, alpn)
}

/// An ordinary HTTPS client, which verifies the server's name, under the authorities of a PEM file.
///
/// # Errors
/// The file is refused.
pub fn web_client_config(roots: &Path) -> Result<Arc<ClientConfig>, CredentialsError> {
    let root = |source| CredentialsError::Root { path: roots.to_owned(), source };
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(root)?;
    Ok(Arc::new(builder.with_root_certificates(load_roots(roots)?).with_no_client_auth()))
}

fn client(
    roots: &Arc<RootCertStore>,
    credentials: Option<&Credentials>,
    expected_peer: Identity,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = verify::OneIdentity::new(roots.clone(), expected_peer, &provider);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credentials {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// The server's side of a handshake within the ticket's time: the connection and who the client is.
///
/// # Errors
/// The client is to blame for all but [`TlsError::Library`]; nothing was changed.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
    ticket: Ticket,
) -> Result<(server::TlsStream<S>, Identity), TlsError> {
    let stream = ticket.during(accept_anybody(stream, config)).await??;
    let who = peer_identity(stream.get_ref().1)?;
    Ok((stream, who))
}

/// The server's side of a handshake with a client of which nothing may be known afterwards; the caller bounds its time, and
/// that until it knows the client.
///
/// # Errors
/// The client is to blame for all but [`TlsError::Library`]; nothing was changed.
pub async fn accept_anybody<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ServerConfig>,
) -> Result<server::TlsStream<S>, TlsError> {
    let alpn = config.alpn_protocols.first().cloned().unwrap_or_default();
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(TlsError::Handshake)?;
    check(stream.get_ref().1, &alpn)?;
    Ok(stream)
}

/// Connects to `address` and makes the client's side of a handshake within `limit`, with TCP_NODELAY set.
///
/// The server looks at the client's certificate after the client is done, so that a refusal may show only as an error of
/// the first read.
///
/// # Errors
/// See [`TlsError`].
pub async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    limit: Duration,
) -> Result<client::TlsStream<TcpStream>, TlsError> {
    let both = async {
        let unreachable = |source| TlsError::Unreachable { address, source };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        connect_over(stream, config).await
    };
    tokio::time::timeout(limit, both).await.map_err(|_| TimedOut(limit))?
}

/// As [`connect`], to a server that may say in clear that it has no place; the caller bounds the time. The frame `first` leaves
/// together with the end of the handshake, when the server has proved who it is: a packet less at both ends.
///
/// # Errors
/// [`TlsError::InClear`] with what the server has said; see [`TlsError`].
pub async fn connect_or_hear(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    first: &[u8],
) -> Result<client::TlsStream<Overheard<TcpStream>>, TlsError> {
    let unreachable = |source| TlsError::Unreachable { address, source };
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let alpn = config.alpn_protocols.first().cloned().unwrap_or_default();
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
    let frame = Zeroizing::new([&length, first].concat());
    let mut kept = Ok(());
    // The library keeps it until it may be sent.
    let say = |connection: &mut ClientConnection| kept = connection.writer().write_all(&frame);
    let handshake = TlsConnector::from(config).connect_with(no_name(), Overheard::new(stream), say);
    kept.map_err(TlsError::Handshake)?;
    let stream = handshake.into_fallible().await.map_err(|(error, stream)| match stream.frame() {
        Some(frame) => TlsError::InClear(frame),
        None => TlsError::Handshake(error),
    })?;
    check_server(&stream, &alpn)?;
    Ok(stream)
}

/// The client's side of a handshake over any stream; the caller bounds its time.
///
/// # Errors
/// See [`TlsError`].
pub async fn connect_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ClientConfig>,
) -> Result<client::TlsStream<S>, TlsError> {
    let alpn = config.alpn_protocols.first().cloned().unwrap_or_default();
    let stream = TlsConnector::from(config).connect(no_name(), stream).await.map_err(TlsError::Handshake)?;
    check_server(&stream, &alpn)?;
    Ok(stream)
}

/// The library wants a name. It is neither sent nor verified: the peer's name is the identity in the configuration.
fn no_name() -> ServerName<'static> {
    ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]))
}

fn check_server<S>(stream: &client::TlsStream<S>, alpn: &[u8]) -> Result<(), TlsError> {
    check(stream.get_ref().1, alpn)?;
    peer_identity(stream.get_ref().1).map(drop)
}

/// Who the peer of a connection is, after its handshake. For both ends: `peer_identity(stream.get_ref().1)`.
///
/// # Errors
/// The handshake is not complete.
pub fn peer_identity(connection: &CommonState) -> Result<Identity, TlsError> {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    Ok(from_certificate(certificate.ok_or(rustls::Error::NoCertificatesPresented)?)?)
}

/// What names the peer's certificate, after its handshake.
///
/// # Errors
/// The handshake is not complete.
pub fn peer_credential(connection: &CommonState) -> Result<Credential, TlsError> {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    Ok(credential(certificate.ok_or(rustls::Error::NoCertificatesPresented)?)?)
}

fn check(connection: &CommonState, alpn: &[u8]) -> Result<(), TlsError> {
    // A peer without the extension passes the handshake.
    if connection.alpn_protocol() != Some(alpn) {
        return Err(TlsError::Alpn { expected: String::from_utf8_lossy(alpn).into_owned() });
    }
    Ok(())
}

/// The individual key that both ends of a registration make from their TLS connection and a context that both know.
/// For both ends: `individual_key_from(stream.get_ref().1, context)`.
///
/// # Errors
/// The handshake is not complete.
pub fn individual_key_from<D>(connection: &ConnectionCommon<D>, context: &[u8]) -> Result<IndividualKey, TlsError> {
    let mut key = Zeroizing::new([0; 32]);
    connection.export_keying_material(key.as_mut_slice(), INDIVIDUAL_KEY_LABEL, Some(context))?;
    Ok(IndividualKey::new(*key))
}
