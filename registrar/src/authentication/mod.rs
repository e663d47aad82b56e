//! How clients prove who they are. Each kind of authentication is one file here.
//!
//! A further kind is: a number and a name in [`protocol::Authentication`]; where it needs one, a message of its own in
//! [`protocol::registration::FromClient`]; a file beside this one with a type that implements [`Method`]; a line in
//! [`Methods::new`] and a table in the configuration. Nothing else knows the kinds: the key server decides by number which
//! identities a registrar may register by which.

use std::fmt::Debug;

use protocol::Credential;
use protocol::identity::Identity;
use protocol::registration::{FromClient, Refusal, RefusalCode};
use rustls_pki_types::CertificateDer;

pub use certificate::ByCertificate;
pub(crate) use keys::MAX_OCTETS;
pub use keys::{KeySet, KeysError};
pub use token::{ByToken, Rules};

mod certificate;
mod keys;
mod token;

/// What a client is told to wait before it comes with another credential.
const ANOTHER_MS: u32 = 5_000;

/// What a client has shown: all that a kind of authentication may judge by.
#[derive(Debug)]
pub struct Shown<'a> {
    /// The certificate of its TLS connection, if it has one. The chain is verified: it leads to a root, none of it is revoked, the
    /// client has the key.
    pub certificate: Option<&'a CertificateDer<'static>>,
    /// Its first frame.
    pub message: &'a FromClient,
    /// The time, in seconds since 1970.
    pub now: u64,
}

/// One kind of authentication. It holds whatever it judges by (keys, lists), which is fetched before and not meanwhile: an
/// answer is computed, so that a client cannot make the registrar wait for others.
pub trait Method: Debug + Send + Sync {
    /// Judges what a client has shown: `None` if it is nothing of this kind, so that another may judge it; otherwise who the
    /// client is and with which credential, or why not. The identity comes from the credential alone, never from what the client
    /// says besides it. No two credentials of a kind have the same name.
    ///
    /// Nothing is remembered: that a credential serves only once, where it does, is for the key server, which sees all registrars.
    fn authenticate(&self, shown: &Shown<'_>) -> Option<Result<(Identity, Credential), Refusal>>;
}

/// The kinds of a registrar, side by side.
#[derive(Debug)]
pub struct Methods(Vec<Box<dyn Method>>);

impl Methods {
    /// By certificate, and by token where there are rules for it.
    pub fn new(token: Option<ByToken>) -> Self {
        let mut all: Vec<Box<dyn Method>> = vec![Box::new(ByCertificate)];
        all.extend(token.map(|method| Box::new(method) as Box<dyn Method>));
        Self(all)
    }

    /// Who a client is, by the first kind that knows what it has shown.
    ///
    /// # Errors
    /// A refusal for the client, which is to blame.
    pub fn authenticate(&self, shown: &Shown<'_>) -> Result<(Identity, Credential), Refusal> {
        let judged = self.0.iter().find_map(|method| method.authenticate(shown));
        judged.unwrap_or_else(|| Err(refused("this registrar knows no way to tell who this is")))
    }
}

/// A credential proves nothing.
fn refused(why: &str) -> Refusal {
    Refusal::new(RefusalCode::Credential, why, ANOTHER_MS)
}
