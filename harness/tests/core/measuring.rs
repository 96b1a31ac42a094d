//! What a run measured.

use std::collections::BTreeMap;

use drainspec::measures::measures;
use drainspec::timeline::{Break, Ending, Role, View};

use crate::run::{Run, run, stopped};

fn measured(run: &Run) -> BTreeMap<String, f64> {
    measures(&View::new(&run.judged_by(&[])))
}

#[test]
fn a_drain_is_measured_from_its_signal() {
    let drain = run().sent("early", Role::InFlight).answered("early", 200).sent("slow", Role::InFlight);
    let drain = drain.sent("lost", Role::InFlight).sent("left", Role::Gone).broken("left", Break::Left);
    let drain = drain.sent("quick", Role::InFlight).sent("first", Role::Ready).answered("first", 503);
    let drain = drain.at(1_000).signal("SIGTERM").at_us(1_000_400).listener_closed();
    let drain = drain.at(1_002).sent("probe", Role::Ready).at_us(1_003_500).answered("probe", 503);
    let drain = drain.answered("quick", 200).opened(1, Role::Idle).broken("lost", Break::Reset).ended(1, Ending::Reset);
    let drain = drain.opened(2, Role::Idle).ended(2, Ending::Fin).at(1_500).head("slow", 200).complete("slow", 10);
    let measured = measured(&drain.at_us(1_503_250).exited(0));
    let expected = [
        ("connections_reset", 1.0),
        ("exit_after_last_byte_ms", 2.25),
        ("exit_after_signal_ms", 503.25),
        ("listener_closed_after_signal_ms", 0.4),
        ("readiness_off_after_signal_ms", 3.5),
        ("requests_answered", 3.0),
        ("requests_lost", 1.0),
    ];
    assert_eq!(measured, expected.map(|(name, value)| (name.to_owned(), value)).into());
}

#[test]
fn what_a_run_does_not_show_is_absent() {
    let names = |run: &Run| measured(run).into_keys().collect::<Vec<_>>();
    let counts = ["connections_reset", "requests_answered", "requests_lost"];
    assert_eq!(names(&run()), counts, "without a signal");
    assert_eq!(names(&stopped()), counts, "without an end");
    // What was answered before the signal is not the last byte of the drain.
    let idle = run().sent("early", Role::InFlight).answered("early", 200).at(1_000).signal("SIGTERM").exited(0);
    assert!(!measured(&idle).contains_key("exit_after_last_byte_ms"));
    // Probes and scrapes are not traffic.
    let probed = run().sent("probe", Role::Ready).answered("probe", 200).sent("live", Role::Live).answered("live", 200);
    assert_eq!(measured(&probed)["requests_answered"], 0.0);
}

#[test]
fn an_end_by_the_harness_is_no_measure_of_the_server() {
    let killed = stopped().at(20_000).killed_by_harness();
    assert!(!measured(&killed).contains_key("exit_after_signal_ms"));
}
