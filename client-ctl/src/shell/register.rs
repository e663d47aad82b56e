//! Registers with the first registrar that does it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use net::frame::{FrameError, read_frame};
use net::noise::sealed::{self, SealedError};
use net::tls::{self, TlsError};
use protocol::codec::DecodeError;
use protocol::identity::Identity;
use protocol::registration::{Grant, MAX_FRAME, Parties, Refusal, RefusalCode, ToClient, exporter_context};
use protocol::{IndividualKey, MemberId};
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use zeroize::Zeroizing;

use super::believed;
use crate::config::{KeyMaking, Settings};

/// Time for one registrar: TLS, two answers, and a durable write at the key server between them.
const LIMIT: Duration = Duration::from_secs(9);

/// The key server knows this client by this key. It is for the shell to keep; the rest is for the core.
#[derive(Debug)]
pub struct Registered {
    /// The ID number.
    pub client: MemberId,
    /// Number of the registration.
    pub registration: u64,
    /// The individual key, made at both ends and never sent.
    pub key: IndividualKey,
}

/// No registrar could register this client. Why, each has said in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no registrar registers this client{}", if *.is_final { "; asking again cannot help" } else { "" })]
pub struct RegistrationFailed {
    /// When asking again makes sense, if a registrar said so.
    pub retry_after: Option<Duration>,
    /// Every registrar refuses this client for good.
    pub is_final: bool,
    /// A registrar had no place, and has said when it has one for this client.
    pub in_line: bool,
}

#[derive(Debug, Error)]
pub(super) enum RegisterError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot find the address: {0}")]
    Address(std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    #[error("the registrar closed the connection")]
    Closed,
    #[error("the registrar answered out of turn")]
    Turn,
    #[error(transparent)]
    Sealed(#[from] SealedError),
    #[error("refused ({:?}): {}", .0.code, .0.text)]
    Refused(Refusal),
    #[error("it has no place for {} ms", .0.as_millis())]
    Full(Duration),
    #[error("no answer within {} s", LIMIT.as_secs())]
    TimedOut,
}

/// Registers this client: tries each registrar once, for at most 9 s. One that has no place and says when it has one is believed
/// once: its turn there is waited for, and none is taken at the others, where others come. Told so twice, the client asks all.
///
/// # Errors
/// Each of them failed, or one had no place. It is final if every one of them says so.
pub async fn register(settings: &Settings) -> Result<Registered, RegistrationFailed> {
    let mut retry_after: Option<Duration> = None;
    let mut turn: Option<(Duration, usize)> = None;
    let mut is_final = true;
    let (registrars, line) = (&settings.registrars, &settings.line);
    let (first, was_told) = (line.at.load(Ordering::Relaxed), line.is_told.swap(false, Ordering::Relaxed));
    for at in (0..registrars.len()).map(|turn| (first + turn) % registrars.len()) {
        let (address, registrar) = &registrars[at];
        let result = tokio::time::timeout(LIMIT, attempt(settings, address, registrar)).await;
        match result.unwrap_or(Err(RegisterError::TimedOut)) {
            Ok(registered) => {
                line.at.store(at, Ordering::Relaxed);
                return Ok(registered);
            }
            Err(RegisterError::Full(wait)) => {
                tracing::info!(%registrar, address, ?wait, "no place here now");
                is_final = false;
                turn = turn.into_iter().chain([(wait, at)]).min();
                if !was_told {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(%registrar, address, %error, "cannot register here");
                let refusal = if let RegisterError::Refused(refusal) = error { Some(refusal) } else { None };
                is_final &= refusal.as_ref().is_some_and(ends_it);
                let after = refusal.map(|r| r.retry_after_ms).filter(|ms| *ms > 0);
                let after = after.map(|ms| Duration::from_millis(ms.into()));
                retry_after = [retry_after, after].into_iter().flatten().min();
            }
        }
    }
    if let Some((wait, at)) = turn {
        line.at.store(at, Ordering::Relaxed);
        line.is_told.store(true, Ordering::Relaxed);
        return Err(RegistrationFailed { retry_after: Some(wait), is_final: false, in_line: true });
    }
    Err(RegistrationFailed { retry_after, is_final, in_line: false })
}

/// What was said in clear is a hint, and says one thing at the most.
fn in_clear(error: TlsError) -> RegisterError {
    match &error {
        TlsError::InClear(frame) => match ToClient::decode(frame) {
            Ok(ToClient::Refused(refusal)) if refusal.code == RefusalCode::Busy => {
                let wait = Duration::from_millis(refusal.retry_after_ms.into());
                RegisterError::Full(believed(wait))
            }
            _ => error.into(),
        },
        _ => error.into(),
    }
}

fn ends_it(refusal: &Refusal) -> bool {
    refusal.retry_after_ms == 0 && matches!(refusal.code, RefusalCode::Identity | RefusalCode::KeyServer)
}

pub(super) async fn attempt(
    settings: &Settings,
    address: &str,
    registrar: &Identity,
) -> Result<Registered, RegisterError> {
    let found = tokio::net::lookup_host(address).await.map_err(RegisterError::Address)?.next();
    let found = found.ok_or_else(|| RegisterError::Address(std::io::ErrorKind::NotFound.into()))?;
    let Settings { trust, credential, .. } = settings;
    let site = &trust.get().certificate;
    let client = credential.identity().clone();
    let parties = Parties { client, registrar: registrar.clone(), key_server: site.key_server.clone() };
    let (offered, offers) = match settings.individual_key {
        KeyMaking::Sealed => {
            let (offered, offers) = sealed::offer(&site.noise, &parties.prologue())?;
            (Some(offered), offers)
        }
        KeyMaking::Exported => (None, Vec::new()),
    };
    let (config, message) = credential.begin(registrar, &site.key_server, offers, &settings.reloads)?;
    let message = Zeroizing::new(message.encode());
    let mut stream = tls::connect_or_hear(found, config, &message).await.map_err(in_clear)?;
    let registered = match (answer(&mut stream).await?, offered) {
        (ToClient::RegisteredSealed(answer), Some(offered)) => {
            let grant = Grant::decode(offered.open(&answer)?.as_slice())?;
            let (client, registration) = (grant.client, grant.registration);
            Registered { client, registration, key: grant.individual_key(&parties) }
        }
        (ToClient::Number { client, registration }, None) => {
            let context = exporter_context(&parties.client, registrar, &site.key_server, client, registration);
            let key = tls::individual_key_from(stream.get_ref().1, &context)?;
            match answer(&mut stream).await? {
                ToClient::Registered => Registered { client, registration, key },
                ToClient::Refused(refusal) => return Err(RegisterError::Refused(refusal)),
                _ => return Err(RegisterError::Turn),
            }
        }
        (ToClient::Refused(refusal), _) => return Err(RegisterError::Refused(refusal)),
        _ => return Err(RegisterError::Turn),
    };
    // Everything was said; whether the goodbye arrives does not matter.
    let _ = stream.shutdown().await;
    Ok(registered)
}

async fn answer<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> Result<ToClient, RegisterError> {
    let frame = read_frame(stream, MAX_FRAME).await?.ok_or(RegisterError::Closed)?;
    Ok(ToClient::decode(&frame)?)
}
