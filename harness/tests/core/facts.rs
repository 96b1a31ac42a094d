//! What has changed, from what the API says of pods and endpoints, which is all of it each time.

use drainspec::cluster::{Endpoints, Fact, Pods, notice};
use drainspec::timeline::{EndpointState, PodFact};
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

fn pod(more: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": "app-1", "uid": "u1", "creationTimestamp": "2026-01-02T03:04:05Z" },
        "spec": { "containers": [] }, "status": {}
    });
    merge(&mut pod, more);
    serde_json::from_value(pod).unwrap()
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn told(facts: &[Fact]) -> Vec<(PodFact, Option<String>)> {
    let what = |fact: &Fact| match fact {
        Fact::Pod { what, said, .. } => (what.clone(), said.clone()),
        other => panic!("{other:?}"),
    };
    facts.iter().map(what).collect()
}

fn said(at: &str) -> Option<String> {
    Some(format!("2026-01-02T03:04:{at}Z"))
}

fn ready(status: &str) -> Value {
    json!({ "status": { "conditions": [{ "type": "Ready", "status": status, "lastTransitionTime": "2026-01-02T03:04:09Z" }] } })
}

#[test]
fn each_fact_about_a_pod_is_told_once_with_the_clusters_own_time() {
    let mut pods = Pods::default();
    assert_eq!(told(&pods.now(&pod(json!({})))), [(PodFact::Created, said("05"))]);
    assert_eq!(told(&pods.now(&pod(json!({})))), []);
    let scheduled = json!({
        "spec": { "nodeName": "n1", "containers": [] },
        "status": { "conditions": [{ "type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-02T03:04:06Z" }] }
    });
    assert_eq!(told(&pods.now(&pod(scheduled))), [(PodFact::Scheduled { node: "n1".to_owned() }, said("06"))]);
    assert_eq!(told(&pods.now(&pod(ready("True")))), [(PodFact::Ready, said("09"))]);
    assert_eq!(told(&pods.now(&pod(ready("False")))), [(PodFact::NotReady, said("09"))]);
    assert_eq!(told(&pods.now(&pod(ready("False")))), []);
}

#[test]
fn the_deletion_is_when_it_was_asked_for_and_not_when_the_grace_is_over() {
    let deleted =
        json!({ "metadata": { "deletionTimestamp": "2026-01-02T03:04:50Z", "deletionGracePeriodSeconds": 30 } });
    let facts = Pods::default().now(&pod(deleted));
    assert_eq!(told(&facts)[1], (PodFact::Deleted { grace_s: 30 }, said("20")));
}

#[test]
fn every_end_of_a_container_is_told_also_of_one_that_was_started_again() {
    let ended =
        |code: i32, reason: &str| json!({ "exitCode": code, "reason": reason, "finishedAt": "2026-01-02T03:04:30Z" });
    let container = |starts: i32, state: Value, before: Value| {
        json!({ "status": { "containerStatuses": [{
            "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": starts, "state": state, "lastState": before
        }] } })
    };
    let (mut pods, app) = (Pods::default(), || "app".to_owned());
    let waiting = container(0, json!({ "waiting": { "reason": "ContainerCreating" } }), json!({}));
    assert_eq!(told(&pods.now(&pod(waiting))), [(PodFact::Created, said("05"))], "all wait for that");
    let pull = container(0, json!({ "waiting": { "reason": "ErrImagePull" } }), json!({}));
    let reason = "ErrImagePull".to_owned();
    assert_eq!(told(&pods.now(&pod(pull))), [(PodFact::Waiting { container: app(), reason }, None)]);
    let running = container(0, json!({ "running": { "startedAt": "2026-01-02T03:04:10Z" } }), json!({}));
    assert_eq!(told(&pods.now(&pod(running))), [(PodFact::Started { container: app() }, said("10"))]);
    let again = container(
        1,
        json!({ "running": { "startedAt": "2026-01-02T03:04:31Z" } }),
        json!({ "terminated": ended(137, "OOMKilled") }),
    );
    let killed = PodFact::Terminated { container: app(), code: 137, reason: "OOMKilled".to_owned() };
    assert_eq!(
        told(&pods.now(&pod(again))),
        [(PodFact::Started { container: app() }, said("31")), (killed.clone(), said("30"))]
    );
    let over =
        container(1, json!({ "terminated": ended(0, "Completed") }), json!({ "terminated": ended(137, "OOMKilled") }));
    let done = PodFact::Terminated { container: app(), code: 0, reason: "Completed".to_owned() };
    assert_eq!(told(&pods.now(&pod(over))), [(done, said("30"))], "the one before was told");
}

#[test]
fn what_a_new_list_lacks_is_gone_and_a_name_that_comes_again_is_another_pod() {
    let mut pods = Pods::default();
    pods.all(&[pod(json!({}))]);
    let other = pod(json!({ "metadata": { "uid": "u2" } }));
    let facts = pods.all(&[other]);
    let gone = |fact: &Fact| matches!(fact, Fact::Pod { pod, what: PodFact::Gone, .. } if pod.uid == "u1");
    let created = |fact: &Fact| matches!(fact, Fact::Pod { pod, what: PodFact::Created, .. } if pod.uid == "u2");
    assert!(facts.len() == 2 && facts.iter().any(gone) && facts.iter().any(created), "{facts:?}");
}

fn slice(name: &str, endpoints: &[(&str, bool, bool, bool)]) -> EndpointSlice {
    let endpoint = |(uid, ready, serving, terminating): &(&str, bool, bool, bool)| {
        json!({
            "addresses": ["10.0.0.1"],
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            "targetRef": { "kind": "Pod", "name": format!("app-{uid}"), "uid": uid }
        })
    };
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    serde_json::from_value(json!({ "metadata": { "name": name }, "addressType": "IPv4", "endpoints": endpoints }))
        .unwrap()
}

fn states(facts: &[Fact]) -> Vec<(String, EndpointState)> {
    let state = |fact: &Fact| match fact {
        Fact::Endpoint { pod, state, .. } => (pod.uid.clone(), *state),
        other => panic!("{other:?}"),
    };
    facts.iter().map(state).collect()
}

#[test]
fn an_endpoint_goes_through_its_states() {
    use EndpointState::{Down, Draining, Gone, Starting, Up};
    let mut endpoints = Endpoints::default();
    for (conditions, state) in [
        ((false, false, false), Starting),
        ((true, true, false), Up),
        ((false, false, false), Down),
        ((true, true, false), Up),
        ((false, true, true), Draining),
        ((false, false, true), Down),
    ] {
        let (ready, serving, terminating) = conditions;
        let facts = endpoints.now(&slice("s", &[("a", ready, serving, terminating)]));
        assert_eq!(states(&facts), [("a".to_owned(), state)], "{conditions:?}");
    }
    assert_eq!(states(&endpoints.now(&slice("s", &[]))), [("a".to_owned(), Gone)]);
    assert_eq!(states(&endpoints.now(&slice("s", &[]))), []);
}

#[test]
fn what_one_slice_says_is_not_what_another_says() {
    let mut endpoints = Endpoints::default();
    endpoints.all(&[slice("s", &[("a", true, true, false)]), slice("t", &[("a", true, true, false)])]);
    let facts = endpoints.all(&[slice("s", &[("a", true, true, false)])]);
    assert_eq!(states(&facts), [("a".to_owned(), EndpointState::Gone)]);
    assert!(matches!(&facts[0], Fact::Endpoint { slice, .. } if slice == "t"));
}

#[test]
fn of_events_warnings_and_the_stop_of_a_container_are_told() {
    let event = |kind: &str, reason: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": {}, "type": kind, "reason": reason, "message": "words", "lastTimestamp": "2026-01-02T03:04:07Z",
            "involvedObject": { "kind": "Pod", "name": "app-1", "uid": "u1" }
        }))
        .unwrap()
    };
    for (kind, reason, is_told) in [
        ("Warning", "Unhealthy", true),
        ("Normal", "Killing", true),
        ("Normal", "Pulled", false),
        ("Normal", "Started", false),
    ] {
        let fact = notice(&event(kind, reason));
        assert_eq!(fact.is_some(), is_told, "{kind} {reason}");
        let Some(Fact::Notice { pod, message, said: at, .. }) = fact else { continue };
        assert_eq!((pod.map(|pod| pod.uid), message.as_str(), at), (Some("u1".to_owned()), "words", said("07")));
    }
}
