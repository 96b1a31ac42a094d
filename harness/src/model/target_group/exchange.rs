//! What the group is told, and what it says.

use super::{NodeId, Observer, Outcome, Reason, State, TargetId};

/// What happens to the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Somebody registers a target. Nothing happens where it is registered already.
    Register(TargetId),
    /// Somebody deregisters a target. Nothing happens where it is not registered, as [AWS documents].
    ///
    /// [AWS documents]: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_DeregisterTargets.html
    Deregister(TargetId),
    /// A health check has come to its end.
    Checked {
        /// The check, as [`Output::CheckDue`] gave it.
        check: Check,
        /// What came of it.
        outcome: Outcome,
    },
    /// A node has opened a connection to a target, for requests and not for a health check.
    Opened {
        /// From where.
        node: NodeId,
        /// To where.
        target: TargetId,
    },
    /// Such a connection has ended, whoever ended it.
    Closed {
        /// From where.
        node: NodeId,
        /// To where.
        target: TargetId,
    },
}

/// What the group says, or wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// A target is in another state now, or in the same for another reason.
    State {
        /// Who sees it so.
        observer: Observer,
        /// The target.
        target: TargetId,
        /// Its state.
        state: State,
        /// Why, where AWS gives a reason.
        reason: Option<Reason>,
    },
    /// It cannot be registered yet: a target that was registered by address has to be `unused` first.
    Refused {
        /// The target.
        target: TargetId,
    },
    /// A health check is to be made: connect, ask for [`path`](super::Settings::path), wait for
    /// [`timeout`](super::Settings::timeout) at most, close, and say what came of it by [`Input::Checked`].
    CheckDue {
        /// Which node checks which target.
        check: Check,
    },
    /// A node that has learnt of a deregistration has no connection to the target any more: deregistration is complete
    /// there, although the target is shown as draining until the delay is over. It comes again where a connection was
    /// just being opened.
    Completed {
        /// The node.
        node: NodeId,
        /// The target.
        target: TargetId,
    },
    /// The deregistration delay is over, and connections are still open: they are to be ended now, and requests on them
    /// are answered as [`Fault::DelayElapsed`](super::Fault::DelayElapsed) says.
    Cut {
        /// The node.
        node: NodeId,
        /// The target.
        target: TargetId,
    },
}

/// One health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    /// Who checks.
    pub node: NodeId,
    /// What is checked.
    pub target: TargetId,
    /// Under which registration: a result from before the last one says nothing.
    pub(super) registration: u64,
}
