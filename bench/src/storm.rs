//! Everybody misses the same message: what one re-synchronization costs the key server, and how long until all have the
//! present keys.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use fec::SplitMix64;
use net::admission::Limits;
use net::line::Line;
use net::noise::{self, StaticKey};
use protocol::Beacon;
use protocol::request::{MAX_REPLY, MAX_REQUEST, Outcome, Preamble};
use snow::Builder;

use crate::Failure;
use crate::crowd::client::host;
use crate::keyserver::KeyServer;
use crate::table::Row;

/// Exchanges that are timed; the median counts.
const EXCHANGES: usize = 2_000;
/// At the server at most so many times the bare handshake and sealing.
const NEAR_BARE: f64 = 1.5;
/// Seconds within which all members have the present keys.
const ALL_WITHIN: f64 = 30.0;
/// Seed of the members' random waits.
const SEED: u64 = 2_026;
/// The pattern that snow is told.
const PATTERN: &str = "Noise_NKpsk0_25519_ChaChaPoly_SHA256";

/// All rows for a simulated group of so many members, and for a crowd of so many real clients.
pub(crate) fn rows(members: u32, clients: u32) -> Result<Vec<Row>, Failure> {
    let mut server = KeyServer::with_members(members)?;
    let (ours, bare) = exchanges(&mut server)?;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let against = ("bare Noise handshake and sealing", micros(bare));
    let mut rows = vec![
        Row::new("re-synchronize, time at the server".into(), (micros(ours), "us"), against, Some(NEAR_BARE)),
        Row::new(
            "re-synchronize, requests a second and core".into(),
            (1e6 / micros(ours), "1/s"),
            ("configured by default", 4_000.0),
            None,
        ),
    ];
    println!("seed {SEED}");
    let storm = storm(&mut server, members, ours)?;
    let name = |of: &str| format!("storm {members} members {of}");
    let number = |count: usize| -> Result<f64, Failure> { Ok(f64::from(u32::try_from(count)?)) };
    let all = storm.last.as_secs_f64();
    rows.push(Row::new(name("until all are current"), (all, "s"), ("promised", ALL_WITHIN), Some(1.0)));
    let limit = number(Limits::default().in_flight)?;
    rows.push(Row::new(
        name("longest queue"),
        (number(storm.longest)?, "requests"),
        ("handshakes let in", limit),
        Some(1.0),
    ));
    let asked = number(storm.asked)?;
    rows.push(Row::new(name("requests"), (asked, "requests"), ("members", f64::from(members)), None));
    rows.push(Row::new(name("told to come back"), (number(storm.later)?, "requests"), ("of all", asked), None));
    rows.push(Row::new(
        name("turned away at the door"),
        (number(storm.turned_away)?, "requests"),
        ("of all", asked),
        None,
    ));
    rows.push(Row::new(name("without an answer"), (number(storm.lost)?, "requests"), ("of all", asked), Some(0.0)));
    rows.extend(crate::crowd::rows(clients)?);
    Ok(rows)
}

/// The server's time for a whole exchange, and for its cryptography alone with the library called directly: medians, taken in
/// turn.
fn exchanges(server: &mut KeyServer) -> Result<(Duration, Duration), Failure> {
    let key = StaticKey::generate()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for turn in 0..EXCHANGES {
        let client = server.client(turn);
        let preamble = Preamble { key_server: "ks".into(), client: client.0, registration: client.1 };
        let (time, request, reply) = runtime.block_on(exchange(server, &key, &preamble))?;
        ours.push(time);
        bare.push(bare_exchange(&preamble.encode(), request, reply)?);
    }
    ours.sort_unstable();
    bare.sort_unstable();
    Ok((ours[EXCHANGES / 2], bare[EXCHANGES / 2]))
}

/// One exchange over a pipe; of its time only what the server computes. And the octets of request and reply.
async fn exchange(
    server: &mut KeyServer,
    key: &StaticKey,
    preamble: &Preamble,
) -> Result<(Duration, usize, usize), Failure> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let psk = server.key(preamble);
    let request = server.resync(u64::MAX);
    let client = async {
        let mut stream = noise::connect(near, &preamble.encode(), key.public(), psk.expose()).await?;
        stream.send(&request).await?;
        stream.receive(MAX_REPLY).await
    };
    let answer = async {
        let mut far = far;
        let octets = noise::read_preamble(&mut far).await?;
        let preamble = Preamble::decode(&octets)?;
        let psk = server.key(&preamble);
        let mut stream = noise::accept(far, &octets, key, psk.expose()).await?;
        let message = stream.receive(MAX_REQUEST).await?;
        let reply = server.answer(&preamble, &message);
        stream.send(&reply).await?;
        Ok::<_, Failure>(())
    };
    let mut timed = pin!(Timed { future: Box::pin(answer), spent: Duration::ZERO });
    let (reply, answered) = tokio::join!(client, timed.as_mut());
    answered?;
    Ok((timed.spent, request.len(), reply?.len()))
}

/// A future that knows how long it has been polled.
struct Timed<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    spent: Duration,
}

impl<T> Future for Timed<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let begun = Instant::now();
        let polled = self.future.as_mut().poll(context);
        self.spent += begun.elapsed();
        polled
    }
}

/// The responder's part of handshake, request and reply, with nothing around it.
fn bare_exchange(preamble: &[u8], request: usize, reply: usize) -> Result<Duration, Failure> {
    let psk = [9; 32];
    let key = Builder::new(PATTERN.parse()?).generate_keypair()?;
    let builder =
        || -> Result<Builder<'_>, Failure> { Ok(Builder::new(PATTERN.parse()?).prologue(preamble)?.psk(0, &psk)?) };
    let mut client = builder()?.remote_public_key(&key.public)?.build_initiator()?;
    let (mut wire, mut plain) = (vec![0; 65_535], vec![0; 65_535]);
    let first = client.write_message(&[], &mut wire)?;
    let begun = Instant::now();
    let mut server = builder()?.local_private_key(&key.private)?.build_responder()?;
    server.read_message(&wire[..first], &mut plain)?;
    let second = server.write_message(&[], &mut wire)?;
    let mut server = server.into_transport_mode()?;
    let mut spent = begun.elapsed();
    client.read_message(&wire[..second], &mut plain)?;
    let mut client = client.into_transport_mode()?;
    let length = client.write_message(&vec![0; request], &mut wire)?;
    let reply = vec![0; reply];
    let begun = Instant::now();
    server.read_message(&wire[..length], &mut plain)?;
    server.write_message(&reply, &mut wire)?;
    spent += begun.elapsed();
    Ok(spent)
}

/// What became of a storm.
#[derive(Default)]
struct Storm {
    /// When the last member had the present keys.
    last: Duration,
    asked: usize,
    later: usize,
    turned_away: usize,
    lost: usize,
    longest: usize,
}

/// All members hear the same beacon at time 0 and nothing before it. Requests are served one after the other, each for `cost`, by a
/// key server that decides as the real one, because it is the real one; those that find no place are told when to come again, and do.
fn storm(server: &mut KeyServer, members: u32, cost: Duration) -> Result<Storm, Failure> {
    let mut dice = SplitMix64::new(SEED);
    let beacon = Beacon::decode(&server.change()?)?;
    let wait = u64::from(beacon.resync_wait_ms) * 1_000;
    println!("the beacon announces a wait of at most {} ms", beacon.resync_wait_ms);
    let begun = server.now();
    // When who asks, and for which time; in microseconds.
    let mut coming: BTreeSet<(u64, u32)> = (0..members).map(|member| (dice.below(wait + 1), member)).collect();
    let cost = u64::try_from(cost.as_micros())?.max(1);
    let mut line = Line::new(Limits::default().in_flight);
    let mut storm = Storm::default();
    // When those who are inside are done.
    let mut inside: std::collections::VecDeque<u64> = std::collections::VecDeque::new();
    while let Some((at, member)) = coming.pop_first() {
        while let Some(done) = inside.front().copied().filter(|done| *done <= at) {
            inside.pop_front();
            line.left(Duration::from_micros(done));
        }
        storm.asked += 1;
        let (now, source) = (Duration::from_micros(at), host(member).into());
        if !line.may_enter(now, source, inside.len()) {
            storm.turned_away += 1;
            let after = u64::try_from(line.send_away(now, source).as_micros())?;
            coming.insert((at + after + dice.below((after / 8).min(500_000) + 1), member));
            continue;
        }
        let done = inside.back().copied().unwrap_or(at).max(at) + cost;
        inside.push_back(done);
        storm.longest = storm.longest.max(inside.len());
        server.advance_to(begun + Duration::from_micros(done));
        match server.ask_resync(usize::try_from(member)?)? {
            Some(Outcome::Granted(_)) => storm.last = storm.last.max(Duration::from_micros(done)),
            Some(Outcome::Later { after_ms }) => {
                storm.later += 1;
                let after = u64::from(after_ms) * 1_000;
                coming.insert((done + after + dice.below(after / 8 + 1), member));
            }
            _ => storm.lost += 1,
        }
    }
    Ok(storm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_storm_passes() {
        let mut server = KeyServer::with_members(3_000).unwrap();
        // A server so slow that all of them at once are too many.
        let storm = storm(&mut server, 3_000, Duration::from_millis(1)).unwrap();
        assert_eq!(storm.lost, 0);
        assert!(storm.asked >= 3_000 && storm.longest <= Limits::default().in_flight);
        assert!(storm.last < Duration::from_secs(30), "{:?}", storm.last);
    }
}
