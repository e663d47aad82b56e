//! Access: who may be in a group, as what, and until when.

use std::collections::BTreeMap;
use std::fmt;

use protocol::Authentication;
use protocol::identity::{Identity, IdentityPattern};
use protocol::request::Role;
use thiserror::Error;

use super::Now;

/// What one line of the policy says of some clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
    pub who: IdentityPattern,
    /// Kinds of authentication for which it stands.
    pub kinds: Vec<Authentication>,
    /// What they get; `None`: they may not join.
    pub grant: Option<Grant>,
    /// Where it stands in the policy, for explanations.
    pub place: String,
}

/// What a rule lets a client do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// What it is meant to do with the group key.
    pub role: Role,
    /// For how long it may be silent; `None` for ever.
    pub lease: Option<Now>,
    /// Until when it may be a member, in seconds since 1970.
    pub until: Option<u64>,
}

impl Grant {
    /// Everything, for ever.
    pub const ALL: Self = Self { role: Role::Both, lease: None, until: None };
}

/// The rules of a group. For a client the rules of the most exact pattern that is about it stand, and no others: an identity before
/// prefixes, a longer prefix before a shorter one. So their order says nothing, and a stricter rule for some cannot be got round by a
/// rule for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access(BTreeMap<IdentityPattern, Vec<Rule>>);

/// Two rules for the same clients and the same kind of authentication. Whoever wrote the policy is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{first} and {second} both say what becomes of `{who}` by {kind}")]
pub struct Contradiction {
    /// The clients.
    pub who: IdentityPattern,
    /// The kind.
    pub kind: Authentication,
    /// Where one stands.
    pub first: String,
    /// Where the other stands.
    pub second: String,
}

/// What the rules say of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may join.
    Granted(Grant, &'a Rule),
    /// The rule keeps it out.
    Kept(&'a Rule),
    /// The rules of the most exact pattern are all for other kinds of authentication; this is one of them.
    OtherKind(&'a Rule),
    /// No rule is about it.
    Nobody,
}

impl Verdict<'_> {
    /// What it may do, if it may join.
    pub fn grant(&self) -> Option<Grant> {
        match self {
            Self::Granted(grant, _) => Some(*grant),
            Self::Kept(_) | Self::OtherKind(_) | Self::Nobody => None,
        }
    }
}

impl Access {
    /// Puts rules in order.
    ///
    /// # Errors
    /// [`Contradiction`].
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Result<Self, Contradiction> {
        let mut access = Self::default();
        for rule in rules {
            let others = access.0.entry(rule.who.clone()).or_default();
            for other in others.iter() {
                if let Some(kind) = other.kinds.iter().find(|kind| rule.kinds.contains(kind)) {
                    let (first, second) = (other.place.clone(), rule.place);
                    return Err(Contradiction { who: rule.who, kind: *kind, first, second });
                }
            }
            others.push(rule);
        }
        Ok(access)
    }

    /// All of these, by any kind of authentication, may do everything.
    pub fn open(who: impl IntoIterator<Item = IdentityPattern>) -> Self {
        let rule = |who: IdentityPattern| {
            let rule = Rule {
                who: who.clone(),
                kinds: Authentication::ALL.to_vec(),
                grant: Some(Grant::ALL),
                place: "`allow`".into(),
            };
            (who, vec![rule])
        };
        Self(who.into_iter().map(rule).collect())
    }

    /// What becomes of a client that was authenticated in this way.
    pub fn decide(&self, identity: &Identity, kind: Authentication) -> Verdict<'_> {
        let text = identity.as_str();
        let prefixes = text.rmatch_indices('/').map(|(at, _)| IdentityPattern::Prefix(text[..=at].to_owned()));
        let mut patterns = std::iter::once(IdentityPattern::Exact(identity.clone())).chain(prefixes);
        let Some(rules) = patterns.find_map(|pattern| self.0.get(&pattern)) else {
            return Verdict::Nobody;
        };
        match (rules.iter().find(|rule| rule.kinds.contains(&kind)), rules.first()) {
            (Some(rule), _) => rule.grant.map_or(Verdict::Kept(rule), |grant| Verdict::Granted(grant, rule)),
            (None, Some(rule)) => Verdict::OtherKind(rule),
            (None, None) => Verdict::Nobody,
        }
    }

    /// All rules, by pattern.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.0.values().flatten()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        write!(f, "{} `{}` by {}", self.place, self.who, kinds.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

    use super::*;

    fn rule(who: &str, kinds: &[Authentication], role: Option<Role>, place: &str) -> Rule {
        let grant = role.map(|role| Grant { role, ..Grant::ALL });
        Rule { who: IdentityPattern::parse(who).unwrap(), kinds: kinds.to_vec(), grant, place: place.into() }
    }

    #[test]
    fn the_most_exact_pattern_decides_alone_whatever_the_order() {
        let mut rules = vec![
            rule("spiffe://d/*", &Authentication::ALL, Some(Role::Both), "1"),
            rule("spiffe://d/member/*", &[Authentication::Certificate], Some(Role::Receiver), "2"),
            rule("spiffe://d/member/*", &[Authentication::Token], Some(Role::Sender), "3"),
            rule("spiffe://d/member/m1", &[Authentication::Certificate], Some(Role::Sender), "4"),
            rule("spiffe://d/member/bad/*", &Authentication::ALL, None, "5"),
        ];
        for _ in 0..rules.len() {
            rules.rotate_left(1);
            let access = Access::new(rules.clone()).unwrap();
            let is = |who: &str, kind| access.decide(&Identity::parse(&format!("spiffe://{who}")).unwrap(), kind);
            let role = |who: &str, kind| is(who, kind).grant().map(|grant| grant.role);
            assert_eq!(role("d/x", Authentication::Token), Some(Role::Both));
            assert_eq!(role("d/member/m2", Authentication::Certificate), Some(Role::Receiver));
            assert_eq!(role("d/member/deep/er", Authentication::Token), Some(Role::Sender));
            assert_eq!(role("d/member/m1", Authentication::Certificate), Some(Role::Sender));
            // The rule for all tokens of members does not stand for one that has a rule of its own.
            assert!(matches!(is("d/member/m1", Authentication::Token), Verdict::OtherKind(rule) if rule.place == "4"));
            assert!(matches!(is("d/member/bad/m1", Authentication::Token), Verdict::Kept(rule) if rule.place == "5"));
            // A prefix is not about what it is itself.
            assert_eq!(role("d/member", Authentication::Token), Some(Role::Both));
            assert_eq!(is("e/member", Authentication::Token), Verdict::Nobody);
        }
    }

    #[test]
    fn two_rules_for_the_same_clients_contradict_each_other() {
        let first = rule("spiffe://d/m", &Authentication::ALL, Some(Role::Both), "rule 1");
        let second = rule("spiffe://d/m", &[Authentication::Token], None, "rule 2");
        let error = Access::new([first, second]).unwrap_err().to_string();
        assert_eq!(error, "rule 1 and rule 2 both say what becomes of `spiffe://d/m` by token");
    }
}
