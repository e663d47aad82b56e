//! After a blackout: key server, registrar and all clients were killed and start at once. Clients have lost everything that was
//! not on disk, so each registers anew, joins, and gets the present keys.

mod hosts;
mod simulated;

use std::time::{Duration, Instant};

use client_ctl::config::KeyMaking;

use crate::Failure;
use crate::crowd::site::Site;
use crate::crowd::{Gathered, OTHERS, descriptors};
use crate::table::Row;
use hosts::Hosts;

/// Seconds in which all clients of one site hold the present keys again.
const ALL_WITHIN: f64 = 30.0;
/// Time for all of them to come.
const READY: Duration = Duration::from_secs(300);
/// Descriptors for each client: its multicast socket, both ends of two connections, one of a third, and an address that listens.
const DESCRIPTORS: u64 = 7;

/// All rows for so many real clients, and so many simulated ones.
pub(crate) fn rows(clients: u32, members: u32) -> Result<Vec<Row>, Failure> {
    let mut rows = real(clients)?;
    for registrars in [1, 4] {
        rows.extend(simulated::rows(members, registrars)?);
    }
    Ok(rows)
}

fn real(clients: u32) -> Result<Vec<Row>, Failure> {
    descriptors(DESCRIPTORS * u64::from(clients) + OTHERS)?;
    let mut site = Site::of_processes(clients)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let in_turns = runtime.block_on(async {
        let begun = Instant::now();
        let mut all = Gathered::in_turns(&mut site, clients).await?;
        let took = begun.elapsed();
        all.living.shutdown().await;
        Ok::<_, Failure>(took)
    })?;
    let before = (site.members()?, site.group()?.1);
    site.power_off()?;
    println!("{clients} clients have come in turns in {:.1} s; all is dark", in_turns.as_secs_f64());
    let (took, tally, highest) = runtime.block_on(async {
        let mut hosts = Hosts::open(clients, site.registrars()[0]).await?;
        let at = |number| site.settings_at(number, &hosts.addresses[usize::try_from(number)?], KeyMaking::default());
        let settings = (0..clients).map(at);
        let settings = settings.collect::<Result<Vec<_>, Failure>>()?;
        let begun = Instant::now();
        let mut all = Gathered::begin(&site);
        for (number, settings) in (0..).zip(settings) {
            all.add(number, settings, None);
        }
        // The clients run on the runtime's threads meanwhile.
        site.run()?;
        all.ready(&mut site, clients, READY).await?;
        let took = begun.elapsed();
        let tally = all.crowd.take_tally();
        all.living.shutdown().await;
        Ok::<_, Failure>((took, tally, hosts.highest()))
    })?;
    let after = (site.members()?, site.group()?.1);
    let lost = before.0.difference(&after.0).count() + after.0.difference(&before.0).count();
    if after.1 <= before.1 {
        return Err(format!("epoch {} follows epoch {}", after.1, before.1).into());
    }
    let name = |of: &str| format!("blackout, {clients} clients: {of}");
    let (all, count) = (f64::from(clients), |number: u32| (f64::from(number), ""));
    let registrations = ("of all", f64::from(tally.registrations.max(1)));
    let requests = ("of all", f64::from(tally.asked.max(1)));
    Ok(vec![
        Row::new(name("until all are current"), (took.as_secs_f64(), "s"), ("allowed", ALL_WITHIN), Some(1.0)),
        Row::new(
            name("the same"),
            (took.as_secs_f64(), "s"),
            ("the same clients in turns", in_turns.as_secs_f64()),
            None,
        ),
        Row::new(name("attempts to register"), count(tally.registrations), ("clients", all), None),
        Row::new(name("registrations that failed"), count(tally.not_registered), registrations, None),
        Row::new(name("connections to the registrar at once"), count(highest), ("clients", all), None),
        Row::new(name("requests"), count(tally.asked), ("clients", all), None),
        Row::new(name("requests turned away"), count(tally.turned_away), requests, None),
        Row::new(name("requests told to come back"), count(tally.later), requests, None),
        Row::new(name("requests without an answer"), count(tally.unanswered), requests, Some(0.0)),
        Row::new(name("registered again"), count(tally.registered_again), ("clients", all), None),
        Row::new(name("members lost or changed"), (f64::from(u32::try_from(lost)?), ""), ("clients", all), Some(0.0)),
    ])
}
