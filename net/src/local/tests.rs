use axum::body::Bytes;
use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;

/// Times that a test can wait for.
const SHORT: Limits = Limits {
    places: 5,
    strangers: 2,
    head: Duration::from_millis(300),
    answer: Duration::from_millis(300),
    write: Duration::from_millis(300),
};

struct Running {
    folder: tempfile::TempDir,
    close: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl Running {
    fn start(callers: Callers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let door = Door::open(&folder.path().join("s"), callers).unwrap().with(SHORT);
        let router = Router::new()
            .route("/here", get(|| async { "yes" }))
            .route("/never", get(std::future::pending::<&str>))
            .route("/told", post(|body: Bytes| async move { body.len().to_string() }))
            .route("/much", get(|| async { vec![b'x'; 64 << 20] }));
        let (close, closed) = oneshot::channel::<()>();
        let server = tokio::spawn(door.serve(router, async { drop(closed.await) }));
        Self { folder, close, server }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }
}

/// All that comes until the end. A connection that is cut ends with what had come.
async fn rest(stream: &mut UnixStream) -> String {
    let mut all = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut all)).await;
    ended.expect("the connection is held").ok();
    String::from_utf8(all).unwrap()
}

async fn ask(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(stream).await
}

const HERE: &str = "GET /here HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn whoever_says_nothing_or_half_of_it_or_stops_after_one_request_gives_the_place_back() {
    let running = Running::start(Callers::Users(BTreeSet::new()));
    let one = HERE.replace("connection: close\r\n", "");
    for said in ["", "GET /here HT", "GET /here HTTP/1.1\r\nhost: x\r\n", &one] {
        let mut held = Vec::new();
        for _ in 0..SHORT.places {
            let mut stream = running.connect().await;
            stream.write_all(said.as_bytes()).await.unwrap();
            held.push(stream);
        }
        // All places are taken.
        let mut late = running.connect().await;
        assert_eq!(rest(&mut late).await, "");
        for stream in &mut held {
            let heard = rest(stream).await;
            assert_eq!(heard.contains("200 OK"), said == one, "{said:?}: {heard}");
        }
        assert!(ask(&mut running.connect().await, HERE).await.ends_with("yes"), "there is place again");
    }
}

#[tokio::test]
async fn half_a_body_and_an_answer_that_does_not_come_have_their_time() {
    let running = Running::start(Callers::Anybody);
    for said in
        ["POST /told HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345", "GET /never HTTP/1.1\r\nhost: x\r\n\r\n"]
    {
        let heard = ask(&mut running.connect().await, said).await;
        assert!(heard.starts_with("HTTP/1.1 408") && heard.contains("no answer in time"), "{said:?}: {heard}");
    }
    let whole = "POST /told HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\n12345";
    assert!(ask(&mut running.connect().await, whole).await.ends_with('5'));
}

#[tokio::test]
async fn whoever_takes_nothing_of_an_answer_is_cut_off_and_whoever_takes_it_slowly_is_not() {
    let running = Running::start(Callers::Anybody);
    let request = HERE.replace("here", "much");
    let (mut deaf, mut slow) = (running.connect().await, running.connect().await);
    deaf.write_all(request.as_bytes()).await.unwrap();
    slow.write_all(request.as_bytes()).await.unwrap();
    let (mut taken, mut some) = (0, vec![0; 1 << 20]);
    let since = Instant::now();
    loop {
        match slow.read(&mut some).await.unwrap() {
            0 => break,
            octets => taken += octets,
        }
        if since.elapsed() < 3 * SHORT.write {
            tokio::time::sleep(SHORT.write / 10).await;
        }
    }
    assert!(taken > 64 << 20 && since.elapsed() > 3 * SHORT.write);
    assert!(rest(&mut deaf).await.len() < 64 << 20, "it was held all the time");
}

#[tokio::test]
async fn strangers_hear_so_and_take_nobody_s_place() {
    let running = Running::start(Callers::Nobody);
    for path in ["/here", "/nowhere"] {
        let heard = ask(&mut running.connect().await, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert!(heard.starts_with("HTTP/1.1 403") && heard.contains("may not call here"), "{heard}");
    }
    let mut held = Vec::new();
    for _ in 0..SHORT.strangers {
        held.push(running.connect().await);
    }
    assert_eq!(rest(&mut running.connect().await).await, "", "their places are taken");
    drop(held);
    let both = Callers::Users(BTreeSet::from([4_711]));
    assert!(both.include(Some(4_711)) && both.include(Some(0)) && !both.include(Some(4_712)) && !both.include(None));
}

#[tokio::test]
async fn what_is_there_is_respected_and_what_is_left_is_removed() {
    let running = Running::start(Callers::Anybody);
    let error = Door::open(&running.path(), Callers::Anybody).unwrap_err().to_string();
    assert!(error.contains("another daemon answers"), "{error}");
    let mode = std::fs::metadata(running.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let file = running.folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    Door::open(&file, Callers::Anybody).unwrap_err();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let stale = running.folder.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    drop(Door::open(&stale, Callers::Anybody).unwrap());
    assert!(!stale.exists());
}

#[tokio::test]
async fn at_the_end_calls_get_a_moment_and_the_file_goes() {
    let running = Running::start(Callers::Anybody);
    let (mut idle, mut waiting) = (running.connect().await, running.connect().await);
    waiting.write_all(HERE.replace("here", "never").as_bytes()).await.unwrap();
    let path = running.path();
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.close.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), running.server).await.unwrap().unwrap();
    assert!(!path.exists());
    assert_eq!(rest(&mut idle).await, "");
    rest(&mut waiting).await;
}
