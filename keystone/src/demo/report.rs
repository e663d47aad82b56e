//! What the demonstration prints.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::judge::Verdict;
use super::story::group;
use super::world::World;

/// The key server's sums.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) epochs: u64,
    pub(super) rekey_messages: u64,
    pub(super) units_sent: u64,
}

impl Totals {
    pub(super) fn from_status(status: &Value) -> Self {
        let number = |field: &str| status["groups"][0][field].as_u64().unwrap_or(0);
        Self { epochs: number("epoch"), rekey_messages: number("rekey_messages"), units_sent: number("units_sent") }
    }
}

/// Prints plain lines with the time since the start, on a terminal and elsewhere.
pub(super) struct Report {
    started: Instant,
}

/// What was seen last of each member, so that only news is printed.
pub(super) struct Watch {
    started: Instant,
    epoch: u64,
    members: BTreeMap<String, (String, u64, u64)>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { started: Instant::now() }
    }

    pub(super) fn say(&self, what: impl AsRef<str>) {
        say(self.started, what.as_ref());
    }

    pub(super) fn watch(&self) -> Watch {
        Watch { started: self.started, epoch: 0, members: BTreeMap::new() }
    }

    /// The table, and whether all is well.
    pub(super) fn end(&self, verdicts: &[Verdict], totals: &Totals) -> bool {
        println!();
        println!(
            "{:<8}{:>7}{:>6}{:>12}{:>12}  {:<8}{:>6}{:>11}{:>9}{:>7}  fate",
            "member", "joined", "left", "expected", "read", "sha-256", "lost", "recovered", "resyncs", "after"
        );
        for v in verdicts {
            let left = v.left_epoch.map_or("-".to_owned(), |epoch| epoch.to_string());
            let fate = match (v.left_epoch, v.evicted) {
                (None, _) => "stayed",
                (Some(_), false) => "left",
                (Some(_), true) => "evicted",
            };
            let sha = if v.sha256_ok { "ok" } else { "WRONG" };
            println!(
                "{:<8}{:>7}{left:>6}{:>12}{:>12}  {sha:<8}{:>6}{:>11}{:>9}{:>7}  {fate}",
                v.name,
                v.joined_epoch,
                v.octets_expected,
                v.octets_read,
                v.units_lost,
                v.messages_recovered,
                v.resyncs,
                v.read_after_eviction
            );
        }
        println!();
        println!(
            "joined, left: epochs. lost: rekey units and beacons dropped at the receiver. recovered: rekey messages"
        );
        println!("rebuilt from repair units. after: octets read that were sent under a key made without the member.");
        println!(
            "{} epochs, {} rekey messages in {} units, {:.1} s",
            totals.epochs,
            totals.rekey_messages,
            totals.units_sent,
            self.started.elapsed().as_secs_f64()
        );
        let ok = verdicts.iter().all(Verdict::ok);
        println!("{}", if ok { "ok: every member read what it had a right to, and nothing else" } else { "FAILED" });
        ok
    }

    pub(super) fn json(&self, ok: bool, verdicts: &[Verdict], totals: &Totals) -> Value {
        json!({
            "ok": ok,
            "epochs": totals.epochs,
            "rekey_messages": totals.rekey_messages,
            "units_sent": totals.units_sent,
            "members": verdicts,
        })
    }
}

impl Watch {
    /// Looks at the key server and everybody, and tells what is new.
    pub(super) async fn look(&mut self, world: &World, everyone: &[String]) {
        if let Ok(status) = world.ask("ks.sock", "/v1/status", None).await {
            let group = &status["groups"][0];
            let epoch = group["epoch"].as_u64().unwrap_or(0);
            if epoch != self.epoch {
                self.epoch = epoch;
                let totals = Totals::from_status(&status);
                let line = format!(
                    "epoch {epoch}: {} members, {} rekey messages in {} units so far",
                    group["members"], totals.rekey_messages, totals.units_sent
                );
                say(self.started, &line);
            }
        }
        for name in everyone {
            if let Ok(status) = world.ask(&format!("{name}.sock"), "/v1/status", None).await
                && let Some(group) = group(&status)
            {
                self.news(name, group);
            }
        }
    }

    fn news(&mut self, name: &str, group: &Value) {
        let number = |field: &str| group[field].as_u64().or_else(|| group["counters"][field].as_u64()).unwrap_or(0);
        let state = group["status"].as_str().unwrap_or("?").to_owned();
        let (recovered, resyncs) = (number("messages_recovered"), number("resyncs"));
        let before = self.members.insert(name.to_owned(), (state.clone(), recovered, resyncs)).unwrap_or_default();
        let lost = number("units_lost");
        if before.0 != state {
            say(self.started, &format!("{name} is {state}, epoch {}", number("epoch")));
        }
        if recovered > before.1 {
            say(self.started, &format!("{name} rebuilt a rekey message from repair units ({lost} units lost so far)"));
        }
        if resyncs > before.2 {
            say(self.started, &format!("{name} re-synchronized ({lost} units lost so far)"));
        }
    }
}

fn say(started: Instant, what: &str) {
    println!("{:>7.2} s  {what}", started.elapsed().as_secs_f64());
}
