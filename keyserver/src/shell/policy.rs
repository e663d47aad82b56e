//! What is read again while the key server runs and the core is told of: the policy, the keys that sign, the lists of revoked certificates.
//! Of the first two the core has the last word: they are in force when it has taken them.

use std::collections::BTreeSet;
use std::sync::Arc;

use net::reload::{Reloaded, Reloads};

use super::RunError;
use super::commands::{Command, Handle};
use super::registrars::Door;
use crate::config::keys::{KeyFiles, Keys};
use crate::config::policy::PolicySource;
use crate::core::{self, Issued};

/// Follows the policy's file as long as what this returns is there.
pub(super) fn follow(source: PolicySource, engine: Handle, reloads: &Reloads) -> Result<Reloaded<()>, RunError> {
    let files = vec![source.path.clone()];
    let load = move |_| {
        let (groups, engine) = (source.read(), engine.clone());
        async move {
            let groups = groups.map_err(|error| error.to_string())?;
            engine.verdict(|verdict| Command::Policy(groups, verdict)).await
        }
    };
    reloads.follow_asking("policy", (), files, load, |()| {}).map_err(signals)
}

/// Follows the files of the keys.
pub(super) fn follow_keys(
    files: KeyFiles,
    keys: Keys,
    engine: Handle,
    reloads: &Reloads,
) -> Result<Reloaded<Keys>, RunError> {
    let all = files.all();
    let load = move |now: Arc<Keys>| {
        let (fresh, engine) = (files.reload(&now), engine.clone());
        async move {
            let fresh = fresh.map_err(|error| error.to_string())?;
            engine.verdict(|verdict| Command::Keys(for_core(&fresh), verdict)).await?;
            Ok::<_, String>(fresh)
        }
    };
    let remind = |keys: &Keys| {
        keys.site.as_ref().inspect(|site| site.remind());
    };
    reloads.follow_asking("Noise and signing keys", keys, all, load, remind).map_err(signals)
}

fn signals(source: std::io::Error) -> RunError {
    RunError::Listen { what: "signals".into(), source }
}

/// Tells the core of every new list of revoked certificates.
pub(super) async fn tell_revoked(mut door: Reloaded<Door>, engine: Handle) {
    loop {
        door.changed().await;
        engine.send(Command::Revoked(revoked(&door))).await;
    }
}

/// What the core needs of the keys.
pub(super) fn for_core(keys: &Keys) -> core::Keys {
    let site = keys.site.as_ref();
    core::Keys {
        signing: keys.signing.clone(),
        others: site.map(|site| site.certificate.signing.clone()).unwrap_or_default(),
        certificate: site.map(|site| Issued { begins: site.certificate.not_before, octets: site.octets.clone() }),
    }
}

/// The names of all credentials that were revoked.
pub(super) fn revoked(door: &Reloaded<Door>) -> BTreeSet<Vec<u8>> {
    door.get().crls().iter().flat_map(|crl| crl.revoked.iter().cloned()).collect()
}
