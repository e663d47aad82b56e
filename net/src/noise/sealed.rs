//! Sealed registration: two messages of `Noise_NK_25519_ChaChaPoly_SHA256` that a registrar carries between client and key
//! server. No stream is here; what is said around them, and what the key is, says [`protocol::registration`].

use protocol::registration::{ANSWER, Answer, GRANT, OFFER, Offer};
use snow::{Builder, HandshakeState};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{StaticKey, x25519};

const PATTERN: &str = "Noise_NK_25519_ChaChaPoly_SHA256";

/// Why an exchange came to nothing.
#[derive(Debug, Error)]
pub enum SealedError {
    /// The client meant another key server, or its site certificate is of another time, or the registrar has altered something.
    #[error("no offer is for a static key of this key server")]
    Offers,
    /// Whoever answered holds none of the static keys that the site certificate names, or the registrar has altered something.
    #[error("the answer is not from the key server: the registrar has altered it or asked somebody else")]
    Answer,
    /// The library refuses: a defect of Keystone, or no randomness.
    #[error("Noise: {0}")]
    Library(#[from] snow::Error),
}

/// The client's side of an exchange that has begun: what its offers' ephemeral keys were.
pub struct Offered(Vec<HandshakeState>);

impl std::fmt::Debug for Offered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Offered({})", self.0.len())
    }
}

/// The client begins: one offer for each of the static keys that the key server may have.
///
/// # Errors
/// [`SealedError::Library`].
pub fn offer(static_keys: &[[u8; 32]], prologue: &[u8]) -> Result<(Offered, Vec<Offer>), SealedError> {
    let (mut states, mut offers) = (Vec::new(), Vec::new());
    for key in static_keys {
        let mut state = builder(prologue)?.remote_public_key(key)?.build_initiator()?;
        let mut offer = [0; OFFER];
        state.write_message(&[], &mut offer)?;
        states.push(state);
        offers.push(offer);
    }
    Ok((Offered(states), offers))
}

/// The key server answers the first offer that is for one of its static keys. `grant` is for the client alone.
///
/// # Errors
/// [`SealedError::Offers`] blames the client or the registrar.
pub fn answer<'a>(
    keys: impl IntoIterator<Item = &'a StaticKey>,
    prologue: &[u8],
    offers: &[Offer],
    grant: &[u8; GRANT],
) -> Result<Answer, SealedError> {
    for key in keys {
        for offer in offers {
            let mut state = builder(prologue)?.local_private_key(key.private())?.build_responder()?;
            if state.read_message(offer, &mut []).is_ok() {
                let mut answer = [0; ANSWER];
                state.write_message(grant, &mut answer)?;
                return Ok(answer);
            }
        }
    }
    Err(SealedError::Offers)
}

impl Offered {
    /// The client ends: the grant.
    ///
    /// # Errors
    /// [`SealedError::Answer`].
    pub fn open(self, answer: &Answer) -> Result<Zeroizing<[u8; GRANT]>, SealedError> {
        let mut grant = Zeroizing::new([0; GRANT]);
        let mut states = self.0.into_iter();
        let opened = states.any(|mut state| state.read_message(answer, grant.as_mut()).is_ok());
        if opened { Ok(grant) } else { Err(SealedError::Answer) }
    }
}

fn builder(prologue: &[u8]) -> Result<Builder<'_>, SealedError> {
    Ok(x25519::builder(PATTERN)?.prologue(prologue)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use protocol::identity::Identity;
    use protocol::registration::{Grant, Parties};
    use protocol::{MemberId, Share};

    use super::*;

    fn keys<const N: usize>() -> [StaticKey; N] {
        std::array::from_fn(|_| StaticKey::generate().unwrap())
    }

    #[test]
    fn whichever_of_its_keys_a_key_server_has() {
        let [old, new, other] = keys();
        let grant = std::array::from_fn(|i| u8::try_from(i).unwrap());
        for (holds, named) in
            [(vec![&old], vec![&old]), (vec![&new, &old], vec![&other, &old]), (vec![&new], vec![&old, &new])]
        {
            let named: Vec<[u8; 32]> = named.iter().map(|key| *key.public()).collect();
            let (offered, offers) = offer(&named, b"who").unwrap();
            assert_eq!(offers.len(), named.len());
            let answer = answer(holds, b"who", &offers, &grant).unwrap();
            assert_eq!(*offered.open(&answer).unwrap(), grant);
        }
    }

    /// The worked example of the document, which a second implementation has made.
    #[test]
    fn octets_as_in_the_document() {
        let identity = |name: &str| Identity::parse(&format!("spiffe://demo/{name}")).unwrap();
        let parties =
            Parties { client: identity("member/m1"), registrar: identity("registrar/r1"), key_server: "ks".into() };
        let (prologue, share) = (parties.prologue(), Share::new([0x47; 32]));
        let key = StaticKey::from_private(Zeroizing::new([0x44; 32])).unwrap();
        let grant = Grant { client: MemberId(7), registration: 3, share };
        let fixed = |octet: &'static [u8; 32]| builder(&prologue).unwrap().fixed_ephemeral_key_for_testing_only(octet);
        let mut client = fixed(&[0x45; 32]).remote_public_key(key.public()).unwrap().build_initiator().unwrap();
        let mut its = fixed(&[0x46; 32]).local_private_key(key.private()).unwrap().build_responder().unwrap();
        let (mut offer, mut answer) = ([0; OFFER], [0; ANSWER]);
        client.write_message(&[], &mut offer).unwrap();
        its.read_message(&offer, &mut []).unwrap();
        its.write_message(grant.encode().as_slice(), &mut answer).unwrap();
        let document = include_str!("../../../docs/protocol.md").split_whitespace().collect::<String>();
        let individual_key = grant.individual_key(&parties);
        for (what, shown) in
            [("offer", &offer[..]), ("answer", &answer[..]), ("individual key", individual_key.expose())]
        {
            assert!(document.contains(&hex::encode(shown)), "docs/protocol.md does not show this {what}");
        }
        let opened = Offered(vec![client]).open(&answer).unwrap();
        assert_eq!(Grant::decode(opened.as_slice()).unwrap(), grant);
    }

    #[test]
    fn whatever_is_altered_is_noticed() {
        let [key, other] = keys();
        let (grant, named) = ([7; GRANT], [*key.public()]);
        let begin = || offer(&named, b"who").unwrap();
        let foreign = |keys: &[&StaticKey], who: &[u8], offers: &[Offer]| {
            matches!(answer(keys.iter().copied(), who, offers, &grant), Err(SealedError::Offers))
        };
        let (_, offers) = begin();
        assert!(
            foreign(&[&other], b"who", &offers) && foreign(&[&key], b"whom", &offers) && foreign(&[&key], b"who", &[])
        );
        for octet in 0..OFFER {
            let mut bent = offers.clone();
            // The highest bit of a public key is none (RFC 7748), but the hash has it.
            bent[0][octet] ^= 0x80;
            assert!(foreign(&[&key], b"who", &bent), "octet {octet}");
        }
        for octet in 0..ANSWER {
            let (offered, offers) = begin();
            let mut bent = answer([&key], b"who", &offers, &grant).unwrap();
            bent[octet] ^= 1;
            assert!(matches!(offered.open(&bent), Err(SealedError::Answer)), "octet {octet}");
        }
        // A registrar that asks for itself gets an answer that is no answer to the client.
        let ((mine, _), (_, its)) = (begin(), begin());
        let to_it = answer([&key], b"who", &its, &grant).unwrap();
        assert!(matches!(mine.open(&to_it), Err(SealedError::Answer)));
        // And it cannot answer for the key server.
        let (mine, offers) = begin();
        assert!(foreign(&[&other], b"who", &offers));
        let (_, to_it) = offer(&[*other.public()], b"who").unwrap();
        let forged = answer([&other], b"who", &to_it, &grant).unwrap();
        assert!(matches!(mine.open(&forged), Err(SealedError::Answer)));
    }
}
