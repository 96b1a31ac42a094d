//! The parameters of scenarios.

use serde::{Deserialize, Serialize};

/// Makes the enum, the list of all, and their names in files, from one table.
macro_rules! params {
    ($($(#[$says:meta])* $param:ident $slug:literal,)*) => {
        /// A parameter of a scenario. Durations are in seconds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Param {
            $($(#[$says])* #[serde(rename = $slug)] $param,)*
        }

        impl Param {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$param),*];

            /// Its name in files, for ever.
            pub fn slug(self) -> &'static str {
                match self {
                    $(Self::$param => $slug,)*
                }
            }
        }
    };
}

params! {
    /// How long the balancer before the server keeps an idle connection in its pool.
    BalancerIdle "balancer_idle",
    /// Limit on a request body, from its head.
    BodyTimeout "body_timeout",
    /// Bytes of a response.
    Bytes "bytes",
    /// Clients side by side.
    Clients "clients",
    /// Clients that arrive one after the other, in all.
    Connections "connections",
    /// How long a drain may take.
    DrainTimeout "drain_timeout",
    /// From the signal to SIGKILL, where that is known.
    Grace "grace",
    /// Handshakes that must be half-way for the scenario to say something.
    HalfOpen "half_open",
    /// Limit on the head of a request.
    HeaderTimeout "header_timeout",
    /// How long idle connections are kept after the listener closed.
    IdleLinger "idle_linger",
    /// Instances side by side.
    Instances "instances",
    /// Connections that are idle.
    Idle "idle",
    /// How long the request in flight takes.
    InFlightFor "in_flight_for",
    /// How long a connection may be idle while the server is ready.
    KeepAliveTimeout "keep_alive_timeout",
    /// How long its user says that the lame-duck lasts; 0 where nobody does.
    LameDuck "lame_duck",
    /// Requests a second that a stranger's rate limiter lets through for certain, where it has one.
    Limited "limited",
    /// The share of requests that a stranger loses while nobody stops it, from 0 to 1.
    LostInPeace "lost_in_peace",
    /// Requests that the server takes at once.
    MaxInFlight "max_in_flight",
    /// Endless responses that the server takes at once.
    MaxStreams "max_streams",
    /// The time in which all clients arrive.
    Over "over",
    /// Requests a second that are due.
    Rate "rate",
    /// How often each instance is replaced.
    Rolls "rolls",
    /// Starts of the server, each with the same race.
    Rounds "rounds",
    /// Delay of the link, there and back.
    RoundTrip "round_trip",
    /// The lame-duck.
    ShutdownDelay "shutdown_delay",
    /// How long it takes until clients hear that an instance stops.
    WithdrawalLag "withdrawal_lag",
    /// Limit on a response that nobody reads.
    WriteTimeout "write_timeout",
}

impl Param {
    /// The variable of the contract that hands it to the server, where it is one.
    pub fn variable(self) -> Option<String> {
        match self {
            Self::BodyTimeout
            | Self::DrainTimeout
            | Self::HeaderTimeout
            | Self::IdleLinger
            | Self::KeepAliveTimeout
            | Self::MaxInFlight
            | Self::MaxStreams
            | Self::ShutdownDelay
            | Self::WriteTimeout => Some(self.slug().to_uppercase()),
            Self::BalancerIdle
            | Self::Bytes
            | Self::Clients
            | Self::Connections
            | Self::Grace
            | Self::HalfOpen
            | Self::Idle
            | Self::Instances
            | Self::InFlightFor
            | Self::LameDuck
            | Self::Limited
            | Self::LostInPeace
            | Self::Over
            | Self::Rate
            | Self::Rolls
            | Self::Rounds
            | Self::RoundTrip
            | Self::WithdrawalLag => None,
        }
    }
}
