//! The model of a target group, by what it says in the course of time, and by tables.

use std::time::Duration;

use drainspec::model::target_group::{
    Check, Choice, Input, NodeId, Observer, Outcome, Output, Reason, Settings, State, TargetGroup, TargetId, TargetType,
};

const A: TargetId = TargetId(1);
const B: TargetId = TargetId(2);
const NEAR: NodeId = NodeId(0);
const FAR: NodeId = NodeId(1);
const OK: Outcome = Outcome::Answered(200);
const BUSY: Outcome = Outcome::Answered(503);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A group and what it has said, in words; checks are answered with what their target does just now.
struct Play {
    group: TargetGroup,
    said: Vec<String>,
    due: Vec<Check>,
    answers: Vec<(TargetId, Outcome)>,
    now: Duration,
}

/// Two nodes, one that learns at once and one that learns after two seconds; targets that answer 200.
fn play(settings: Settings) -> Play {
    let group = TargetGroup::new(settings, &[Duration::ZERO, seconds(2)]);
    Play { group, said: Vec::new(), due: Vec::new(), answers: Vec::new(), now: Duration::ZERO }
}

impl Play {
    fn input(&mut self, now: Duration, input: Input) -> &mut Self {
        self.now = now;
        let said = self.group.apply(now, input);
        self.hear(said)
    }

    /// Lets time pass, without answering health checks.
    fn pass(&mut self, now: Duration) -> &mut Self {
        self.now = now;
        let said = self.group.advance(now);
        self.hear(said)
    }

    /// Lets time pass, and each health check be answered at once.
    fn live(&mut self, until: Duration) -> &mut Self {
        loop {
            for check in std::mem::take(&mut self.due) {
                let answer = self.answers.iter().rev().find(|(target, _)| *target == check.target);
                let outcome = answer.map_or(OK, |(_, outcome)| *outcome);
                self.input(self.now, Input::Checked { check, outcome });
            }
            if self.now == until {
                return self;
            }
            self.pass(self.group.next().map_or(until, |next| next.min(until)));
        }
    }

    /// From now on its health checks come to this.
    fn answers(&mut self, target: TargetId, outcome: Outcome) -> &mut Self {
        self.answers.push((target, outcome));
        self
    }

    fn hear(&mut self, said: Vec<(Duration, Output)>) -> &mut Self {
        for (at, output) in said {
            let what = match output {
                Output::State { observer, target, state, reason } => {
                    let who = match observer {
                        Observer::Api => "api".to_owned(),
                        Observer::Node(node) => format!("node {}", node.0),
                    };
                    let why = reason.map_or(String::new(), |reason| format!(" {}", reason.code()));
                    format!("{who}: {} {state}{why}", target.0)
                }
                Output::Refused { target } => format!("{} refused", target.0),
                Output::Completed { node, target } => format!("node {}: {} completed", node.0, target.0),
                Output::Cut { node, target } => format!("node {}: cut {}", node.0, target.0),
                Output::CheckDue { check } => {
                    self.due.push(check);
                    format!("node {}: check {}", check.node.0, check.target.0)
                }
            };
            self.said.push(format!("{:>7.3} {what}", at.as_secs_f64()));
        }
        self
    }

    /// What has been said since the last time, without checks.
    fn said(&mut self) -> Vec<String> {
        let said = std::mem::take(&mut self.said);
        said.into_iter().filter(|line| !line.contains(": check ")).map(|line| line.trim_start().to_owned()).collect()
    }

    fn states(&self, target: TargetId) -> [State; 3] {
        [Observer::Api, Observer::Node(NEAR), Observer::Node(FAR)].map(|observer| self.group.state(observer, target))
    }

    fn chosen(&mut self, now: Duration, node: NodeId, times: usize) -> Vec<u32> {
        (0..times).filter_map(|_| self.group.choose(now, node)).map(|choice| choice.target.0).collect()
    }
}

/// Both targets healthy everywhere, since 4 s at the latest.
fn two_healthy(settings: Settings) -> Play {
    let mut play = play(settings);
    play.input(at(0), Input::Register(A)).input(at(0), Input::Register(B)).live(seconds(10)).said();
    assert_eq!([play.states(A), play.states(B)], [[State::Healthy; 3]; 2]);
    play
}

#[test]
fn a_target_is_registered_passes_one_check_and_is_healthy() {
    let mut play = play(Settings::default());
    play.input(at(1000), Input::Register(A)).live(seconds(20));
    assert_eq!(
        play.said(),
        [
            "1.000 api: 1 initial Elb.RegistrationInProgress",
            "1.000 node 0: 1 initial Elb.InitialHealthChecking",
            "1.000 api: 1 initial Elb.InitialHealthChecking",
            "1.000 node 0: 1 healthy",
            "3.000 node 1: 1 initial Elb.InitialHealthChecking",
            "3.000 node 1: 1 healthy",
            "5.000 api: 1 healthy",
        ]
    );
}

#[test]
fn registering_twice_and_deregistering_a_stranger_are_no_news() {
    let mut play = two_healthy(Settings::default());
    play.input(seconds(11), Input::Register(A)).input(seconds(11), Input::Deregister(TargetId(9))).live(seconds(20));
    assert_eq!(play.said(), [""; 0]);
    play.input(seconds(20), Input::Deregister(A)).said();
    play.input(seconds(21), Input::Deregister(A));
    assert_eq!(play.said(), [""; 0]);
    play.live(seconds(400));
    let unused = "320.000 api: 1 unused Target.NotRegistered";
    assert!(play.said().contains(&unused.to_owned()), "the second does not make it longer");
}

#[test]
fn a_draining_target_gets_nothing_from_whoever_knows_and_everything_from_whoever_does_not() {
    let mut play = two_healthy(Settings::default());
    play.input(seconds(20), Input::Deregister(A));
    assert_eq!(play.states(A), [State::Draining, State::Draining, State::Healthy]);
    assert_eq!(play.chosen(at(21_999), NEAR, 4), [2, 2, 2, 2]);
    assert_eq!(play.chosen(at(21_999), FAR, 4), [1, 2, 1, 2]);
    assert!(play.group.may_reuse(at(21_999), FAR, A, seconds(21)));
    assert!(!play.group.may_reuse(at(21_999), NEAR, A, seconds(21)));
    assert_eq!(play.chosen(seconds(22), FAR, 4), [2, 2, 2, 2]);
    assert!(!play.group.may_reuse(seconds(22), FAR, A, seconds(22)));
}

#[test]
fn draining_ends_with_the_delay_and_cuts_what_is_open_then() {
    let mut play = two_healthy(Settings::default());
    play.input(seconds(19), Input::Opened { node: NEAR, target: A });
    play.input(seconds(19), Input::Opened { node: FAR, target: A });
    play.input(seconds(20), Input::Deregister(A));
    play.live(seconds(100)).input(seconds(100), Input::Closed { node: FAR, target: A }).live(seconds(400));
    assert_eq!(
        play.said(),
        [
            "20.000 api: 1 draining Target.DeregistrationInProgress",
            "20.000 node 0: 1 draining Target.DeregistrationInProgress",
            "22.000 node 1: 1 draining Target.DeregistrationInProgress",
            "100.000 node 1: 1 completed",
            "320.000 api: 1 unused Target.NotRegistered",
            "320.000 node 0: 1 unused Target.NotRegistered",
            "320.000 node 0: cut 1",
            "322.000 node 1: 1 unused Target.NotRegistered",
        ]
    );
}

#[test]
fn without_connections_deregistration_is_complete_at_once_and_shows_only_later() {
    let mut play = two_healthy(Settings { deregistration_delay: seconds(30), ..Settings::default() });
    play.input(seconds(20), Input::Deregister(A)).live(seconds(60));
    assert_eq!(
        play.said(),
        [
            "20.000 api: 1 draining Target.DeregistrationInProgress",
            "20.000 node 0: 1 draining Target.DeregistrationInProgress",
            "20.000 node 0: 1 completed",
            "22.000 node 1: 1 draining Target.DeregistrationInProgress",
            "22.000 node 1: 1 completed",
            "50.000 api: 1 unused Target.NotRegistered",
            "50.000 node 0: 1 unused Target.NotRegistered",
            "52.000 node 1: 1 unused Target.NotRegistered",
        ]
    );
}

#[test]
fn a_delay_of_nothing_cuts_at_once() {
    let mut play = two_healthy(Settings { deregistration_delay: Duration::ZERO, ..Settings::default() });
    play.input(seconds(19), Input::Opened { node: NEAR, target: A });
    play.input(seconds(20), Input::Deregister(A));
    assert!(play.said().contains(&"20.000 node 0: cut 1".to_owned()));
    assert_eq!(play.states(A), [State::Unused, State::Unused, State::Healthy]);
}

#[test]
fn a_draining_target_is_not_checked() {
    let mut play = two_healthy(Settings::default());
    play.input(seconds(20), Input::Deregister(A)).input(seconds(20), Input::Deregister(B));
    play.said.clear();
    play.live(seconds(700));
    assert!(!play.said.iter().any(|line| line.contains(": check ")), "{:?}", play.said);
}

#[test]
fn an_instance_can_come_back_while_it_drains_and_an_address_cannot() {
    let mut back = two_healthy(Settings::default());
    back.input(seconds(19), Input::Opened { node: NEAR, target: A });
    back.input(seconds(20), Input::Deregister(A)).pass(seconds(40));
    back.said();
    back.input(seconds(40), Input::Register(A)).live(seconds(400));
    assert_eq!(
        back.said(),
        [
            "40.000 api: 1 initial Elb.RegistrationInProgress",
            "40.000 node 0: 1 initial Elb.InitialHealthChecking",
            "40.000 api: 1 initial Elb.InitialHealthChecking",
            "40.000 node 0: 1 healthy",
            "42.000 node 1: 1 initial Elb.InitialHealthChecking",
            "42.000 node 1: 1 healthy",
            "44.000 api: 1 healthy",
        ],
        "neither a cut nor `unused` of the first registration"
    );

    let mut address = two_healthy(Settings { target_type: TargetType::Ip, ..Settings::default() });
    address.input(seconds(20), Input::Deregister(A)).pass(seconds(40)).said();
    address.input(seconds(40), Input::Register(A)).pass(at(319_999));
    assert_eq!(address.said(), ["40.000 1 refused"]);
    address.input(seconds(320), Input::Register(A)).live(seconds(400));
    assert_eq!(address.states(A), [State::Healthy; 3]);
}

#[test]
fn thresholds_count_results_in_a_row() {
    let settings = Settings { unhealthy_threshold: 3, healthy_threshold: 2, ..Settings::default() };
    let table: [(&str, &[Outcome], State); 9] = [
        ("one success is enough for a new target", &[OK], State::Healthy),
        ("too few failures for a new target", &[BUSY, BUSY], State::Initial),
        ("a new target that fails", &[BUSY, BUSY, BUSY], State::Unhealthy),
        ("a new target that succeeds late", &[BUSY, BUSY, OK], State::Healthy),
        ("too few failures", &[OK, BUSY, BUSY], State::Healthy),
        ("failures not in a row", &[OK, BUSY, BUSY, OK, BUSY, BUSY], State::Healthy),
        ("failures of several kinds", &[OK, BUSY, Outcome::TimedOut, Outcome::Failed], State::Unhealthy),
        ("one success is not enough for an unhealthy target", &[BUSY, BUSY, BUSY, OK, BUSY, OK], State::Unhealthy),
        ("two in a row are", &[BUSY, BUSY, BUSY, OK, BUSY, OK, OK], State::Healthy),
    ];
    for (what, outcomes, state) in table {
        let mut play = play(settings.clone());
        play.input(at(0), Input::Register(A));
        let check = play.due[0];
        for (index, outcome) in (1..).zip(outcomes) {
            play.input(seconds(index), Input::Checked { check, outcome: *outcome });
        }
        assert_eq!(play.group.state(Observer::Node(NEAR), A), state, "{what}");
        assert_ne!(
            play.group.state(Observer::Node(FAR), A),
            State::Unhealthy,
            "{what}: the other node sees for itself"
        );
    }
}

#[test]
fn the_api_says_why_a_target_is_unhealthy() {
    let table = [
        (BUSY, Reason::ResponseCodeMismatch),
        (Outcome::TimedOut, Reason::Timeout),
        (Outcome::Failed, Reason::FailedHealthChecks),
    ];
    for (outcome, reason) in table {
        let mut play = two_healthy(Settings::default());
        play.answers(A, outcome).live(seconds(100));
        // Checks every 30 s since 0 s and since 2 s; the second failure decides, and the far node's report takes 2 s.
        let code = reason.code();
        assert_eq!(
            play.said(),
            [
                format!("60.000 node 0: 1 unhealthy {code}"),
                format!("60.000 api: 1 unhealthy {code}"),
                format!("62.000 node 1: 1 unhealthy {code}"),
            ]
        );
    }
}

#[test]
fn the_api_waits_for_the_last_node_before_it_says_healthy() {
    let mut play = two_healthy(Settings { healthy_threshold: 2, ..Settings::default() });
    play.answers(A, BUSY).live(seconds(100)).said();
    play.answers(A, OK).live(seconds(200));
    assert_eq!(play.said(), ["150.000 node 0: 1 healthy", "152.000 node 1: 1 healthy", "154.000 api: 1 healthy"]);
}

#[test]
fn a_report_of_an_earlier_registration_is_none_of_this_one() {
    let mut group = TargetGroup::new(Settings::default(), &[seconds(2)]);
    let checks = |said: Vec<(Duration, Output)>| {
        said.into_iter().find_map(|(_, output)| match output {
            Output::CheckDue { check } => Some(check),
            _ => None,
        })
    };
    let _ = group.apply(at(0), Input::Register(A));
    let check = checks(group.advance(seconds(2))).unwrap();
    let _ = group.apply(seconds(10), Input::Checked { check, outcome: OK });
    let _ = group.apply(seconds(11), Input::Deregister(A));
    let _ = group.apply(at(11_500), Input::Register(A));
    let _ = group.advance(seconds(20));
    assert_eq!(group.state(Observer::Api, A), State::Initial, "the node has not checked it again");
}

#[test]
fn with_nobody_healthy_a_node_sends_to_all_that_are_registered() {
    let mut play = play(Settings::default());
    assert_eq!(play.group.choose(at(0), NEAR), None, "no target: 503");
    play.input(at(0), Input::Register(A)).input(at(0), Input::Register(B));
    let initial = play.group.choose(at(0), NEAR);
    assert_eq!(initial, Some(Choice { target: A, failed_open: true }));
    play.answers(A, BUSY).live(seconds(40));
    assert_eq!(play.states(A), [State::Unhealthy; 3]);
    assert_eq!(play.group.choose(seconds(40), NEAR), Some(Choice { target: B, failed_open: false }));
    play.answers(B, BUSY).live(seconds(110));
    let mut chosen = play.chosen(seconds(110), NEAR, 4);
    chosen.sort_unstable();
    assert_eq!(chosen, [1, 1, 2, 2]);
    play.input(seconds(111), Input::Deregister(A));
    assert_eq!(play.chosen(seconds(112), NEAR, 3), [2, 2, 2], "a draining target is not registered");
    play.input(seconds(112), Input::Deregister(B));
    assert_eq!(play.group.choose(seconds(112), NEAR), None);
    assert!(play.group.choose(seconds(112), FAR).is_some(), "who has not heard of it still sends");
}

#[test]
fn requests_go_round() {
    let mut play = two_healthy(Settings::default());
    play.input(seconds(10), Input::Register(TargetId(3))).live(seconds(20));
    assert_eq!(play.chosen(seconds(20), NEAR, 7), [1, 2, 3, 1, 2, 3, 1]);
    assert_eq!(play.chosen(seconds(20), FAR, 3), [1, 2, 3], "each node for itself");
    assert_eq!(play.group.choose(seconds(20), NodeId(7)), None, "there is no such node");
}

#[test]
fn a_target_that_starts_slowly_gets_a_share_that_grows_linearly() {
    let settings = Settings { slow_start: seconds(100), ..Settings::default() };
    let mut play = two_healthy(settings);
    play.input(seconds(50), Input::Deregister(B)).live(seconds(355));
    play.input(seconds(400), Input::Register(B)).live(seconds(400));
    // Of 1,000 requests w/(1 + w), with the weight w = the part of the 100 s that is over.
    for (now, share) in [(400, 0), (425, 200), (450, 333), (475, 429), (500, 500), (900, 500)] {
        let chosen = play.chosen(seconds(now), NEAR, 1000).into_iter().filter(|target| *target == 2).count();
        assert!(chosen.abs_diff(share) <= 2, "{now} s: {chosen} of 1000, not {share}");
    }
}

#[test]
fn who_starts_slowly() {
    let settings = Settings { slow_start: seconds(100), healthy_threshold: 2, ..Settings::default() };
    let share =
        |play: &mut Play, now| play.chosen(seconds(now), NEAR, 1000).into_iter().filter(|target| *target == 2).count();
    let mut both = two_healthy(settings.clone());
    assert_eq!(share(&mut both, 10), 500, "nobody does who is registered into an empty group");

    let mut second = play(settings.clone());
    second.input(at(0), Input::Register(A)).live(seconds(1)).input(seconds(1), Input::Register(B)).live(seconds(2));
    let of_b = share(&mut second, 2);
    assert!(of_b < 20, "the second beside a healthy one: {of_b}");
    second.input(seconds(3), Input::Deregister(B)).input(seconds(4), Input::Register(B)).live(seconds(4));
    second.live(seconds(5));
    let of_b = share(&mut second, 5);
    assert!(of_b < 20, "and again, where it is registered again: {of_b}");

    let mut third = second;
    third.input(seconds(6), Input::Deregister(A)).input(seconds(7), Input::Register(A)).live(seconds(8));
    let of_b = share(&mut third, 8);
    assert!(of_b < 50, "not where the only other one starts slowly itself: {of_b}");

    let mut sick = two_healthy(settings.clone());
    sick.live(seconds(200)).answers(B, BUSY).live(seconds(300)).answers(B, OK).live(seconds(370));
    let of_b = share(&mut sick, 370);
    assert!((85..95).contains(&of_b), "who was unhealthy, until 360 s: {of_b}");

    sick.answers(A, BUSY).answers(B, BUSY).live(seconds(430));
    assert_eq!(sick.states(B), [State::Unhealthy; 3]);
    assert_eq!(share(&mut sick, 430), 500, "who is unhealthy does no longer, should it be asked nevertheless");
}

#[test]
fn an_idle_connection_is_used_until_its_time_is_over() {
    let mut play = two_healthy(Settings::default());
    assert!(play.group.may_reuse(at(79_999), NEAR, A, seconds(20)));
    assert!(!play.group.may_reuse(seconds(80), NEAR, A, seconds(20)));
    assert!(!play.group.may_reuse(seconds(80), NEAR, TargetId(9), seconds(80)), "a stranger");
    let settings = play.group.settings();
    assert_eq!(settings.idle_until(seconds(20)), seconds(80));
    assert!(!settings.is_last_for_client(seconds(10), at(3_609_999)));
    assert!(settings.is_last_for_client(seconds(10), seconds(3610)));
}

#[test]
fn checks_come_at_the_interval_however_long_an_answer_takes() {
    let mut play = play(Settings::default());
    play.input(seconds(1), Input::Register(A));
    let check = play.due[0];
    play.input(seconds(5), Input::Checked { check, outcome: OK }).pass(seconds(30)).pass(seconds(70));
    let checks: Vec<_> = play.said.iter().filter(|line| line.contains("node 0: check")).map(|l| l.trim()).collect();
    assert_eq!(checks, ["1.000 node 0: check 1", "31.000 node 0: check 1"], "late: one for the two of 31 s and 61 s");
    play.said.clear();
    play.pass(seconds(91));
    assert!(play.said.iter().any(|line| line.trim() == "91.000 node 0: check 1"), "{:?}", play.said);
}

#[test]
fn a_result_from_before_the_last_registration_says_nothing() {
    let mut play = play(Settings::default());
    play.input(at(0), Input::Register(A));
    let stale = play.due[0];
    play.input(seconds(1), Input::Deregister(A)).input(seconds(2), Input::Register(A));
    play.input(seconds(3), Input::Checked { check: stale, outcome: OK });
    assert_eq!(play.group.state(Observer::Node(NEAR), A), State::Initial);
}

#[test]
fn what_choosing_comes_across_is_said_by_the_next_call() {
    let mut play = two_healthy(Settings::default());
    play.input(seconds(20), Input::Deregister(A)).said();
    play.group.choose(seconds(22), FAR);
    assert_eq!(play.group.next(), Some(seconds(22)), "there is something to say");
    play.pass(seconds(22));
    assert_eq!(
        play.said(),
        ["22.000 node 1: 1 draining Target.DeregistrationInProgress", "22.000 node 1: 1 completed"]
    );
}

#[test]
fn time_does_not_go_back() {
    let mut play = two_healthy(Settings::default());
    play.input(seconds(5), Input::Deregister(A));
    assert_eq!(play.said()[0], "10.000 api: 1 draining Target.DeregistrationInProgress");
}
