//! What holds for every timeline, and what a change to a timeline changes.

use std::collections::BTreeMap;

use drainspec::measures::measures;
use drainspec::report::excerpt;
use drainspec::rules;
use drainspec::timeline::{
    Break, Ending, EndpointState, Event, FORMAT, Header, Lines, NotOpened, Param, Part, Record, Role, Seen, StepKind,
    Timeline, View, read,
};
use drainspec::verdict::{RuleVerdict, Verdict, judge};
use proptest::prelude::*;

use crate::reading::written;
use crate::run::run;

const ROLES: [Role; 29] = [
    Role::Warmup,
    Role::InFlight,
    Role::Doomed,
    Role::Finite,
    Role::Endless,
    Role::Upload,
    Role::SlowHead,
    Role::SlowBody,
    Role::SlowReader,
    Role::Gone,
    Role::Pipelined,
    Role::Continue,
    Role::Overload,
    Role::Late,
    Role::LateRejected,
    Role::KeepAlive,
    Role::Storm,
    Role::Saturated,
    Role::Sustained,
    Role::Idle,
    Role::Unused,
    Role::New,
    Role::LameDuck,
    Role::Ready,
    Role::Live,
    Role::Prestop,
    Role::AfterReload,
    Role::AfterHook,
    Role::Successor,
];

fn roles() -> impl Strategy<Value = Role> {
    prop::sample::select(&ROLES[..])
}

/// Few names, so that records are about each other.
fn requests() -> impl Strategy<Value = String> {
    (0..4u8).prop_map(|number| format!("r{number}"))
}

fn instances() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof![Just("a".to_owned()), Just("b".to_owned()), any::<String>()])
}

fn seen() -> impl Strategy<Value = Seen> {
    (prop::option::of(1..4u32), any::<String>()).prop_map(|(pid, command)| Seen { pid, command })
}

fn parts() -> impl Strategy<Value = Part> {
    prop_oneof![4 => Just(Part::Server), 1 => Just(Part::Balancer)]
}

fn slots() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(1..3u32)
}

fn methods() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof![Just("POST".to_owned()), Just("PUT".to_owned()), any::<String>()])
}

fn steps() -> impl Strategy<Value = StepKind> {
    use StepKind::{Admit, Done, Start, Stop, Withdraw};
    prop::sample::select(&[Withdraw, Stop, Start, Admit, Done][..])
}

fn endpoint_states() -> impl Strategy<Value = EndpointState> {
    use EndpointState::{Down, Draining, Gone, Starting, Up};
    prop::sample::select(&[Starting, Up, Draining, Down, Gone][..])
}

fn events() -> impl Strategy<Value = Event> {
    let process = || 1..3u32;
    let connection = || 1..4u32;
    let bytes = || prop_oneof![Just(10u64), any::<u64>()];
    let status = || prop_oneof![Just(200u16), Just(429), Just(503), any::<u16>()];
    let why = || prop::sample::select(&[Break::Fin, Break::Reset, Break::TimedOut, Break::Malformed, Break::Left][..]);
    let signals = || prop::sample::select(&["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"][..]).prop_map(str::to_owned);
    let settings = prop::collection::btree_map(any::<String>(), any::<String>(), 0..3);
    let lines = prop::sample::select(&[Lines::Log, Lines::Stderr, Lines::Executed][..]);
    let due = prop::option::of(prop_oneof![0..20_000_000u64, any::<u64>()]);
    let of_processes = prop_oneof![
        (process(), any::<u32>(), parts(), slots(), settings)
            .prop_map(|(process, pid, part, slot, settings)| { Event::Started { process, pid, part, slot, settings } }),
        (process(), lines, any::<u64>()).prop_map(|(process, lines, recorded)| Event::Unrecorded {
            process,
            lines,
            recorded
        }),
        (process(), any::<u16>(), any::<Option<u16>>(), instances()).prop_map(
            |(process, port, admin_port, instance)| { Event::Listening { process, port, admin_port, instance } }
        ),
        (process(), any::<String>()).prop_map(|(process, line)| Event::Log { process, line }),
        (process(), any::<String>()).prop_map(|(process, line)| Event::Stderr { process, line }),
        (process(), requests()).prop_map(|(process, request)| Event::Executed { process, request }),
        (process(), signals()).prop_map(|(process, name)| Event::Signal { process, name, group: false }),
        process().prop_map(|process| Event::SignalPast { process, name: "SIGTERM".to_owned() }),
        (process(), prop::collection::vec(seen(), 0..3)).prop_map(|(process, listeners)| Event::Listeners {
            process,
            leader: Seen { pid: Some(1), command: "server".to_owned() },
            listeners,
        }),
        (process(), any::<Option<u64>>())
            .prop_map(|(process, open_until_us)| { Event::ListenerClosed { process, open_until_us } }),
        process().prop_map(|process| Event::Killed { process }),
        (process(), prop::option::of(0..256i32), prop::option::of(1..32i32))
            .prop_map(|(process, code, signal)| { Event::Exited { process, code, signal } }),
        (process(), any::<u64>()).prop_map(|(process, requests)| Event::InFlight { process, requests }),
    ];
    let of_connections = prop_oneof![
        (connection(), roles(), any::<Option<u64>>()).prop_map(|(connection, role, begun_us)| Event::Opened {
            connection,
            role,
            begun_us
        }),
        (
            connection(),
            roles(),
            prop::sample::select(&[NotOpened::Refused, NotOpened::TimedOut, NotOpened::Other][..]),
            any::<Option<u64>>()
        )
            .prop_map(|(connection, role, why, begun_us)| Event::NotOpened { connection, role, why, begun_us }),
        (connection(), prop::sample::select(&[Ending::Fin, Ending::Reset, Ending::Local][..]))
            .prop_map(|(connection, how)| Event::Ended { connection, how }),
    ];
    let of_requests = prop_oneof![
        (
            (connection(), requests(), roles(), methods(), any::<String>()),
            (due, prop::option::of(bytes()), any::<Option<u64>>())
        )
            .prop_map(|((connection, request, role, method, path), (due_us, expect_bytes, begun_us))| {
                Event::Sent {
                    connection,
                    request,
                    role,
                    method,
                    path,
                    due_us,
                    expect_bytes,
                    expect_status: None,
                    begun_us,
                    cut_hidden: false,
                }
            }),
        (requests(), bytes()).prop_map(|(request, body_bytes)| Event::Received { request, body_bytes }),
        (connection(), requests(), roles()).prop_map(|(connection, request, role)| Event::Unsent {
            connection,
            request,
            role
        }),
        prop::collection::vec(requests(), 0..3).prop_map(|requests| Event::Read { requests }),
        requests().prop_map(|request| Event::Uploaded { request }),
        requests().prop_map(|request| Event::Continued { request }),
        (requests(), status(), any::<bool>(), any::<bool>(), instances()).prop_map(
            |(request, status, close, retry_after, instance)| {
                Event::Head { request, status, close, retry_after, instance }
            }
        ),
        (requests(), bytes(), any::<Option<bool>>()).prop_map(|(request, body_bytes, intact)| Event::Answered {
            request,
            body_bytes,
            intact
        }),
        (requests(), why(), bytes()).prop_map(|(request, why, body_bytes)| Event::Broken { request, why, body_bytes }),
    ];
    let of_the_harness = prop_oneof![
        (0..9_000_000u64, any::<u64>()).prop_map(|(late_us, within_us)| Event::Stalled { late_us, within_us }),
        any::<(u64, u64)>().prop_map(|(waited_us, within_us)| Event::Starved { process: 1, waited_us, within_us }),
        any::<(u64, u64)>().prop_map(|(asked, per_second)| Event::Eased { asked, per_second }),
        (1..3u32, any::<u16>()).prop_map(|(process, port)| Event::PortTaken { process, port }),
        any::<String>().prop_map(|what| Event::Confirmed { what }),
    ];
    let of_fleets = prop_oneof![
        (1..3u32, steps()).prop_map(|(slot, what)| Event::Step { slot, what }),
        (any::<String>(), process(), endpoint_states()).prop_map(|(observer, process, state)| Event::Endpoint {
            observer,
            process,
            state
        }),
        process().prop_map(|process| Event::Reloaded { process }),
    ];
    prop_oneof![4 => of_processes, 3 => of_connections, 8 => of_requests, 1 => of_the_harness, 1 => of_fleets]
}

/// Any timeline that a file can hold, most of them absurd.
pub fn timelines() -> impl Strategy<Value = Timeline> {
    let pauses = prop_oneof![0..5_000_000u64, 0..1_000u64];
    let records = prop::collection::vec((pauses, events()), 0..40);
    let value = prop_oneof![Just(1.0), 0.0..20.0, prop::num::f64::NORMAL];
    let params = prop::collection::btree_map(prop::sample::select(Param::ALL), value, 0..6);
    let unconfirmed = prop::option::weighted(0.1, any::<(String, String)>());
    (any::<(String, String, bool, u32)>(), params, any::<u32>(), records, unconfirmed).prop_map(
        |((scenario, server, promises_contract, repeat), params, start, records, unconfirmed)| {
            let header = Header {
                format: FORMAT,
                scenario,
                rules: rules::all().map(|rule| rule.slug.to_owned()).collect(),
                server,
                topology: "direct".to_owned(),
                repeat,
                promises_contract,
                features: vec!["slow".to_owned(), "accounting".to_owned()],
                params,
                environment: BTreeMap::from([("os".to_owned(), "linux".to_owned())]),
                learned: Vec::new(),
            };
            let mut t_us = u64::from(start);
            let mut timed = Vec::new();
            for (pause, event) in records {
                t_us += pause;
                timed.push(Record { t_us, event });
            }
            let unconfirmed = unconfirmed.map(|(what, why)| Event::Unconfirmed { what, why });
            timed.extend(unconfirmed.into_iter().chain([Event::Finished]).map(|event| Record { t_us, event }));
            Timeline { header, records: timed }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_timeline_panics_a_rule(timeline in timelines()) {
        let verdicts = judge(&timeline).unwrap();
        prop_assert_eq!(verdicts.len(), rules::all().count());
        for verdict in &verdicts {
            excerpt(&timeline, &verdict.evidence);
        }
        measures(&View::new(&timeline));
    }

    #[test]
    fn judging_is_a_function_of_the_file(timeline in timelines()) {
        let again = read(written(&timeline).as_bytes()).unwrap();
        prop_assert_eq!(judge(&timeline).unwrap(), judge(&again).unwrap());
    }

    #[test]
    fn evidence_is_on_the_timeline(timeline in timelines()) {
        let mut timeline = timeline;
        let t_us = timeline.records[0].t_us;
        let (part, settings) = (Part::Server, BTreeMap::new());
        let started = |(process, slot)| Event::Started { process, pid: 7, part, slot, settings: settings.clone() };
        let started = [(1, None), (2, Some(1))].map(|one| Record { t_us, event: started(one) });
        timeline.records.splice(0..0, started);
        for verdict in judge(&timeline).unwrap() {
            for at in verdict.evidence {
                let there = timeline.records.iter().any(|record| record.t_us == at);
                prop_assert!(there, "{}: no record at {}", verdict.rule, at);
            }
        }
    }

    #[test]
    fn without_a_signal_nothing_is_judged_by_it(timeline in timelines()) {
        let mut timeline = timeline;
        timeline.records.retain(|record| !matches!(record.event, Event::Signal { .. }));
        for verdict in judge(&timeline).unwrap() {
            if ["term-ends-process", "clean-exit-status", "in-flight-answered"].contains(&verdict.rule.as_str()) {
                prop_assert_eq!(verdict.verdict, Verdict::Inconclusive, "{}", verdict.rule);
            }
        }
    }
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop::sample::select(&Verdict::BY_SEVERITY[..])
}

proptest! {
    #[test]
    fn the_worst_of_several_depends_on_no_order(
        mut some in prop::collection::vec(verdicts(), 0..8), split in 0usize..8, turn in 0usize..8,
    ) {
        let worst = Verdict::worst(some.clone());
        let (left, right) = some.split_at(split.min(some.len()));
        let parts = [Verdict::worst(left.to_vec()), Verdict::worst(right.to_vec())];
        prop_assert_eq!(Verdict::worst(parts.into_iter().flatten()), worst);
        let turn = turn.min(some.len());
        some.rotate_left(turn);
        prop_assert_eq!(Verdict::worst(some.clone()), worst);
        some.reverse();
        prop_assert_eq!(Verdict::worst(some.clone()), worst);
        some.extend(worst);
        prop_assert_eq!(Verdict::worst(some), worst);
    }
}

/// Rules that [`in_order`] keeps.
const KEPT: [&str; 11] = [
    "term-ends-process",
    "clean-exit-status",
    "in-flight-answered",
    "response-untruncated",
    "close-announced",
    "idle-closed-by-fin",
    "idle-holds-nothing",
    "listener-closes-first",
    "late-request-answered",
    "nothing-lost-on-keep-alive",
    "new-connections-refused",
];

const IDLE: u32 = 5;
const SLOW: [&str; 3] = ["slow1", "slow2", "slow3"];

/// A drain as a server in order makes it: three requests in flight, five idle connections, load.
fn in_order() -> Timeline {
    let mut drain = run().param(Param::Clients, 2.0);
    for connection in 1..=IDLE {
        drain = drain.opened(connection, Role::Idle);
    }
    drain = drain.sent("k1", Role::KeepAlive).answered("k1", 200).sent("k2", Role::KeepAlive).answered("k2", 200);
    for slow in SLOW {
        drain = drain.sent_expecting(slow, Role::InFlight, 10);
    }
    drain = drain.sent("k3", Role::KeepAlive).at(1_000).signal("SIGTERM").answered_close("k3", 200);
    drain = drain.at(1_010).listener_closed().not_opened(9, Role::New, NotOpened::Refused);
    drain = drain.sent("late", Role::Late).answered_close("late", 200).at(1_500);
    for slow in SLOW {
        drain = drain.answered_close(slow, 200);
    }
    drain = drain.at(2_010);
    for connection in 1..=IDLE {
        drain = drain.ended(connection, Ending::Fin);
    }
    drain.at(2_050).exited(0).judged_by(&KEPT)
}

fn failing(verdicts: &[RuleVerdict]) -> Vec<&str> {
    verdicts.iter().filter(|verdict| verdict.verdict != Verdict::Pass).map(|verdict| verdict.rule.as_str()).collect()
}

/// Which rules notice that.
fn notices(change: impl FnOnce(&mut Timeline)) -> Vec<String> {
    let mut timeline = in_order();
    assert_eq!(failing(&judge(&timeline).unwrap()), Vec::<&str>::new());
    change(&mut timeline);
    timeline.records.sort_by_key(|record| record.t_us);
    let finished = timeline.records.iter().position(|record| record.event == Event::Finished).unwrap();
    let finished = timeline.records.remove(finished);
    let last = timeline.records.last().unwrap().t_us;
    timeline.records.push(Record { t_us: last, ..finished });
    let verdicts = judge(&timeline).unwrap();
    failing(&verdicts).into_iter().map(str::to_owned).collect()
}

fn at(timeline: &Timeline, wanted: impl Fn(&Event) -> bool) -> usize {
    timeline.records.iter().position(|record| wanted(&record.event)).unwrap()
}

fn about(event: &Event, id: &str) -> bool {
    matches!(event, Event::Head { request, .. } | Event::Answered { request, .. } if request == id)
}

proptest! {
    #[test]
    fn a_response_that_is_missing_is_noticed(slow in prop::sample::select(&SLOW[..])) {
        let noticed = notices(|run| run.records.retain(|record| !about(&record.event, slow)));
        prop_assert_eq!(noticed, ["in-flight-answered"]);
    }

    #[test]
    fn a_response_without_its_end_is_noticed(slow in prop::sample::select(&SLOW[..])) {
        let noticed = notices(|run| {
            let end = at(run, |event| matches!(event, Event::Answered { request, .. } if request == slow));
            run.records.remove(end);
        });
        prop_assert_eq!(noticed, ["response-untruncated"]);
    }

    #[test]
    fn bytes_that_are_missing_are_noticed(slow in prop::sample::select(&SLOW[..]), bytes in 0..10u64) {
        let noticed = notices(|run| {
            let end = at(run, |event| matches!(event, Event::Answered { request, .. } if request == slow));
            run.records[end].event =
                Event::Answered { request: slow.to_owned(), body_bytes: bytes, intact: None };
        });
        prop_assert_eq!(noticed, ["response-untruncated"]);
    }

    #[test]
    fn a_reset_is_noticed(connection in 1..=IDLE) {
        let noticed = notices(|run| {
            let end = at(run, |event| *event == Event::Ended { connection, how: Ending::Fin });
            run.records[end].event = Event::Ended { connection, how: Ending::Reset };
        });
        prop_assert_eq!(noticed, ["idle-closed-by-fin"]);
    }

    #[test]
    fn an_exit_that_comes_late_is_noticed(later_us in 4_000_000..60_000_000u64) {
        let noticed = notices(|run| {
            let exit = at(run, |event| matches!(event, Event::Exited { .. }));
            run.records[exit].t_us += later_us;
        });
        prop_assert_eq!(noticed, ["term-ends-process", "idle-holds-nothing"]);
    }

    #[test]
    fn an_exit_that_comes_a_little_later_is_not(later_us in 0..2_000_000u64) {
        let noticed = notices(|run| {
            let exit = at(run, |event| matches!(event, Event::Exited { .. }));
            run.records[exit].t_us += later_us;
        });
        prop_assert!(noticed.is_empty(), "{:?}", noticed);
    }

    #[test]
    fn another_exit_status_is_noticed(code in 1..256i32) {
        let noticed = notices(|run| {
            let exit = at(run, |event| matches!(event, Event::Exited { .. }));
            run.records[exit].event = Event::Exited { process: 1, code: Some(code), signal: None };
        });
        prop_assert_eq!(noticed, ["clean-exit-status"]);
    }

    #[test]
    fn another_order_is_noticed(connection in 1..=IDLE) {
        let noticed = notices(|run| {
            let idle = at(run, |event| matches!(event, Event::Ended { connection: c, .. } if *c == connection));
            let listener = at(run, |event| matches!(event, Event::ListenerClosed { .. }));
            let (early, late) = (run.records[listener].t_us, run.records[idle].t_us);
            (run.records[idle].t_us, run.records[listener].t_us) = (early, late);
            if let Event::ListenerClosed { open_until_us, .. } = &mut run.records[listener].event {
                *open_until_us = Some(late);
            }
        });
        // So late that nothing is in flight any more.
        prop_assert_eq!(noticed, ["listener-closes-first", "new-connections-refused"]);
    }

    #[test]
    fn a_lost_request_of_the_load_is_noticed(why in prop::sample::select(
        &[Break::Fin, Break::Reset, Break::TimedOut, Break::Malformed][..]
    )) {
        let noticed = notices(|run| {
            let end = at(run, |event| matches!(event, Event::Answered { request, .. } if request == "k3"));
            run.records[end].event = Event::Broken { request: "k3".to_owned(), why, body_bytes: 0 };
        });
        prop_assert_eq!(noticed, ["nothing-lost-on-keep-alive"]);
    }

    #[test]
    fn an_accepted_connection_is_noticed(_nothing in Just(())) {
        let noticed = notices(|run| {
            let refused = at(run, |event| matches!(event, Event::NotOpened { .. }));
            run.records[refused].event = Event::Opened { connection: 9, role: Role::New, begun_us: None };
        });
        prop_assert_eq!(noticed, ["new-connections-refused"]);
    }

    #[test]
    fn an_unconfirmed_precondition_spoils_all(place in any::<prop::sample::Index>()) {
        let noticed = notices(|run| {
            let place = place.index(run.records.len() - 1);
            let unconfirmed = Event::Unconfirmed { what: "load".to_owned(), why: "none".to_owned() };
            run.records.insert(place, Record { t_us: run.records[place].t_us, event: unconfirmed });
        });
        prop_assert_eq!(noticed, KEPT);
    }
}
