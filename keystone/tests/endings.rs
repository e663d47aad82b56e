//! The policy of a key server that runs, and each end of an admission, once between real processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test of processes has a clock and sockets")]

mod common;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use common::ours::{Ours, now};
use common::{Daemon, Site, keystone};

/// The fates of former members, by name.
fn fate(site: &Site, member: &str) -> Option<String> {
    let answer = site.ask("ks.sock", "/v1/groups/demo/members")?;
    let ended = answer["ended"].as_array()?;
    let identity = format!("spiffe://demo/member/{member}");
    Some(ended.iter().find(|gone| gone["identity"] == identity.as_str())?["cause"].as_str()?.to_owned())
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

const ALL: &str = "lease_s = 6\nallow = [\"spiffe://demo/member/*\"]";

#[test]
fn every_end_of_an_admission_comes_in_real_time() {
    let ours = Ours::new(ALL);
    let site = &ours.site;
    let mut key_server = site.start("keyserver", "ks");
    let _registrar = site.start("registrar", "r1");
    site.wait("ks.sock", |status| status["registrars"] == 1);
    let good = now() + 3_600;
    let short = now() + 20;
    let _expires = ours.member("expires", short);
    let members = ["stays", "evicted", "revoked", "denied", "over", "leaves"];
    let _daemons: Vec<Daemon> = members.iter().map(|name| ours.member(name, good)).collect();
    let mut crashes = ours.member("crashes", good);

    // A leave, an operator, a crash: told apart.
    site.order("leaves.sock", "/v1/groups/demo/leave", "{}");
    site.order("ks.sock", "/v1/groups/demo/evict", r#"{"identity": "spiffe://demo/member/evicted"}"#);
    crashes.0.kill().unwrap();
    // The list of revoked certificates is read again.
    ours.revoke(&["revoked"]);
    // A policy with a mistake changes nothing; the next one does: it names one to keep out, and a time.
    ours.write_policy(&format!("{ALL}\nallow = []"));
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(fate(site, "denied"), None);
    let log = fs::read_to_string(site.path("ks.log")).unwrap();
    assert!(log.contains("policy.toml:9:") || log.contains("duplicate key"), "{log}");
    // The end as TOML has it, some seconds ahead.
    let end = now() + 12;
    let (hours, minutes, seconds) = (end / 3_600 % 24, end / 60 % 60, end % 60);
    let date = date(end);
    let rule = format!(
        "[[group.rule]]\nidentity = \"spiffe://demo/member/over\"\nrole = \"receiver\"\nuntil = {date}T{hours:02}:{minutes:02}:{seconds:02}Z"
    );
    ours.write_policy(&format!("{ALL}\ndeny = [\"spiffe://demo/member/denied\"]\n{rule}"));

    let causes = [
        ("leaves", "left"),
        ("evicted", "operator"),
        ("crashes", "lapsed"),
        ("revoked", "revoked"),
        ("denied", "policy"),
        ("over", "ended"),
        ("expires", "expired"),
    ];
    for (name, cause) in causes {
        until(name, || fate(site, name).as_deref() == Some(cause));
    }
    // Each that lives has heard why.
    for (name, why) in [("evicted", "operator"), ("denied", "policy"), ("over", "time of this membership")] {
        until(name, || ours.status_of(name)["detail"].as_str().is_some_and(|detail| detail.contains(why)));
        assert_eq!(ours.status_of(name)["status"], "evicted");
    }
    // One has stayed, silent as it was for longer than its lease but for signs of life.
    assert_eq!(ours.status_of("stays")["status"], "member");
    let members = site.ask("ks.sock", "/v1/groups/demo/members").unwrap();
    assert_eq!(members["members"].as_array().unwrap().len(), 1, "{members}");
    // Whoever crashed comes back, and so does whoever gets a new certificate.
    let _back = ours.member("crashes", good);
    // After a kill all is as it was.
    key_server.0.kill().unwrap();
    key_server.0.wait().unwrap();
    let _again = site.start("keyserver", "ks");
    site.wait("ks.sock", |status| status["registrars"] == 1);
    for (name, cause) in causes.into_iter().filter(|(name, _)| *name != "crashes") {
        assert_eq!(fate(site, name).as_deref(), Some(cause), "{name}");
    }
}

/// The day of a time, as TOML has it.
fn date(seconds: u64) -> String {
    let out = Command::new("date").args(["-u", "+%F", "-d", &format!("@{seconds}")]).output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_policy_is_checked_and_explained_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    let check = |text: &str, more: &[&str]| {
        fs::write(&path, text).unwrap();
        let output = keystone().args(["policy", "check"]).arg(&path).args(more).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(said).unwrap())
    };
    let head = "[[group]]\nid = 1\nname = \"news\"\naddress = \"239.1.1.1:7000\"\n";
    let rules = "allow = [\"spiffe://d/member/*\"]\ndeny = [\"spiffe://d/member/m9\"]\nlease_s = 60\n\
                 [[group.rule]]\nidentity = \"spiffe://d/member/m1\"\nkinds = [\"certificate\"]\nrole = \"sender\"\nlease_s = 0\n";
    let text = format!("{head}{rules}");
    let (code, said) = check(&text, &[]);
    assert!(code == 0 && said.contains("ok, groups: 1") && said.contains("`spiffe://d/member/m9`"), "{said}");
    let who = |name: &str, more: &[&str]| {
        let identity = format!("spiffe://d/member/{name}");
        check(&text, &[&["--identity", &identity], more].concat())
    };
    let (code, said) = who("m2", &["--kind", "token"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        said,
        "group `news`: spiffe://d/member/m2 by token may join as sender and receiver, with a lease of 60 s; because of `allow` \
         `spiffe://d/member/*` by certificate or token\n"
    );
    let (code, said) = who("m1", &[]);
    assert!(code == 0 && said.contains("by certificate may join as sender; because of rule 1"), "{said}");
    assert!(said.contains("by token may not join; the most exact rule about it is for another kind"), "{said}");
    let (code, said) = who("m9", &[]);
    assert!(code == 3 && said.contains("because of `deny`"), "{said}");
    assert_eq!(who("m2", &["--group", "olds"]).0, 2);
    let wrong = [
        (format!("{text}\n[[group.rule]]\nidentity = \"spiffe://d/member/m9\"\n"), "`deny` and rule 2 both say"),
        (
            format!("{head}allow = []\nlease_s = 5\n"),
            "`group `news`: lease_s`: 5 s is shorter than the time between two",
        ),
        (format!("{text}{text}"), "`group.id`: 1 stands here twice"),
        (format!("{text}{}", text.replace("id = 1", "id = 2")), "`group.name`: \"news\" stands here twice"),
        (head.to_owned(), "nothing says who may join"),
        (text.replace("\"sender\"", "\"boss\""), "rule 1: role"),
        (text.replace("\"certificate\"", "\"password\""), "rule 1: kinds"),
        (text.replace("lease_s = 0", "until = 2026-12-31"), "rule 1: until"),
        (text.replace("lease_s = 0", "leas_s = 0"), "policy.toml:12:"),
        (text.replace("member/m1", "member/%41"), "rule 1: identity"),
        (text.replace("lease_s = 60", "lease_s = 2"), "lease_s` is 2, expected 3 to"),
    ];
    for (text, why) in wrong {
        let (code, said) = check(&text, &[]);
        assert!(code == 2 && said.contains(why), "{why}: {said}");
    }
}

#[test]
fn the_policy_to_begin_with_is_good_with_and_without_its_comments() {
    let folder = tempfile::tempdir().unwrap();
    let pki = folder.path().join("pki");
    let init = keystone().args(["pki", "init", "--domain", "a.example", "--dir"]).arg(&pki).output().unwrap();
    assert!(init.status.success(), "{init:?}");
    let path = pki.join("policy.toml");
    let text = fs::read_to_string(&path).unwrap();
    // Without the marks of comments all is in force but for the words at the top.
    let (words, rest) = text.split_once("\n\n").unwrap();
    let all = format!("{words}\n{}", rest.replace("# deny", "deny").replace("\n# ", "\n"));
    for (text, rules) in [(text.clone(), 1), (all, 3)] {
        fs::write(&path, &text).unwrap();
        let output = keystone().args(["policy", "check"]).arg(&path).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && said.contains("ok, groups: 1"), "{text}: {said}");
        assert_eq!(said.matches("spiffe://a.example/member/").count(), rules, "{said}");
    }
}
