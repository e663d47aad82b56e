//! Whom a handshake accepts: a chain to a root, a signature of this connection, and one identity.

use std::sync::Arc;

use protocol::identity::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;

use super::Credentials;
use crate::identity::{CertificateIdentityError, from_certificate};

/// Certificates behind the peer's own: deeper than any authority, and few enough that to try them in all orders costs nothing.
const MAX_CHAIN: usize = 6;

fn bounded(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    match intermediates.len() {
        0..=MAX_CHAIN => Ok(()),
        length => Err(PeerError::Chain(length).into()),
    }
}

#[derive(Debug, Error)]
enum PeerError {
    #[error(transparent)]
    Certificate(#[from] CertificateIdentityError),
    #[error("a chain of {0} certificates behind the peer's own, at most {MAX_CHAIN} are looked at")]
    Chain(usize),
    #[error("the peer is `{got}`, expected `{expected}`")]
    Other { got: Identity, expected: Identity },
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        CertificateError::Other(OtherError(Arc::new(error))).into()
    }
}

/// A client's check of the server: under the roots, and exactly the one that was configured.
#[derive(Debug)]
pub(super) struct OneIdentity {
    roots: Arc<RootCertStore>,
    expected: Identity,
    algorithms: WebPkiSupportedAlgorithms,
}

impl OneIdentity {
    pub(super) fn new(roots: Arc<RootCertStore>, expected: Identity, provider: &CryptoProvider) -> Self {
        Self { roots, expected, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for OneIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        bounded(intermediates)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, self.algorithms.all)?;
        let got = from_certificate(end_entity).map_err(PeerError::from)?;
        if got != self.expected {
            return Err(PeerError::Other { got, expected: self.expected.clone() }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A server's check of a client: under the roots, with one identity, whichever it is.
#[derive(Debug)]
pub(super) struct AnyIdentity(Arc<dyn ClientCertVerifier>);

impl AnyIdentity {
    /// With `optional` also those who show no certificate. If there are lists of revoked certificates, each authority of a
    /// chain must have one.
    pub(super) fn new(credentials: &Credentials, provider: Arc<CryptoProvider>, optional: bool) -> Result<Self, Error> {
        let builder = WebPkiClientVerifier::builder_with_provider(credentials.roots.clone(), provider)
            .with_crls(credentials.crls.iter().map(|crl| crl.der.clone()));
        let builder = if optional { builder.allow_unauthenticated() } else { builder };
        builder.build().map(Self).map_err(|error| Error::General(error.to_string()))
    }
}

impl ClientCertVerifier for AnyIdentity {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        bounded(intermediates)?;
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        from_certificate(end_entity).map_err(PeerError::from)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
