//! Tokens serve once, whichever registrars they are shown to: the key server remembers each until it has ended.

use std::collections::BTreeSet;

use protocol::codec::{Reader, Write};
use protocol::credential::MAX_CREDENTIAL;
use protocol::registration::{Refusal, RefusalCode};
use protocol::{Authentication, Credential, DecodeError};

/// Tokens remembered: eleven registrations a second of tokens that live a day, three thousand of such that live five minutes.
/// 150 MB at the most.
const MAX_TOKENS: usize = 1_000_000;
/// Longest rest of a token's life in seconds: the 24 hours that registrars allow, and clocks that differ.
const MAX_LIFE: u64 = 86_400 + 600;
/// What a client is told to wait before it comes with another token, or when there is no room.
const RETRY_MS: u32 = 5_000;

/// Tokens that were used and have not ended.
#[derive(Default)]
pub(super) struct Tokens {
    names: BTreeSet<Vec<u8>>,
    by_end: BTreeSet<(u64, Vec<u8>)>,
}

impl Tokens {
    /// Why nobody may register with this credential, at this time in seconds since 1970. What has ended by then is forgotten, and
    /// must be refused by the caller.
    pub(super) fn reject(&mut self, wall: u64, credential: &Credential) -> Option<Refusal> {
        if credential.kind != Authentication::Token {
            return None;
        }
        while let Some((_, name)) = self.by_end.first().filter(|(ends, _)| *ends <= wall) {
            self.names.remove(name);
            self.by_end.pop_first();
        }
        if self.names.contains(&credential.name) {
            Some(Refusal::new(RefusalCode::Credential, "this token has been used", RETRY_MS))
        } else if credential.ends > wall.saturating_add(MAX_LIFE) {
            Some(Refusal::new(RefusalCode::Credential, "this token lives for longer than 24 hours", RETRY_MS))
        } else if self.names.len() >= MAX_TOKENS {
            Some(Refusal::new(RefusalCode::Busy, "too many tokens have not ended yet", RETRY_MS))
        } else {
            None
        }
    }

    /// A registration with this credential is durable.
    pub(super) fn used(&mut self, credential: &Credential) {
        if credential.kind == Authentication::Token {
            self.insert(credential.ends, credential.name.clone());
        }
    }

    fn insert(&mut self, ends: u64, name: Vec<u8>) {
        if self.names.insert(name.clone()) {
            self.by_end.insert((ends, name));
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&u32::try_from(self.by_end.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (ends, name) in &self.by_end {
            out.extend_from_slice(&ends.to_be_bytes());
            out.put_octets(name);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut tokens = Self::default();
        for _ in 0..r.u32("tokens")? {
            tokens.insert(r.u64("end of the token")?, r.octets(MAX_CREDENTIAL, "token")?.to_vec());
        }
        Ok(tokens)
    }
}
