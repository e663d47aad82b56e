//! What proves who a client is, and what does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use certs::{Authority, TokenIssuer};
use jsonwebtoken::Algorithm;
use net::reload::Reloaded;
use protocol::Authentication;
use protocol::identity::Identity;
use protocol::registration::{FromClient, RefusalCode};
use registrar::authentication::{ByToken, KeySet, Methods, Rules, Shown};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

/// Now, in seconds since 1970.
const NOW: u64 = 1_800_000_000;
const ME: &str = "spiffe://demo/member/m1";

struct Site {
    issuer: TokenIssuer,
    methods: Methods,
}

fn methods(keys: &str, algorithms: &[Algorithm]) -> Methods {
    let rules = Rules {
        issuer: "https://issuer.example".into(),
        audience: "keystone".into(),
        algorithms: algorithms.to_vec(),
        identity_claim: "sub".into(),
        leeway: 30,
    };
    let (_, keys) = Reloaded::new(KeySet::parse(keys.as_bytes()).unwrap());
    Methods::new(Some(ByToken::new(rules, keys)))
}

fn site() -> Site {
    let issuer = TokenIssuer::generate().unwrap();
    let methods = methods(&issuer.key_set().unwrap(), &[Algorithm::ES256, Algorithm::RS256]);
    Site { issuer, methods }
}

/// Good claims, with these changes; `null` takes a claim away.
fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": "https://issuer.example", "aud": "keystone", "sub": ME, "jti": "one", "exp": NOW + 300,
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

impl Site {
    fn show(&self, token: &str) -> Result<(Identity, protocol::Credential), (RefusalCode, String)> {
        let identity = Identity::parse(ME).unwrap();
        let message = FromClient::RegisterWithToken {
            key_server: "ks".into(),
            identity,
            token: token.to_owned().into(),
            offers: vec![],
        };
        let shown = Shown { certificate: None, message: &message, now: NOW };
        self.methods.authenticate(&shown).map_err(|refusal| (refusal.code, refusal.text))
    }

    fn claim(&self, changes: Value) -> Result<(Identity, protocol::Credential), (RefusalCode, String)> {
        self.show(&self.issuer.sign_claims(&claims(changes)).unwrap())
    }

    #[track_caller]
    fn refuses(&self, token: &str, why: &str) {
        let (code, text) = self.show(token).unwrap_err();
        assert!(code == RefusalCode::Credential && text.contains(why), "expected `{why}`: {text}");
    }
}

#[test]
fn a_good_token_proves_its_claim_and_has_a_name_of_its_own() {
    let site = site();
    let (who, first) = site.claim(json!({})).unwrap();
    assert_eq!((who.as_str(), first.kind, first.ends), (ME, Authentication::Token, NOW + 300));
    assert_eq!(first.name.len(), 32);
    // Another signature over the same claims is the same credential; another `jti` is another.
    assert_eq!(site.claim(json!({})).unwrap().1, first);
    assert_ne!(site.claim(json!({"jti": "two"})).unwrap().1.name, first.name);
    site.claim(json!({"aud": ["other", "keystone"], "nbf": NOW + 30, "iat": NOW - 9, "exp": NOW - 29})).unwrap();
}

#[test]
fn a_bad_claim_is_refused_with_its_reason() {
    let site = site();
    let long = "j".repeat(256);
    let table = [
        (json!({"aud": "elsewhere"}), "InvalidAudience"),
        (json!({"aud": null}), "aud"),
        (json!({"iss": "https://other.example"}), "InvalidIssuer"),
        (json!({"iss": ["https://issuer.example"]}), "string"),
        (json!({"iss": null}), "iss"),
        (json!({"exp": NOW - 30}), "expired"),
        (json!({"exp": null}), "exp"),
        (json!({"exp": "soon"}), "invalid type"),
        (json!({"exp": NOW + 86_401}), "longer than 24 hours"),
        (json!({"nbf": NOW + 31}), "not valid yet"),
        (json!({"iat": NOW + 31}), "not valid yet"),
        (json!({"jti": null}), "jti"),
        (json!({"jti": ""}), "0 octets"),
        (json!({"jti": long}), "256 octets"),
        (json!({"sub": null}), "no text `sub`"),
        (json!({"sub": 7}), "no text `sub`"),
        (json!({"sub": "spiffe://demo/member/m2"}), "it is for spiffe://demo/member/m2"),
        (json!({"sub": "spiffe://demo/member/../m1"}), "no identity"),
        (json!({"sub": "spiffe://DEMO/member/m1"}), "no identity"),
        (json!({"sub": "https://demo/member/m1"}), "no identity"),
    ];
    for (changes, why) in table {
        site.refuses(&site.issuer.sign_claims(&claims(changes.clone())).unwrap(), why);
    }
}

#[test]
fn only_the_issuers_key_and_algorithm_count() {
    let site = site();
    let good = site.issuer.sign_claims(&claims(json!({}))).unwrap();
    let [header, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("{good}") };
    site.refuses(&TokenIssuer::generate().unwrap().sign_claims(&claims(json!({}))).unwrap(), "InvalidSignature");
    site.refuses(&format!("{header}.{body}."), "InvalidSignature");
    let mut other = signature.to_owned();
    other.replace_range(0..1, if signature.starts_with('A') { "B" } else { "A" });
    site.refuses(&format!("{header}.{body}.{other}"), "InvalidSignature");
    site.refuses(&format!("{header}.{body}.{signature}.{signature}"), "not a token");
    for nonsense in ["", ".", "..", "a.b.c", body, &good[..good.len() / 2], &"x".repeat(8_192)] {
        site.refuses(nonsense, "not a token");
    }
    // {"alg":"none"} in three spellings.
    for none in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIn0", "eyJhbGciOiIifQ"] {
        site.refuses(&format!("{none}.{body}."), "not a token");
        site.refuses(&format!("{none}.{body}.{signature}"), "not a token");
    }
    // HMAC with what everybody knows, the public key.
    let secret = jsonwebtoken::EncodingKey::from_secret(site.issuer.key_set().unwrap().as_bytes());
    for algorithm in [Algorithm::HS256, Algorithm::HS512] {
        let header = jsonwebtoken::Header { kid: Some("development".into()), ..jsonwebtoken::Header::new(algorithm) };
        site.refuses(&jsonwebtoken::encode(&header, &claims(json!({})), &secret).unwrap(), "is not allowed here");
    }
}

#[test]
fn a_header_cannot_choose_another_kind_of_key() {
    let key = aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING);
    let key = key.unwrap().to_pkcs8v1().unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_der(key.as_ref());
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
    let set = |change: fn(&mut Value)| {
        let mut jwk = serde_json::to_value(&jwk).unwrap();
        change(&mut jwk);
        json!({"keys": [jwk]}).to_string()
    };
    let token = |change: fn(&mut jsonwebtoken::Header)| {
        let mut header = jsonwebtoken::Header::new(Algorithm::ES256);
        change(&mut header);
        jsonwebtoken::encode(&header, &claims(json!({})), &key).unwrap()
    };
    let issuer = TokenIssuer::generate().unwrap();
    let site = |keys: &str| Site {
        issuer: TokenIssuer::generate().unwrap(),
        methods: methods(keys, &[Algorithm::ES256, Algorithm::RS256]),
    };
    let plain = site(&set(|_| {}));
    plain.show(&token(|_| {})).unwrap();
    plain.refuses(&token(|header| header.kid = Some("x".into())), "no key of this name");
    plain.refuses(&token(|header| header.crit = Some(vec!["b64".into()])), "demands what is not known");
    let named = site(&set(|jwk| jwk["kid"] = "x".into()));
    named.show(&token(|header| header.kid = Some("x".into()))).unwrap();
    named.show(&token(|_| {})).unwrap();
    // Of two keys, one has to be named.
    let two: Value = serde_json::from_str(&issuer.key_set().unwrap()).unwrap();
    let two = json!({"keys": [jwk, two["keys"][0]]}).to_string();
    site(&two).refuses(&token(|_| {}), "no key of this name");
    // Sets whose one key cannot verify tokens are none: of another curve, use or algorithm, secret, or not even a set.
    let bad: [fn(&mut Value); 5] = [
        |jwk| jwk["crv"] = "P-521".into(),
        |jwk| jwk["use"] = "enc".into(),
        |jwk| jwk["alg"] = "ES384".into(),
        |jwk| jwk["alg"] = "HS256".into(),
        |jwk| *jwk = json!({"kty": "oct", "k": "AAAA"}),
    ];
    for change in bad {
        assert!(KeySet::parse(set(change).as_bytes()).is_err(), "{}", set(change));
    }
    assert!(KeySet::parse(b"[]").is_err());
    assert!(KeySet::parse(&vec![b' '; 300_000]).unwrap_err().to_string().contains("300000 octets"));
    // P-256's point under the name of another curve verifies nothing.
    site(&set(|jwk| (jwk["crv"], jwk["alg"]) = ("P-384".into(), "ES384".into()))).refuses(&token(|_| {}), "no key");
}

#[test]
fn a_certificate_and_a_token_are_two_things() {
    let site = site();
    let authority = Authority::new("test", 1).unwrap();
    let leaf = authority.issue(&Identity::parse(ME).unwrap(), 1).unwrap();
    let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
    let show = |certificate: Option<&CertificateDer<'static>>, message: &FromClient| {
        let answer = site.methods.authenticate(&Shown { certificate, message, now: NOW });
        answer.map(|(who, credential)| (who.as_str().to_owned(), credential.kind)).map_err(|refusal| refusal.code)
    };
    let by_certificate = FromClient::Register { key_server: "ks".into(), offers: vec![] };
    let token = site.issuer.sign_claims(&claims(json!({}))).unwrap().into();
    let by_token = FromClient::RegisterWithToken {
        key_server: "ks".into(),
        identity: Identity::parse(ME).unwrap(),
        token,
        offers: vec![],
    };
    assert_eq!(show(Some(&certificate), &by_certificate), Ok((ME.into(), Authentication::Certificate)));
    assert_eq!(show(None, &by_token), Ok((ME.into(), Authentication::Token)));
    assert_eq!(show(None, &by_certificate), Err(RefusalCode::Credential));
    assert_eq!(show(Some(&certificate), &by_token), Err(RefusalCode::Malformed));
    let without = Methods::new(None);
    let refused = without.authenticate(&Shown { certificate: None, message: &by_token, now: NOW }).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Credential);
}

#[test]
fn certificates_name_one_identity_in_one_spelling() {
    let site = site();
    let authority = Authority::new("test", 1).unwrap();
    let message = FromClient::Register { key_server: "ks".into(), offers: vec![] };
    let long = format!("spiffe://demo/{}", "m".repeat(2_048));
    let bad: [&[&str]; 11] = [
        &[],
        &[ME, "spiffe://demo/member/m2"],
        &[ME, ME],
        &["SPIFFE://demo/member/m1"],
        &["spiffe://Demo/member/m1"],
        &["spiffe://demo/member/%6d1"],
        &["spiffe://demo/member/./m1"],
        &["spiffe://demo/guest/../member/m1"],
        &["spiffe://demo//member/m1"],
        &["https://demo/member/m1"],
        &[&long],
    ];
    let judge = |uris: &[&str]| {
        let leaf = authority.issue_uris(uris, &(NOW - 9, NOW + 9)).unwrap();
        let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let shown = Shown { certificate: Some(&certificate), message: &message, now: NOW };
        site.methods.authenticate(&shown)
    };
    for uris in bad {
        assert_eq!(judge(uris).unwrap_err().code, RefusalCode::Credential, "{uris:?}");
    }
    // Other case in a path is another identity, not another spelling.
    assert_eq!(judge(&["spiffe://demo/Member/m1"]).unwrap().0.as_str(), "spiffe://demo/Member/m1");
    let (one, two) = (judge(&[ME]).unwrap().1, judge(&[ME]).unwrap().1);
    assert_eq!((one.ends, one.name.len() > 32), (NOW + 9, true));
    assert_ne!(one.name, two.name, "each certificate has a serial number of its own");
    assert_eq!(one.name[..32], two.name[..32], "and they share the issuer");
}
