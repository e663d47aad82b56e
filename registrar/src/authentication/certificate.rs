//! By certificate: the handshake has verified it, and its one URI name is the identity.

use net::identity::identity_and_credential;
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
        Some(identity_and_credential(certificate).map_err(|error| refused(&error.to_string())))
    }
}
