use std::time::Duration;

use super::*;
use protocol::{DataKey, GroupId, MemberId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::core::{LiveKey, Status};

struct Running {
    feed: Feed,
    commanded: mpsc::Receiver<Command>,
    folder: tempfile::TempDir,
}

fn snapshot(epoch: u64) -> Snapshot {
    let live = LiveKey {
        epoch,
        reason: None,
        send_not_before: Duration::ZERO,
        send_until: None,
        receive_from: Duration::ZERO,
        receive_until: None,
        key: DataKey::new([7; 32]),
    };
    Snapshot {
        group: "demo".into(),
        group_id: Some(GroupId(1)),
        status: Status::Member,
        detail: String::new(),
        sender_id: Some(MemberId(9)),
        role: None,
        joined_epoch: Some(1),
        left_epoch: None,
        hold_ms: 4_000,
        keys: vec![live],
    }
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (commands, commanded) = mpsc::channel(MAX_WAITING);
        let feed = Feed::open(&folder.path().join("s"), BTreeSet::new(), Clock::start(), commands).unwrap();
        feed.publish("demo".into(), snapshot(1));
        Self { feed, commanded, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    /// Status code and body.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A body that is too long may be refused before it is read.
        let _ = stream.write_all(body.as_bytes()).await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        (head[9..12].parse().unwrap(), body.to_owned())
    }
}

#[tokio::test]
async fn routes_and_status_codes() {
    let mut running = Running::start();
    let long = "x".repeat(65);
    let applied = "/v1/groups/demo/applied";
    let table: [(&str, &str, String, u16); 18] = [
        ("GET", "/healthz", String::new(), 200),
        ("GET", "/v1/groups", String::new(), 200),
        ("GET", "/v1/groups/demo/keys", String::new(), 200),
        ("GET", "/v1/groups/none/keys", String::new(), 404),
        ("GET", "/v1/groups/none/watch", String::new(), 404),
        ("GET", "/v2/groups", String::new(), 404),
        ("POST", "/v1/groups", String::new(), 405),
        ("POST", applied, r#"{"consumer":"player","epoch":1}"#.into(), 204),
        ("POST", applied, r#"{"consumer":"player","epoch":1,"x":1}"#.into(), 422),
        ("POST", applied, r#"{"consumer":"player"}"#.into(), 422),
        ("POST", applied, "no json".into(), 400),
        ("POST", applied, r#"{"consumer":"","epoch":1}"#.into(), 400),
        ("POST", applied, format!(r#"{{"consumer":"{long}","epoch":1}}"#), 400),
        ("POST", applied, format!(r#"{{"consumer":"{}","epoch":1}}"#, "x".repeat(8_000)), 413),
        ("POST", "/v1/groups/none/applied", r#"{"consumer":"player","epoch":1}"#.into(), 404),
        ("POST", "/v1/groups/other/join", String::new(), 202),
        ("POST", "/v1/groups/none/leave", String::new(), 404),
        ("POST", "/v1/groups/demo/leave", String::new(), 202),
    ];
    for (method, path, body, expected) in table {
        let (code, answer) = running.ask(method, path, &body).await;
        assert_eq!(code, expected, "{method} {path} {body}: {answer}");
    }
    assert_eq!(running.ask("POST", &format!("/v1/groups/{long}/join"), "").await.0, 400);
    let mut commands = Vec::new();
    while let Ok(command) = running.commanded.try_recv() {
        commands.push(format!("{command:?}"));
    }
    let [applied, join, leave] = &commands[..] else { panic!("{commands:?}") };
    assert!(applied.contains("player") && join.contains("Join(\"other\")") && leave.contains("Leave(\"demo\")"));
    let (_, keys) = running.ask("GET", "/v1/groups/demo/keys", "").await;
    let keys: Value = serde_json::from_str(keys.trim()).unwrap();
    assert_eq!(keys["keys"][0]["secret"], "07".repeat(32));
}

#[tokio::test]
async fn status_is_asked_of_the_core() {
    let Running { feed, mut commanded, folder } = Running::start();
    let running = Running { feed, commanded: mpsc::channel(1).1, folder };
    let answer = tokio::spawn(async move {
        let Some(Command::Status(answer)) = commanded.recv().await else { panic!("a status command") };
        answer.send(json!({ "client_id": 9 })).unwrap();
        // Whoever asks now asks a daemon that is ending.
    });
    assert_eq!(running.ask("GET", "/v1/status", "").await, (200, r#"{"client_id":9}"#.to_owned()));
    answer.await.unwrap();
    assert_eq!(running.ask("GET", "/v1/status", "").await.0, 503);
}

/// A watcher after its head was read.
async fn watch(running: &Running) -> BufReader<UnixStream> {
    let mut stream = running.connect().await;
    stream.write_all(b"GET /v1/groups/demo/watch HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).await.unwrap(), 0);
    }
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/x-ndjson"), "{head}");
    reader
}

/// The epoch of the next line; `None` at the end.
async fn next_epoch(reader: &mut BufReader<UnixStream>) -> Option<u64> {
    loop {
        let mut text = String::new();
        let read = tokio::time::timeout(Duration::from_secs(5), reader.read_line(&mut text)).await;
        if read.expect("a line in time").unwrap_or(0) == 0 {
            return None;
        }
        // Chunk sizes stand between the lines.
        if let Ok(Value::Object(line)) = serde_json::from_str(text.trim()) {
            return line["keys"][0]["epoch"].as_u64();
        }
    }
}

#[tokio::test]
async fn a_watcher_gets_the_state_at_once_and_then_changes() {
    let running = Running::start();
    let mut reader = watch(&running).await;
    assert_eq!(next_epoch(&mut reader).await, Some(1));
    for epoch in 2..6 {
        running.feed.publish("demo".into(), snapshot(epoch));
        assert_eq!(next_epoch(&mut reader).await, Some(epoch));
    }
    let path = running.path();
    running.feed.close().await;
    assert_eq!(next_epoch(&mut reader).await, None, "the stream ends with the daemon");
    assert!(!path.exists(), "and the socket is gone");
}

#[tokio::test]
async fn a_slow_reader_misses_states_but_never_the_newest() {
    const LAST: u64 = 20_000;
    let running = Running::start();
    let mut reader = watch(&running).await;
    for epoch in 1..=LAST {
        running.feed.publish("demo".into(), snapshot(epoch));
        tokio::task::yield_now().await;
    }
    let (mut lines, mut before) = (0, 0);
    loop {
        let epoch = next_epoch(&mut reader).await.unwrap();
        assert!(epoch >= before, "never backwards");
        (lines, before) = (lines + 1, epoch);
        if epoch == LAST {
            break;
        }
    }
    assert!(lines < LAST / 2, "{lines} lines were kept for a reader that did not read");
}

#[tokio::test]
async fn one_daemon() {
    let running = Running::start();
    let (commands, _) = mpsc::channel(1);
    let again = |commands| Feed::open(&running.path(), BTreeSet::new(), Clock::start(), commands);
    let error = again(commands).err().unwrap().to_string();
    assert!(error.contains("another daemon answers"), "{error}");
}
