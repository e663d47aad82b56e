//! A session, the next one when it has expired, and the calls over it.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zookeeper_client::{
    Acl, Acls, Client, CreateMode, MultiWriteError, OneshotWatcher, Permission, SessionState, Stat,
};

use crate::diagnosis::diagnose;
use crate::{Ensemble, Error, Options, Role};

/// Octets of one transaction: ZooKeeper takes 1,048,575 (`jute.maxbuffer`), and closes the connection at one more.
const MAX_TRANSACTION: usize = 1_000_000;
/// Octets around the path and the value of a change, and around each entry of its ACL.
const AROUND: usize = 40;
/// Session timeouts after which no answer is due any more: the library cuts a connection that says nothing at 2/5 of one, and
/// gives a session up at 7/5. What takes longer was forgotten on its way, and so may be all that is asked after it.
const PATIENCE: u32 = 2;
/// An orderly end takes one round trip; whoever ends does not wait longer than this for it.
const GOODBYE: Duration = Duration::from_millis(500);

/// A value and how often it was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The value.
    pub value: Vec<u8>,
    /// 0 when the znode was made, one more with every [`Op::Set`].
    pub version: u64,
}

/// One change, or one condition, of a transaction. Names are relative to the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// The znode has this version.
    Check {
        /// Its name.
        name: &'a str,
        /// Its version.
        version: u64,
    },
    /// The znode is new. It belongs to us and the other owners alone.
    Create {
        /// Its name.
        name: &'a str,
        /// Its value.
        value: &'a [u8],
    },
    /// The znode has this version and gets another value.
    Set {
        /// Its name.
        name: &'a str,
        /// The new value.
        value: &'a [u8],
        /// The version before.
        version: u64,
    },
    /// The znode is there and is removed.
    Delete {
        /// Its name.
        name: &'a str,
    },
}

impl Op<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Check { name, .. } | Self::Create { name, .. } | Self::Set { name, .. } | Self::Delete { name } => {
                name
            }
        }
    }
}

/// A session with an ensemble. It is opened by the first call, and again by the first call after it expired; calls may run
/// at the same time.
pub struct Session {
    options: Options,
    acl: Vec<Acl>,
    client: Mutex<Option<Client>>,
}

impl Session {
    /// Nothing is sent yet.
    pub fn new(options: Options) -> Self {
        // The library takes the process's provider, and panics where that is open.
        let _ = aws_lc_rs::default_provider().install_default();
        Self { acl: options.acl(), options, client: Mutex::new(None) }
    }

    /// Where it is.
    pub fn ensemble(&self) -> &Ensemble {
        &self.options.ensemble
    }

    /// What everything that we make is given.
    pub(crate) fn acl(&self) -> &[Acl] {
        &self.acl
    }

    /// The session's client. A session that is over is replaced; one whose connection broke mends itself.
    pub(crate) async fn client(&self) -> Result<Client, Error> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref().filter(|client| !client.state().is_terminated()) {
            return Ok(client.clone());
        }
        let renewed = held.take().is_some();
        let client = match timeout(self.patience(), self.connect()).await {
            Ok(client) => client?,
            Err(_) => return Err(Error::NoSession(format!("nothing is heard in {:?}", self.patience()))),
        };
        tracing::info!(session = %client.session_id(), renewed, "a session with ZooKeeper");
        Ok(held.insert(client).clone())
    }

    fn patience(&self) -> Duration {
        self.options.session_timeout * PATIENCE
    }

    /// What `client` answers. A session that answers nothing is given up, so that the next call opens another.
    pub(crate) async fn answer<T>(
        &self,
        client: &Client,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if let Ok(answer) = timeout(self.patience(), work).await {
            return answer;
        }
        let silent = client.session_id();
        self.client.lock().await.take_if(|client| client.session_id() == silent);
        Err(Error::Unknown(format!("session {silent} is silent for {:?}", self.patience())))
    }

    async fn connect(&self) -> Result<Client, Error> {
        let mut connector = Client::connector().with_session_timeout(self.options.session_timeout);
        if let Some(digest) = self.options.read_digest()? {
            connector = connector.with_auth("digest", &digest);
        }
        let tls = self.options.tls()?;
        let scheme = if tls.is_some() { "tcp+tls" } else { "tcp" };
        if let Some(tls) = tls {
            connector = connector.with_tls(tls);
        }
        let hosts: Vec<String> = self.ensemble().hosts().iter().map(|host| format!("{scheme}://{host}")).collect();
        let client = match connector.connect(&hosts.join(",")).await {
            Ok(client) => client,
            Err(zookeeper_client::Error::AuthFailed) => {
                return Err(Error::Authentication("it knows no such user, certificate or scheme"));
            }
            Err(why) => return Err(diagnose(&self.options, &why.to_string()).await),
        };
        self.make_root(&client).await?;
        Ok(client)
    }

    /// Makes the root, and what is above it, as ours; one that is there must not be open to everybody.
    async fn make_root(&self, client: &Client) -> Result<(), Error> {
        let may_be_read = match self.options.role {
            Role::Reader => return Ok(()),
            Role::Publisher => true,
            Role::Keeper => false,
        };
        let root = self.ensemble().root();
        let of = |error| Error::of(error, root);
        if client.check_stat(root).await.map_err(of)?.is_none() {
            let options = CreateMode::Persistent.with_acls(Acls::new(&self.acl));
            client.mkdir(root, &options).await.map_err(of)?;
        }
        let (acl, _) = client.get_acl(root).await.map_err(of)?;
        let is_open = |entry: &&Acl| {
            let is_anybody = entry.scheme() == "world" || entry.scheme() == "ip";
            is_anybody && !(may_be_read && entry.permission() == Permission::READ)
        };
        match acl.iter().find(is_open) {
            None => Ok(()),
            Some(open) => Err(Error::Open { path: root.into(), scheme: open.scheme().into(), id: open.id().into() }),
        }
    }

    /// The value of `name` as it was at or after the moment of this call, `None` if there is none. One server can be a moment
    /// behind all the same: the one that leads may answer before it has carried out what others have carried out by its word. So
    /// whoever writes checks versions, and who follows looks again.
    ///
    /// A session begins with a commit and never goes back, so even where a server lags it shows at least what this process
    /// has seen before.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(&self, name: &str) -> Result<Option<Held>, Error> {
        let client = self.client().await?;
        let path = self.ensemble().path(name);
        // Asked in this order at once: a server answers one session in the order of its questions.
        let is_exact = self.options.role != Role::Reader;
        let (sync, get) = (is_exact.then(|| client.sync(self.ensemble().root())), client.get_data(&path));
        let answer = async {
            if let Some(sync) = sync {
                sync.await.map_err(|error| Error::of(error, &path))?;
            }
            held(get.await, &path)
        };
        self.answer(&client, answer).await
    }

    /// Names of the znodes below `name`, in no order; `None` if it is not there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn children(&self, name: &str) -> Result<Option<Vec<String>>, Error> {
        let client = self.client().await?;
        let path = self.ensemble().path(name);
        let (sync, list) = (client.sync(self.ensemble().root()), client.list_children(&path));
        let answer = async {
            sync.await.map_err(|error| Error::of(error, &path))?;
            match list.await {
                Ok(names) => Ok(Some(names)),
                Err(zookeeper_client::Error::NoNode) => Ok(None),
                Err(error) => Err(Error::of(error, &path)),
            }
        };
        self.answer(&client, answer).await
    }

    /// Carries out all of these in their order, or none; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a condition does not hold; see [`Error`].
    pub async fn multi(&self, ops: &[Op<'_>]) -> Result<(), Error> {
        let paths: Vec<String> = ops.iter().map(|op| self.ensemble().path(op.name())).collect();
        let octets = self.octets(ops, &paths);
        if octets > MAX_TRANSACTION {
            return Err(Error::TooLarge { octets, most: MAX_TRANSACTION });
        }
        let client = self.client().await?;
        let mut writer = client.new_multi_writer();
        let options = CreateMode::Persistent.with_acls(Acls::new(&self.acl));
        for (op, path) in ops.iter().zip(&paths) {
            match op {
                Op::Check { version, .. } => writer.add_check_version(path, expected(*version, path)?),
                Op::Create { value, .. } => writer.add_create(path, value, &options),
                Op::Set { value, version, .. } => writer.add_set_data(path, value, Some(expected(*version, path)?)),
                Op::Delete { .. } => writer.add_delete(path, None),
            }
            .map_err(|error| Error::Refused(format!("{path}: {error}")))?;
        }
        let root = self.ensemble().root();
        let refused = |error| match error {
            MultiWriteError::OperationFailed { index, source } => {
                Error::of(source, paths.get(index).map_or(root, String::as_str))
            }
            // The transaction as a whole: a server that refuses it says so for one of its parts.
            MultiWriteError::RequestFailed { source } => match Error::of(source, root) {
                Error::Conflict { what, .. } => Error::Unknown(format!("the transaction {what}")),
                other => other,
            },
        };
        self.answer(&client, async { writer.commit().await.map(drop).map_err(refused) }).await
    }

    fn octets(&self, ops: &[Op<'_>], paths: &[String]) -> usize {
        let acl: usize = self.acl.iter().map(|entry| entry.scheme().len() + entry.id().len() + AROUND / 2).sum();
        let each = ops.iter().zip(paths).map(|(op, path)| {
            let rest = match op {
                Op::Create { value, .. } => value.len() + acl,
                Op::Set { value, .. } => value.len(),
                Op::Check { .. } | Op::Delete { .. } => 0,
            };
            AROUND + path.len() + rest
        });
        each.sum()
    }

    /// The value of `name` as [`Session::read`] gives it, and when to look again.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn watch(&self, name: &str) -> Result<(Option<Held>, Watch), Error> {
        let client = self.client().await?;
        let path = self.ensemble().path(name);
        if self.options.role == Role::Reader {
            let there = async {
                match client.get_and_watch_data(&path).await {
                    Ok((value, stat, watcher)) => {
                        Ok(Some((Held { value, version: version(stat.version) }, Watch(watcher))))
                    }
                    // It is watched for below, until somebody makes it.
                    Err(zookeeper_client::Error::NoNode) => Ok(None),
                    Err(error) => Err(Error::of(error, &path)),
                }
            };
            if let Some((held, watch)) = self.answer(&client, there).await? {
                return Ok((Some(held), watch));
            }
        }
        // The watch first: what changes between the two is seen twice and never missed.
        let watching = async { client.check_and_watch_stat(&path).await.map_err(|error| Error::of(error, &path)) };
        let (_, watcher) = self.answer(&client, watching).await?;
        Ok((self.read(name).await?, Watch(watcher)))
    }

    /// How long the servers let this session outlive a silent client.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn timeout(&self) -> Result<Duration, Error> {
        Ok(self.client().await?.session_timeout())
    }

    /// Ends the session in order, once nothing else of it is held or under way: what hangs on it goes at once.
    pub async fn close(&self) {
        let Some(client) = self.client.lock().await.take() else { return };
        let mut states = client.state_watcher();
        drop(client);
        let closed = async {
            // Without a connection there is nobody to take leave of.
            while !matches!(states.changed().await, SessionState::Disconnected) {
                if states.peek_state().is_terminated() {
                    break;
                }
            }
        };
        let _ = timeout(GOODBYE, closed).await;
    }
}

fn held(got: Result<(Vec<u8>, Stat), zookeeper_client::Error>, path: &str) -> Result<Option<Held>, Error> {
    match got {
        Ok((value, stat)) => Ok(Some(Held { value, version: version(stat.version) })),
        Err(zookeeper_client::Error::NoNode) => Ok(None),
        Err(error) => Err(Error::of(error, path)),
    }
}

/// Says once that a znode changed, or may have.
#[derive(Debug)]
pub struct Watch(OneshotWatcher);

impl Watch {
    /// Returns when the znode was made, replaced or removed, or when the session is over: time to look again.
    pub async fn changed(self) {
        drop(self.0.changed().await);
    }
}

/// ZooKeeper counts in 32 bits with a sign, round and round.
fn version(of: i32) -> u64 {
    u64::from(of.cast_unsigned())
}

/// -1 means any version to ZooKeeper, so counting ends before it.
fn expected(version: u64, path: &str) -> Result<i32, Error> {
    let known = u32::try_from(version).ok().filter(|version| *version < u32::MAX - 1);
    known.map(u32::cast_signed).ok_or_else(|| Error::Versions { path: path.into() })
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({})", self.ensemble())
    }
}

// Shared between the tasks of a daemon.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Arc<Session>>();
};
