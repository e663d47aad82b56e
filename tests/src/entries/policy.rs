//! The policy, which is written by hand: the parser of the key server and of `keystone policy check`.

use std::collections::BTreeSet;
use std::path::Path;

use keyserver::config::policy::read_text;
use keyserver::core::{GroupConfig, Rule, Verdict};
use net::config::ConfigError;
use protocol::identity::{Identity, IdentityPattern};

/// Accepted: a policy that is whole, and in which each rule decides about those that it names. What is refused has a place.
pub(super) fn policy(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    match read_text(Path::new("policy.toml"), text) {
        Ok(groups) => {
            check(&groups);
            true
        }
        Err(ConfigError::Parse { line, .. }) => {
            assert!((1..=text.matches('\n').count() + 1).contains(&line), "line {line}");
            false
        }
        Err(ConfigError::Range { name, .. } | ConfigError::Invalid { name, .. }) => {
            assert!(!name.is_empty(), "a flaw without a place");
            false
        }
        Err(error @ ConfigError::Read { .. }) => panic!("nothing is read: {error}"),
    }
}

fn check(groups: &[GroupConfig]) {
    let numbers: BTreeSet<_> = groups.iter().map(|group| group.id).collect();
    let names: BTreeSet<_> = groups.iter().map(|group| &group.name).collect();
    assert!(!groups.is_empty() && (numbers.len(), names.len()) == (groups.len(), groups.len()));
    for group in groups {
        assert!(group.destination.ip().is_multicast() && group.id.0 > 0 && group.beacon <= group.beacon_max);
        for rule in group.access.rules() {
            decides(group, rule);
        }
    }
}

fn decides(group: &GroupConfig, rule: &Rule) {
    let named = match &rule.who {
        IdentityPattern::Exact(one) => Ok(one.clone()),
        // Longer ones may be about it as well, but not about a name that nobody has.
        IdentityPattern::Prefix(prefix) => Identity::parse(&format!("{prefix}-.-.-")),
    };
    // A prefix may leave no room for a name.
    let Ok(named) = named else { return };
    assert!(!rule.kinds.is_empty());
    for kind in &rule.kinds {
        match group.access.decide(&named, *kind) {
            Verdict::Granted(grant, by) => assert_eq!((Some(grant), by), (rule.grant, rule)),
            Verdict::Kept(by) => assert_eq!((None, by), (rule.grant, rule)),
            other => panic!("{rule} does not decide: {other:?}"),
        }
        let lease = rule.grant.and_then(|grant| grant.lease);
        assert!(lease.is_none_or(|lease| lease >= group.beacon_max), "nobody can show itself in time");
    }
}

pub(super) fn policy_seeds() -> Vec<Vec<u8>> {
    let small = "[[group]]\nid = 1\nname = \"news\"\naddress = \"239.77.1.1:7100\"\nallow = []\n";
    let large = r#"[[group]]
id = 4294967295
name = "a.b-c_d"
address = "[ff05::4b]:7100"
publish = true
degree = "star"
strategy = "key"
suite = "aes128"
splice = true
batch_ms = 5000
compaction = 0
repair = "alpha=0.5"
allow = ["spiffe://d/*", "spiffe://d/member/m1"]
deny = ["spiffe://d/member/m2"]
lease_s = 600
max_members = 10
refresh_s = 0
beacon_ms = 50
beacon_max_ms = 600000
resync_wait_ms = 0
send_delay_ms = 60000
keep_old_ms = 0
keep_old_revoked_ms = 600000
[[group.rule]]
identity = "spiffe://d/member/*"
kinds = ["certificate"]
role = "sender"
lease_s = 0
until = 2026-12-31T00:00:00Z
[[group.rule]]
identity = "spiffe://d/member/*"
kinds = ["token"]
role = "receiver"
lease_s = 31536000
until = 2000-02-29T23:59:59+01:00
"#;
    let two =
        [small, &small.replace("= 1", "= 2").replace("news", "olds").replace("[]", "['spiffe://d/x/*']")].concat();
    vec![small.into(), large.into(), two.into_bytes()]
}
