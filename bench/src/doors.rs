//! Floods at every TCP port of a real key server and a real registrar, one after the other, while members are rekeyed all the
//! time: how late they have each new key, how long their own requests take, and what the daemons need. Bogus datagrams at the
//! multicast address are what `bench flood` is about.

mod flooder;
mod members;
mod process;

use std::sync::Arc;
use std::time::Duration;

use client_ctl::{Settings, register};
use net::admission::Limits;
use net::noise::{self, StaticKey};
use net::tls::{CredentialFiles, Credentials};
use protocol::identity::Identity;
use protocol::registration::ALPN_CLIENT;
use protocol::request::Preamble;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use crate::Failure;
use crate::crowd::site::Site;
use crate::crowd::{Gathered, OTHERS, descriptors};
use crate::table::Row;
use flooder::{Flood, Manner, Sources, Tally};
use members::{Heard, Members};
use process::Process;

/// Members that follow by multicast.
const MEMBERS: u32 = 50;
/// Members that ask all the time, each from an address of its own.
const ASKERS: u32 = 10;
/// Slow connections.
const SLOW: usize = 5_000;
/// Sources, where there are many.
const MANY: u16 = 2_000;
/// Times the capacity.
const TIMES: f64 = 10.0;
/// For how long the capacity is measured.
const CALIBRATION: Duration = Duration::from_secs(2);
/// A key is on time if it comes within an interval between batches and a second.
const ON_TIME: Duration = Duration::from_secs(2);
/// In which a member's request must be answered, and a client registered, though it may have to come again.
const ANSWERED: Duration = Duration::from_secs(30);
/// Time for the members to come.
const READY: Duration = Duration::from_secs(60);
/// Connections that a door has told when to come again and keeps for a moment (`net::admission`).
const LINGERING: usize = 256;
/// Octets of a handshake that may wait in the library, and as many in our frames.
const HANDSHAKE_KIB: usize = 2 * 64;

/// All rows; each flood takes so many seconds.
pub(crate) fn rows(seconds: u32) -> Result<Vec<Row>, Failure> {
    let slow = u64::try_from(SLOW)?;
    descriptors(slow + OTHERS + u64::from(MEMBERS + ASKERS) * 4)?;
    let mut site = Site::of_processes(MEMBERS + ASKERS + 2)?;
    let daemons = site.processes().map(Process::new).collect::<Vec<_>>();
    let [key_server, registrar] = daemons.try_into().map_err(|_| "two daemons")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut all = Gathered::begin(&site);
        for number in 0..MEMBERS {
            all.add(number, site.settings(number)?, None);
        }
        all.ready(&mut site, MEMBERS, READY).await?;
        let recorded = Recorded::of(&site, MEMBERS + ASKERS + 1).await?;
        let asking = (MEMBERS..MEMBERS + ASKERS).map(|number| Ok((number, site.settings(number)?)));
        let asking = asking.collect::<Result<Vec<_>, Failure>>()?;
        let registering = site.settings(MEMBERS + ASKERS)?;
        let mut run = Run {
            members: Members::start(Arc::new(site), all, asking, registering).await?,
            key_server,
            registrar,
            time: Duration::from_secs(seconds.into()),
            quiet: None,
            rows: Vec::new(),
        };
        run.all(&recorded).await?;
        Ok(run.rows)
    })
}

/// What an onlooker has of true clients.
struct Recorded {
    /// A first flight of TLS for the registrar's clients.
    hello: Vec<u8>,
    /// A preamble and the first Noise message, of a registration that is good.
    first: Vec<u8>,
}

impl Recorded {
    async fn of(site: &Site, number: u32) -> Result<Self, Failure> {
        let settings: Settings = site.settings(number)?;
        let file = |end: &str| site.pki().join(format!("m{number}.{end}"));
        let roots = site.pki().join("ca.pem");
        let files = CredentialFiles { certificate: file("pem"), key: file("key"), roots, crls: Vec::new() };
        let registrar = Identity::parse("spiffe://bench/registrar/r0")?;
        let config = net::tls::client_config(&Credentials::load(&files)?, registrar, ALPN_CLIENT)?;
        let (near, far) = duplex(1 << 16);
        let hello = tokio::select! {
            hello = said(far) => hello?,
            _ = net::tls::connect_over(near, config) => return Err("a handshake with nobody".into()),
        };
        let known = register(&settings).await?;
        let preamble =
            Preamble { key_server: "ks".into(), client: known.client, registration: known.registration }.encode();
        let (near, far) = duplex(1 << 16);
        let key = StaticKey::load(site.pki().join("ks.noise"))?;
        let first = tokio::select! {
            first = said(far) => first?,
            _ = noise::connect(near, &preamble, key.public(), known.key.expose()) => return Err("a handshake with nobody".into()),
        };
        Ok(Self { hello, first })
    }
}

/// What the other end says before it waits for an answer.
async fn said(mut stream: DuplexStream) -> Result<Vec<u8>, Failure> {
    let mut octets = Vec::new();
    let wait = Duration::from_millis(200);
    while let Ok(read) = tokio::time::timeout(wait, stream.read_buf(&mut octets)).await {
        if read? == 0 {
            break;
        }
    }
    Ok(octets)
}

struct Run {
    members: Members,
    key_server: Process,
    registrar: Process,
    time: Duration,
    /// Without a flood.
    quiet: Option<Heard>,
    rows: Vec<Row>,
}

impl Run {
    async fn all(&mut self, recorded: &Recorded) -> Result<(), Failure> {
        let site = self.members.site();
        let (requests, link, clients) = (site.key_server(), site.link(), site.registrars()[0]);
        let (hello, first) = (&recorded.hello, &recorded.first);
        self.phase("no flood", None).await?;
        let at = |rate: f64| Manner::Rate(rate);
        for (name, port, octets) in [("TLS", clients, hello), ("Noise", requests, first)] {
            let probe = Flood::new(vec![port], Sources::Many(MANY), vec![octets.clone()], at(f64::INFINITY));
            let capacity = f64::from(probe.run(CALIBRATION).await?.answered) / CALIBRATION.as_secs_f64();
            println!("{name} handshakes answered a second: {capacity:.0}");
            let flood = Flood::new(vec![port], Sources::Many(MANY), vec![octets.clone()], at(TIMES * capacity));
            self.phase(&format!("{TIMES} times the {name} handshakes"), Some((flood, TIMES * capacity))).await?;
        }
        for (name, port, octets) in [("request", requests, first), ("registrar", clients, hello), ("link", link, hello)]
        {
            for (whence, sources) in [("one address", Sources::One), ("many", Sources::Many(MANY))] {
                let flood = Flood::new(vec![port], sources, vec![octets.clone()], Manner::Slow(SLOW));
                self.phase(&format!("{SLOW} slow at the {name} port from {whence}"), Some((flood, 0.0))).await?;
            }
        }
        for (whence, sources) in [("one address", Sources::One), ("many", Sources::Many(MANY))] {
            let flood = Flood::new(vec![requests], sources, vec![first.clone()], at(f64::INFINITY));
            self.phase(&format!("replayed first messages from {whence}"), Some((flood, 0.0))).await?;
        }
        let noise: Vec<u8> = (0..3_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        let malformed = vec![
            vec![0xff; 8],
            vec![0; 4],
            [&[0, 0, 0, 80][..], &noise[..80]].concat(),
            [&first[..first.len() - 48], &noise[..48]].concat(),
            [&hello[..100], &noise].concat(),
            noise,
        ];
        let flood = Flood::new(vec![requests, link, clients], Sources::Many(MANY), malformed, at(f64::INFINITY));
        self.phase("malformed frames at every port", Some((flood, 0.0))).await
    }

    /// One flood, and what it did.
    async fn phase(&mut self, name: &str, flood: Option<(Flood, f64)>) -> Result<(), Failure> {
        let site = self.members.site();
        self.members.begin().await;
        let logged = site.logged();
        let before = [self.key_server.begin()?, self.registrar.begin()?];
        let wanted = flood.as_ref().map_or(0.0, |(_, wanted)| *wanted);
        let made = match flood {
            Some((flood, _)) => {
                let made = flood.run(self.time).await?;
                made.tell(name, wanted, self.time);
                made
            }
            None => {
                tokio::time::sleep(self.time).await;
                Tally::default()
            }
        };
        let heard = self.members.end().await?;
        let used = [self.key_server.end()?, self.registrar.end()?];
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let quiet = self.quiet.get_or_insert_with(|| heard.clone()).clone();
        let row = |of: &str| format!("{name}: {of}");
        let times =
            |of: &str, time, against| Row::new(row(of), (millis(time), "ms"), ("no flood", millis(against)), None);
        let within =
            |of: &str, time, (what, limit)| Row::new(row(of), (millis(time), "ms"), (what, millis(limit)), Some(1.0));
        let here = &mut self.rows;
        if wanted > 0.0 {
            let rate = f64::from(made.attempts) / self.time.as_secs_f64();
            here.push(Row::new(row("connections a second"), (rate, ""), ("meant", wanted), None));
        }
        here.push(times("a new key, median", heard.keys.median, quiet.keys.median));
        here.push(times("a new key, 99 of 100", heard.keys.most, quiet.keys.most));
        here.push(within("a new key, the last", heard.keys.last, ("on time", ON_TIME)));
        here.push(times("a member's request, median", heard.asked.median, quiet.asked.median));
        here.push(within("a member's request, longest", heard.asked.last, ("in the end", ANSWERED)));
        here.push(within("a registration, longest", heard.registered.last, ("in the end", ANSWERED)));
        let per_door = Limits::default().in_flight;
        let count = |number: usize| u32::try_from(number).map(f64::from);
        for (daemon, doors, before, used) in
            [("key server", 2, before[0], used[0]), ("registrar", 1, before[1], used[1])]
        {
            // Those for who is known, too.
            let places = doors * (per_door + per_door / 2);
            // Members' own requests and registrations, and one that is being reset at each door.
            // Each is a task as well.
            let descriptors = places + LINGERING + doors + usize::try_from(ASKERS)? + 2;
            let mebioctets = count(places * HANDSHAKE_KIB)? / 1_024.0;
            let bound = |limit| ("by the limits", limit);
            here.push(Row::new(
                row(&format!("more memory, {daemon}")),
                ((used.memory - before.memory).max(0.0), "MiB"),
                bound(mebioctets),
                Some(1.0),
            ));
            here.push(Row::new(
                row(&format!("more descriptors, {daemon}")),
                (count(used.descriptors.saturating_sub(before.descriptors))?, ""),
                bound(count(descriptors)?),
                Some(1.0),
            ));
            here.push(Row::new(
                row(&format!("more tasks, {daemon}")),
                (count(used.tasks.saturating_sub(before.tasks))?, ""),
                bound(count(descriptors)?),
                Some(1.0),
            ));
            here.push(Row::new(
                row(&format!("threads, {daemon}")),
                (count(used.threads)?, ""),
                ("before", count(before.threads)?),
                None,
            ));
        }
        let attempts = f64::from(made.attempts.max(1));
        let lines = f64::from(u32::try_from(site.logged() - logged)?);
        here.push(Row::new(row("octets in the logs"), (lines, ""), ("connections", attempts), None));
        let (keys, asked) = (heard.keys.count, heard.asked.count);
        println!(
            "{name}: {keys} keys came, {asked} requests and {} registrations were answered",
            heard.registered.count
        );
        Ok(())
    }
}
