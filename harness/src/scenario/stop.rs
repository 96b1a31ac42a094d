//! Why a scenario goes no further.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::client::{NO_DESCRIPTOR, NotWarm, no_descriptor};
use crate::link::{NoLink, WAY_OUT};
use crate::process::{StartError, says_taken};
use crate::timeline::Seen;
use crate::topology::FrontError;

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
    /// Somebody listens on the server's port before it is started.
    #[error("{holder} listens on port {port} already, and would answer in the server's place: stop it first")]
    Taken {
        /// The port.
        port: u16,
        /// Who listens there.
        holder: Seen,
    },
    /// The server listens, but not on the port that it was given.
    #[error("listens on {}, and not on {port}, {} s after its start", ports(found), within.as_secs())]
    Elsewhere {
        /// The port that it was given.
        port: u16,
        /// How long it was waited for.
        within: Duration,
        /// Where it listens.
        found: Vec<SocketAddr>,
    },
    /// Somebody else listens on the server's port as well.
    #[error("{others} listens on port {port}, too, and may answer in the server's place: stop it first")]
    SharedPort {
        /// The port.
        port: u16,
        /// Who else listens there.
        others: Seen,
    },
    /// It is known what this server speaks, and that is not tested.
    #[error("{0}")]
    NotTested(String),
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
    /// What stands before the servers does not do its part.
    #[error(transparent)]
    Front(FrontError),
    /// The harness could not do its part.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
}

/// Addresses by their ports, for people.
fn ports(at: &[SocketAddr]) -> String {
    let ports: BTreeSet<u16> = at.iter().map(SocketAddr::port).collect();
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

impl Stop {
    /// Whether it comes of waiting for a time that a busy machine may need for other things.
    pub fn is_late(&self) -> bool {
        matches!(
            self,
            Self::Elsewhere { .. } | Self::Start(StartError::Silent { .. } | StartError::NeverListened { .. })
        )
    }

    /// Whether somebody else has the port, so that another one may help.
    pub(super) fn is_taken(&self) -> bool {
        match self {
            Self::Taken { .. } => true,
            Self::Start(StartError::Exited { output, .. }) => says_taken(&output.0),
            _ => false,
        }
    }

    /// Whether it is this program that had no descriptor left.
    pub fn is_starved(&self) -> bool {
        match self {
            Self::Io(_, error) | Self::Start(StartError::Spawn { source: error, .. }) => no_descriptor(error),
            _ => false,
        }
    }
}

/// A precondition does not hold.
pub fn unconfirmed(what: &str, why: impl Into<String>) -> Stop {
    Stop::Unconfirmed { what: what.to_owned(), why: why.into() }
}

impl From<NotWarm> for Stop {
    fn from(load: NotWarm) -> Self {
        unconfirmed("the load is running", load.to_string())
    }
}

impl From<FrontError> for Stop {
    fn from(error: FrontError) -> Self {
        match error {
            FrontError::Missing { .. } | FrontError::NoCluster | FrontError::OneNode => {
                Self::Skipped(error.to_string())
            }
            FrontError::Late { what, within } => unconfirmed(&what, format!("not within {} s", within.as_secs())),
            error => Self::Front(error),
        }
    }
}

impl From<NoLink> for Stop {
    fn from(why: NoLink) -> Self {
        Self::Skipped(format!("no link with delay can be made here ({why}): {WAY_OUT}"))
    }
}

/// The harness has no descriptor left.
pub fn starved() -> Stop {
    unconfirmed("drainspec can open connections", NO_DESCRIPTOR)
}
