//! What holds for a target group whatever happens to it. The test keeps books of its own, from what it does and what
//! the group says, and never asks the group what it has in its books.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drainspec::model::target_group::{
    Check, Input, Matcher, NodeId, Observer, Outcome, Output, Settings, State, TargetGroup, TargetId, TargetType,
};
use proptest::prelude::*;

/// What a step does, after a pause.
#[derive(Debug, Clone)]
enum Deed {
    Register(u32),
    Deregister(u32),
    /// The n-th of the checks that are due comes to this.
    Check(usize, Outcome),
    Opened(usize, u32),
    Closed(usize, u32),
    Choose(usize),
    Reuse(usize, u32),
    Pass,
}

/// Few targets and few nodes, one of which there is not, so that deeds are about each other.
fn deeds() -> impl Strategy<Value = Deed> {
    let target = || 0..3u32;
    let node = || 0..4usize;
    let outcome = prop::sample::select(vec![
        Outcome::Answered(200),
        Outcome::Answered(200),
        Outcome::Answered(503),
        Outcome::Failed,
        Outcome::TimedOut,
    ]);
    prop_oneof![
        3 => target().prop_map(Deed::Register),
        2 => target().prop_map(Deed::Deregister),
        6 => (0..4usize, outcome).prop_map(|(which, outcome)| Deed::Check(which, outcome)),
        2 => (node(), target()).prop_map(|(node, target)| Deed::Opened(node, target)),
        2 => (node(), target()).prop_map(|(node, target)| Deed::Closed(node, target)),
        4 => node().prop_map(Deed::Choose),
        1 => (node(), target()).prop_map(|(node, target)| Deed::Reuse(node, target)),
        2 => Just(Deed::Pass),
    ]
}

/// Pauses that meet the times of the settings, those that miss them narrowly, and very long ones.
fn pauses() -> impl Strategy<Value = Duration> {
    prop_oneof![
        4 => (0..8u64).prop_map(Duration::from_secs),
        3 => (0..3_000u64).prop_map(Duration::from_millis),
        2 => (0..400u64).prop_map(Duration::from_secs),
        1 => Just(Duration::ZERO),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let short = |most: u64| (0..most).prop_map(Duration::from_secs);
    (short(60), prop_oneof![Just(Duration::ZERO), short(60)], short(30), 0..4u32, 0..4u32, any::<bool>()).prop_map(
        |(deregistration_delay, slow_start, interval, healthy_threshold, unhealthy_threshold, ip)| Settings {
            target_type: if ip { TargetType::Ip } else { TargetType::Instance },
            deregistration_delay,
            slow_start,
            interval,
            healthy_threshold,
            unhealthy_threshold,
            matcher: Matcher::parse("200-299").unwrap(),
            ..Settings::default()
        },
    )
}

fn lags() -> impl Strategy<Value = Vec<Duration>> {
    prop::collection::vec(prop_oneof![Just(0), 0..20_000u64].prop_map(Duration::from_millis), 1..4)
}

fn steps() -> impl Strategy<Value = Vec<(Duration, Deed)>> {
    prop::collection::vec((pauses(), deeds()), 0..60)
}

/// From which states one may come to another. A new registration may begin at any time after the first was withdrawn.
fn may_follow(before: State, after: State) -> bool {
    match after {
        State::Initial => matches!(before, State::Unused | State::Draining | State::Initial),
        State::Healthy => matches!(before, State::Initial | State::Unhealthy),
        State::Unhealthy => matches!(before, State::Initial | State::Healthy | State::Unhealthy),
        State::Draining => before.is_registered(),
        State::Unused => before == State::Draining,
    }
}

/// The books.
struct Books {
    lags: Vec<Duration>,
    settings: Settings,
    due: Vec<Check>,
    states: BTreeMap<(Observer, TargetId), State>,
    open: BTreeMap<(NodeId, TargetId), u32>,
    /// For each deregistration, in order: its time, and who has yet to show the target as unused.
    leaving: BTreeMap<TargetId, Vec<(Duration, BTreeSet<Observer>)>>,
    last: Duration,
}

impl Books {
    fn new(settings: &Settings, lags: &[Duration]) -> Self {
        Self {
            lags: lags.to_vec(),
            settings: settings.clone(),
            due: Vec::new(),
            states: BTreeMap::new(),
            open: BTreeMap::new(),
            leaving: BTreeMap::new(),
            last: Duration::ZERO,
        }
    }

    fn state(&self, observer: Observer, target: TargetId) -> State {
        self.states.get(&(observer, target)).copied().unwrap_or(State::Unused)
    }

    fn open(&mut self, node: NodeId, target: TargetId) -> &mut u32 {
        self.open.entry((node, target)).or_default()
    }

    fn observers(&self) -> BTreeSet<Observer> {
        let nodes = (0..self.lags.len()).map(|node| Observer::Node(NodeId(node)));
        nodes.chain([Observer::Api]).collect()
    }

    /// Takes what the group says up to now.
    fn hear(&mut self, now: Duration, said: Vec<(Duration, Output)>) -> Result<(), TestCaseError> {
        for (at, output) in said {
            prop_assert!(self.last <= at && at <= now, "{:?} at {:?}, out of order", output, at);
            self.last = at;
            match output {
                Output::State { observer, target, state, .. } => {
                    let before = self.state(observer, target);
                    prop_assert!(may_follow(before, state), "{:?}: {} to {}", observer, before, state);
                    self.states.insert((observer, target), state);
                    self.note(at, observer, target, state)?;
                }
                Output::CheckDue { check } => {
                    let state = self.state(Observer::Node(check.node), check.target);
                    prop_assert!(state.is_registered(), "a check of a target that is {}", state);
                    self.due.push(check);
                }
                Output::Completed { node, target } => {
                    prop_assert_eq!(*self.open(node, target), 0, "complete, and something is open");
                    prop_assert_eq!(self.state(Observer::Node(node), target), State::Draining);
                }
                Output::Cut { node, target } => {
                    prop_assert!(*self.open(node, target) > 0, "nothing to cut");
                    prop_assert_eq!(self.state(Observer::Node(node), target), State::Unused);
                }
                Output::Refused { target } => {
                    prop_assert_eq!(self.settings.target_type, TargetType::Ip);
                    prop_assert_eq!(self.state(Observer::Api, target), State::Draining);
                }
            }
        }
        self.overdue(now)
    }

    fn note(&mut self, at: Duration, observer: Observer, target: TargetId, state: State) -> Result<(), TestCaseError> {
        let observers = self.observers();
        let leaving = self.leaving.entry(target).or_default();
        match (observer, state) {
            (Observer::Api, State::Draining) => leaving.push((at, observers)),
            // Registered again before its delay was over: nobody shows it as unused.
            (Observer::Api, State::Initial) => leaving.retain(|(_, waiting)| !waiting.contains(&Observer::Api)),
            (_, State::Unused) => {
                let Some((since, waiting)) = leaving.iter_mut().find(|(_, waiting)| waiting.contains(&observer)) else {
                    return Err(TestCaseError::fail("unused without having been deregistered"));
                };
                waiting.remove(&observer);
                let delay = self.settings.deregistration_delay;
                prop_assert!(at >= *since + delay, "unused after {:?} of {:?}", at - *since, delay);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether somebody is later than the delay and the longest lag allow.
    fn overdue(&self, now: Duration) -> Result<(), TestCaseError> {
        let longest = self.lags.iter().max().copied().unwrap_or_default();
        let all = self.leaving.iter().flat_map(|(target, leaving)| leaving.iter().map(move |one| (target, one)));
        for (target, (since, waiting)) in all {
            let late = now >= *since + self.settings.deregistration_delay + longest;
            prop_assert!(!late || waiting.is_empty(), "{:?}: {:?} do not know at {:?}", target, waiting, now);
        }
        Ok(())
    }

    /// Whether a node chooses whom it may.
    fn choose(&mut self, group: &mut TargetGroup, now: Duration, node: NodeId) -> Result<(), TestCaseError> {
        let choice = group.choose(now, node);
        self.hear(now, group.advance(now))?;
        let believed: Vec<_> = (0..3).map(|id| self.state(Observer::Node(node), TargetId(id))).collect();
        let registered = believed.iter().filter(|state| state.is_registered()).count();
        let healthy = believed.contains(&State::Healthy);
        let Some(choice) = choice else {
            prop_assert_eq!(registered, 0, "nobody was chosen");
            return Ok(());
        };
        let state = self.state(Observer::Node(node), choice.target);
        prop_assert!(state.is_registered(), "a target that is {} was chosen", state);
        prop_assert_eq!(choice.failed_open, !healthy, "of {:?}", believed);
        prop_assert!(choice.failed_open || state == State::Healthy, "{} was chosen, of {:?}", state, believed);
        Ok(())
    }

    fn reuse(
        &mut self,
        group: &mut TargetGroup,
        now: Duration,
        node: NodeId,
        target: TargetId,
    ) -> Result<(), TestCaseError> {
        let fresh = group.may_reuse(now, node, target, now);
        let stale =
            now >= self.settings.idle_timeout && group.may_reuse(now, node, target, now - self.settings.idle_timeout);
        self.hear(now, group.advance(now))?;
        prop_assert_eq!(fresh, self.state(Observer::Node(node), target).is_registered());
        prop_assert!(!stale, "its time is over");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_target_group_keeps_its_books(settings in settings(), lags in lags(), steps in steps()) {
        let mut group = TargetGroup::new(settings.clone(), &lags);
        let mut books = Books::new(&settings, &lags);
        let mut now = Duration::ZERO;
        for (pause, deed) in steps {
            now += pause;
            let input = match deed {
                Deed::Register(target) => Some(Input::Register(TargetId(target))),
                Deed::Deregister(target) => Some(Input::Deregister(TargetId(target))),
                Deed::Check(which, outcome) if which < books.due.len() => {
                    Some(Input::Checked { check: books.due.remove(which), outcome })
                }
                Deed::Opened(node, target) => {
                    let (node, target) = (NodeId(node), TargetId(target));
                    books.hear(now, group.advance(now))?;
                    *books.open(node, target) += 1;
                    Some(Input::Opened { node, target })
                }
                Deed::Closed(node, target) => {
                    let (node, target) = (NodeId(node), TargetId(target));
                    books.hear(now, group.advance(now))?;
                    let open = books.open(node, target);
                    *open = open.saturating_sub(1);
                    Some(Input::Closed { node, target })
                }
                Deed::Choose(node) => {
                    books.choose(&mut group, now, NodeId(node))?;
                    None
                }
                Deed::Reuse(node, target) => {
                    books.reuse(&mut group, now, NodeId(node), TargetId(target))?;
                    None
                }
                Deed::Check(..) | Deed::Pass => None,
            };
            let said = match input {
                Some(input) => group.apply(now, input),
                None => group.advance(now),
            };
            books.hear(now, said)?;
            prop_assert!(group.next().is_none_or(|next| next > now), "{:?} at {:?}", group.next(), now);
            for observer in books.observers() {
                for target in (0..3).map(TargetId) {
                    prop_assert_eq!(group.state(observer, target), books.state(observer, target));
                }
            }
        }
    }

    #[test]
    fn who_wakes_it_when_it_wants_to_be_woken_misses_nothing(
        settings in settings(), lags in lags(), targets in 1..4u32, rest in 0..100u64,
    ) {
        let mut group = TargetGroup::new(settings, &lags);
        let mut woken = Vec::new();
        for target in (0..targets).map(TargetId) {
            woken.extend(group.apply(Duration::ZERO, Input::Register(target)));
        }
        woken.extend(group.apply(Duration::ZERO, Input::Deregister(TargetId(0))));
        let end = Duration::from_secs(rest);
        let mut last = Duration::ZERO;
        while let Some(next) = group.next().filter(|next| *next <= end) {
            prop_assert!(next > last, "woken for {:?} at {:?}", next, last);
            let early = next - Duration::from_nanos(1);
            prop_assert!(group.advance(early).is_empty(), "before it wanted to be woken, at {:?}", early);
            let said = group.advance(next);
            prop_assert!(said.iter().all(|(at, _)| *at == next), "{:?} at {:?}", said, next);
            woken.extend(said);
            last = next;
            if woken.len() > 300 {
                break;
            }
        }
        prop_assert!(!woken.is_empty());
    }

    #[test]
    fn any_time_and_any_setting_will_do(
        delays in any::<[Duration; 5]>(), lags in prop::collection::vec(any::<Duration>(), 0..3),
        steps in prop::collection::vec((any::<Duration>(), deeds()), 0..20),
    ) {
        let [deregistration_delay, slow_start, interval, timeout, idle_timeout] = delays;
        let settings =
            Settings { deregistration_delay, slow_start, interval, timeout, idle_timeout, ..Settings::default() };
        let _ = settings.validate();
        let mut group = TargetGroup::new(settings.scaled(0.5), &lags);
        let mut due = Vec::new();
        for (now, deed) in steps {
            let input = match deed {
                Deed::Register(target) => Input::Register(TargetId(target)),
                Deed::Deregister(target) => Input::Deregister(TargetId(target)),
                Deed::Opened(node, target) => Input::Opened { node: NodeId(node), target: TargetId(target) },
                Deed::Closed(node, target) => Input::Closed { node: NodeId(node), target: TargetId(target) },
                Deed::Check(which, outcome) if which < due.len() => Input::Checked { check: due[which], outcome },
                Deed::Choose(node) => {
                    group.choose(now, NodeId(node));
                    continue;
                }
                _ => {
                    group.may_reuse(now, NodeId(0), TargetId(0), now);
                    continue;
                }
            };
            for (_, output) in group.apply(now, input) {
                if let Output::CheckDue { check } = output {
                    due.push(check);
                }
            }
        }
    }

    #[test]
    fn those_who_are_equal_get_equally_many(targets in 1..6u32, requests in 1..60usize) {
        let mut group = TargetGroup::new(Settings::default(), &[Duration::ZERO]);
        for target in (0..targets).map(TargetId) {
            let said = group.apply(Duration::ZERO, Input::Register(target));
            for (_, output) in said {
                if let Output::CheckDue { check } = output {
                    let _ = group.apply(Duration::ZERO, Input::Checked { check, outcome: Outcome::Answered(200) });
                }
            }
        }
        let mut counts = BTreeMap::new();
        for _ in 0..requests {
            *counts.entry(group.choose(Duration::ZERO, NodeId(0)).unwrap().target).or_insert(0usize) += 1;
        }
        let fair = requests / targets as usize;
        prop_assert!(counts.values().all(|count| (fair..=fair + 1).contains(count)), "{:?}", counts);
    }
}
