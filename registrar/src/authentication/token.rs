//! By token: a JWT (RFC 7519), signed by an issuer that the site trusts, good for one registration. RFC 8725 says what to mind.

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use net::reload::Reloaded;
use protocol::codec::Write;
use protocol::identity::Identity;
use protocol::registration::{FromClient, Refusal, RefusalCode};
use protocol::{Authentication, Credential};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{KeySet, Method, Shown, refused};

/// Longest life of a token from now on, in seconds: the key server remembers each until it ends.
const MAX_LIFE: u64 = 86_400;
/// Longest `jti` and issuer in octets.
const MAX_TEXT: usize = 255;

/// What a token must be.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Its `iss`.
    pub issuer: String,
    /// Its `aud`, or one of them.
    pub audience: String,
    /// Algorithms, none of them with a shared secret.
    pub algorithms: Vec<Algorithm>,
    /// The claim that is the identity.
    pub identity_claim: String,
    /// By how much the issuer's clock may differ, in seconds.
    pub leeway: u64,
}

/// Authentication by signed token.
#[derive(Debug)]
pub struct ByToken {
    rules: Rules,
    keys: Reloaded<KeySet>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    jti: String,
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl ByToken {
    /// Tokens under these rules, signed with these keys.
    pub fn new(rules: Rules, keys: Reloaded<KeySet>) -> Self {
        Self { rules, keys }
    }

    fn judge(&self, token: &str, now: u64) -> Result<(Identity, Credential), String> {
        let Rules { issuer, audience, algorithms, identity_claim, leeway } = &self.rules;
        let header = decode_header(token).map_err(|error| format!("not a token: {error}"))?;
        if !algorithms.contains(&header.alg) {
            return Err(format!("algorithm {:?} is not allowed here", header.alg));
        }
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err("its header demands what is not known here".into());
        }
        let keys = self.keys.get();
        let key = keys.find(header.kid.as_deref(), header.alg);
        let key = key.ok_or("there is no key of this name and algorithm")?;
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["aud", "iss"]);
        // Times are judged below, by the time that is given.
        validation.validate_exp = false;
        let claims = decode::<Claims>(token, key, &validation).map_err(|error| error.to_string())?.claims;
        if claims.exp.saturating_add(*leeway) <= now {
            return Err("it has expired".into());
        }
        if claims.exp > now.saturating_add(MAX_LIFE) {
            return Err("it lives for longer than 24 hours".into());
        }
        if [claims.nbf, claims.iat].into_iter().flatten().any(|from| from > now.saturating_add(*leeway)) {
            return Err("it is not valid yet".into());
        }
        if claims.jti.is_empty() || claims.jti.len() > MAX_TEXT {
            return Err(format!("its `jti` has {} octets, expected 1 to {MAX_TEXT}", claims.jti.len()));
        }
        let who = claims.others.get(identity_claim).and_then(Value::as_str);
        let who = who.ok_or_else(|| format!("it has no text `{identity_claim}`"))?;
        let identity = Identity::parse(who).map_err(|error| error.to_string())?;
        let mut named = Vec::new();
        named.put_text(&claims.iss);
        named.put_text(&claims.jti);
        let name = digest(&SHA256, &named).as_ref().to_vec();
        Ok((identity, Credential { kind: Authentication::Token, ends: claims.exp, name }))
    }
}

impl Method for ByToken {
    fn authenticate(&self, shown: &Shown<'_>) -> Option<Result<(Identity, Credential), Refusal>> {
        let FromClient::RegisterWithToken { identity, token, .. } = shown.message else {
            return None;
        };
        if shown.certificate.is_some() {
            let text = "a certificate and a token: one of them is enough";
            return Some(Err(Refusal::new(RefusalCode::Malformed, text, 0)));
        }
        let judged = self.judge(token, shown.now).and_then(|(who, credential)| match who == *identity {
            true => Ok((who, credential)),
            false => Err(format!("it is for {who}")),
        });
        Some(judged.map_err(|why| refused(&format!("the token is refused: {why}"))))
    }
}
