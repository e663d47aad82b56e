//! Our way over a real ensemble: a key server with its store on its own disk, a registrar, and members that are whole `client-ctl`s
//! whose carrier is ZooKeeper. What reaches a data processor over the feed counts.
#![allow(clippy::disallowed_types, reason = "this is a shell: its sockets are what is measured")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fec::SplitMix64;
use net::Shutdown;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::real::{DRAIN, Member, RUN, Seen, arrivals};
use super::relay::Relay;
use crate::Failure;
use crate::crowd::site::{GROUP, Site};

/// How often the key server is asked for its epoch: what a latency may be wrong by.
const GLANCE: Duration = Duration::from_millis(5);

/// Runs the experiment at a rate of joins a second.
pub(super) async fn run(relay: &Relay, (root, digest): (&str, &Path), rate: f64, seed: u64) -> Result<Seen, Failure> {
    let asked = arrivals(rate, &mut SplitMix64::new(seed));
    let mut site = Site::publishing(u32::try_from(asked.len())?, &relay.address(root), digest)?;
    let (shutdown, begun) = (Shutdown::new(), Instant::now());
    let (mut members, mut daemons, mut made) = (JoinSet::new(), JoinSet::new(), BTreeMap::new());
    let mut asked = asked.into_iter().zip(0..).peekable();
    let mut newest = site.group()?.1;
    while begun.elapsed() < RUN + DRAIN {
        while let Some((_, number)) = asked.next_if(|(at, _)| *at <= begun.elapsed()) {
            let settings = site.settings(number)?;
            daemons.spawn(client_ctl::run(settings, shutdown.clone()));
            members.spawn(member(site.socket(number), begun));
        }
        let epoch = site.group()?.1;
        made.extend((newest + 1..=epoch).map(|number| (number, begun.elapsed())));
        newest = epoch;
        site.check()?;
        tokio::time::sleep(GLANCE).await;
    }
    let mut seen = Seen { made, ..Seen::default() };
    while let Some(got) = members.join_next().await {
        seen.members.extend(got??);
    }
    shutdown.trigger();
    while let Some(ended) = daemons.join_next().await {
        ended??;
    }
    Ok(seen)
}

/// What a data processor gets from a member's feed; `None` if the member did not get in before the end.
async fn member(socket: PathBuf, begun: Instant) -> Result<Option<Member>, String> {
    let end = begun + RUN + DRAIN;
    let (mut got, mut joined) = (BTreeMap::new(), None);
    let watches = async {
        loop {
            let Ok(mut lines) = watch(&socket).await else {
                tokio::time::sleep(GLANCE).await;
                continue;
            };
            while let Ok(Some(line)) = lines.next_line().await {
                let Some(state) = line.starts_with('{').then(|| serde_json::from_str::<Value>(&line).ok()).flatten()
                else {
                    continue;
                };
                joined = joined.or(state["joined_epoch"].as_u64());
                for epoch in state["keys"].as_array().into_iter().flatten().filter_map(|key| key["epoch"].as_u64()) {
                    got.entry(epoch).or_insert(begun.elapsed());
                }
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    let _: Result<(), _> = tokio::time::timeout_at(end, watches).await;
    let asked_again = resyncs(&socket).await.map_err(|error| error.to_string())?;
    Ok(joined.map(|joined| Member { joined, got, asked_again }))
}

async fn ask(socket: &Path, path: &str) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    Ok(stream)
}

async fn watch(socket: &Path) -> std::io::Result<tokio::io::Lines<BufReader<UnixStream>>> {
    let stream = ask(socket, &format!("/v1/groups/{GROUP}/watch")).await?;
    Ok(BufReader::new(stream).lines())
}

/// How often it asked the key server for what it had missed.
async fn resyncs(socket: &Path) -> Result<u64, Failure> {
    let mut answer = String::new();
    ask(socket, "/v1/status").await?.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a body")?;
    let status: Value = serde_json::from_str(body)?;
    Ok(status["groups"][0]["counters"]["resyncs"].as_u64().ok_or_else(|| format!("no resyncs in {status}"))?)
}
