//! Exit codes of every binary: few, documented, stable.

use std::process::{ExitCode, Termination};

use crate::config::ConfigError;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or drained after a signal.
    Ok,
    /// Something failed that no other code names.
    Failure,
    /// Wrong arguments or configuration; clap ends with the same code.
    Usage,
    /// The policy denies what was asked.
    Denied,
    /// A peer could not be reached.
    Unreachable,
    /// A peer, or this side, could not prove who it is.
    Authentication,
    /// Not, or no longer, a member of the group.
    NotMember,
}

impl Exit {
    /// The number that the parent process sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::Unreachable => 4,
            Self::Authentication => 5,
            Self::NotMember => 6,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&ConfigError> for Exit {
    fn from(_: &ConfigError) -> Self {
        Self::Usage
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}
