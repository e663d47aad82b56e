//! OpenMLS's side (RFC 9420): one commit that removes one member. The committer is leaf 0 and plays the server.
//!
//! Everything is chosen for the smallest and fastest commit: the suite that all must have, messages signed and not
//! encrypted, the ratchet tree out of band, basic credentials.

use std::fmt;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use openmls::prelude::tls_codec::Deserialize;
use openmls::prelude::{
    BasicCredential, Ciphersuite, CredentialWithKey, KeyPackage, LeafNodeIndex, LeafNodeParameters, MlsGroup,
    MlsGroupCreateConfig, MlsGroupJoinConfig, MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider,
    PURE_PLAINTEXT_WIRE_FORMAT_POLICY, ProcessedMessageContent, StagedCommit, StagedWelcome,
};
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;

use crate::{Cost, Failure, LEAST, micros};

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// What the ratchet tree is like when the member is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// The server built the group and nobody else ever commits, as in a group that one administrator manages: the
    /// inner nodes are blank.
    AdminManaged,
    /// Members have committed, so that no node that the removal meets is blank.
    Best,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AdminManaged => "admin-managed",
            Self::Best => "best",
        })
    }
}

/// The cost of the removal of one member in the other half of a group of `members`.
pub(crate) fn removal(members: u32, case: Case, budget: Duration) -> Result<Cost, Failure> {
    let removed = opposite(members);
    let filling = filling(members, removed);
    let mut group = Group::new(members, &filling)?;
    if case == Case::Best {
        group.populate()?;
    }
    group.remove(removed, budget)
}

/// The first leaf of the half in which leaf 0 is not.
fn opposite(members: u32) -> u32 {
    members.next_power_of_two() / 2
}

/// Leaves whose commits fill every node under which a commit of leaf 0 that removes leaf `removed` encrypts: the
/// first leaf below each sibling of the two leaves' paths to the root. (A commit fills all of its leaf's path. To let
/// all members commit would give the same removal, after time cubic in the size; a test compares.)
fn filling(members: u32, removed: u32) -> Vec<u32> {
    let below = |leaf: u32, end: u32| {
        std::iter::successors(Some(2u32), |step| step.checked_mul(2))
            .map(move |step| leaf + step)
            .take_while(move |at| *at < end)
    };
    below(0, removed).chain(below(removed, members)).collect()
}

/// One end of a group.
struct Member {
    provider: OpenMlsRustCrypto,
    signer: SignatureKeyPair,
    group: MlsGroup,
}

impl Member {
    /// Verifies and decrypts a commit: the new epoch's keys are known, in memory.
    fn read(&mut self, octets: &[u8]) -> Result<StagedCommit, Failure> {
        let message = MlsMessageIn::tls_deserialize_exact(octets)?.try_into_protocol_message()?;
        match self.group.process_message(&self.provider, message)?.into_content() {
            ProcessedMessageContent::StagedCommitMessage(commit) => Ok(*commit),
            _ => Err("not a commit".into()),
        }
    }

    /// Goes to the new epoch. OpenMLS writes its whole tree to its store here, as JSON.
    fn merge(&mut self, commit: StagedCommit) -> Result<(), Failure> {
        Ok(self.group.merge_staged_commit(&self.provider, commit)?)
    }

    fn follow(&mut self, octets: &[u8]) -> Result<(), Failure> {
        let commit = self.read(octets)?;
        self.merge(commit)
    }
}

/// A group, and those of its members that are played: the others' keys are made and forgotten.
struct Group {
    server: Member,
    played: Vec<Member>,
}

impl Group {
    /// The server adds all others by one commit; those at the leaves `played` join.
    fn new(members: u32, played: &[u32]) -> Result<Self, Failure> {
        let provider = OpenMlsRustCrypto::default();
        let (signer, credential) = identity(0)?;
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(false)
            .build();
        let mut group = MlsGroup::new(&provider, &signer, &config, credential)?;

        let forgotten = OpenMlsRustCrypto::default();
        let (mut packages, mut joining) = (Vec::new(), Vec::new());
        for leaf in 1..members {
            let (signer, credential) = identity(leaf)?;
            let provider = played.contains(&leaf).then(OpenMlsRustCrypto::default);
            let keeper = provider.as_ref().unwrap_or(&forgotten);
            let package = KeyPackage::builder().build(SUITE, keeper, &signer, credential)?;
            packages.push(package.key_package().clone());
            joining.extend(provider.map(|provider| (leaf, provider, signer)));
        }
        let (_, welcome, _) = group.add_members(&provider, &signer, &packages)?;
        group.merge_pending_commit(&provider)?;

        let (welcome, tree) = (welcome.to_bytes()?, group.export_ratchet_tree());
        let config = MlsGroupJoinConfig::builder().wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY).build();
        let played = joining
            .into_iter()
            .map(|(leaf, provider, signer)| {
                let MlsMessageBodyIn::Welcome(welcome) = MlsMessageIn::tls_deserialize_exact(&welcome)?.extract()
                else {
                    return Err("not a welcome".into());
                };
                let tree = Some(tree.clone().into());
                let group =
                    StagedWelcome::new_from_welcome(&provider, &config, welcome, tree)?.into_group(&provider)?;
                if group.own_leaf_index() != LeafNodeIndex::new(leaf) {
                    return Err("a member joined at another leaf than expected".into());
                }
                Ok(Member { provider, signer, group })
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Self { server: Member { provider, signer, group }, played })
    }

    /// Every member that is played commits once, and all others follow.
    fn populate(&mut self) -> Result<(), Failure> {
        for committer in 0..self.played.len() {
            let Member { provider, signer, group } = &mut self.played[committer];
            let commit =
                group.self_update(provider, signer, LeafNodeParameters::default())?.into_commit().to_bytes()?;
            group.merge_pending_commit(provider)?;
            self.server.follow(&commit)?;
            for (at, member) in self.played.iter_mut().enumerate() {
                if at != committer {
                    member.follow(&commit)?;
                }
            }
        }
        Ok(())
    }

    /// The server removes a leaf, and every member that is played reads its commit, over and over without merging.
    /// Then all merge, on nobody's time: merging is mostly the store's, and persistence is apart on both sides.
    fn remove(mut self, leaf: u32, budget: Duration) -> Result<Cost, Failure> {
        let Member { provider, signer, group } = &mut self.server;
        let leaf = LeafNodeIndex::new(leaf);
        let mut at_server = Vec::new();
        let until = Instant::now() + budget;
        let commit = loop {
            let begun = Instant::now();
            let commit = group.remove_members(provider, signer, &[leaf])?.0.to_bytes()?;
            at_server.push(begun.elapsed());
            if at_server.len() >= LEAST && Instant::now() >= until {
                break commit;
            }
            group.clear_pending_commit(provider.storage())?;
        };
        group.merge_pending_commit(provider)?;

        let mut at_receiver = Vec::new();
        let share = budget / u32::try_from(self.played.len())?.max(1);
        for member in self.played.iter_mut().filter(|member| member.group.own_leaf_index() != leaf) {
            let until = Instant::now() + share;
            let read = loop {
                let begun = Instant::now();
                let read = member.read(&commit)?;
                at_receiver.push(begun.elapsed());
                if Instant::now() >= until {
                    break read;
                }
            };
            member.merge(read)?;
            if member.group.epoch_authenticator().as_slice() != group.epoch_authenticator().as_slice() {
                return Err("a member has other keys than the server".into());
            }
        }
        let octets = f64::from(u32::try_from(commit.len())?);
        Ok(Cost { wire: octets, message: octets, server: micros(at_server), receiver: micros(at_receiver) })
    }
}

fn identity(leaf: u32) -> Result<(SignatureKeyPair, CredentialWithKey), Failure> {
    let signer = SignatureKeyPair::new(SUITE.signature_algorithm())?;
    let credential = BasicCredential::new(leaf.to_be_bytes().to_vec()).into();
    let signature_key = signer.to_public_vec().into();
    Ok((signer, CredentialWithKey { credential, signature_key }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_commits_are_as_good_as_all() {
        for members in [16, 21, 32] {
            let removed = opposite(members);
            let octets = |played: Vec<u32>| {
                let mut group = Group::new(members, &played).unwrap();
                group.populate().unwrap();
                group.remove(removed, Duration::ZERO).unwrap().wire
            };
            assert_eq!(octets(filling(members, removed)), octets((1..members).collect()), "{members}");
        }
    }

    #[test]
    fn blank_nodes_cost_a_ciphertext_for_each_member() {
        let octets = |case| removal(64, case, Duration::ZERO).unwrap().wire;
        // 62 members remain beside the committer; a ciphertext is an X25519 key, 32 octets and a tag, with lengths.
        assert!(octets(Case::AdminManaged) > 62.0 * 80.0);
        assert!(octets(Case::Best) < 20.0 * 100.0);
    }
}
