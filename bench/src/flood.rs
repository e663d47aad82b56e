//! A flood of bogus units and beacons over real sockets: what it costs a member, and whether what is genuine still counts.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use client_ctl::core::{Carriers, Config, Core, Input, Output};
use net::multicast::{ReceiveOptions, Receiver, SendOptions, Sender};
use protocol::SigningKey;
use protocol::request::Preamble;
use protocol::unit::Unit;

use crate::Failure;
use crate::keyserver::{Count, GROUP, KeyServer};
use crate::table::Row;

const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 77, 94, 1), 7_194);
/// Bogus datagrams a second.
const RATE: u32 = 100_000;
/// Seconds of flood.
const SECONDS: u32 = 8;
/// The share of a core that they may cost a member in user space.
const SHARE: f64 = 0.2;
/// Datagrams of one call of the flooder.
const CALL: usize = 50;
/// Kinds of forgery, in equal parts.
const KINDS: [&str; 4] =
    ["the next unit with another payload", "the next epoch's, another tag", "another history", "beacons"];

/// All rows.
pub(crate) fn rows() -> Result<Vec<Row>, Failure> {
    let mut server = KeyServer::with_members(200)?;
    let mut member = join(&mut server)?;
    // Of the join nothing is of interest.
    drop(server.take_units());
    let beacon = server.change()?;
    let genuine = server.take_units();
    let bogus = bogus(&genuine, &beacon)?;
    println!("a quarter each: {}", KINDS.join("; "));
    let flooder = std::thread::spawn(move || flood(&bogus).map_err(|error| error.to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let heard = runtime.block_on(listen(&mut member))?;
    let sent = flooder.join().map_err(|_| "the flooder died")??;
    let status = member.status().remove(0);
    let before = status.epoch;
    for datagram in &genuine {
        member.handle(Duration::from_secs(100), Input::Datagram(datagram));
    }
    let after = member.status().remove(0);
    let counters = after.counters;
    println!("{counters:?}");
    if after.epoch == before {
        return Err("the member did not follow what is genuine".into());
    }
    let name = |of: &str| format!("flood {RATE}/s for {SECONDS} s, {of}");
    let number = |count: u64| -> Result<f64, Failure> { Ok(f64::from(u32::try_from(count)?)) };
    let checks = counters.units_bad_signature + counters.beacons_bad_signature;
    Ok(vec![
        Row::new(name("user time of a member"), (heard.user, "cores"), ("allowed", SHARE), Some(1.0)),
        Row::new(name("system time of a member"), (heard.system, "cores"), ("user time", heard.user), None),
        Row::new(name("datagrams read"), (number(heard.datagrams)?, ""), ("sent", number(sent)?), None),
        Row::new(
            name("overflow of its socket"),
            (number(sent.saturating_sub(heard.datagrams))?, ""),
            ("sent", number(sent)?),
            None,
        ),
        Row::new(
            name("signatures looked at"),
            (number(checks)?, ""),
            ("datagrams read", number(heard.datagrams)?),
            Some(0.01),
        ),
        Row::new(
            name("memory after it"),
            (heard.memory.1, "MiB"),
            ("after its first second", heard.memory.0),
            Some(1.05),
        ),
    ])
}

/// A member of the key server's group.
fn join(server: &mut KeyServer) -> Result<Core, Failure> {
    let signing = vec![SigningKey::from_seed(&[1; 32])?.public()];
    let mut core =
        Core::new(Config { groups: vec![GROUP.into()], signing, carriers: Carriers::default() }, Box::new(Count(7)));
    let (client, registration) = server.client(0);
    core.handle(Duration::ZERO, Input::Registered { client, registration });
    while let Some(output) = core.poll_output() {
        if let Output::Request { id, message } = output {
            let preamble = Preamble { key_server: "ks".into(), client, registration };
            let reply = server.answer(&preamble, &message);
            core.handle(Duration::ZERO, Input::Reply { id, message: &reply });
        }
    }
    if core.status()[0].epoch.is_none() { Err("the member was not let in".into()) } else { Ok(core) }
}

/// What an outsider can make of what it hears: no two alike.
fn bogus(genuine: &[Vec<u8>], beacon: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let unit = genuine.iter().find(|datagram| Unit::decode(datagram).is_ok()).ok_or("no unit")?;
    let mark = |octets: &[u8], at: usize, number: u32| {
        let mut octets = octets.to_vec();
        octets[at..at + 4].copy_from_slice(&(number | 1 << 31).to_be_bytes());
        octets
    };
    let one = |number: u32| match number % 4 {
        0 => mark(unit, unit.len() - 100, number),
        1 => mark(unit, unit.len() - 8, number),
        // The hash of the header before (docs/protocol.md, section 7).
        2 => mark(unit, 41, number),
        // The counter of a beacon that is ahead.
        _ => mark(beacon, 4 + 37 + 64 + 4, number),
    };
    Ok((0..8_000).map(one).collect())
}

/// Sends at the rate for the time; how many.
fn flood(bogus: &[Vec<u8>]) -> Result<u64, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = SendOptions { interface: "lo".parse()?, ..SendOptions::default() };
        let sender = Sender::open(ADDRESS.into(), &options)?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        let mut sent = 0u64;
        for calls in bogus.chunks(CALL).cycle() {
            let due = Duration::from_secs_f64(f64::from(u32::try_from(sent)?) / f64::from(RATE));
            if due > Duration::from_secs(SECONDS.into()) {
                break;
            }
            if let Some(early) = due.checked_sub(begun.elapsed()) {
                std::thread::sleep(early);
            }
            sender.send_all(calls).await?;
            sent += u64::try_from(calls.len())?;
        }
        Ok(sent)
    })
}

struct Heard {
    datagrams: u64,
    /// Cores.
    user: f64,
    system: f64,
    /// MiB of the process after the first second, and at the end.
    memory: (f64, f64),
}

/// A member's multicast task, until nothing comes any more.
async fn listen(member: &mut Core) -> Result<Heard, Failure> {
    let options = ReceiveOptions { interface: "lo".parse()?, ..ReceiveOptions::default() };
    let mut receiver = Receiver::open(SocketAddr::from(ADDRESS), &options)?;
    let mut buffer = vec![0; 2_048];
    let (mut datagrams, mut begun, mut first) = (0, None, 0.0);
    let (user, system) = times()?;
    loop {
        let next = tokio::time::timeout(Duration::from_secs(2), receiver.recv(&mut buffer)).await;
        let Ok(received) = next else { break };
        let (length, _) = received?;
        let begun = *begun.get_or_insert_with(Instant::now);
        datagrams += 1;
        member.handle(begun.elapsed(), Input::Datagram(&buffer[..length]));
        while member.poll_output().is_some() {}
        if first == 0.0 && begun.elapsed() > Duration::from_secs(1) {
            first = memory()?;
        }
    }
    let spent = times()?;
    let seconds = f64::from(SECONDS);
    Ok(Heard {
        datagrams,
        user: (spent.0 - user) / seconds,
        system: (spent.1 - system) / seconds,
        memory: (first, memory()?),
    })
}

/// Seconds of this thread in user space and in the system, in ticks of 10 ms.
fn times() -> Result<(f64, f64), Failure> {
    let stat = fs::read_to_string("/proc/thread-self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let mut fields = fields.split_whitespace().skip(11).map(|ticks| ticks.parse::<f64>().map(|ticks| ticks / 100.0));
    let mut next = || fields.next().ok_or("too few fields in stat");
    Ok((next()??, next()??))
}

/// Resident memory of the process in MiB.
fn memory() -> Result<f64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1_024.0)
}
