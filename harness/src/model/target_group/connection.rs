//! What a client gets where no answer of a target can be had.

use std::time::Duration;

/// How long a node tries to connect to a target, [as AWS documents it].
///
/// [as AWS documents it]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html#http-504-issues
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What goes wrong between a node and a target. Each has a status [that AWS documents]; it reaches the client where
/// nothing of an answer has been passed on yet, and else the connection to the client is ended without the rest, which
/// is assumed.
///
/// [that AWS documents]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-troubleshooting.html#load-balancer-http-error-codes
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No target is registered, as far as the node knows.
    NoTarget,
    /// The target refused the connection, or could not be reached.
    NotConnected,
    /// No connection was made within [`CONNECT_TIMEOUT`].
    ConnectTimedOut,
    /// The target ended the connection, by FIN or by RST, while it owed an answer.
    Closed,
    /// What the target sent is no valid answer.
    Malformed,
    /// Connected, and no answer within the idle time-out.
    Silent,
    /// The deregistration delay was over before the answer.
    DelayElapsed,
}

impl Fault {
    /// The status that the client gets.
    pub fn status(self) -> u16 {
        match self {
            Self::NoTarget => 503,
            Self::NotConnected | Self::Closed | Self::Malformed | Self::DelayElapsed => 502,
            Self::ConnectTimedOut | Self::Silent => 504,
        }
    }

    /// Whether the node tries once more, with so many bytes of the request written: only where it finds a connection of
    /// its pool closed before it has written anything.
    ///
    /// AWS documents no retry, of whatever method, and says that a request which crosses with the end of its connection
    /// gets a 502. That a connection known to be closed is not used is assumed.
    pub fn is_retried(self, written: u64) -> bool {
        self == Self::Closed && written == 0
    }
}
