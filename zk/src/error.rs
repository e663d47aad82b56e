//! What goes wrong, and who is to blame.

use thiserror::Error;
use zookeeper_client as client;

use crate::OptionsError;

/// Why a call was not answered with success.
#[derive(Debug, Error)]
pub enum Error {
    /// A file that the session needs is refused. Whoever keeps it is to blame; nothing was sent.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// None of the hosts can be reached: wrong hosts or ports, or the network. Nothing was sent.
    #[error("no host of the ensemble can be reached: {0}")]
    Unreachable(String),
    /// Servers answer, and none of them is part of a quorum. Nothing was sent.
    #[error("the ensemble has no quorum: {0}")]
    NoQuorum(String),
    /// Servers answer, and none gave a session in time. Nothing was sent.
    #[error("the ensemble gave no session: {0}")]
    NoSession(String),
    /// One end does not accept the other's certificate. Nothing was sent.
    #[error("TLS with the ensemble failed: {0}")]
    Tls(String),
    /// The ensemble does not accept who we say we are. Nothing was changed.
    #[error("the ensemble refused our authentication ({0})")]
    Authentication(&'static str),
    /// We are not among those who may do that. Nothing was changed.
    #[error("the ensemble does not let us use {path}: it belongs to others than our digest or certificate")]
    Denied {
        /// The znode; the first of a transaction that was refused.
        path: String,
    },
    /// Others may use what must be ours alone. Whoever made the znode is to blame; nothing was changed.
    #[error("{path} is open to everybody ({scheme}:{id}); its ACL must name the owners of the journal alone")]
    Open {
        /// The znode.
        path: String,
        /// Scheme of the entry that opens it.
        scheme: String,
        /// Identity in that entry.
        id: String,
    },
    /// A condition does not hold. Nothing was changed.
    #[error("{path} {what}")]
    Conflict {
        /// The znode whose condition does not hold.
        path: String,
        /// Which.
        what: &'static str,
    },
    /// The transaction is larger than ZooKeeper takes. Nothing was sent.
    #[error("a transaction of {octets} octets, expected at most {most}")]
    TooLarge {
        /// Of the transaction.
        octets: usize,
        /// The limit.
        most: usize,
    },
    /// A znode was written so often that its version comes round. Nothing was changed.
    #[error("{path} has been written 2^32 times; its version cannot be checked any more")]
    Versions {
        /// The znode.
        path: String,
    },
    /// The server refuses for another reason. Nothing was changed.
    #[error("the ensemble refused: {0}")]
    Refused(String),
    /// No definite answer from a server: all of it was done, or will be yet, or nothing.
    #[error("no definite answer: {0}")]
    Unknown(String),
}

impl Error {
    /// What a server, or the loss of it, says about a call on `path`. Only what a server alone can say about this very call
    /// is definite.
    pub(crate) fn of(error: client::Error, path: &str) -> Self {
        use client::Error as E;
        let conflict = |what| Self::Conflict { path: path.into(), what };
        match error {
            E::NoNode => conflict("is not there"),
            E::NodeExists => conflict("is there already"),
            E::BadVersion => conflict("has another version"),
            E::NotEmpty => conflict("has znodes below it"),
            E::NoAuth => Self::Denied { path: path.into() },
            E::InvalidAcl => Self::Authentication("no server has authenticated this session by digest or certificate"),
            E::NoChildrenForEphemerals
            | E::QuotaExceeded
            | E::Unimplemented
            | E::MarshallingError
            | E::BadArguments(_) => Self::Refused(format!("{path}: {error}")),
            E::SessionExpired => Self::Unknown("the session expired before the answer came".into()),
            // Also what breaks a connection, whatever name the library gives it.
            other => Self::Unknown(other.to_string()),
        }
    }

    /// Whether it is certain that nothing was changed and no use to try again as things are. [`Error::Conflict`] is neither.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Options(_)
            | Self::Tls(_)
            | Self::Authentication(_)
            | Self::Denied { .. }
            | Self::Open { .. }
            | Self::TooLarge { .. }
            | Self::Versions { .. }
            | Self::Refused(_) => true,
            Self::Unreachable(_)
            | Self::NoQuorum(_)
            | Self::NoSession(_)
            | Self::Conflict { .. }
            | Self::Unknown(_) => false,
        }
    }
}
