//! Relays on real sockets, in a ring.
#![allow(clippy::disallowed_methods, reason = "a test of sockets has tasks and a clock")]

use std::collections::BTreeSet;
use std::path::Path;

use net::Shutdown;
use net::multicast::{ReceiveOptions, Receiver, SendOptions, Sender};
use net::site::SiteFiles;
use protocol::site::SiteCertificate;

use super::super::config::{Input, Output, Settings};
use super::super::shell;
use super::*;
use crate::unix_http::ask;

const DATAGRAMS: usize = 600;

async fn status(path: &Path) -> serde_json::Value {
    for _ in 0..200 {
        if let Ok(status) = ask(path, "/v1/status", None).await {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no relay answers");
}

/// A certificate of those keys.
fn site_files(folder: &Path) -> SiteFiles {
    let (key_server, noise) = ("ks".to_owned(), vec![[7; 32]]);
    let certificate = SiteCertificate { key_server, not_before: 0, not_after: u64::MAX, signing: keys(), noise };
    let site = SigningKey::from_seed(&[9; 32]).unwrap();
    std::fs::write(folder.join("ks.site"), hex::encode(certificate.sign(&site))).unwrap();
    SiteFiles::new(&hex::encode(site.public().octets()), Path::new("ks.site"), folder)
}

#[tokio::test]
async fn a_ring_of_relays_ends_every_loop_and_a_network_behind_it_gets_each_datagram_once() {
    let folder = tempfile::tempdir().unwrap();
    let free = || {
        let receiver = Receiver::unicast("127.0.0.1:0".parse().unwrap()).unwrap();
        receiver.local().unwrap()
    };
    let doors = [free(), free(), free()];
    let port = doors[0].port();
    let [before, behind] = [1, 2].map(|last| SocketAddr::from(([239, 78, 7, last], port)));
    let interface: net::multicast::Interface = "lo".parse().unwrap();
    let receive = || ReceiveOptions { interface: interface.clone(), sources: vec![] };
    let send = || SendOptions { interface: interface.clone(), ..SendOptions::default() };
    let site_files = site_files(folder.path());
    let site = site_files.load().unwrap();
    let shutdown = Shutdown::new();
    let mut relays = Vec::new();
    for at in 0..3 {
        // Each sends to the next. The first listens to a multicast network, the last sends to another.
        let mut inputs = vec![Input { address: doors[at], multicast: None }];
        let mut outputs = vec![Output { address: doors[(at + 1) % 3], multicast: None, dscp: 0 }];
        if at == 0 {
            inputs.push(Input { address: before, multicast: Some(receive()) });
        }
        if at == 2 {
            outputs.push(Output { address: behind, multicast: Some(send()), dscp: 0 });
        }
        let status_socket = Some(folder.path().join(format!("{at}.sock")));
        let (site, site_files) = (site.clone(), site_files.clone());
        let settings = Settings { site, site_files, status_socket, report: Duration::from_secs(60), inputs, outputs };
        relays.push(tokio::spawn(shell::run(settings, shutdown.clone())));
    }
    for at in 0..3 {
        status(&folder.path().join(format!("{at}.sock"))).await;
    }
    let mut sink = Receiver::open(behind, &receive()).unwrap();
    let source = Sender::open(before, &send()).unwrap();
    let datagrams: Vec<Vec<u8>> = (0..24).flat_map(|at| REIGN.block_of(1, (at, 24), (16, 9))).take(DATAGRAMS).collect();
    let forged = Reign { signer: 2, ..REIGN }.block(2, (16, 9));
    let mut arrived = BTreeSet::<Vec<u8>>::new();
    let (mut buf, mut rest) = ([0; 2_000], datagrams.chunks(25));
    // A block at a time, so that no socket's buffer overflows on a busy machine.
    while arrived.len() < DATAGRAMS {
        if let Some(block) = rest.next() {
            source.send_all(block).await.unwrap();
            source.send_all(&forged).await.unwrap();
        }
        let wait = if rest.len() == 0 { Duration::from_secs(10) } else { Duration::from_millis(20) };
        while arrived.len() < DATAGRAMS
            && let Ok(received) = tokio::time::timeout(wait, sink.recv(&mut buf)).await
        {
            let is_new = arrived.insert(buf[..received.unwrap().0].to_vec());
            assert!(is_new, "one came twice");
        }
        assert!(rest.len() > 0 || arrived.len() == DATAGRAMS, "{} of {DATAGRAMS} arrived", arrived.len());
    }
    // Were there a loop, it would go on now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), sink.recv(&mut buf)).await.is_err(), "one came twice");
    assert!(datagrams.iter().all(|sent| arrived.contains(sent)));
    for at in 0..3 {
        let status = status(&folder.path().join(format!("{at}.sock"))).await;
        let counters = &status["counters"];
        assert_eq!(counters["passed"], DATAGRAMS, "{status}");
        assert_eq!(counters["duplicate"], if at == 0 { DATAGRAMS } else { 0 }, "the loop ends where it began");
        assert_eq!(status["blocks"], 24, "{status}");
        let bogus = counters["forged"].as_u64().unwrap() + counters["unchecked"].as_u64().unwrap();
        assert_eq!(bogus, if at == 0 { 24 * 25 } else { 0 }, "{status}");
    }
    shutdown.trigger();
    for relay in relays {
        relay.await.unwrap().unwrap();
    }
    assert!(!folder.path().join("0.sock").exists());
}
