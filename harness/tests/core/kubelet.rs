//! What the kubelet does with a pod, by tables, and what holds whatever happens to it.

use std::time::Duration;

use drainspec::model::Model;
use drainspec::model::kubelet::{Get, Hook, Input, Kind, LEAST_GRACE, Output, Pod, Port, Probe, Settings};
use proptest::prelude::*;

const START: Duration = Duration::from_secs(100);

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn probe(period: f64, successes: u32, failures: u32) -> Probe {
    let get = Get { path: "/health/ready".to_owned(), port: Port::Traffic };
    Probe { get, delay: Duration::ZERO, period: s(period), timeout: s(1.0), successes, failures }
}

/// A pod that hears of its deletion at once.
fn settings(grace: f64, hook: Option<Hook>) -> Settings {
    let (startup, readiness, liveness) = (None, None, None);
    Settings { grace: s(grace), hook, startup, readiness, liveness, lag: Duration::ZERO }
}

fn exec() -> Option<Hook> {
    Some(Hook::Exec(vec!["/bin/sleep".to_owned(), "9".to_owned()]))
}

/// A name, a grace, a hook, what happens when the pod is deleted at 10 s, and what comes of it.
type Course = (&'static str, f64, Option<Hook>, &'static [(f64, Input)], &'static [(f64, Output)]);

/// A pod, and what it has said so far, each with its time since the start.
struct Played {
    pod: Pod,
    said: Vec<(f64, Output)>,
    /// Whether a probe of a kind succeeds, which comes at once.
    well: fn(Kind, f64) -> bool,
}

impl Played {
    fn new(settings: Settings, well: fn(Kind, f64) -> bool) -> Self {
        let mut played = Self { pod: Pod::new(settings, START), said: Vec::new(), well };
        played.until(0.0);
        played
    }

    /// Lets the time go on, and does each thing when it is due.
    fn until(&mut self, at: f64) {
        while let Some(next) = self.pod.next().filter(|next| *next <= START + s(at)) {
            let said = self.pod.advance(next);
            self.hear(next, said);
        }
    }

    fn hear(&mut self, at: Duration, said: Vec<Output>) {
        for output in said {
            let since = (at - START).as_secs_f64();
            self.said.push((since, output));
            if let Output::Probe(kind) = output {
                let said = self.pod.apply(at, Input::Probed(kind, (self.well)(kind, since)));
                self.hear(at, said);
            }
        }
    }

    fn tell(&mut self, at: f64, input: Input) {
        self.until(at);
        let at = START + s(at);
        let said = self.pod.apply(at, input);
        self.hear(at, said);
    }

    /// All that it has said but for its probes.
    fn deeds(mut self) -> Vec<(f64, Output)> {
        self.until(1_000.0);
        self.said.retain(|(_, output)| !matches!(output, Output::Probe(_)));
        self.said
    }

    fn probes(&self, kind: Kind) -> Vec<f64> {
        self.said.iter().filter(|(_, output)| *output == Output::Probe(kind)).map(|(at, _)| *at).collect()
    }
}

#[test]
fn the_end_of_a_pod_takes_its_course() {
    use Output::{Gone, HookBegins, HookEnds, Kill, Ready, Terminate};
    const ENDED: Output = HookEnds { cut: false };
    const CUT: Output = HookEnds { cut: true };
    let sleep = |seconds| Some(Hook::Sleep(s(seconds)));
    let cases: [Course; 8] = [
        ("no hook", 12.0, None, &[], &[(10.0, Terminate), (22.0, Kill)]),
        (
            "it ends by itself",
            12.0,
            None,
            &[(11.0, Input::Exited)],
            &[(10.0, Terminate), (11.0, Ready(false)), (11.0, Gone)],
        ),
        (
            "the hook is part of the grace",
            12.0,
            sleep(3.0),
            &[],
            &[(10.0, HookBegins), (13.0, ENDED), (13.0, Terminate), (22.0, Kill)],
        ),
        (
            "a hook that is told to be over",
            12.0,
            exec(),
            &[(14.0, Input::HookOver)],
            &[(10.0, HookBegins), (14.0, ENDED), (14.0, Terminate), (22.0, Kill)],
        ),
        (
            "a hook that outlives the grace is cut, and two seconds remain",
            4.0,
            exec(),
            &[],
            &[(10.0, HookBegins), (14.0, CUT), (14.0, Terminate), (16.0, Kill)],
        ),
        (
            "a hook that leaves too little",
            4.0,
            exec(),
            &[(13.5, Input::HookOver)],
            &[(10.0, HookBegins), (13.5, ENDED), (13.5, Terminate), (15.5, Kill)],
        ),
        (
            "it ends in its hook",
            12.0,
            sleep(3.0),
            &[(11.0, Input::Exited)],
            &[(10.0, HookBegins), (11.0, Ready(false)), (11.0, Gone)],
        ),
        (
            "a hook that is over twice, and a pod that is deleted twice",
            12.0,
            exec(),
            &[(11.0, Input::HookOver), (12.0, Input::HookOver), (13.0, Input::Deleted)],
            &[(10.0, HookBegins), (11.0, ENDED), (11.0, Terminate), (22.0, Kill)],
        ),
    ];
    for (name, grace, hook, inputs, expected) in cases {
        let mut played = Played::new(settings(grace, hook), |_, _| true);
        played.tell(10.0, Input::Deleted);
        inputs.iter().for_each(|(at, input)| played.tell(*at, *input));
        let mut deeds = played.deeds();
        assert_eq!(deeds.remove(0), (0.0, Ready(true)), "{name}: without a probe it is ready as soon as it runs");
        assert_eq!(deeds, expected, "{name}");
    }
}

#[test]
fn the_kubelet_hears_of_a_deletion_a_little_later_and_counts_from_there() {
    let mut played = Played::new(Settings { lag: s(0.5), ..settings(12.0, None) }, |_, _| true);
    played.tell(10.0, Input::Deleted);
    assert_eq!(played.deeds()[1..], [(10.5, Output::Terminate), (22.5, Output::Kill)]);
}

#[test]
fn readiness_waits_for_the_startup_probe_and_needs_as_many_in_a_row_as_it_says() {
    let startup = Some(probe(2.0, 1, 9));
    let readiness = Some(probe(1.0, 2, 3));
    let settings = Settings { startup, readiness, ..settings(12.0, None) };
    // It has started after 4 s, which is seen at once, and is not well from 10 to 13 s: three probes.
    let mut probed = Played::new(settings, |kind, at| match kind {
        Kind::Startup => at >= 4.0,
        _ => !(10.0..13.0).contains(&at),
    });
    probed.until(20.0);
    assert_eq!(probed.probes(Kind::Startup), [2.0, 4.0]);
    assert_eq!(probed.probes(Kind::Readiness)[..3], [4.0, 5.0, 6.0]);
    probed.said.retain(|(_, output)| matches!(output, Output::Ready(_)));
    assert_eq!(probed.said, [(5.0, Output::Ready(true)), (12.0, Output::Ready(false)), (14.0, Output::Ready(true))]);
}

#[test]
fn two_failures_of_three_are_no_news() {
    let settings = Settings { readiness: Some(probe(1.0, 1, 3)), ..settings(12.0, None) };
    let mut played = Played::new(settings, |_, at| (at as u64).is_multiple_of(3));
    played.until(30.0);
    played.said.retain(|(_, output)| matches!(output, Output::Ready(_)));
    assert_eq!(played.said, [(3.0, Output::Ready(true))]);
}

#[test]
fn a_liveness_probe_that_fails_ends_the_container_and_a_deletion_stops_the_probe() {
    let settings = Settings { liveness: Some(probe(5.0, 1, 3)), ..settings(12.0, Some(Hook::Sleep(s(1.0)))) };
    let mut sick = Played::new(settings.clone(), |_, at| at < 20.0);
    sick.until(100.0);
    let terminated = sick.said.iter().find(|(_, output)| *output == Output::Terminate);
    assert_eq!(terminated, Some(&(31.0, Output::Terminate)), "the third failure, and the hook");

    let mut deleted = Played::new(settings, |_, _| true);
    deleted.tell(11.0, Input::Deleted);
    deleted.until(100.0);
    assert_eq!(deleted.probes(Kind::Liveness), [5.0, 10.0]);
}

#[test]
fn readiness_is_probed_while_the_pod_ends() {
    let settings = Settings { readiness: Some(probe(1.0, 1, 1)), ..settings(12.0, Some(Hook::Sleep(s(5.0)))) };
    let mut played = Played::new(settings, |_, at| at < 12.0);
    played.tell(10.5, Input::Deleted);
    played.until(16.0);
    assert!(played.said.contains(&(12.0, Output::Ready(false))), "{:?}", played.said);
    assert!(played.probes(Kind::Readiness).contains(&15.0), "{:?}", played.said);
}

proptest! {
    /// However the pauses and the news: SIGTERM comes once, SIGKILL only after it and after what is always granted, and
    /// nothing comes when the pod is gone.
    #[test]
    fn no_pod_is_killed_before_its_time(
        grace in 0..20u64,
        sleep in prop::option::of(0..30u64),
        lag in 0..3_000u64,
        steps in prop::collection::vec((0..6_000u64, 0..5u8), 1..30),
    ) {
        let hook = sleep.map(|seconds| Hook::Sleep(Duration::from_secs(seconds))).or_else(exec);
        let readiness = Some(probe(1.0, 1, 3));
        let settings = Settings { readiness, lag: Duration::from_millis(lag), ..settings(grace as f64, hook) };
        let mut pod = Pod::new(settings, START);
        let (mut now, mut deleted) = (START, None);
        let mut said: Vec<(Duration, Output)> = Vec::new();
        for (pause, deed) in steps {
            now += Duration::from_millis(pause);
            let input = match deed {
                0 => Input::Deleted,
                1 => Input::HookOver,
                2 => Input::Probed(Kind::Readiness, pause % 2 == 0),
                3 if pause % 3 == 0 => Input::Exited,
                _ => Input::Probed(Kind::Liveness, true),
            };
            if input == Input::Deleted {
                deleted.get_or_insert(now);
            }
            said.extend(pod.apply(now, input).into_iter().map(|output| (now, output)));
            prop_assert!(pod.next().is_none_or(|next| next > now), "what is due is done at once");
        }
        let at = |wanted: Output| said.iter().filter(|(_, output)| *output == wanted).map(|(at, _)| *at).collect::<Vec<_>>();
        let (terms, kills, gone) = (at(Output::Terminate), at(Output::Kill), at(Output::Gone));
        prop_assert!(terms.len() <= 1 && kills.len() <= 1 && gone.len() <= 1);
        prop_assert!(terms.is_empty() || deleted.is_some());
        if let Some(kill) = kills.first() {
            let since = deleted.unwrap() + Duration::from_millis(lag);
            prop_assert!(*kill >= since + Duration::from_secs(grace).max(LEAST_GRACE) && !terms.is_empty());
        }
        if let Some(gone) = gone.first() {
            prop_assert!(said.iter().all(|(at, _)| at <= gone));
        }
    }
}
