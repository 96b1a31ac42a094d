//! Probes: when one is due, and what a row of results means.

use std::time::Duration;

use super::Get;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Whether the container has started.
    Startup,
    /// Whether the pod is to get requests.
    Readiness,
    /// Whether the container still works.
    Liveness,
}

/// A probe as the manifest has it.
///
/// <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is asked for.
    pub get: Get,
    /// `initialDelaySeconds`
    pub delay: Duration,
    /// `periodSeconds`
    pub period: Duration,
    /// `timeoutSeconds`
    pub timeout: Duration,
    /// `successThreshold`: so many in a row.
    pub successes: u32,
    /// `failureThreshold`: so many in a row.
    pub failures: u32,
}

/// A probe that is on.
#[derive(Debug)]
pub(super) struct Worker {
    pub kind: Kind,
    probe: Probe,
    /// When it is due; `None` while one is under way.
    due: Option<Duration>,
    planned: Duration,
    /// The last result, and how often it has come in a row.
    row: (bool, u32),
}

impl Worker {
    /// A probe of a container that starts now. The first look finds nobody: what counts is the next one, a period later.
    pub fn starting(kind: Kind, probe: Probe, now: Duration) -> Self {
        let first = probe.delay.max(probe.period);
        Self::first(kind, probe, now.saturating_add(first))
    }

    /// A probe of a container that has started by now: at once, or when it may be.
    pub fn started(kind: Kind, probe: Probe, now: Duration, since: Duration) -> Self {
        let earliest = since.saturating_add(probe.delay);
        Self::first(kind, probe, earliest.max(now))
    }

    fn first(kind: Kind, probe: Probe, planned: Duration) -> Self {
        Self { kind, probe, due: Some(planned), planned, row: (false, 0) }
    }

    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Whether it is to be asked now; it is under way then.
    pub fn takes(&mut self, now: Duration) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// Counts a result, and says it where it has come often enough. Whoever comes late gets one probe for all that he
    /// has missed.
    pub fn probed(&mut self, now: Duration, ok: bool) -> Option<bool> {
        if self.due.is_some() {
            return None; // none was under way
        }
        let period = self.probe.period.max(Duration::from_millis(1));
        while self.planned <= now {
            self.planned = self.planned.saturating_add(period);
        }
        self.due = Some(self.planned);
        let before = if self.row.0 == ok { self.row.1 } else { 0 };
        self.row = (ok, before.saturating_add(1));
        let threshold = if ok { self.probe.successes } else { self.probe.failures };
        (self.row.1 >= threshold).then_some(ok)
    }
}
