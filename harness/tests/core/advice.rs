//! What is to be changed, from hand-made timelines: a table of what happened, what is advised, and what not.

use drainspec::rollout::{Advice, Topic};
use drainspec::timeline::{Hook, PodFact, Role, Strategy, WorkloadKind, WorkloadSpec};

use crate::story::{Story, hooked, plain, story};

fn topics(story: &Story) -> Vec<Topic> {
    story.advice().iter().map(|advice| advice.what).collect()
}

fn only(story: &Story) -> Advice {
    let mut all = story.advice();
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

fn sleep(seconds: u64) -> WorkloadSpec {
    hooked(Hook::Sleep { seconds })
}

#[test]
fn where_nothing_is_missed_nothing_is_to_be_changed() {
    for spec in [plain(), sleep(5)] {
        assert_eq!(topics(&story(spec).rolls(0.5)), []);
    }
}

#[test]
fn without_a_hook_the_measured_lag_makes_the_sleep() {
    let told = story(plain()).rolls(0.1).refused(1.05).refused(1.4).refused(3.9);
    let advice = only(&told);
    assert_eq!(advice.what, Topic::PreStopMissing);
    for part in [
        "A preStop sleep of 3 s and terminationGracePeriodSeconds of at least 33 would have covered it",
        "3 of 12,000 requests were missed (3 refused or not answered in time), all due between +1.1 s and +3.9 s",
        "up to 0.9 s after it was told to go",
    ] {
        assert!(advice.text.contains(part), "{part}: {}", advice.text);
    }
    let patch = "spec:\n  template:\n    spec:\n      terminationGracePeriodSeconds: 33\n      containers:\n      - name: app\n        \
                 lifecycle:\n          preStop:\n            sleep:\n              seconds: 3\n";
    assert_eq!(advice.patch.as_deref(), Some(patch));
    let command = format!("kubectl -n shop patch deployment/app --patch-file /dev/stdin <<'EOF'\n{patch}EOF");
    assert_eq!(advice.command, Some(command));
}

#[test]
fn the_sleep_is_what_was_measured_with_as_much_again_and_two_seconds_at_least() {
    for (lag_s, sleep_s) in [(0.0, 2), (0.1, 3), (1.0, 3), (2.0, 4), (2.6, 6), (7.2, 15)] {
        let mut told = story(plain()).deleted(1.0, 2).exits(20.0, 2, 0, "Completed").refused(1.0 + lag_s);
        for second in 0..=lag_s as u32 {
            told = told.refused(1.0 + f64::from(second));
        }
        let patch = only(&told).patch.unwrap_or_default();
        assert!(patch.contains(&format!("seconds: {sleep_s}\n")), "{lag_s}: {patch}");
    }
}

#[test]
fn a_fresh_request_that_is_cut_counts_as_withdrawal_and_a_kept_one_as_the_servers_own() {
    let told = story(plain()).rolls(0.1).lost(1.02, Role::Storm);
    assert_eq!(topics(&told), [Topic::PreStopMissing]);
    let kept = story(plain()).rolls(0.1).lost(1.02, Role::KeepAlive);
    let advice = only(&kept);
    assert_eq!((advice.what, &advice.patch), (Topic::CutsInHand, &None));
    assert!(advice.text.contains("1 lost"), "{}", advice.text);
    let both = story(plain()).rolls(0.1).lost(1.02, Role::KeepAlive).refused(1.2);
    assert_eq!(topics(&both), [Topic::PreStopMissing, Topic::CutsInHand]);
}

#[test]
fn a_hook_that_is_too_short_leaves_the_server_as_much_as_it_has() {
    let told = story(sleep(1)).rolls(1.1).refused(2.6);
    let advice = only(&told);
    assert_eq!(advice.what, Topic::PreStopTooShort);
    let patch = advice.patch.unwrap_or_default();
    assert!(patch.contains("seconds: 4\n") && patch.contains("Seconds: 33\n"), "{patch}");
    assert!(!patch.contains("null"), "a sleep takes the place of a sleep: {patch}");
}

#[test]
fn a_hook_that_fails_is_replaced_by_the_native_one_also_where_it_cost_nothing() {
    let exec = Hook::Exec { command: ["sh", "-c", "sleep 5"].map(str::to_owned).into() };
    let failed = story(hooked(exec)).rolls(0.1).noted(1.1, 2, "FailedPreStopHook", "exec: \"sh\": not found");
    let advice = only(&failed);
    assert_eq!(advice.what, Topic::PreStopFailing);
    assert!(advice.text.contains("\"sh\": not found") && advice.text.contains("nothing was missed"), "{}", advice.text);
    let patch = advice.patch.unwrap_or_default();
    assert!(patch.contains("exec: null\n            sleep:\n              seconds: 5\n"), "{patch}");
    assert!(only(&failed.refused(1.3)).text.contains("1 of 12,000"), "what it cost is said");
}

#[test]
fn who_was_killed_at_the_end_of_the_grace_needs_a_longer_one() {
    let killed = story(plain()).created(0.0, 4).deleted(1.0, 2).exits(31.2, 2, 137, "Error");
    let advice = only(&killed);
    assert_eq!(advice.what, Topic::GraceTooShort);
    assert!(advice.text.contains("1 of 1 pods") && advice.text.contains("grace of 30 s"), "{}", advice.text);
    assert!(advice.patch.unwrap_or_default().contains("terminationGracePeriodSeconds: 60\n"));
    let early = story(plain()).deleted(1.0, 2).exits(5.0, 2, 137, "Error");
    assert_eq!(topics(&early), [], "somebody else has killed it");
    let mut long = sleep(29);
    long.grace_s = 30;
    let hook = only(&story(long).deleted(1.0, 2).exits(31.0, 2, 137, "Error"));
    assert!(hook.text.contains("all of which the preStop hook of 29 s used up"), "{}", hook.text);
    assert!(hook.patch.unwrap_or_default().contains("Seconds: 59\n"));
}

#[test]
fn a_hook_and_a_grace_that_are_advised_together_agree() {
    let told = story(plain()).deleted(1.0, 2).exits(31.0, 2, 137, "Error").refused(1.5);
    let all = told.advice();
    assert_eq!(topics(&told), [Topic::PreStopMissing, Topic::GraceTooShort]);
    for advice in &all {
        assert!(advice.patch.as_deref().is_some_and(|patch| patch.contains("Seconds: 63\n")), "{advice:#?}");
    }
}

#[test]
fn want_of_memory_is_no_matter_of_grace() {
    let told = story(plain()).deleted(1.0, 2).exits(31.0, 2, 137, "OOMKilled");
    let advice = only(&told);
    assert_eq!((advice.what, advice.patch), (Topic::OutOfMemory, None));
}

#[test]
fn a_pod_that_nobody_asked_whether_it_is_ready_gets_a_probe() {
    let mut spec = plain();
    spec.containers[0].readiness = false;
    let told = story(spec.clone()).created(0.0, 4).answered(2.0, 200, "app-4").refused(1.2).refused(1.8);
    let advice = only(&told);
    assert_eq!(advice.what, Topic::ReadinessMissing);
    let patch = advice.patch.unwrap_or_default();
    assert!(
        patch.contains("readinessProbe:\n          httpGet:\n            path: \"/items\"\n            port: 8080\n"),
        "{patch}"
    );
    spec.containers[0].ports.clear();
    let told = story(spec).created(0.0, 4).refused(1.2);
    assert_eq!(only(&told).patch, None, "nobody knows the port");
    let probed = story(plain()).created(0.0, 4).answered(2.0, 200, "app-4").refused(1.2);
    assert_eq!((only(&probed).what, only(&probed).patch), (Topic::ReadinessTooEarly, None));
}

#[test]
fn where_nobody_is_left_others_have_to_come_first() {
    let gap = |spec| story(spec).deleted(1.0, 2).deleted(1.0, 3).refused(3.0).created(4.0, 4);
    let mut recreate = plain();
    recreate.strategy = Strategy::Recreate;
    let advice = only(&gap(recreate.clone()));
    assert_eq!(advice.what, Topic::NobodyLeft);
    assert!(advice.text.contains("Recreate") && advice.text.contains("For up to 4.0 s"), "{}", advice.text);
    let surge =
        "spec:\n  strategy:\n    type: RollingUpdate\n    rollingUpdate:\n      maxSurge: 1\n      maxUnavailable: 0\n";
    assert_eq!(advice.patch.as_deref(), Some(surge));
    let mut missing = plain();
    missing.strategy = Strategy::Rolling { max_unavailable: 2, max_surge: 0 };
    assert_eq!(only(&gap(missing.clone())).patch.as_deref(), Some(surge));
    missing.kind = WorkloadKind::DaemonSet;
    assert!(only(&gap(missing.clone())).patch.is_some_and(|patch| patch.contains("updateStrategy:")));
    missing.kind = WorkloadKind::StatefulSet;
    assert_eq!(only(&gap(missing.clone())).patch, None);
    missing.replicas = 1;
    assert_eq!(only(&gap(missing)).patch.as_deref(), Some("spec:\n  replicas: 2\n"));
    assert_eq!(only(&gap(plain())).patch, None, "no field explains it");
}

#[test]
fn what_no_pod_explains_is_said_to_be_unexplained() {
    assert_eq!(topics(&story(plain()).refused(0.5)), [Topic::Unexplained]);
    let later = story(plain()).rolls(0.1).refused(40.0);
    assert_eq!(topics(&later), [Topic::Unexplained]);
}

#[test]
fn errors_of_a_front_are_covered_as_refusals_are() {
    let told = story(plain()).rolls(0.1).answered(1.3, 502, "front");
    let advice = only(&told);
    assert_eq!(advice.what, Topic::PreStopMissing);
    assert!(advice.text.contains("1 answered with an error"), "{}", advice.text);
}

#[test]
fn a_workload_without_containers_is_no_reason_to_panic() {
    let mut spec = plain();
    spec.containers.clear();
    let waits = PodFact::Waiting { container: String::new(), reason: String::new() };
    assert_eq!(topics(&story(spec).pod(1.0, 4, waits).refused(1.0)), []);
}

#[test]
fn what_comes_after_a_lull_does_not_make_the_sleep_longer() {
    let told = story(plain()).deleted(1.0, 2).exits(1.1, 2, 0, "Completed").refused(1.2).refused(2.0).refused(9.0);
    assert_eq!(topics(&told), [Topic::PreStopMissing, Topic::Unexplained]);
    let advice = told.advice().remove(0);
    assert!(advice.text.contains("2 of 12,000") && advice.text.contains("up to 1.0 s"), "{}", advice.text);
    assert!(advice.patch.unwrap_or_default().contains("seconds: 3\n"));
    let alone = story(sleep(4)).deleted(1.0, 2).exits(5.1, 2, 2, "Error").refused(8.2);
    assert_eq!(topics(&alone), [Topic::Unexplained], "three seconds after the signal, and nothing before");
}

#[test]
fn while_the_hook_lasts_the_pod_answers_and_a_kept_connection_ends_with_its_server() {
    // The first pod gets its signal at 6 s; the second is told to go at 3 s, and gets it at 8 s.
    let told = story(sleep(5)).rolls(5.1).unsent(6.05);
    let advice = only(&told);
    assert_eq!((advice.what, &advice.patch), (Topic::CutsInHand, &None), "{}", advice.text);
    let said = "1 of 12,000 requests was missed (1 not sent, as the connection had ended), due at +6.0 s";
    assert!(advice.text.contains(said), "{}", advice.text);
    let missed: Vec<u64> = told.told().pods.iter().map(|pod| pod.missed).collect();
    assert_eq!(missed, [1, 0, 0, 0]);
    assert_eq!(topics(&story(sleep(5)).rolls(5.1).refused(5.5)), [Topic::Unexplained], "both still answer");
}
