//! Wraps: CBC without padding over exactly one secret, under a key and an IV that serve once (NIST SP 800-38A). The
//! message is signed and its root committed, so a wrap carries no tag and grows by nothing.

use aes::{Aes128, Aes256, Block};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use keygraph::KeyRef;
use zeroize::{Zeroize, Zeroizing};

use crate::Suite;
use crate::rekey::Wrapped;
use crate::schedule::EpochContext;
use crate::secret::NodeSecret;

/// `secret`, the one named `target`, under the secret named `kek`.
pub(crate) fn wrap(
    context: &EpochContext,
    kek_secret: &NodeSecret,
    kek: KeyRef,
    target: KeyRef,
    secret: &NodeSecret,
) -> Wrapped {
    let one_time = context.wrap(kek_secret, kek, target);
    let mut out = [0; 32];
    match context.suite {
        Suite::Aes256 | Suite::Rsa => {
            let cipher = cbc::Encryptor::<Aes256>::new(&part(&one_time, 0), &part(&one_time, 32));
            encrypt(cipher, secret.expose(), &mut out);
        }
        Suite::Aes128 => {
            let cipher = cbc::Encryptor::<Aes128>::new(&part(&one_time, 0), &part(&one_time, 16));
            encrypt(cipher, &secret.expose()[..16], &mut out[..16]);
        }
        #[cfg(feature = "paper")]
        Suite::Paper => crate::paper::wrap(&one_time, secret.expose(), &mut out),
    }
    out
}

/// The inverse of [`wrap`]. It cannot fail; a wrong key shows when the root misses its commitment.
pub(crate) fn unwrap(
    context: &EpochContext,
    kek_secret: &NodeSecret,
    kek: KeyRef,
    target: KeyRef,
    wrapped: &Wrapped,
) -> NodeSecret {
    let one_time = context.wrap(kek_secret, kek, target);
    let mut plain = Zeroizing::new([0; 32]);
    match context.suite {
        Suite::Aes256 | Suite::Rsa => {
            let cipher = cbc::Decryptor::<Aes256>::new(&part(&one_time, 0), &part(&one_time, 32));
            decrypt(cipher, wrapped, plain.as_mut());
        }
        Suite::Aes128 => {
            let cipher = cbc::Decryptor::<Aes128>::new(&part(&one_time, 0), &part(&one_time, 16));
            decrypt(cipher, &wrapped[..16], &mut plain[..16]);
        }
        #[cfg(feature = "paper")]
        Suite::Paper => crate::paper::unwrap(&one_time, wrapped, plain.as_mut()),
    }
    NodeSecret::new(*plain)
}

/// Octets of a one-time key from `at` on, in the form that the ciphers take.
fn part<A: Default + AsMut<[u8]>>(one_time: &[u8; 48], at: usize) -> A {
    let mut out = A::default();
    let octets = out.as_mut();
    octets.copy_from_slice(&one_time[at..at + octets.len()]);
    out
}

fn encrypt(
    mut cipher: impl BlockModeEncrypt<BlockSize = <Aes256 as aes::cipher::BlockSizeUser>::BlockSize>,
    plain: &[u8],
    out: &mut [u8],
) {
    for (plain, out) in plain.chunks_exact(16).zip(out.chunks_exact_mut(16)) {
        let mut block = Block::default();
        block.copy_from_slice(plain);
        cipher.encrypt_block(&mut block);
        out.copy_from_slice(&block);
    }
}

fn decrypt(
    mut cipher: impl BlockModeDecrypt<BlockSize = <Aes256 as aes::cipher::BlockSizeUser>::BlockSize>,
    wrapped: &[u8],
    out: &mut [u8],
) {
    for (wrapped, out) in wrapped.chunks_exact(16).zip(out.chunks_exact_mut(16)) {
        let mut block = Block::default();
        block.copy_from_slice(wrapped);
        cipher.decrypt_block(&mut block);
        out.copy_from_slice(&block);
        block.as_mut_slice().zeroize();
    }
}
