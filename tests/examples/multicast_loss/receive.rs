//! A receiver: verifies each unit, decodes, and compares what came out with what was sent and with what arrived.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use fec::{Assembly, Progress, ReedSolomon};
use net::multicast::{ReceiveOptions, Receiver};
use protocol::unit::{Unit, UnitVerifier};
use serde::Deserialize;
use tokio::net::UdpSocket;

use crate::Failure;
use crate::wire::{Answer, Round, Totals, contents, epoch, signing_key};

/// Where a receiver is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// Its own address, which names the interface; the group; where answers go.
    interface: IpAddr,
    group: SocketAddr,
    answers: SocketAddr,
    /// Its number.
    receiver: u32,
    /// The cell's.
    seed: u64,
}

pub(crate) async fn run(place: &Place) -> Result<(), Failure> {
    let options = ReceiveOptions { interface: place.interface.into(), ..ReceiveOptions::default() };
    let mut socket = Receiver::open(place.group, &options)?;
    let answers = UdpSocket::bind((place.interface, 0)).await?;
    let overflow_before = overflow()?;
    let mut receiving = Receiving {
        seed: place.seed,
        verifier: UnitVerifier::new(vec![signing_key()?.public()]),
        coder: ReedSolomon::new(),
        messages: BTreeMap::new(),
        totals: Totals::default(),
    };
    let mut said: Option<Answer> = None;
    let mut buf = [0; 2048];
    loop {
        let (length, _) = socket.recv(&mut buf).await?;
        let datagram = &buf[..length];
        if !datagram.starts_with(b"{") {
            receiving.unit(datagram)?;
            continue;
        }
        let round: Round = serde_json::from_slice(datagram)?;
        // Asked again, it says the same again.
        let answer = match said {
            Some(said) if said.round == round.number => said,
            _ => {
                let report = receiving.end(&round)?;
                receiving.totals.overflow = overflow()? - overflow_before;
                Answer { receiver: place.receiver, round: round.number, report, totals: receiving.totals }
            }
        };
        said = Some(answer);
        answers.send_to(&serde_json::to_vec(&answer)?, place.answers).await?;
        if round.last {
            return Ok(());
        }
    }
}

/// Datagrams that sockets of this network namespace had no room for: `RcvbufErrors` of `/proc/net/snmp`.
fn overflow() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/net/snmp")?;
    let mut udp = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let mut columns = udp.next().unwrap_or_default().split(' ').zip(udp.next().unwrap_or_default().split(' '));
    let (_, count) = columns.find(|(name, _)| *name == "RcvbufErrors").ok_or("the system does not count overflow")?;
    Ok(count.parse()?)
}

/// A message of which something has come.
struct Partial {
    assembly: Assembly,
    /// For each block, the indices that have come, as bits.
    arrived: BTreeMap<u16, u32>,
    whole: Option<Vec<u8>>,
}

struct Receiving {
    seed: u64,
    verifier: UnitVerifier,
    coder: ReedSolomon,
    messages: BTreeMap<u64, Partial>,
    totals: Totals,
}

impl Receiving {
    /// Takes a datagram that is no text; an empty one is the end of a unit-time.
    fn unit(&mut self, datagram: &[u8]) -> Result<(), Failure> {
        if datagram.is_empty() {
            self.totals.empty += 1;
            return Ok(());
        }
        self.totals.received += 1;
        // As one without the tag's key: everything rests on signature and digests.
        let unit = Unit::decode(datagram).ok().filter(|it| it.header.epoch == epoch(self.seed, it.header.epoch.epoch));
        let Some(verified) = unit.and_then(|unit| self.verifier.verify(&unit, || true).ok()) else {
            self.totals.refused += 1;
            return Ok(());
        };
        let header = verified.header;
        let partial = match self.messages.entry(header.epoch.epoch) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Partial {
                assembly: Assembly::new(usize::try_from(header.message_len)?, header.blocks)?,
                arrived: BTreeMap::new(),
                whole: None,
            }),
        };
        let arrived = partial.arrived.entry(header.block).or_default();
        self.totals.again += u64::from(*arrived >> verified.index & 1);
        *arrived |= 1 << verified.index;
        let (block, index, s, r, payload) = (header.block, verified.index, header.s, header.r, verified.payload);
        let unit = fec::Unit { block, index, s, r, payload };
        if let Progress::Complete { message, .. } = partial.assembly.insert(unit, &self.coder)? {
            partial.whole = Some(message);
        }
        Ok(())
    }

    /// Counts the messages of a round, all units of which have come or never will.
    fn end(&mut self, round: &Round) -> Result<[u32; 4], Failure> {
        let [mut expected, mut lost, mut runs, mut blocks] = [0; 4];
        for number in round.first..round.first + round.messages {
            let partial = self.messages.remove(&number);
            let mut enough = true;
            for ((s, r), block) in round.shapes.iter().zip(0..) {
                let arrived = partial.as_ref().and_then(|it| it.arrived.get(&block)).copied().unwrap_or_default();
                let gone = !arrived & u32::MAX >> (32 - u32::from(s + r));
                enough &= arrived.count_ones() >= u32::from(*s);
                expected += u32::from(s + r);
                lost += gone.count_ones();
                runs += (gone & !(gone << 1)).count_ones();
                blocks += 1;
            }
            let message = partial.and_then(|it| it.whole);
            let right = message.as_ref().is_some_and(|it| *it == contents(self.seed, number, round.octets));
            if round.counts {
                self.totals.messages += 1;
                self.totals.unrecovered += u64::from(!right);
            }
            self.totals.otherwise += u64::from(right != enough || message.is_some() != right);
        }
        if round.counts {
            self.totals.units += u64::from(expected);
            self.totals.lost += u64::from(lost);
            self.totals.runs += u64::from(runs);
        }
        Ok([expected, lost, runs, blocks])
    }
}
