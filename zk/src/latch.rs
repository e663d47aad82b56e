//! A latch: an ephemeral znode that one session has at a time, and that goes away with it.
//!
//! It says who should try to reign, not who does: a session may be over before its holder knows. Whoever writes checks a
//! version in the same transaction.

use zookeeper_client::{Acls, Client, CreateMode, Error as ClientError, EventType};

use crate::{Error, Session};

/// What became of an attempt to take a latch.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Latch),
    /// Another session has it; this is its value. [`Session::watch`] says when it goes.
    Others(Vec<u8>),
}

/// A latch that is ours as long as its session lives.
#[derive(Debug)]
pub struct Latch {
    client: Client,
    path: String,
}

impl Session {
    /// Takes the latch `name` if nobody has it; `value` tells the others who does.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Unknown`] ask again: a latch that this session already has is taken.
    pub async fn take_latch(&self, name: &str, value: &[u8]) -> Result<Taken, Error> {
        let client = self.client().await?;
        let path = self.ensemble().path(name);
        let of = |error| Error::of(error, &path);
        let others = async {
            loop {
                match client.create(&path, value, &CreateMode::Ephemeral.with_acls(Acls::new(self.acl()))).await {
                    Ok(_) => return Ok(None),
                    Err(ClientError::NodeExists) => {}
                    Err(error) => return Err(of(error)),
                }
                match client.get_data(&path).await {
                    Ok((_, stat)) if stat.ephemeral_owner == client.session_id().0 => return Ok(None),
                    Ok((value, _)) => return Ok(Some(value)),
                    // Gone in between.
                    Err(ClientError::NoNode) => {}
                    Err(error) => return Err(of(error)),
                }
            }
        };
        match self.answer(&client, others).await? {
            Some(value) => Ok(Taken::Others(value)),
            None => Ok(Taken::Ours(Latch { client, path })),
        }
    }
}

impl Latch {
    /// Returns when the latch may be ours no longer: removed, or its session over.
    pub async fn lost(&self) {
        loop {
            let Ok((Some(stat), watcher)) = self.client.check_and_watch_stat(&self.path).await else { return };
            if stat.ephemeral_owner != self.client.session_id().0 {
                return;
            }
            let event = watcher.changed().await;
            if event.event_type == EventType::Session && event.session_state.is_terminated() {
                return;
            }
        }
    }

    /// Gives it up, so that another may take it at once.
    ///
    /// # Errors
    /// See [`Error`]; it is free at the latest when the session expires.
    pub async fn release(self) -> Result<(), Error> {
        match self.client.delete(&self.path, None).await {
            Ok(()) | Err(ClientError::NoNode) => Ok(()),
            Err(error) => Err(Error::of(error, &self.path)),
        }
    }
}
