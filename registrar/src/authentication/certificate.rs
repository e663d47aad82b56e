//! By certificate: the handshake has verified it, and its one URI name is the identity.

use net::identity::{credential, from_certificate};
use protocol::Credential;
use protocol::identity::Identity;
use protocol::registration::{FromClient, Refusal};

use super::{Method, Shown, refused};

/// Authentication by the certificate of the TLS connection.
#[derive(Debug)]
pub struct ByCertificate;

impl Method for ByCertificate {
    fn authenticate(&self, shown: &Shown<'_>) -> Option<Result<(Identity, Credential), Refusal>> {
        let (Some(certificate), FromClient::Register { .. }) = (shown.certificate, shown.message) else {
            return None;
        };
        let who = from_certificate(certificate).and_then(|identity| Ok((identity, credential(certificate)?)));
        Some(who.map_err(|error| refused(&error.to_string())))
    }
}
