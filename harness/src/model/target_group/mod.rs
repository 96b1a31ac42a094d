//! A target group of an AWS Application Load Balancer: which targets there are, what each node of the balancer makes
//! of them, and where it sends the next request.
//!
//! The group is driven from outside. Whoever holds the sockets tells it what happens ([`Input`]), wakes it when it
//! wants to be woken ([`TargetGroup::next`]), and does what it says ([`Output`]). Times are durations since the start
//! of the run. A time before the last one that the group has seen counts as that one; nothing panics.
//!
//! News needs time. The API knows at once that a target is registered or deregistered; each node learns it after a lag
//! of its own, and until then goes on as before. A node acts at once on its own health checks; the API hears of their
//! result after the same lag. AWS documents neither figure nor order: the lags are assumed, and are data.
//!
//! What AWS documents and what is assumed is told apart at each item, and as a whole in `docs/alb-model.md`.

mod connection;
mod exchange;
mod node;
mod settings;
mod state;

pub use connection::{CONNECT_TIMEOUT, Fault};
pub use exchange::{Check, Input, Output};
pub use node::Choice;
pub use settings::{Invalid, Matcher, Settings, TargetType};
pub use state::{NodeId, Observer, Outcome, Reason, State, TargetId};

use std::collections::BTreeMap;
use std::time::Duration;

use node::Node;

/// A target as the API sees it.
#[derive(Debug)]
struct Target {
    /// How often it has been registered.
    registration: u64,
    state: State,
    reason: Option<Reason>,
    /// What each node has reported under this registration.
    reported: Vec<Option<(State, Option<Reason>)>>,
}

/// What is to come.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// A node hears of a change.
    News { node: NodeId, target: TargetId, registration: u64, news: News },
    /// A node checks a target.
    Check(Check),
    /// The API hears what a node has found.
    Report { check: Check, state: State, reason: Option<Reason> },
    /// The deregistration delay is over.
    DelayOver { target: TargetId, registration: u64 },
}

#[derive(Debug, Clone, Copy)]
enum News {
    Registered,
    Deregistered,
    DelayOver,
}

/// A target group behind a load balancer of several nodes.
#[derive(Debug)]
pub struct TargetGroup {
    settings: Settings,
    now: Duration,
    targets: BTreeMap<TargetId, Target>,
    nodes: Vec<Node>,
    /// By time, and in the order in which it was decided.
    agenda: BTreeMap<(Duration, u64), Due>,
    decided: u64,
    outbox: Vec<(Duration, Output)>,
}

impl TargetGroup {
    /// An empty group, behind as many nodes as there are lags. A lag is the time that news needs between the API and
    /// that node, in either direction.
    ///
    /// The settings are taken as they are, because scenarios scale them; see [`Settings::validate`].
    pub fn new(settings: Settings, lags: &[Duration]) -> Self {
        Self {
            settings,
            now: Duration::ZERO,
            targets: BTreeMap::new(),
            nodes: lags.iter().copied().map(Node::new).collect(),
            agenda: BTreeMap::new(),
            decided: 0,
            outbox: Vec::new(),
        }
    }

    /// The settings of the group.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes what happens at this time, and says what follows up to now: each output with the time at which it was due,
    /// in the order of these times. What names a node that does not exist is passed over.
    #[must_use]
    pub fn apply(&mut self, now: Duration, input: Input) -> Vec<(Duration, Output)> {
        self.run_until(now);
        match input {
            Input::Register(target) => self.register(target),
            Input::Deregister(target) => self.deregister(target),
            Input::Checked { check, outcome } => self.checked(check, outcome),
            Input::Opened { node, target } => {
                if let Some(node) = self.nodes.get_mut(node.0) {
                    node.opened(target);
                }
            }
            Input::Closed { node: id, target } => {
                if self.nodes.get_mut(id.0).is_some_and(|node| node.closed(target)) {
                    self.say(self.now, Output::Completed { node: id, target });
                }
            }
        }
        self.advance(now)
    }

    /// Says what has come up to now, as [`apply`](Self::apply) does.
    #[must_use]
    pub fn advance(&mut self, now: Duration) -> Vec<(Duration, Output)> {
        self.run_until(now);
        self.outbox.drain(..).collect()
    }

    /// When [`advance`](Self::advance) has something to do or to say next. After a call it is later than the time of
    /// that call; only what [`choose`](Self::choose) and [`may_reuse`](Self::may_reuse) came across is due at once.
    pub fn next(&self) -> Option<Duration> {
        if !self.outbox.is_empty() {
            return Some(self.now);
        }
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// Where a node sends a request: in turn to those that it believes healthy, to all registered ones where none is
    /// ([fail-open]), and to nobody where none is registered, which is [`Fault::NoTarget`].
    ///
    /// Documented are round robin, fail-open for unhealthy targets, and 503 where no target is registered. That
    /// fail-open includes targets whose initial checks are not over is assumed, and follows from the 503.
    ///
    /// [fail-open]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html
    pub fn choose(&mut self, now: Duration, node: NodeId) -> Option<Choice> {
        self.run_until(now);
        let (now, slow_start) = (self.now, self.settings.slow_start);
        self.nodes.get_mut(node.0)?.choose(now, slow_start)
    }

    /// Whether a node may send a request on a connection to this target on which nothing has moved since `last_used`.
    /// It may until the [idle time-out] is over, and only where it does not believe the target deregistered.
    ///
    /// [idle time-out]: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html
    pub fn may_reuse(&mut self, now: Duration, node: NodeId, target: TargetId, last_used: Duration) -> bool {
        self.run_until(now);
        let registered = self.state(Observer::Node(node), target).is_registered();
        registered && self.now < self.settings.idle_until(last_used)
    }

    /// What an observer makes of a target, as of the last time that the group has seen; `Unused` where it has never
    /// heard of it.
    pub fn state(&self, observer: Observer, target: TargetId) -> State {
        let state = match observer {
            Observer::Api => self.targets.get(&target).map(|target| target.state),
            Observer::Node(node) => self.nodes.get(node.0).and_then(|node| node.state(target)),
        };
        state.unwrap_or(State::Unused)
    }

    fn run_until(&mut self, now: Duration) {
        let now = now.max(self.now);
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((at, _), due) = entry.remove_entry();
            match due {
                Due::News { node, target, registration, news } => {
                    self.hear(at, now, Check { node, target, registration }, news);
                }
                Due::Check(check) => self.check(at, now, check),
                Due::Report { check, state, reason } => self.reported(at, check, state, reason),
                Due::DelayOver { target, registration } => self.delay_over(at, target, registration),
            }
        }
        self.now = now;
    }

    fn register(&mut self, id: TargetId) {
        let target = self.targets.entry(id).or_insert(Target {
            registration: 0,
            state: State::Unused,
            reason: None,
            reported: Vec::new(),
        });
        if target.state.is_registered() {
            return;
        }
        if target.state == State::Draining && self.settings.target_type == TargetType::Ip {
            return self.say(self.now, Output::Refused { target: id });
        }
        target.registration += 1;
        target.reported = vec![None; self.nodes.len()];
        let registration = target.registration;
        self.show(self.now, id, State::Initial, Some(Reason::RegistrationInProgress));
        self.tell(self.now, id, registration, News::Registered);
    }

    fn deregister(&mut self, id: TargetId) {
        let Some(target) = self.targets.get(&id).filter(|target| target.state.is_registered()) else { return };
        let registration = target.registration;
        self.show(self.now, id, State::Draining, Some(Reason::DeregistrationInProgress));
        self.tell(self.now, id, registration, News::Deregistered);
        let over = self.now.saturating_add(self.settings.deregistration_delay);
        self.schedule(over, Due::DelayOver { target: id, registration });
    }

    fn delay_over(&mut self, at: Duration, id: TargetId, registration: u64) {
        let Some(target) = self.targets.get(&id) else { return };
        if target.registration == registration && target.state == State::Draining {
            self.show(at, id, State::Unused, Some(Reason::NotRegistered));
            self.tell(at, id, registration, News::DelayOver);
        }
    }

    /// A node hears of something that the API has known for as long as its lag.
    fn hear(&mut self, at: Duration, now: Duration, check: Check, news: News) {
        let Check { node: id, target, registration } = check;
        let Some(node) = self.nodes.get_mut(id.0) else { return };
        let (state, reason) = match news {
            News::Registered => {
                node.registered(at, target, registration, self.settings.slow_start);
                self.found(at, check);
                return self.check(at, now, check);
            }
            News::Deregistered => (State::Draining, Reason::DeregistrationInProgress),
            News::DelayOver => (State::Unused, Reason::NotRegistered),
        };
        let open = node.withdrawn(target, state, reason);
        self.say(at, Output::State { observer: Observer::Node(id), target, state, reason: Some(reason) });
        match state {
            State::Draining if open == 0 => self.say(at, Output::Completed { node: id, target }),
            State::Unused if open > 0 => self.say(at, Output::Cut { node: id, target }),
            _ => {}
        }
    }

    /// Wants a check, and plans the next. Whoever comes late gets one check for all that he has missed.
    fn check(&mut self, at: Duration, now: Duration, check: Check) {
        if !self.nodes.get(check.node.0).is_some_and(|node| node.checks(check.target, check.registration)) {
            return;
        }
        self.say(at, Output::CheckDue { check });
        let next = self.settings.next_check(at, now);
        if next > now {
            self.schedule(next, Due::Check(check));
        }
    }

    fn checked(&mut self, check: Check, outcome: Outcome) {
        let (now, settings) = (self.now, &self.settings);
        let Some(node) = self.nodes.get_mut(check.node.0) else { return };
        if node.checked(now, check.target, check.registration, outcome, settings) {
            self.found(now, check);
        }
    }

    /// A node has found a target in another state, and reports it.
    fn found(&mut self, at: Duration, check: Check) {
        let Some(node) = self.nodes.get(check.node.0) else { return };
        let Some((state, reason)) = node.finding(check.target) else { return };
        let heard = at.saturating_add(node.lag());
        self.say(at, Output::State { observer: Observer::Node(check.node), target: check.target, state, reason });
        self.schedule(heard, Due::Report { check, state, reason });
    }

    /// The API hears it. It shows a target as unhealthy as long as any node finds it so, and as healthy once all do:
    /// assumed, and careful, because whoever waits for `healthy` then waits for the last node.
    fn reported(&mut self, at: Duration, check: Check, state: State, reason: Option<Reason>) {
        let Some(target) = self.targets.get_mut(&check.target) else { return };
        if target.registration != check.registration || !target.state.is_registered() {
            return;
        }
        let Some(slot) = target.reported.get_mut(check.node.0) else { return };
        *slot = Some((state, reason));
        let unhealthy = target.reported.iter().flatten().find(|(state, _)| *state == State::Unhealthy);
        let healthy = target.reported.iter().all(|report| matches!(report, Some((State::Healthy, _))));
        let (state, reason) = match unhealthy {
            Some(found) => *found,
            None if healthy => (State::Healthy, None),
            None if target.state == State::Initial => (State::Initial, Some(Reason::InitialHealthChecking)),
            None => (target.state, target.reason),
        };
        self.show(at, check.target, state, reason);
    }

    /// The API shows a target so from now on.
    fn show(&mut self, at: Duration, id: TargetId, state: State, reason: Option<Reason>) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        if (target.state, target.reason) != (state, reason) {
            (target.state, target.reason) = (state, reason);
            self.say(at, Output::State { observer: Observer::Api, target: id, state, reason });
        }
    }

    /// Sends news to all nodes.
    fn tell(&mut self, at: Duration, target: TargetId, registration: u64, news: News) {
        for id in 0..self.nodes.len() {
            let heard = at.saturating_add(self.nodes[id].lag());
            self.schedule(heard, Due::News { node: NodeId(id), target, registration, news });
        }
    }

    fn schedule(&mut self, at: Duration, due: Due) {
        self.agenda.insert((at, self.decided), due);
        self.decided += 1;
    }

    fn say(&mut self, at: Duration, output: Output) {
        self.outbox.push((at, output));
    }
}
