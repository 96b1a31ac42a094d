//! What a deploy cost, counted from hand-made timelines.

use drainspec::rollout::{Tally, tally, unfit};
use drainspec::timeline::{Break, NotOpened, Role};

use crate::run::{Run, idle};

/// Twenty requests that are answered at once, one every 50 ms from this moment on, in milliseconds.
fn answered(mut run: Run, from: u64, status: u16) -> Run {
    for number in 0..20 {
        let (at, id) = (from + 50 * number, format!("r{}", from + number));
        run = run.at(at).sent_on((from + number) as u32, &id, Role::Storm).at(at + 5).answered(&id, status);
    }
    run
}

/// A second of load, and the command is started.
fn deployed() -> Run {
    answered(idle(), 0, 200).at(1_000).started()
}

fn told(run: &Run) -> Tally {
    tally(&run.judged_by(&[]))
}

#[test]
fn a_deploy_that_costs_nothing_costs_nothing() {
    let clean = answered(deployed(), 1_001, 200).at(2_100).exited(0);
    let tally = told(&answered(clean, 2_200, 200));
    assert_eq!(tally.untold, None);
    assert_eq!((tally.before.asked, tally.during.asked, tally.after.asked), (20, 20, 20));
    assert_eq!((tally.missed(), tally.status, tally.took_s), (0, Some(0), Some(1.1)));
    assert_eq!(tally.during.p50_ms, Some(6.0));
    assert!(tally.longest_gap_s < 0.3, "{}", tally.longest_gap_s);
}

#[test]
fn a_deploy_that_hardly_anybody_has_met_is_not_said_to_cost_nothing() {
    let unmet = deployed().at(1_100).exited(0);
    assert!(told(&unmet).untold.is_some_and(|why| why.contains("only 0 requests")));
}

#[test]
fn what_is_lost_unsent_and_failed_is_never_mixed() {
    let cut = deployed().sent_on(900, "cut", Role::KeepAlive).at(1_100).broken("cut", Break::Reset);
    let refused =
        cut.not_opened(901, Role::Storm, NotOpened::Refused).not_opened(902, Role::Storm, NotOpened::TimedOut);
    let reset = refused.opened(903, Role::KeepAlive).unsent("reset", Role::KeepAlive);
    let failed = reset.at(1_200).sent_on(904, "bad", Role::Storm).at(1_300).answered("bad", 502);
    let odd = failed.sent_on(905, "odd", Role::Storm).at(1_400).answered("odd", 404);
    let tally = told(&answered(odd.at(1_500).exited(1), 1_600, 200));
    let during = &tally.during;
    assert_eq!((during.asked, during.lost, during.unsent, during.failed), (6, 1, 3, 2));
    assert_eq!((tally.missed(), tally.status), (6, Some(1)));
    assert_eq!(tally.after.missed(), 0);
    assert_eq!(during.statuses.get(&502), Some(&1));
    let missed: u64 = tally.columns.iter().map(|column| column.missed).sum();
    assert_eq!(missed, 6);
}

#[test]
fn what_was_asked_before_and_is_cut_by_the_deploy_is_the_deploys() {
    let long = answered(idle(), 0, 200).sent_on(900, "long", Role::KeepAlive).at(1_000).started();
    let tally = told(&long.at(1_500).broken("long", Break::Fin).at(1_600).exited(0));
    assert_eq!((tally.before.missed(), tally.during.lost), (0, 1));
}

#[test]
fn an_error_that_is_usual_is_no_loss_and_a_limiter_is_no_target() {
    let usual = answered(answered(idle(), 0, 404).at(1_000).started(), 1_001, 404).at(2_100).exited(0);
    assert_eq!((told(&usual).untold, told(&usual).missed()), (None, 0));
    let limited = answered(answered(idle(), 0, 429).at(1_000).started(), 1_001, 429).at(2_100).exited(0);
    assert!(told(&limited).untold.is_some_and(|why| why.contains("429")));
}

#[test]
fn where_the_target_was_not_in_order_nothing_is_said() {
    let why = |run: Run| unfit(&run.judged_by(&[])).unwrap_or_default();
    assert_eq!(why(answered(idle(), 0, 200).at(1_100)), "");
    let lossy = answered(idle(), 0, 200).sent_on(900, "cut", Role::Storm).at(1_050).broken("cut", Break::Fin).at(1_100);
    assert!(why(lossy).contains("1 of 21 requests were missed"));
    assert!(why(answered(idle(), 0, 503).at(1_100)).contains("answered 503"));
    assert!(why(idle().at(1_100)).contains("only 0 of 0"));
    // Twice as many wait at the end as in the middle: they come faster than they are answered.
    let mut slow = answered(idle(), 0, 200);
    for number in 0..60 {
        slow = slow.at(1_100 + 20 * number).sent_on(500 + number as u32, &format!("w{number}"), Role::Storm);
    }
    for number in 0..20 {
        slow = slow.at(2_400 + number).answered(&format!("w{number}"), 200);
    }
    let slow = why(slow.at(2_600));
    assert!(slow.contains("does not keep up"), "{slow}");
    let busy = answered(deployed(), 1_001, 200).stalled(600).at(2_100).exited(0);
    assert!(told(&busy).untold.is_some_and(|why| why.contains("too busy")));
    assert!(told(&answered(idle(), 0, 200)).untold.is_some_and(|why| why.contains("nothing was deployed")));
}

#[test]
fn a_loss_is_told_with_the_step_in_which_it_fell() {
    let steps = deployed().at(1_100).logs("stopping").at(1_200).sent_on(900, "cut", Role::Storm);
    let steps = steps.at(1_300).broken("cut", Break::Reset).at(1_400).logs("starting").at(1_500).exited(0);
    let tally = told(&answered(steps, 1_600, 200));
    let told: Vec<_> = tally.steps.iter().map(|step| (step.line.as_str(), step.missed)).collect();
    assert_eq!(told, [("stopping", 1), ("starting", 0)]);
    assert!((tally.steps[0].at_s - 0.1).abs() < 1e-9);
}
