//! What is read again while the key server runs and the core is told of: the policy, the lists of revoked certificates, the keys that
//! sign.

use std::collections::BTreeSet;

use net::reload::Reloaded;

use super::RunError;
use super::engine::{Command, Handle};
use super::registrars::Door;
use crate::config::keys::Keys;
use crate::config::policy::PolicySource;
use crate::core::{self, GroupConfig, Issued};

/// Follows the policy's file; a mistake leaves the one before in force.
pub(super) fn follow(source: PolicySource, groups: Vec<GroupConfig>) -> Result<Reloaded<Vec<GroupConfig>>, RunError> {
    let files = vec![source.path.clone()];
    Reloaded::follow("policy", groups, files, move |_| source.read(), |_| {})
        .map_err(|source| RunError::Listen { what: "signals".into(), source })
}

/// Tells the core of every new policy.
pub(super) async fn tell(mut policy: Reloaded<Vec<GroupConfig>>, engine: Handle) {
    loop {
        policy.changed().await;
        engine.send(Command::Policy(policy.get().to_vec())).await;
    }
}

/// Tells the core of every new list of revoked certificates.
pub(super) async fn tell_revoked(mut door: Reloaded<Door>, engine: Handle) {
    loop {
        door.changed().await;
        engine.send(Command::Revoked(revoked(&door))).await;
    }
}

/// Tells the core of every new set of keys.
pub(super) async fn tell_keys(mut keys: Reloaded<Keys>, engine: Handle) {
    loop {
        keys.changed().await;
        engine.send(Command::Keys(for_core(&keys.get()))).await;
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
