//! What became of each pod, from hand-made timelines.

use drainspec::rollout::{PodRow, Source};
use drainspec::timeline::{EndpointState, Hook, PodFact};

use crate::story::{Story, hooked, plain, story};

fn row(story: &Story, name: &str) -> PodRow {
    story.told().pods.into_iter().find(|pod| pod.name == name).unwrap_or_else(|| panic!("no row for {name}"))
}

#[test]
fn an_old_pod_has_a_row_of_intervals() {
    let told = story(plain())
        .logs(-8.0, 2, r#"{"event":"listening","instance":"2-abcd"}"#)
        .answered(-5.0, 200, "2-abcd")
        .deleted(1.0, 2)
        .logs(1.03, 2, r#"{"event":"signal","signal":"SIGTERM"}"#)
        .answered(1.5, 200, "2-abcd")
        .exits(1.8, 2, 0, "Completed");
    let pod = row(&told, "app-2");
    assert!(pod.old && pod.created_s.is_none() && pod.first_answer_s.is_none());
    assert_eq!(
        (pod.deleted_s, pod.grace_s, pod.not_ready_s, pod.withdrawn_s),
        (Some(1.0), Some(30), Some(1.02), Some(1.8))
    );
    assert_eq!(pod.signalled.map(|signalled| (signalled.at_s, signalled.by)), Some((1.03, Source::Log)));
    assert_eq!((pod.instance.as_deref(), pod.last_answer_s, pod.gone_s), (Some("2-abcd"), Some(1.51), Some(1.9)));
    assert_eq!(pod.exit.map(|exit| (exit.at_s, exit.code, exit.reason)), Some((1.8, 0, "Completed".to_owned())));
    let other = row(&told, "app-3");
    assert_eq!((other.deleted_s, other.signalled, other.last_answer_s, other.exit), (None, None, None, None));
}

#[test]
fn who_says_when_the_signal_came_is_said() {
    let by =
        |story: Story| row(&story.deleted(1.0, 2), "app-2").signalled.map(|signalled| (signalled.at_s, signalled.by));
    assert_eq!(by(story(plain())), Some((1.0, Source::Deletion)));
    assert_eq!(by(story(hooked(Hook::Sleep { seconds: 5 }))), Some((6.0, Source::Hook)));
    let exec = Hook::Exec { command: ["sh", "-c", "sleep 7 && rm x"].map(str::to_owned).into() };
    assert_eq!(by(story(hooked(exec))), Some((8.0, Source::Hook)));
    assert_eq!(by(story(hooked(Hook::Http { path: "/prestop".to_owned() }))), None, "nobody knows how long that takes");
    let failed = story(hooked(Hook::Sleep { seconds: 5 })).noted(1.1, 2, "FailedPreStopHook", "no shell");
    assert_eq!(by(failed), Some((1.0, Source::FailedHook)));
    let logged =
        story(hooked(Hook::Sleep { seconds: 5 })).logs(-1.0, 2, "shutdown hooks: 3").logs(4.5, 2, "Received SIGTERM");
    assert_eq!(by(logged), Some((4.5, Source::Log)), "what it wrote before its deletion is about something else");
}

#[test]
fn an_instance_is_a_pod_by_its_name_or_by_the_only_log_that_names_it() {
    let named = story(plain()).answered(-5.0, 200, "app-2");
    assert_eq!(row(&named, "app-2").instance.as_deref(), Some("app-2"));
    let logged = story(plain()).logs(-8.0, 3, "I am 77aa").answered(-5.0, 200, "77aa");
    assert_eq!((row(&logged, "app-2").instance, row(&logged, "app-3").instance.as_deref()), (None, Some("77aa")));
    let both = logged.logs(-7.0, 2, "peer 77aa joined");
    assert_eq!((row(&both, "app-2").instance, row(&both, "app-3").instance), (None, None), "a guess is no answer");
}

#[test]
fn a_new_pod_is_told_from_its_creation_to_its_first_answer() {
    let told = story(plain()).rolls(0.5).logs(0.8, 4, "instance 4-new").answered(1.2, 200, "4-new");
    let pod = row(&told, "app-4");
    assert_eq!((pod.old, pod.created_s, pod.ready_s, pod.first_answer_s), (false, Some(0.0), Some(1.0), Some(1.21)));
    let order: Vec<String> = told.told().pods.into_iter().map(|pod| pod.name).collect();
    assert_eq!(order, ["app-2", "app-3", "app-4", "app-5"], "those that go first, in their order");
}

#[test]
fn of_a_pod_that_never_is_ready_its_last_words_are_told() {
    let waiting = PodFact::Waiting { container: "app".to_owned(), reason: "ImagePullBackOff".to_owned() };
    let mut told =
        story(plain()).pod(0.0, 4, PodFact::Created).pod(1.0, 4, waiting).noted(1.1, 4, "Failed", "no such image");
    for number in 0..9 {
        told = told.logs(2.0 + f64::from(number), 4, &format!("line {number}"));
    }
    let pod = row(&told, "app-4");
    assert_eq!(pod.notices, ["app waits: ImagePullBackOff", "Failed: no such image"]);
    assert_eq!(pod.lines, ["line 4", "line 5", "line 6", "line 7", "line 8"]);
}

#[test]
fn only_the_end_of_the_serving_container_counts_and_only_since_the_restart() {
    let ended =
        |container: &str, code| PodFact::Terminated { container: container.to_owned(), code, reason: String::new() };
    let told = story(plain()).pod(-5.0, 2, ended("app", 9)).deleted(1.0, 2);
    assert_eq!(row(&told, "app-2").exit, None);
    let told = told.pod(2.0, 2, ended("app", 0)).pod(3.0, 2, ended("sidecar", 1));
    assert_eq!(row(&told, "app-2").exit.map(|exit| exit.code), Some(0));
}

#[test]
fn the_time_without_any_ready_endpoint_is_found_also_where_it_never_ends() {
    assert_eq!(story(plain()).rolls(0.5).told().nobody, []);
    let all = story(plain()).deleted(1.0, 2).deleted(2.0, 3);
    assert_eq!(all.clone().created(3.0, 4).told().nobody, [(2.02, 4.0)]);
    assert_eq!(all.answered(6.99, 200, "x").told().nobody, [(2.02, 7.0)]);
}

#[test]
fn an_endpoint_that_is_in_another_slice_still_is_not_withdrawn() {
    let second = |state| drainspec::timeline::Event::Endpoint { observer: "web-2".to_owned(), process: 2, state };
    let told = story(plain()).add(-8.0, second(EndpointState::Up)).deleted(1.0, 2).exits(2.0, 2, 0, "Completed");
    assert_eq!(row(&told, "app-2").withdrawn_s, None);
    let told = told.add(2.5, second(EndpointState::Gone));
    assert_eq!(row(&told, "app-2").withdrawn_s, Some(2.5));
}

#[test]
fn the_fewest_that_were_available_count_from_the_restart_on() {
    let told = story(plain()).available(-1.0, 0).available(0.1, 2).available(0.5, 1).available(1.0, 2).told();
    assert_eq!(told.fewest_available, Some(1));
}

#[test]
fn what_is_missed_stands_beside_the_pod_that_was_told_to_go_last() {
    let told = story(plain()).rolls(0.1).refused(0.8).refused(1.2).refused(3.5).refused(0.1);
    let missed: Vec<u64> = told.told().pods.iter().map(|pod| pod.missed).collect();
    assert_eq!(missed, [2, 1, 0, 0], "the deletion may be heard of late, but not that late");
}
