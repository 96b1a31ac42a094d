//! What one node of the load balancer knows of the targets, and how it chooses among them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Outcome, Reason, Settings, State, TargetId};

/// The weight of a target that has its full share.
const FULL: i64 = 1_000_000;

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The target.
    pub target: TargetId,
    /// It was chosen although the node does not believe it healthy, because it believes nobody so.
    pub failed_open: bool,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    lag: Duration,
    targets: BTreeMap<TargetId, Seen>,
}

/// A target as a node sees it.
#[derive(Debug)]
struct Seen {
    /// The last registration that the node has heard of.
    registration: u64,
    state: State,
    reason: Option<Reason>,
    /// How many checks in a row have spoken against the state.
    against: u32,
    /// Whether it is to start slowly once it is healthy.
    warms: bool,
    /// When it began to start slowly, if it does.
    warming_since: Option<Duration>,
    /// What it is owed of the requests so far.
    credit: i64,
    /// Connections to it.
    open: u32,
}

impl Node {
    pub(super) fn new(lag: Duration) -> Self {
        Self { lag, targets: BTreeMap::new() }
    }

    pub(super) fn lag(&self) -> Duration {
        self.lag
    }

    pub(super) fn state(&self, target: TargetId) -> Option<State> {
        self.targets.get(&target).map(|seen| seen.state)
    }

    /// The state and the reason of a registered target.
    pub(super) fn finding(&self, target: TargetId) -> Option<(State, Option<Reason>)> {
        let seen = self.targets.get(&target).filter(|seen| seen.state.is_registered());
        seen.map(|seen| (seen.state, seen.reason))
    }

    /// Whether the node checks this target under this registration. Draining targets are not checked: assumed.
    pub(super) fn checks(&self, target: TargetId, registration: u64) -> bool {
        let seen = self.targets.get(&target);
        seen.is_some_and(|seen| seen.registration == registration && seen.state.is_registered())
    }

    /// The target belongs to the group, and nothing is known of its health. Connections from before stay open.
    ///
    /// It starts slowly where another one is healthy and does not, as AWS documents it: not with others into an empty
    /// group.
    pub(super) fn registered(&mut self, now: Duration, target: TargetId, registration: u64, slow_start: Duration) {
        let warms = self.starts_others_slowly(now, slow_start);
        let seen = self.seen(target);
        (seen.registration, seen.warms) = (registration, warms);
        seen.enter(State::Initial, Some(Reason::InitialHealthChecking));
    }

    /// The target is draining or unused; returns how many connections there are to it. News comes in order, so that it
    /// is never about a registration before the last.
    pub(super) fn withdrawn(&mut self, target: TargetId, state: State, reason: Reason) -> u32 {
        let seen = self.seen(target);
        seen.enter(state, Some(reason));
        seen.open
    }

    /// Takes the result of a check; says whether state or reason have changed.
    ///
    /// Documented: one success makes a new target healthy; after that it takes a threshold of results in a row to
    /// change its state. Assumed: a new target that fails is unhealthy after as many failures as an old one.
    pub(super) fn checked(
        &mut self,
        now: Duration,
        target: TargetId,
        registration: u64,
        outcome: Outcome,
        settings: &Settings,
    ) -> bool {
        if !self.checks(target, registration) {
            return false;
        }
        let warms = self.starts_others_slowly(now, settings.slow_start);
        let failure = match outcome {
            Outcome::Answered(status) if settings.matcher.accepts(status) => None,
            Outcome::Answered(_) => Some(Reason::ResponseCodeMismatch),
            Outcome::TimedOut => Some(Reason::Timeout),
            Outcome::Failed => Some(Reason::FailedHealthChecks),
        };
        let seen = self.seen(target);
        let before = (seen.state, seen.reason);
        match (seen.state, failure) {
            (State::Healthy, None) => seen.against = 0,
            (State::Unhealthy, Some(why)) => (seen.against, seen.reason) = (0, Some(why)),
            (_, None) => {
                seen.against += 1;
                if seen.state == State::Initial || seen.against >= settings.healthy_threshold {
                    let warms = if seen.state == State::Initial { seen.warms } else { warms };
                    seen.enter(State::Healthy, None);
                    seen.warming_since = warms.then_some(now);
                }
            }
            (_, Some(why)) => {
                seen.against += 1;
                if seen.against >= settings.unhealthy_threshold {
                    seen.enter(State::Unhealthy, Some(why));
                }
            }
        }
        before != (seen.state, seen.reason)
    }

    pub(super) fn opened(&mut self, target: TargetId) {
        let seen = self.seen(target);
        seen.open = seen.open.saturating_add(1);
    }

    /// Whether that was the last connection to a draining target.
    pub(super) fn closed(&mut self, target: TargetId) -> bool {
        let seen = self.seen(target);
        let last = seen.open == 1 && seen.state == State::Draining;
        seen.open = seen.open.saturating_sub(1);
        last
    }

    /// Weighted round robin: each is owed its weight with each request, whoever is owed most is next, and pays for all.
    /// With equal weights that is one after the other.
    pub(super) fn choose(&mut self, now: Duration, slow_start: Duration) -> Option<Choice> {
        let failed_open = !self.targets.values().any(|seen| seen.state == State::Healthy);
        let mut total = 0;
        let mut best: Option<(TargetId, i64)> = None;
        for (id, seen) in &mut self.targets {
            let candidate = if failed_open { seen.state.is_registered() } else { seen.state == State::Healthy };
            if candidate {
                let weight = seen.weight(now, slow_start);
                total += weight;
                seen.credit += weight;
                if best.is_none_or(|(_, credit)| seen.credit > credit) {
                    best = Some((*id, seen.credit));
                }
            }
        }
        let (target, _) = best?;
        self.seen(target).credit -= total;
        Some(Choice { target, failed_open })
    }

    /// Whether another target is to start slowly just now: one is healthy, and has its full share.
    fn starts_others_slowly(&self, now: Duration, slow_start: Duration) -> bool {
        let warm = |seen: &Seen| seen.state == State::Healthy && seen.weight(now, slow_start) == FULL;
        slow_start > Duration::ZERO && self.targets.values().any(warm)
    }

    fn seen(&mut self, target: TargetId) -> &mut Seen {
        self.targets.entry(target).or_insert(Seen {
            registration: 0,
            state: State::Unused,
            reason: None,
            against: 0,
            warms: false,
            warming_since: None,
            credit: 0,
            open: 0,
        })
    }
}

impl Seen {
    fn enter(&mut self, state: State, reason: Option<Reason>) {
        (self.state, self.reason) = (state, reason);
        (self.against, self.warming_since, self.credit) = (0, None, 0);
    }

    /// The share of the requests, which grows linearly while it starts slowly, and is never nothing.
    fn weight(&self, now: Duration, slow_start: Duration) -> i64 {
        let Some(since) = self.warming_since else { return FULL };
        let warm = now.saturating_sub(since).as_micros();
        let share = warm.saturating_mul(FULL.unsigned_abs().into()) / slow_start.as_micros().max(1);
        i64::try_from(share).unwrap_or(FULL).clamp(1, FULL)
    }
}
