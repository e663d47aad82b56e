//! What comes by TCP before anybody is known: frames, the preamble and handshake of requests, certificates.

use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use net::frame::{read_frame, write_frame};
use net::identity::from_certificate;
use net::noise::{MAX_PREAMBLE, StaticKey, accept, connect, read_preamble, sealed};
use protocol::identity::Identity;
use protocol::registration::{ANSWER, GRANT, MAX_OFFERS, Offer};
use protocol::request::MAX_REQUEST;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SanType};
use rustls_pki_types::CertificateDer;
use tokio::io::{empty, join, sink};
use zeroize::Zeroizing;

use super::messages;

/// Runs a future over octets in memory, which never has to wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("memory was waited for"),
    }
}

/// Frames allowed in [`frame`].
const MAX_FRAME: usize = 600;

/// A stream. Accepted: it is of whole frames and nothing else.
pub(super) fn frame(mut data: &[u8]) -> bool {
    let whole = data;
    let mut again = Vec::new();
    loop {
        match now(read_frame(&mut data, MAX_FRAME)) {
            Ok(Some(body)) => {
                assert!((1..=MAX_FRAME).contains(&body.len()) && body.capacity() <= 2 * MAX_FRAME);
                now(write_frame(&mut again, &body)).unwrap();
            }
            Ok(None) => {
                assert_eq!(again, whole, "the frames are not what was read");
                return true;
            }
            Err(_) => return false,
        }
    }
}

pub(super) fn frame_seeds() -> Vec<Vec<u8>> {
    let stream = |lengths: &[usize]| {
        let mut out = Vec::new();
        lengths.iter().for_each(|length| now(write_frame(&mut out, &vec![1; *length])).unwrap());
        out
    };
    vec![stream(&[1]), stream(&[2, 600, 3]), stream(&[1; 40])]
}

static KEY: LazyLock<StaticKey> = LazyLock::new(|| StaticKey::from_private(Zeroizing::new([6; 32])).unwrap());
const PSK: [u8; 32] = [5; 32];

/// What a client sends on a connection for requests. Accepted: the preamble is one and the handshake proves the key; after it
/// nothing that was not sealed for this session is read.
pub(super) fn handshake(mut data: &[u8]) -> bool {
    let Ok(preamble) = now(read_preamble(&mut data)) else { return false };
    assert!((1..=MAX_PREAMBLE).contains(&preamble.len()));
    if !messages::preamble(&preamble) {
        return false;
    }
    match now(accept(join(data, sink()), &preamble, &*KEY, &PSK)) {
        Ok(mut stream) => {
            assert!(now(stream.receive(MAX_REQUEST)).is_err(), "a message of another session is read");
            true
        }
        Err(_) => false,
    }
}

/// The client's side, up to where the server's answer is due. Its ephemeral keys are other ones in each run.
pub(super) fn handshake_seeds() -> Vec<Vec<u8>> {
    let client = |preamble: &[u8]| {
        let mut sent = Vec::new();
        assert!(now(connect(join(empty(), &mut sent), preamble, KEY.public(), &PSK)).is_err());
        sent
    };
    messages::preamble_seeds().iter().map(|preamble| client(preamble)).collect()
}

/// What client and registrar pass to the key server in a sealed registration: offers, each 48 octets. Accepted: one is for this key
/// server. As an answer none of it opens anything.
pub(super) fn offers(data: &[u8]) -> bool {
    let offers: Vec<Offer> = data.as_chunks().0.iter().take(MAX_OFFERS).copied().collect();
    if let Some(answer) = data.first_chunk::<ANSWER>() {
        let (offered, _) = sealed::offer(&[*KEY.public()], PARTIES).unwrap();
        assert!(offered.open(answer).is_err(), "an answer of nobody opens");
    }
    sealed::answer([&*KEY], PARTIES, &offers, &[7; GRANT]).is_ok()
}

/// The clients' ephemeral keys are other ones in each run.
pub(super) fn offers_seeds() -> Vec<Vec<u8>> {
    let offers = |keys: &[[u8; 32]]| sealed::offer(keys, PARTIES).unwrap().1.concat();
    vec![offers(&[*KEY.public()]), offers(&[[9; 32], *KEY.public(), [10; 32]])]
}

const PARTIES: &[u8] = b"who registers";

const HOST: &str = "host.example";

/// A certificate (DER). Accepted: it names exactly one identity, canonically spelt.
pub(super) fn certificate(data: &[u8]) -> bool {
    match from_certificate(&CertificateDer::from(data)) {
        Ok(identity) => {
            assert_eq!(Identity::parse(identity.as_str()).as_ref(), Ok(&identity));
            let uri = identity.as_str().as_bytes();
            assert!(data.windows(uri.len()).any(|part| part == uri), "the name is not in the certificate");
            // The seeds' other name, if it has become a URI (RFC 5280: [6]).
            let second = [b"\x86\x0c", HOST.as_bytes()].concat();
            assert!(!data.windows(second.len()).any(|part| part == second), "a certificate of two identities");
            true
        }
        Err(_) => false,
    }
}

pub(super) fn certificate_seeds() -> Vec<Vec<u8>> {
    // An Ed25519 key in PKCS #8 (RFC 8410, section 7), because its signatures are always the same.
    let mut pkcs8 = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pkcs8.extend([6; 32]);
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_ED25519).unwrap();
    let certificate = |names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.self_signed(&key).unwrap().der().to_vec()
    };
    let uri = || SanType::URI("spiffe://site/member/me".try_into().unwrap());
    let host = || SanType::DnsName(HOST.try_into().unwrap());
    vec![certificate(vec![uri()]), certificate(vec![uri(), host()]), certificate(vec![host(), uri()])]
}
