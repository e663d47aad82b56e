//! X25519 (RFC 7748) of aws-lc for `snow`: its own takes three times as long. All else is `snow`'s.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error};
use zeroize::Zeroizing;

/// A builder for this pattern, of X25519.
///
/// # Errors
/// It is no pattern: a defect of Keystone.
pub(super) fn builder<'a>(pattern: &str) -> Result<Builder<'a>, Error> {
    Ok(Builder::with_resolver(pattern.parse()?, Box::new(Resolver)))
}

struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::<KeyPair>::default() as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// A key pair, or none yet. Where the library refuses, there is none, and no agreement.
#[derive(Default)]
struct KeyPair {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    key: Option<PrivateKey>,
}

impl KeyPair {
    fn derive(&mut self) {
        self.key = PrivateKey::from_private_key(&X25519, &*self.private).ok();
        let public = self.key.as_ref().and_then(|key| key.compute_public_key().ok());
        self.public = public.and_then(|public| public.as_ref().try_into().ok()).unwrap_or_default();
    }
}

impl Dh for KeyPair {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.key = None;
        if let Ok(private) = private.try_into() {
            self.private = Zeroizing::new(private);
            self.derive();
        }
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        self.key = None;
        rng.try_fill_bytes(self.private.as_mut())?;
        self.derive();
        self.key.as_ref().map(|_| ()).ok_or(Error::Dh)
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_ref()
    }

    /// Refuses points of low order, whose secret everybody knows (RFC 7748 §6.1).
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let (key, out) = self.key.as_ref().zip(out.get_mut(..32)).ok_or(Error::Dh)?;
        let public = UnparsedPublicKey::new(&X25519, public.get(..32).ok_or(Error::Dh)?);
        agree(key, public, Error::Dh, |secret| {
            out.copy_from_slice(secret);
            Ok(())
        })
    }
}
