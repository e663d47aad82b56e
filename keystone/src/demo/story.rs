//! What happens in the demonstration, and when.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Child;
use tokio::time::Instant;

use super::judge::{Verdict, ranges};
use super::report::{Report, Totals};
use super::world::{GROUP, World, first_octets, terminate};
use super::{Args, Failure};

/// Who sends.
const SOURCE: &str = "source";
/// Fastest stream: what seven receivers on two cores decrypt with ease.
const MAX_RATE: u64 = 16_000_000;
/// How often the story looks at its people.
const LOOK: Duration = Duration::from_millis(200);

/// What happens to a member, in thousandths of the streaming time.
struct Act {
    at: u32,
    name: String,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Join,
    Leave,
    Evict,
}

/// Tells the story; whether every member read exactly what it had a right to.
pub(super) async fn tell(args: &Args) -> Result<bool, Failure> {
    let input = match &args.input {
        Some(input) => input.clone(),
        None => std::env::current_exe()?,
    };
    let seconds = u64::from(args.seconds);
    let octets = std::fs::metadata(&input)?.len().min(MAX_RATE / 8 * seconds);
    if octets == 0 {
        return Err(format!("{} is empty", input.display()).into());
    }
    let receivers: Vec<String> = (1..=args.members).map(|number| format!("m{number}")).collect();
    let everyone: Vec<String> = [SOURCE.to_owned()].into_iter().chain(receivers.iter().cloned()).collect();
    let report = Report::new();
    report.say(format!(
        "{octets} octets of {} in {seconds} s, suite {}, {}% of rekey units lost",
        input.display(),
        args.suite,
        args.loss
    ));

    let mut world = World::start(&everyone, (args.loss, args.burst), args.suite).await?;
    report.say("key server and two registrars are up");
    world.start_member(SOURCE, 0)?;
    let mut listening = Vec::new();
    for name in &receivers {
        listening.push(world.start_receiver(name)?);
    }
    let (begin, acts): (Vec<Act>, Vec<Act>) = script(&receivers).into_iter().partition(|act| act.at == 0);
    for act in begin {
        world.start_member(&act.name, number(&act.name))?;
    }
    for name in [SOURCE, "m1", "m2", "m3"] {
        member(&mut world, name).await?;
    }
    let piece = world.path("input");
    let stream = first_octets(&input, octets, &piece)?;
    // A little over the exact rate, for the headers.
    let mut sender = world.start_sender(SOURCE, stream, octets * 8 / seconds * 120 / 100)?;
    report.say("streaming begins");

    let started = Instant::now();
    let mut acts = acts.into_iter().peekable();
    let mut out = Vec::new();
    let deadline = Duration::from_secs(seconds * 2 + 30);
    let mut show = report.watch();
    let status = loop {
        while let Some(act) =
            acts.next_if(|act| started.elapsed() >= Duration::from_millis(seconds * u64::from(act.at)))
        {
            perform(&mut world, &act, &report, &mut out).await?;
        }
        show.look(&world, &everyone).await;
        world.check()?;
        if let Ok(status) = tokio::time::timeout(LOOK, sender.wait()).await {
            break status?;
        }
        if started.elapsed() > deadline {
            return Err("the sender does not end".into());
        }
    };
    if !status.success() {
        let log = std::fs::read_to_string(world.path("source.send.log")).unwrap_or_default();
        return Err(format!("the sender failed ({status}): {log}").into());
    }
    if acts.peek().is_some() {
        return Err("the stream ended before the story; give it more --seconds".into());
    }
    report.say("streaming ends; receivers finish");
    finish(&out, &receivers, &mut listening).await?;
    let verdicts = judge(&world, &receivers, &out, &piece).await?;
    let totals = Totals::from_status(&world.ask("ks.sock", "/v1/status", None).await?);
    let ok = report.end(&verdicts, &totals);
    if let Some(path) = &args.json {
        std::fs::write(path, report.json(ok, &verdicts, &totals).to_string() + "\n")?;
    }
    world.stop().await;
    Ok(ok)
}

/// m1 to m3 are there from the beginning, the others come one by one; m1 leaves, m2 is evicted.
fn script(receivers: &[String]) -> Vec<Act> {
    let mut acts = Vec::new();
    for (place, name) in receivers.iter().enumerate() {
        let late = u32::try_from(place.saturating_sub(2)).unwrap_or(0);
        let at = 450 * late / u32::try_from(receivers.len() - 2).unwrap_or(1);
        acts.push(Act { at, name: name.clone(), what: What::Join });
    }
    acts.push(Act { at: 550, name: "m1".into(), what: What::Leave });
    acts.push(Act { at: 700, name: "m2".into(), what: What::Evict });
    acts
}

fn number(name: &str) -> usize {
    name.trim_start_matches('m').parse().unwrap_or(0)
}

/// Waits until somebody is a member; its state.
async fn member(world: &mut World, name: &str) -> Result<Value, Failure> {
    let what = format!("the membership of {name}");
    let is_member = |status: &Value| group(status).is_some_and(|group| group["status"] == "member");
    world.wait(&what, &format!("{name}.sock"), "/v1/status", is_member).await
}

/// The group's part of a member's state.
pub(super) fn group(status: &Value) -> Option<&Value> {
    status["groups"].as_array()?.iter().find(|group| group["group"] == GROUP)
}

/// Who is out, since which epoch, and whether by eviction.
type Out = Vec<(String, u64, bool)>;

async fn perform(world: &mut World, act: &Act, report: &Report, out: &mut Out) -> Result<(), Failure> {
    let name = &act.name;
    match act.what {
        What::Join => {
            report.say(format!("{name} starts and joins"));
            world.start_member(name, number(name))?;
        }
        What::Leave => {
            let socket = format!("{name}.sock");
            world.ask(&socket, &format!("/v1/groups/{GROUP}/leave"), Some(json!({}))).await?;
            let left = |status: &Value| group(status).is_some_and(|group| group["left_epoch"].is_u64());
            let status = world.wait(&format!("{name} to leave"), &socket, "/v1/status", left).await?;
            let epoch = group(&status).and_then(|group| group["left_epoch"].as_u64()).unwrap_or(0);
            report.say(format!("{name} leaves: epoch {epoch} is the first without it; it keeps listening"));
            out.push((name.clone(), epoch, false));
        }
        What::Evict => {
            let body = json!({ "identity": format!("spiffe://{GROUP}/member/{name}") });
            let answer = world.ask("ks.sock", &format!("/v1/groups/{GROUP}/evict"), Some(body)).await?;
            let epoch = answer["epoch"].as_u64().ok_or("the key server names no epoch")?;
            report.say(format!("{name} is evicted: epoch {epoch} is the first without it; it keeps listening"));
            out.push((name.clone(), epoch, true));
        }
    }
    Ok(())
}

/// Members end by themselves at the end of the stream; those that are out cannot see it and are told.
async fn finish(out: &[(String, u64, bool)], receivers: &[String], listening: &mut [Child]) -> Result<(), Failure> {
    for (name, child) in receivers.iter().zip(listening.iter_mut()) {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let is_out = out.iter().any(|(who, ..)| who == name);
        if !is_out && tokio::time::timeout(Duration::from_secs(20), child.wait()).await.is_ok() {
            continue;
        }
        if let Some(pid) = pid {
            terminate(pid);
        }
        tokio::time::timeout(Duration::from_secs(10), child.wait()).await.map_err(|_| "a receiver does not end")??;
    }
    Ok(())
}

async fn judge(
    world: &World,
    receivers: &[String],
    out: &[(String, u64, bool)],
    input: &Path,
) -> Result<Vec<Verdict>, Failure> {
    let sent = ranges(&world.path(&format!("{SOURCE}.ranges")))?;
    let mut verdicts = Vec::new();
    for name in receivers {
        let status = world.ask(&format!("{name}.sock"), "/v1/status", None).await?;
        let group = group(&status).ok_or("a member does not know its group")?;
        let number = |field: &str| group[field].as_u64().or_else(|| group["counters"][field].as_u64());
        let gone = out.iter().find(|(who, ..)| who == name);
        let mut verdict = Verdict {
            name: name.clone(),
            joined_epoch: number("joined_epoch").ok_or_else(|| format!("{name} never joined"))?,
            left_epoch: gone.map(|(_, epoch, _)| *epoch),
            octets_expected: 0,
            octets_read: 0,
            sha256_ok: false,
            units_lost: number("units_lost").unwrap_or(0),
            messages_recovered: number("messages_recovered").unwrap_or(0),
            resyncs: number("resyncs").unwrap_or(0),
            read_after_eviction: 0,
            evicted: gone.is_some_and(|(.., evicted)| *evicted),
        };
        let read = ranges(&world.path(&format!("{name}.ranges")))?;
        verdict.judge(&sent, &read, input, &world.path(&format!("{name}.out")))?;
        verdicts.push(verdict);
    }
    Ok(verdicts)
}
