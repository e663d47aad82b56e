//! Commands to a running key server, over its Unix socket.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use net::exit::Exit;
use serde_json::{Value, json};

use crate::unix_http::{AskError, ask};

/// Which daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// The key server's `admin_socket`; for `status` a registrar's `status_socket` too.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which group.
#[derive(Debug, clap::Args)]
pub(crate) struct GroupArgs {
    #[command(flatten)]
    server: StatusArgs,
    /// The group's name.
    #[arg(long, value_name = "NAME")]
    group: String,
}

/// Which member.
#[derive(Debug, clap::Args)]
pub(crate) struct MemberArgs {
    #[command(flatten)]
    group: GroupArgs,
    /// The member's identity, `spiffe://…`.
    #[arg(long, value_name = "URI")]
    identity: String,
}

/// A backup.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    server: StatusArgs,
    /// The new file.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub(crate) fn backup(args: &BackupArgs) -> ExitCode {
    let to = match std::path::absolute(&args.to) {
        Ok(to) => to,
        Err(error) => {
            eprintln!("keystone: {}: {error}", args.to.display());
            return Exit::Usage.into();
        }
    };
    order(&args.server, "/v1/backup", Some(json!({ "path": to })), |answer| {
        println!("{} octets of state in {}", answer["octets"], to.display());
    })
}

pub(crate) fn status(args: &StatusArgs) -> ExitCode {
    order(args, "/v1/status", None, |status| {
        if status["registrar"].is_string() {
            registrar(status);
        } else {
            key_server(status);
        }
        for (what, readings) in status["files"].as_object().into_iter().flatten() {
            if let Some(why) = readings["error"].as_str() {
                println!("on disk and NOT IN FORCE: {what}: {why}");
            }
        }
    })
}

fn registrar(status: &Value) {
    let key_server = status["key_server"].as_str().unwrap_or("none");
    let [name, days, clients, under_way] =
        ["registrar", "certificate_days", "clients", "under_way"].map(|field| text(&status[field]));
    println!("registrar {name}, certificate for {days} days, key server {key_server}, clients {clients}");
    let [registered, refused, unproved, failed] =
        ["registered", "refused", "unproved", "failed"].map(|field| text(&status[field]));
    println!(
        "since the start: registered {registered}, refused {refused}, unproved {unproved}, failed {failed}; under way {under_way}"
    );
    println!("door: {}", door(&status["door"]));
}

/// What became of those who came to one.
fn door(tally: &Value) -> String {
    let [let_in, proved, sent_away] = ["let_in", "proved", "sent_away"].map(|field| text(&tally[field]));
    format!("{let_in} let in, of whom {proved} proved who they are; {sent_away} without a place")
}

fn key_server(status: &Value) {
    println!(
        "key server {}, term {}, clients {}, registrars connected {}, denied {}, misbehaved {}",
        text(&status["name"]),
        text(&status["term"]),
        text(&status["clients"]),
        text(&status["registrars"]),
        text(&status["denied"]),
        text(&status["misbehaved"])
    );
    let [sealed, exported] = ["sealed", "exported"].map(|way| text(&status["registrations"][way]));
    println!("registrations in this term: sealed {sealed}, exported {exported}");
    let days = &status["site_certificate"]["days_left"];
    let certificate = if days.is_null() { "none".into() } else { format!("for {days} days") };
    println!("door for requests: {}", door(&status["doors"]["requests"]));
    println!("door for registrars: {}", door(&status["doors"]["registrars"]));
    println!("signs with {}, site certificate {certificate}", text(&status["signing_key"]));
    println!("{:<20}{:>10}{:>10}{:>10}{:>8}", "group", "id", "epoch", "members", "height");
    for group in status["groups"].as_array().into_iter().flatten() {
        let [name, id, epoch, members, height] =
            ["name", "id", "epoch", "members", "height"].map(|field| text(&group[field]));
        let stopped = &group["stopped"];
        let note = match stopped.is_null() {
            true => String::new(),
            false => format!("  STOPPED: term {}, epoch {} was seen", stopped["term"], stopped["epoch"]),
        };
        println!("{name:<20}{id:>10}{epoch:>10}{members:>10}{height:>8}{note}");
        let causes = group["ended"].as_object().into_iter().flatten().filter(|(_, count)| **count != json!(0));
        let ended: Vec<String> = causes.map(|(cause, count)| format!("{cause} {count}")).collect();
        if !ended.is_empty() {
            println!("{:<20}memberships ended in this term: {}", "", ended.join(", "));
        }
    }
}

pub(crate) fn members(args: &GroupArgs) -> ExitCode {
    order(&args.server, &format!("/v1/groups/{}/members", args.group), None, |answer| {
        println!("{:>10}{:>13}{:>10}{:>9}  {:<13}identity", "id", "since epoch", "role", "silent", "by");
        for member in answer["members"].as_array().into_iter().flatten() {
            let [id, epoch, role, silent, by, identity] =
                ["client_id", "joined_epoch", "role", "silent_s", "authentication", "identity"]
                    .map(|field| text(&member[field]));
            println!("{id:>10}{epoch:>13}{role:>10}{silent:>7} s  {by:<13}{identity}");
        }
        for gone in answer["ended"].as_array().into_iter().flatten() {
            let [id, epoch, cause, identity] =
                ["client_id", "left_epoch", "cause", "identity"].map(|field| text(&gone[field]));
            println!("{id:>10} is out since epoch {epoch} ({cause})  {identity}");
        }
    })
}

pub(crate) fn evict(args: &MemberArgs) -> ExitCode {
    change(args, "evict", |answer| println!("evicted; epoch {} is the first without it", answer["epoch"]))
}

pub(crate) fn admit(args: &MemberArgs) -> ExitCode {
    change(args, "admit", |_| println!("admitted; it may join again"))
}

pub(crate) fn refresh(args: &GroupArgs) -> ExitCode {
    let path = format!("/v1/groups/{}/refresh", args.group);
    order(&args.server, &path, Some(json!({})), |answer| println!("epoch {}", answer["epoch"]))
}

/// A value as people write it.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn change(args: &MemberArgs, what: &str, show: impl FnOnce(&Value)) -> ExitCode {
    let path = format!("/v1/groups/{}/{what}", args.group.group);
    order(&args.group.server, &path, Some(json!({ "identity": args.identity })), show)
}

fn order(args: &StatusArgs, path: &str, body: Option<Value>, show: impl FnOnce(&Value)) -> ExitCode {
    match blocking(&args.socket, path, body) {
        Ok(answer) => {
            if args.json {
                println!("{answer}")
            } else {
                show(&answer)
            }
            Exit::Ok.into()
        }
        Err(error) => {
            eprintln!("keystone: {error}");
            match error {
                AskError::Unreachable { .. } => Exit::Unreachable.into(),
                AskError::Refused { status: 403, .. } => Exit::Denied.into(),
                AskError::Refused { .. } | AskError::Broken { .. } => Exit::Failure.into(),
            }
        }
    }
}

fn blocking(socket: &Path, path: &str, body: Option<Value>) -> Result<Value, AskError> {
    let unreachable = |source| AskError::Unreachable { socket: socket.display().to_string(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unreachable)?;
    runtime.block_on(ask(socket, path, body))
}
