//! Suite `paper`: DES-CBC, MD5 and RSA-512, as the paper's prototype used them, to measure against its tables. Each of
//! the three is broken. It exists only behind a cargo feature, and daemons take it on loopback addresses only.

use des::Des;
use des::cipher::Block;
use md5::{Digest, Md5};
use rsa::pkcs1::{DecodeRsaPublicKey, EncodeRsaPublicKey};
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rsa::{Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey};
use zeroize::Zeroizing;

use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};

/// Octets of a secret: a DES key with its parity bits, which nobody sets.
pub(crate) const SECRET: usize = 8;
/// Octets of a signature.
pub const SIGNATURE: usize = 64;

/// A key of 512 bits. Such a key was factored in public in 1999.
pub struct SigningKey {
    key: RsaPrivateKey,
    public: Vec<u8>,
}

impl SigningKey {
    /// From PKCS #8 (DER); `None` if it is none of 512 bits.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        Self::new(RsaPrivateKey::from_pkcs8_der(pkcs8).ok()?)
    }

    /// A new one.
    pub fn generate() -> Option<Self> {
        Self::new(RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 8 * SIGNATURE).ok()?)
    }

    fn new(key: RsaPrivateKey) -> Option<Self> {
        use rsa::traits::PublicKeyParts;
        let public = key.to_public_key().to_pkcs1_der().ok()?.as_bytes().to_vec();
        (key.size() == SIGNATURE).then_some(Self { key, public })
    }

    /// PKCS #8 (DER), for a file.
    pub fn to_pkcs8(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.key.to_pkcs8_der().ok().map(|der| Zeroizing::new(der.as_bytes().to_vec()))
    }

    /// `RSAPublicKey`, DER.
    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.key.sign(Pkcs1v15Sign::new::<Md5>(), &Md5::digest(message)).ok()
    }
}

pub(crate) fn verify(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    RsaPublicKey::from_pkcs1_der(key)
        .is_ok_and(|key| key.verify(Pkcs1v15Sign::new::<Md5>(), &Md5::digest(message), signature).is_ok())
}

/// In the place of HKDF: MD5 over the secret, `info` and the number of the block.
pub(crate) fn expand(secret: &[u8], info: &[&[u8]], out: &mut [u8]) {
    for (block, number) in out.chunks_mut(16).zip(1u8..) {
        let mut digest = Md5::new();
        digest.update(&secret[..SECRET]);
        info.iter().for_each(|part| digest.update(part));
        digest.update([number]);
        block.copy_from_slice(&digest.finalize()[..block.len()]);
    }
}

/// MD5.
pub(crate) fn digest(input: &[u8]) -> [u8; 16] {
    Md5::digest(input).into()
}

/// DES-CBC over one block; key and IV are the first 16 octets of `one_time`.
pub(crate) fn wrap(one_time: &[u8; 48], secret: &[u8], out: &mut [u8]) {
    let mut block = Block::<Des>::default();
    block.copy_from_slice(&secret[..SECRET]);
    if let Ok(mut cipher) = cbc::Encryptor::<Des>::new_from_slices(&one_time[..8], &one_time[8..16]) {
        cipher.encrypt_block(&mut block);
    }
    out[..SECRET].copy_from_slice(&block);
}

/// The inverse of [`wrap`].
pub(crate) fn unwrap(one_time: &[u8; 48], wrapped: &[u8], out: &mut [u8]) {
    let mut block = Block::<Des>::default();
    block.copy_from_slice(&wrapped[..SECRET]);
    if let Ok(mut cipher) = cbc::Decryptor::<Des>::new_from_slices(&one_time[..8], &one_time[8..16]) {
        cipher.decrypt_block(&mut block);
    }
    out[..SECRET].copy_from_slice(&block);
}
