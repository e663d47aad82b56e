//! The door for clients: TLS 1.3, then one message that says and proves who they are.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use net::admission::{Admission, Limits, Ticket};
use net::frame::{FrameError, read_frame, write_frame};
use net::reload::Reloaded;
use net::shutdown::Shutdown;
use protocol::Credential;
use protocol::identity::Identity;
use protocol::registration::{FromClient, MAX_CLIENT_FRAME, Refusal, RefusalCode, ToClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::{Command, Doors, Failure, ForClient};
use crate::authentication::{Methods, Shown};

/// After the last frame the client has this long to close its end.
const LINGER: Duration = Duration::from_secs(1);

/// What the door needs.
pub(super) struct Door {
    pub(super) doors: Reloaded<Doors>,
    pub(super) methods: Methods,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) admission: Admission,
}

/// The door's limits, and what it says when it is full.
pub(super) fn admission() -> Admission {
    Admission::with_notice(Limits::default(), full)
}

pub(super) async fn serve(listener: TcpListener, door: Arc<Door>, shutdown: Shutdown) {
    let admission = door.admission.clone();
    let mut session = 0;
    loop {
        let (stream, from, ticket) = tokio::select! {
            next = admission.next(&listener) => next,
            // Sessions that are open end in the engine's time; no new ones come.
            () = shutdown.wait() => {
                drop(listener);
                return std::future::pending().await;
            }
        };
        session += 1;
        let (door, admission) = (door.clone(), admission.clone());
        tokio::spawn(async move {
            // A client holds its place at the door until it is registered: so no more come than the key server can serve, too.
            let ended = match ticket.within(door.prove(stream)).await.map_err(Failure::from).flatten() {
                Ok(proved) => {
                    if proved.who.is_ok() {
                        admission.remember(from.ip());
                    }
                    door.session(session, proved, ticket).await
                }
                Err(error) => {
                    drop(door.commands.send(Command::Failed).await);
                    Err(error)
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%from, %error, "a client's session ended");
            }
            drop(door.commands.send(Command::ClientDown(session)).await);
        });
    }
}

/// A connection, the first frame on it, and what that and the certificate prove.
struct Proved {
    stream: TlsStream<TcpStream>,
    frame: Zeroizing<Vec<u8>>,
    who: Result<(Identity, Credential), Refusal>,
}

impl Door {
    async fn prove(&self, stream: TcpStream) -> Result<Proved, Failure> {
        let mut stream = net::tls::accept_anybody(stream, self.doors.get().for_clients.clone()).await?;
        let frame = match read_frame(&mut stream, MAX_CLIENT_FRAME).await {
            Ok(Some(frame)) => Zeroizing::new(frame),
            Ok(None) => return Err("the client said nothing".into()),
            // No message has such a length.
            Err(FrameError::Oversized { .. } | FrameError::Empty) => Zeroizing::default(),
            Err(error) => return Err(error.into()),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let who = match FromClient::decode(&frame) {
            Ok(message) => self.methods.authenticate(&Shown { certificate, message: &message, now }),
            Err(_) => Err(Refusal::new(RefusalCode::Malformed, "not a registration", 0)),
        };
        Ok(Proved { stream, frame, who })
    }

    /// A client says one thing. What it sends after that is not looked at; the core's deadline bounds the wait.
    async fn session(&self, session: u64, proved: Proved, ticket: Ticket) -> Result<(), Failure> {
        let Proved { mut stream, frame, who } = proved;
        let (to_client, mut for_client) = mpsc::channel(8);
        match who {
            Ok(who) => {
                self.commands.send(Command::Client(session, who, frame, to_client)).await?;
            }
            Err(refusal) => self.commands.send(Command::Unproved(session, refusal, to_client)).await?,
        }
        while let Some(message) = for_client.recv().await {
            match message {
                ForClient::Export(context) => {
                    let key = net::tls::individual_key_from(stream.get_ref().1, &context)?;
                    self.commands.send(Command::Exported(session, key)).await?;
                }
                // The system takes it even if the client does not: all that a client is told has less than 4 KB.
                ForClient::Frame(frame, false) => write_frame(&mut stream, &frame).await?,
                ForClient::Frame(frame, true) => {
                    drop(ticket);
                    return last(stream, &frame).await;
                }
            }
        }
        Ok(())
    }
}

/// What is said in clear to who finds no place: the same frame as behind a handshake.
fn full(wait: Duration) -> Vec<u8> {
    let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
    let refusal = Refusal::new(RefusalCode::Busy, "too many clients at once", wait);
    let frame = ToClient::Refused(refusal).encode();
    let length = u32::try_from(frame.len()).unwrap_or(0).to_be_bytes();
    [&length, frame.as_slice()].concat()
}

/// Sends the last frame, and closes when the client has or after [`LINGER`]: closing with octets unread resets the
/// connection, and the reset can overtake the frame.
async fn last(mut stream: TlsStream<TcpStream>, frame: &[u8]) -> Result<(), Failure> {
    // Frame and goodbye leave together: each packet costs as much as some cryptography.
    let length = u32::try_from(frame.len())?.to_be_bytes();
    stream.get_mut().1.writer().write_all(&[&length, frame].concat())?;
    let mut unread = [0; 512];
    let rest = async {
        stream.shutdown().await?;
        while stream.read(&mut unread).await.is_ok_and(|octets| octets > 0) {}
        Ok(())
    };
    tokio::time::timeout(LINGER, rest).await.unwrap_or(Ok(()))
}
