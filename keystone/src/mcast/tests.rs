//! Sender and receivers over real multicast on loopback, with a feed made by hand.
#![allow(clippy::disallowed_methods, reason = "every test waits for the ends that it is about")]
#![allow(clippy::disallowed_types, reason = "a test of sockets")]

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use clap::Parser;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    args: Args,
}

/// A `client-ctl` that says what the test tells it to.
struct FakeFeed {
    folder: TempDir,
    line: watch::Sender<String>,
    cut: broadcast::Sender<()>,
    posts: Arc<Mutex<Vec<String>>>,
}

impl FakeFeed {
    fn start(first: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("ctl.sock")).unwrap();
        let (line, _) = watch::channel(first.to_owned());
        let (cut, _) = broadcast::channel(1);
        let feed = Self { folder, line, cut, posts: Arc::default() };
        let (line, cut, posts) = (feed.line.clone(), feed.cut.clone(), feed.posts.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, line.subscribe(), cut.subscribe(), posts.clone()));
            }
        });
        feed
    }

    fn say(&self, line: &str) {
        self.line.send_replace(line.to_owned());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn options(&self) -> Vec<String> {
        vec!["--socket".into(), self.path("ctl.sock").display().to_string(), "--group".into(), "demo".into()]
    }
}

async fn serve(
    stream: UnixStream,
    mut line: watch::Receiver<String>,
    mut cut: broadcast::Receiver<()>,
    posts: Arc<Mutex<Vec<String>>>,
) {
    let mut stream = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    stream.read_line(&mut request).await.unwrap();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.unwrap();
        match header.trim().to_lowercase().strip_prefix("content-length:") {
            Some(text) => length = text.trim().parse().unwrap(),
            None if header.trim().is_empty() => break,
            None => {}
        }
    }
    if request.starts_with("POST /v1/groups/demo/") {
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        if request.starts_with("POST /v1/groups/demo/applied ") {
            posts.lock().unwrap().push(String::from_utf8(body).unwrap());
        }
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        return;
    }
    assert!(request.starts_with("GET /v1/groups/demo/watch "), "{request}");
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let _ = stream.write_all(head.as_bytes()).await;
    loop {
        let text = line.borrow_and_update().clone();
        // Two chunks, because a line need not come in one piece.
        for piece in [&text[..5], &format!("{}\n", &text[5..])] {
            let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = line.changed() => if changed.is_err() { return },
            _ = cut.recv() => return,
        }
    }
}

fn state(status: &str, keys: &[(u64, bool, u64)]) -> String {
    let key = |(epoch, revoke, delay): &(u64, bool, u64)| {
        serde_json::json!({"epoch": epoch, "kid": epoch, "revoke": revoke, "send_not_before_ms": delay,
            "send_until_ms": null, "receive_from_ms": 0, "receive_until_ms": null,
            "secret": format!("{epoch:064x}"), "derived": {}})
    };
    let keys: Vec<_> = keys.iter().map(key).collect();
    serde_json::json!({"v": 1, "group": "demo", "group_id": 1, "status": status, "detail": "by the operator",
        "sender_id": 7, "hold_ms": 1500, "keys": keys})
    .to_string()
}

/// Standard output that the test can look at.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn octets(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Running {
    exit: JoinHandle<Exit>,
    shutdown: Shutdown,
    output: Shared,
}

impl Running {
    async fn exit(self) -> Exit {
        tokio::time::timeout(Duration::from_secs(15), self.exit).await.expect("ends in time").unwrap()
    }
}

/// A group and a port that no other run on this machine has: the port is the system's choice. The third octet tells the
/// receivers of one run from those of another that got the port a moment later.
fn free_address() -> String {
    let port = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    format!("239.77.{}.1:{port}", std::process::id() % 250 + 1)
}

fn arguments(command: &str, feed: &FakeFeed, more: &[&str]) -> Args {
    let mut all = vec!["keystone".to_owned(), command.to_owned()];
    all.extend(feed.options());
    all.extend(more.iter().map(|text| (*text).to_owned()));
    Cli::try_parse_from(all).unwrap().args
}

fn recv(feed: &FakeFeed, address: &str, more: &[&str]) -> Running {
    let more = [&["--listen", address], more].concat();
    let Args::Recv(args) = arguments("recv", feed, &more) else { panic!("recv") };
    let (shutdown, output) = (Shutdown::new(), Shared::default());
    let exit = tokio::spawn(recv::run(args, output.clone(), shutdown.clone()));
    Running { exit, shutdown, output }
}

fn send(feed: &FakeFeed, address: &str, input: Vec<u8>, more: &[&str]) -> Running {
    let more = [&["--to", address], more].concat();
    let Args::Send(args) = arguments("send", feed, &more) else { panic!("send") };
    let shutdown = Shutdown::new();
    let token = shutdown.clone();
    let exit = tokio::spawn(async move { send::run(args, input.as_slice(), token).await });
    Running { exit, shutdown, output: Shared::default() }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn octet(line: &serde_json::Value, field: &str) -> usize {
    usize::try_from(line[field].as_u64().unwrap()).unwrap()
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

fn input(octets: usize) -> Vec<u8> {
    (0u64..).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()).take(octets).collect()
}

/// A rotation whose key comes late to one receiver, a feed that breaks, an eviction, a late joiner.
#[tokio::test]
async fn a_stream_through_rotation_and_eviction() {
    let address = &free_address();
    let first = state("member", &[(5, false, 0)]);
    let sending = FakeFeed::start(&first);
    let (staying, evicted, joining) =
        (FakeFeed::start(&first), FakeFeed::start(&first), FakeFeed::start(&state("joining", &[])));
    let (log, stats) = (staying.path("log"), staying.path("stats"));
    let options = ["--log", log.to_str().unwrap(), "--output-stats", stats.to_str().unwrap()];
    let stays = recv(&staying, address, &options);
    let out_log = evicted.path("log");
    let out = recv(&evicted, address, &["--keep-listening", "--log", out_log.to_str().unwrap()]);
    let joins = recv(&joining, address, &[]);
    pause(200).await;
    let file = input(400_000);
    let ranges = sending.path("ranges");
    // 1.6 seconds at 2 Mbit/s, and a tenth more for headers and tags.
    let options = ["--rate", "2000000", "--linger-ms", "500", "--log", ranges.to_str().unwrap()];
    let sender = send(&sending, address, file.clone(), &options);
    pause(300).await;
    let rotated = state("member", &[(5, false, 0), (6, false, 100)]);
    evicted.say(&rotated);
    sending.say(&rotated);
    pause(300).await;
    // The key comes 200 ms after its first use, the joiner's first of all.
    staying.say(&state("member", &[(5, false, 0), (6, false, 0)]));
    joining.say(&state("member", &[(6, false, 0)]));
    pause(100).await;
    staying.cut.send(()).unwrap();
    sending.cut.send(()).unwrap();
    pause(200).await;
    evicted.say(&state("evicted", &[]));
    let revoked = state("member", &[(6, false, 0), (7, true, 0)]);
    [&sending, &staying, &joining].iter().for_each(|feed| feed.say(&revoked));
    assert_eq!(sender.exit().await, Exit::Ok);
    let (all, part) = (stays.output.clone(), joins.output.clone());
    assert_eq!(stays.exit().await, Exit::Ok);
    assert_eq!(joins.exit().await, Exit::Ok);
    out.shutdown.trigger();
    let cut = out.output.clone();
    assert_eq!(out.exit().await, Exit::Failure);

    let ranges = lines(&ranges);
    let epochs: Vec<usize> = ranges.iter().map(|line| octet(line, "epoch")).collect();
    assert_eq!(epochs, [5, 6, 7]);
    assert_eq!(octet(&ranges[2], "to_octet"), file.len());
    assert_eq!(all.octets(), file);
    assert_eq!(part.octets(), file[octet(&ranges[1], "from_octet")..]);
    assert_eq!(cut.octets(), file[..octet(&ranges[1], "to_octet")]);
    for (mine, theirs) in lines(&log).iter().zip(&ranges) {
        for field in ["epoch", "from_octet", "to_octet"] {
            assert_eq!(mine[field], theirs[field]);
        }
        assert_eq!(mine["sender"], 7);
    }
    assert_eq!((lines(&log).len(), lines(&out_log).len()), (3, 2));
    let summary = &lines(&stats)[0];
    assert_eq!((&summary["complete"], &summary["streams"][0]["octets"]), (&true.into(), &400_000.into()));
    let posts = sending.posts.lock().unwrap().join(" ");
    assert!(posts.contains("mcast-send-") && posts.contains("\"epoch\":7"), "{posts}");
    assert!(staying.posts.lock().unwrap().join(" ").contains("mcast-recv-"));
}

#[tokio::test]
async fn who_is_out_stops_at_once() {
    let address = &free_address();
    let feed = FakeFeed::start(&state("member", &[(5, false, 0)]));
    let receiver = recv(&feed, address, &[]);
    let sender = send(&feed, address, input(10_000_000), &[]);
    pause(300).await;
    feed.say(&state("evicted", &[]));
    assert_eq!(sender.exit().await, Exit::NotMember);
    let output = receiver.output.clone();
    assert_eq!(receiver.exit().await, Exit::NotMember);
    assert!(!output.octets().is_empty());
}

#[tokio::test]
async fn without_a_key_nothing_is_read_and_a_signal_ends_it() {
    let address = &free_address();
    let feed = FakeFeed::start(&state("joining", &[]));
    let (receiver, sender) = (recv(&feed, address, &[]), send(&feed, address, input(1000), &[]));
    pause(200).await;
    assert!(!sender.exit.is_finished() && !receiver.exit.is_finished());
    sender.shutdown.trigger();
    receiver.shutdown.trigger();
    // The sender has no key to say good-bye with, and nothing to say.
    assert_eq!((sender.exit().await, receiver.exit().await), (Exit::Ok, Exit::Ok));
}

#[tokio::test]
async fn an_idle_receiver_ends_and_a_wrong_address_is_refused() {
    let address = &free_address();
    let feed = FakeFeed::start(&state("member", &[(5, false, 0)]));
    let receiver = recv(&feed, address, &["--idle-ms", "300"]);
    pause(100).await;
    let sender = send(&feed, address, input(1_000_000), &[]);
    while receiver.output.octets().is_empty() {
        pause(10).await;
    }
    sender.exit.abort();
    assert_eq!(receiver.exit().await, Exit::Ok);
    assert_eq!(recv(&feed, "127.0.0.1:7000", &[]).exit().await, Exit::Usage);
    assert_eq!(send(&feed, "239.77.91.1:0", Vec::new(), &[]).exit().await, Exit::Usage);
}

#[test]
fn bad_arguments() {
    let base = ["keystone", "send", "--socket", "s", "--to", "239.0.0.1:1"];
    for more in [&["--group", "a/b"][..], &["--group", "g", "--payload", "1201"], &["--group", "g", "--payload", "0"]] {
        Cli::try_parse_from(base.iter().chain(more)).unwrap_err();
    }
    Cli::try_parse_from(base.iter().chain(&["--group", "g"])).unwrap();
}
