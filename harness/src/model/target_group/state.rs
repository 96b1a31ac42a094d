//! Targets and nodes, and the words that AWS has for them.

use std::fmt::{Display, Formatter};

/// A target: an address and a port, by the number that whoever drives the group gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetId(pub u32);

/// A node of the load balancer, by its place in the list of lags, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// Who sees the state of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Observer {
    /// The API, as `describe-target-health` shows it.
    Api,
    /// A node of the load balancer, which acts on it.
    Node(NodeId),
}

/// The state of a target, [as AWS documents it].
///
/// Of the other values that the API has, `unhealthy.draining` is one of Network Load Balancers, and `unavailable` says
/// that health checks are turned off: neither is modelled.
///
/// [as AWS documents it]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is being registered, or its first health checks are not over.
    Initial,
    /// It passes its health checks.
    Healthy,
    /// It fails them.
    Unhealthy,
    /// It is deregistered, and the deregistration delay is not over.
    Draining,
    /// It is not registered.
    Unused,
}

impl State {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Unused => "unused",
        }
    }

    /// Whether the target belongs to the group, well or not.
    pub fn is_registered(self) -> bool {
        match self {
            Self::Initial | Self::Healthy | Self::Unhealthy => true,
            Self::Draining | Self::Unused => false,
        }
    }
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a target is in its state, [as AWS documents it]; a healthy target has no reason.
///
/// [as AWS documents it]: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Initial: no node has begun with its checks.
    RegistrationInProgress,
    /// Initial: not all nodes have decided.
    InitialHealthChecking,
    /// Unhealthy: the status was none of those that the matcher has.
    ResponseCodeMismatch,
    /// Unhealthy: no answer came in time.
    Timeout,
    /// Unhealthy: no connection, or no valid answer.
    FailedHealthChecks,
    /// Draining.
    DeregistrationInProgress,
    /// Unused.
    NotRegistered,
}

impl Reason {
    /// The code that the API has for it.
    pub fn code(self) -> &'static str {
        match self {
            Self::RegistrationInProgress => "Elb.RegistrationInProgress",
            Self::InitialHealthChecking => "Elb.InitialHealthChecking",
            Self::ResponseCodeMismatch => "Target.ResponseCodeMismatch",
            Self::Timeout => "Target.Timeout",
            Self::FailedHealthChecks => "Target.FailedHealthChecks",
            Self::DeregistrationInProgress => "Target.DeregistrationInProgress",
            Self::NotRegistered => "Target.NotRegistered",
        }
    }
}

/// What came of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A complete answer with this status.
    Answered(u16),
    /// Nothing within [`Settings::timeout`](super::Settings::timeout).
    TimedOut,
    /// No connection, or an answer that is none.
    Failed,
}
