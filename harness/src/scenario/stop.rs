//! Why a scenario went no further.

use crate::client::NotWarm;
use crate::link::{NoLink, WAY_OUT};
use crate::process::StartError;
use crate::timeline::Seen;

/// Why a scenario went no further.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// A precondition could not be established: there is no verdict.
    #[error("{what}: {why}")]
    Unconfirmed {
        /// The precondition.
        what: String,
        /// Why it does not hold.
        why: String,
    },
    /// This machine lacks something that the scenario needs: there is nothing to judge.
    #[error("{0}")]
    Skipped(String),
    /// The server did not start.
    #[error("the server {0}")]
    Start(#[from] StartError),
    /// Somebody else answers on the server's port.
    #[error(
        "the server says it is instance {expected}, but {found} answers on its port: is another one still running?"
    )]
    Impostor {
        /// Who was started.
        expected: String,
        /// Who answers.
        found: String,
    },
    /// Somebody else listens on the server's port as well.
    #[error("{others} listens on port {port}, too, and may answer in the server's place: stop it first")]
    SharedPort {
        /// The port.
        port: u16,
        /// Who else listens there.
        others: Seen,
    },
    /// The harness could not do its part.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// A precondition does not hold.
pub fn unconfirmed(what: &str, why: impl Into<String>) -> Stop {
    Stop::Unconfirmed { what: what.to_owned(), why: why.into() }
}

impl Stop {
    /// Whether it comes of waiting for a time that a busy machine may need for other things.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Start(StartError::Silent { .. } | StartError::NeverListened { .. }))
    }
}

impl From<NotWarm> for Stop {
    fn from(load: NotWarm) -> Self {
        unconfirmed("the load is running", load.to_string())
    }
}

impl From<NoLink> for Stop {
    fn from(why: NoLink) -> Self {
        Self::Skipped(format!("no link with delay can be made here ({why}): {WAY_OUT}"))
    }
}
