//! `keystone policy`: what a policy says, before a key server takes it.

use std::path::PathBuf;
use std::process::ExitCode;

use keyserver::core::{Grant, GroupConfig, Verdict};
use net::exit::Exit;
use protocol::Authentication;
use protocol::identity::Identity;

/// What to do with a policy.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check a policy as the key server does, and explain who may do what, and why. Exit code 2: it is wrong; 3: the identity may
    /// join none of the groups.
    Check(Check),
}

/// Which policy, and whom to explain.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The policy's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Explain what becomes of this client, `spiffe://…`. Default: print all rules.
    #[arg(long, value_name = "URI", value_parser = Identity::parse)]
    identity: Option<Identity>,
    /// How the client was authenticated: `certificate` or `token`. Default: both are explained.
    #[arg(long, value_name = "KIND", value_parser = kind, requires = "identity")]
    kind: Option<Authentication>,
    /// Only of this group. Default: of all.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
}

fn kind(name: &str) -> Result<Authentication, &'static str> {
    Authentication::named(name).ok_or("expected `certificate` or `token`")
}

pub(crate) fn main(command: Command) -> ExitCode {
    let Command::Check(check) = command;
    let groups = match keyserver::config::policy::read(&check.file) {
        Ok(groups) => groups,
        Err(error) => {
            eprintln!("keystone policy: {}: {error}", check.file.display());
            return Exit::Usage.into();
        }
    };
    let meant = |group: &&GroupConfig| check.group.as_ref().is_none_or(|name| *name == group.name);
    let shown: Vec<&GroupConfig> = groups.iter().filter(meant).collect();
    if shown.is_empty() {
        eprintln!("keystone policy: {}: there is no group of this name", check.file.display());
        return Exit::Usage.into();
    }
    let Some(identity) = &check.identity else {
        println!("{}: ok, groups: {}", check.file.display(), groups.len());
        shown.into_iter().for_each(print_rules);
        return Exit::Ok.into();
    };
    let kinds = check.kind.map_or(Authentication::ALL.to_vec(), |kind| vec![kind]);
    let mut granted = false;
    for group in shown {
        for kind in &kinds {
            let verdict = group.access.decide(identity, *kind);
            granted |= verdict.grant().is_some();
            println!("group `{}`: {identity} by {kind} {}", group.name, explain(&verdict));
        }
    }
    if granted { Exit::Ok.into() } else { Exit::Denied.into() }
}

fn print_rules(group: &GroupConfig) {
    println!(
        "group `{}` ({}): strategy {}, suite {}, degree {}",
        group.name, group.id, group.strategy, group.suite, group.degree
    );
    for rule in group.access.rules() {
        println!("  {rule}: {}", rule.grant.map_or_else(|| "may not join".to_owned(), |grant| terms(&grant)));
    }
    if group.access.rules().next().is_none() {
        println!("  nobody may join");
    }
}

fn explain(verdict: &Verdict<'_>) -> String {
    match verdict {
        Verdict::Granted(grant, rule) => format!("{}; because of {rule}", terms(grant)),
        Verdict::Kept(rule) => format!("may not join; because of {rule}"),
        Verdict::OtherKind(rule) => {
            format!("may not join; the most exact rule about it is for another kind of authentication: {rule}")
        }
        Verdict::Nobody => "may not join; no rule is about it".to_owned(),
    }
}

fn terms(grant: &Grant) -> String {
    let mut text = format!(
        "may join as {}",
        match grant.role {
            protocol::request::Role::Both => "sender and receiver",
            role => role.name(),
        }
    );
    if let Some(lease) = grant.lease {
        text += &format!(", with a lease of {} s", lease.as_secs());
    }
    if let Some(until) = grant.until {
        text += &format!(", until {until} s since 1970");
    }
    text
}
