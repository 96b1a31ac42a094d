//! What nodes make of a Service, by tables, and what holds whatever happens to its pods.

use std::collections::BTreeMap;
use std::time::Duration;

use drainspec::model::Model;
use drainspec::model::service::{Conditions, Input, Lags, NodeId, Output, PodId, Service};
use proptest::prelude::*;

const A: PodId = PodId(1);
const B: PodId = PodId(2);
const NODE: NodeId = NodeId(0);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// 20 ms to the slice, 10 ms to the node, 50 ms to write, a second between.
fn steady() -> Lags {
    Lags { slice: [ms(20); 2], heard: [ms(10); 2], write: [ms(50); 2], between: ms(1000) }
}

/// A name, what happens, and the rules that come of it, with times in milliseconds.
type Course = (&'static str, &'static [(u64, Input)], &'static [(u64, &'static [PodId])]);

/// Plays what happens at these milliseconds, and says the rules of the first node, each with its time.
fn rules(events: &[(u64, Input)]) -> Vec<(u64, Vec<PodId>)> {
    let mut service = Service::new(steady(), 1, 7);
    let mut told = Vec::new();
    let mut hear = |at: Duration, said: Vec<Output>| {
        told.extend(said.into_iter().filter_map(|output| match output {
            Output::Rules(node, pods) => Some((node, at.as_millis() as u64, pods)),
            Output::Slice(..) => None,
        }));
    };
    for (at, input) in events {
        while let Some(next) = service.next().filter(|next| *next <= ms(*at)) {
            let said = service.advance(next);
            hear(next, said);
        }
        let said = service.apply(ms(*at), *input);
        hear(ms(*at), said);
    }
    while let Some(next) = service.next() {
        let said = service.advance(next);
        hear(next, said);
    }
    told.into_iter().filter(|(node, ..)| *node == NODE).map(|(_, at, pods)| (at, pods)).collect()
}

#[test]
fn rules_follow_the_slice_after_a_while() {
    use Input::{Created, Deleted, Gone, Ready};
    let cases: [Course; 6] = [
        (
            "a pod that is not ready gets nothing, and its coming keeps the node busy",
            &[(0, Created(A)), (500, Ready(A, true))],
            &[(1080, &[A])],
        ),
        ("a node that rests hears at once", &[(0, Created(A)), (3000, Ready(A, true))], &[(3080, &[A])]),
        (
            "whoever is deleted right after that is known for a second more",
            &[(0, Created(A)), (0, Created(B)), (3000, Ready(A, true)), (3000, Ready(B, true)), (3100, Deleted(B))],
            &[(3080, &[A, B]), (4080, &[A])],
        ),
        (
            "two changes at once are written once",
            &[(0, Created(A)), (3000, Ready(A, true)), (3005, Created(B)), (3010, Ready(B, true))],
            &[(3080, &[A, B])],
        ),
        (
            "the last pod that ends is better than none, as long as it serves",
            &[(0, Created(A)), (3000, Ready(A, true)), (6000, Deleted(A)), (9000, Ready(A, false))],
            &[(3080, &[A]), (9080, &[])],
        ),
        (
            "a ready one takes over from it, and who is gone is gone",
            &[
                (0, Created(A)),
                (3000, Ready(A, true)),
                (6000, Deleted(A)),
                (6000, Created(B)),
                (8000, Ready(B, true)),
                (9500, Gone(B)),
                (11_000, Gone(A)),
            ],
            &[(3080, &[A]), (8080, &[B]), (9580, &[A]), (11_080, &[])],
        ),
    ];
    for (name, events, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|(at, pods)| (*at, pods.to_vec())).collect();
        assert_eq!(rules(events), expected, "{name}");
    }
}

#[test]
fn the_slice_says_what_a_pod_is_and_forgets_who_is_gone() {
    let mut service = Service::new(steady(), 1, 7);
    let mut said = Vec::new();
    for (at, input) in [
        (0, Input::Created(A)),
        (100, Input::Ready(A, true)),
        (200, Input::Deleted(A)),
        (300, Input::Ready(A, false)),
        (400, Input::Gone(A)),
        (500, Input::Ready(A, true)),
    ] {
        said.extend(service.apply(ms(at), input));
    }
    said.extend(service.advance(ms(9_000)));
    let conditions = |serving, terminating| Some(Conditions { serving, terminating });
    let expected =
        [conditions(false, false), conditions(true, false), conditions(true, true), conditions(false, true), None];
    let slices: Vec<_> = said.into_iter().filter(|output| matches!(output, Output::Slice(..))).collect();
    assert_eq!(slices, expected.map(|conditions| Output::Slice(A, conditions)));
}

fn events() -> impl Strategy<Value = (u64, Input)> {
    let pod = || (0..3u32).prop_map(PodId);
    let input = prop_oneof![
        pod().prop_map(Input::Created),
        (pod(), any::<bool>()).prop_map(|(pod, ready)| Input::Ready(pod, ready)),
        pod().prop_map(Input::Deleted),
        pod().prop_map(Input::Gone),
    ];
    (0..2_500u64, input)
}

proptest! {
    /// When all news have arrived every node does what follows from the pods as they are, and no node writes its rules
    /// more often than it may.
    #[test]
    fn in_the_end_every_node_agrees(
        events in prop::collection::vec(events(), 1..40),
        seed in any::<u64>(),
    ) {
        let lags = Lags::default();
        let mut service = Service::new(lags, 2, seed);
        let mut pods: BTreeMap<PodId, (bool, bool)> = BTreeMap::new();
        let mut written: [Vec<Duration>; 2] = Default::default();
        let mut now = Duration::ZERO;
        let mut hear = |at: Duration, said: Vec<Output>| {
            for output in said {
                if let Output::Rules(node, _) = output {
                    written[node.0].push(at);
                }
            }
        };
        for (pause, input) in events {
            now += ms(pause);
            while let Some(next) = service.next().filter(|next| *next <= now) {
                let said = service.advance(next);
                hear(next, said);
            }
            match input {
                Input::Created(pod) => drop(pods.entry(pod).or_default()),
                Input::Ready(pod, ready) => pods.get_mut(&pod).into_iter().for_each(|pod| pod.0 = ready),
                Input::Deleted(pod) => pods.get_mut(&pod).into_iter().for_each(|pod| pod.1 = true),
                Input::Gone(pod) => drop(pods.remove(&pod)),
            }
            let said = service.apply(now, input);
            hear(now, said);
        }
        while let Some(next) = service.next() {
            let said = service.advance(next);
            hear(next, said);
        }
        let those = |wanted: fn(&(bool, bool)) -> bool| -> Vec<PodId> {
            pods.iter().filter(|(_, pod)| wanted(pod)).map(|(pod, _)| *pod).collect()
        };
        let ready = those(|(serving, terminating)| *serving && !terminating);
        let expected = if ready.is_empty() { those(|(serving, _)| *serving) } else { ready };
        for node in [NodeId(0), NodeId(1)] {
            prop_assert_eq!(service.rules(node), &expected[..]);
            let least = lags.between - (lags.write[1] - lags.write[0]);
            prop_assert!(written[node.0].windows(2).all(|pair| pair[1] - pair[0] >= least));
        }
    }
}
