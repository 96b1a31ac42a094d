//! The lame-duck of somebody's server: what becomes of new connections from the signal on, with nothing in flight.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::Outcome;
use crate::scenario::{Stranger, Subject, Target};
use crate::timeline::Role;

/// What is shorter is the moment that it takes to close a listener.
const LEAST: Duration = Duration::from_millis(300);
/// Pause between two looks: so long that clients who come and go do not keep up a server that waits for quiet.
const LOOK: Duration = Duration::from_millis(250);
/// How long an answer may take, beyond what it takes in peace.
const PATIENCE: Duration = Duration::from_secs(1);

/// For how long a server goes on after the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LameDuck {
    /// As its user says; not at all, where that is zero.
    Said(Duration),
    /// It answered on new connections for so long.
    Seen {
        /// How long.
        lasts: Duration,
        /// Whether each answer was the one that it gives in peace.
        served: bool,
        /// After how long readiness failed, where it was asked.
        unready: Option<Duration>,
    },
    /// It closed its listener, or ended, without one.
    None,
    /// It was still there when the grace period was over.
    NeverEnds(Duration),
    /// Not known: the signal does not get to it.
    Unknown,
}

/// Stops a server of which all else is known, and looks on, for as long as its grace period.
pub async fn watch(target: &mut Target, subject: &Subject, stranger: &Stranger) -> LameDuck {
    let grace = stranger.grace;
    target.signal(subject.stop_signal());
    let signalled = Instant::now();
    let (mut answered, mut served, mut unready) = (false, true, None);
    while !target.listener_closed(LOOK).await {
        let after = signalled.elapsed();
        if target.has_exited() {
            return LameDuck::Unknown; // and somebody else listens on
        }
        if after > grace {
            return LameDuck::NeverEnds(grace);
        }
        if unready.is_none()
            && stranger.ready.is_some()
            && let Ok(mut probe) = target.try_connect(Role::Ready).await
            && let Some(status) = probe.ask(subject.ask_ready().patience(PATIENCE)).await.status
        {
            unready = subject.is_unready(status).then_some(after);
        }
        if let Ok(mut connection) = target.try_connect(Role::LameDuck).await {
            let patience = PATIENCE + stranger.quick.takes();
            let ask = stranger.ask(&stranger.quick, Role::LameDuck);
            let answer = connection.ask(ask.patience(patience)).await;
            let whole = answer.outcome == Outcome::Answered;
            answered |= whole;
            // What comes at the end may meet it.
            let due = stranger.quick.normal.and_then(|normal| normal.due.status);
            served &= !whole || due.is_none() || answer.status == due;
        }
    }
    match signalled.elapsed() {
        lasts if answered && lasts >= LEAST => LameDuck::Seen { lasts, served, unready },
        _ => LameDuck::None,
    }
}

impl LameDuck {
    /// How long it lasts, as far as that is known.
    pub fn lasts(self) -> Duration {
        match self {
            Self::Said(lasts) | Self::Seen { lasts, .. } => lasts,
            Self::None | Self::NeverEnds(_) | Self::Unknown => Duration::ZERO,
        }
    }

    /// Whether there is one to be judged: one that was seen or is said to be there, or one that is due where there is a
    /// readiness probe whose failure somebody has to hear of.
    pub fn is_due(self, ready: bool) -> bool {
        match self {
            Self::Said(lasts) => !lasts.is_zero(),
            Self::Seen { .. } => true,
            Self::None | Self::NeverEnds(_) | Self::Unknown => ready,
        }
    }

    /// Whether the server ends by itself, as far as that is known.
    pub fn ends(self) -> bool {
        !matches!(self, Self::NeverEnds(_))
    }

    /// The same in words. `ready` is the path of its readiness probe, where that is known.
    pub fn words(self, ready: Option<&str>) -> Option<String> {
        let seconds = |duration: Duration| format!("{:.1} s", duration.as_secs_f64());
        match self {
            Self::Said(lasts) if lasts.is_zero() => Some("lame-duck: none is expected".to_owned()),
            Self::Said(lasts) => Some(format!("lame-duck: {}, as you say", seconds(lasts))),
            Self::Seen { lasts, served, unready } => {
                let serves = match served {
                    true => "goes on serving new connections",
                    false => "goes on taking new connections, but does not answer them as before,",
                };
                let probe = match (ready, unready) {
                    (None, _) => String::new(),
                    (Some(path), None) => format!("; {path} does not fail meanwhile"),
                    (Some(path), Some(after)) => format!("; {path} fails within {}", seconds(after)),
                };
                Some(format!("lame-duck: it {serves} for {} after the signal{probe}", seconds(lasts)))
            }
            Self::None => ready.map(|_| "lame-duck: none, it closes its listener at once".to_owned()),
            Self::NeverEnds(grace) => {
                Some(format!("{} after the signal it was still there, with nothing in flight", seconds(grace)))
            }
            Self::Unknown => None,
        }
    }
}
