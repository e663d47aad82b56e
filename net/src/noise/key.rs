//! The key server's static keys.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret_file::{self, SecretFileError};

/// Why there is no static key.
#[derive(Debug, Error)]
pub enum StaticKeyError {
    /// Its file is refused.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The library makes no key of it, or the system gives no randomness.
    #[error("cannot make an X25519 key")]
    Key,
}

/// The static keys of a key server, at most 3, the present one first: while they are rolled it answers under each. Clones share
/// them.
#[derive(Debug, Clone)]
pub struct StaticKeys(Arc<[StaticKey]>);

impl StaticKeys {
    /// Reads the private parts from a file, one in a line, see [`secret_file::read_all`].
    ///
    /// # Errors
    /// See [`StaticKeyError`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, StaticKeyError> {
        let keys = secret_file::read_all(path)?.into_iter().map(StaticKey::from_private);
        Ok(Self(keys.collect::<Result<_, _>>()?))
    }

    /// Their public keys, in the same order.
    pub fn public(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.0.iter().map(StaticKey::public)
    }
}

impl From<StaticKey> for StaticKeys {
    fn from(key: StaticKey) -> Self {
        Self(Arc::new([key]))
    }
}

impl AsRef<[StaticKey]> for StaticKeys {
    fn as_ref(&self) -> &[StaticKey] {
        &self.0
    }
}

impl AsRef<[Self]> for StaticKey {
    fn as_ref(&self) -> &[Self] {
        std::slice::from_ref(self)
    }
}

/// A private X25519 key (RFC 7748), zeroed when dropped, with its public key.
pub struct StaticKey {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl std::fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticKey(public {})", hex::encode(self.public))
    }
}

impl StaticKey {
    /// A fresh one.
    ///
    /// # Errors
    /// [`StaticKeyError::Key`].
    pub fn generate() -> Result<Self, StaticKeyError> {
        let mut private = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *private).map_err(|_| StaticKeyError::Key)?;
        Self::from_private(private)
    }

    /// The key with these 32 octets as its private part; every 32 octets are one.
    ///
    /// # Errors
    /// [`StaticKeyError::Key`].
    pub fn from_private(private: Zeroizing<[u8; 32]>) -> Result<Self, StaticKeyError> {
        let key = PrivateKey::from_private_key(&X25519, &*private).map_err(|_| StaticKeyError::Key)?;
        let public = key.compute_public_key().map_err(|_| StaticKeyError::Key)?;
        let public = public.as_ref().try_into().map_err(|_| StaticKeyError::Key)?;
        Ok(Self { private, public })
    }

    /// Reads the private part from a file, see [`secret_file::read`].
    ///
    /// # Errors
    /// See [`StaticKeyError`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, StaticKeyError> {
        Self::from_private(secret_file::read(path)?)
    }

    /// Writes the private part into a new file, see [`secret_file::create`].
    ///
    /// # Errors
    /// [`StaticKeyError::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), StaticKeyError> {
        Ok(secret_file::create(path, &self.private)?)
    }

    /// What clients are configured with.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    pub(super) fn private(&self) -> &[u8; 32] {
        &self.private
    }
}
