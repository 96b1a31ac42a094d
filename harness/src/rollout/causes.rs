//! Why each request was missed, as far as its time and what became of it tell. Pure.

use super::pods::{PodRow, Roll};
use super::tally::{Miss, Missed};

/// So much later than it happens may it be heard of, in seconds.
const LATE_S: f64 = 0.3;
/// After a pod has been told to go, connections that reach it no more are its own for so long on top of its grace.
const LINGERS_S: f64 = 10.0;
/// A new pod of which no first answer is known is young for so long.
const YOUNG_S: f64 = 2.0;

/// Why a request was missed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// No endpoint was ready.
    Nobody,
    /// A new pod got requests before it could answer.
    TooEarly,
    /// A pod that had been told to go still got new connections, so many seconds after that.
    Withdrawal {
        /// How long after.
        after_s: f64,
    },
    /// It was on its way on a kept connection, or in hand, when the server ended.
    InHand,
    /// No pod began or ended at that time.
    Unknown,
}

/// What each was missed for.
pub fn causes(roll: &Roll) -> Vec<(Miss, Cause)> {
    let probed = roll.spec.containers.iter().filter(|container| container.serves).all(|container| container.readiness);
    let cause = |miss: &Miss| {
        let (young, withdrawal) = (young(roll, miss), withdrawal(roll, miss));
        match (miss.how, withdrawal) {
            _ if !probed && young && miss.how != Missed::LostKept => Cause::TooEarly,
            _ if nobody(roll, miss) => Cause::Nobody,
            (Missed::LostKept, Some(_)) => Cause::InHand,
            (_, Some(after_s)) => Cause::Withdrawal { after_s },
            (_, None) if young => Cause::TooEarly,
            (_, None) => Cause::Unknown,
        }
    };
    roll.misses.iter().map(|miss| (*miss, cause(miss))).collect()
}

fn nobody(roll: &Roll, miss: &Miss) -> bool {
    roll.nobody.iter().any(|(from, to)| (*from..*to + LATE_S).contains(&miss.due_s))
}

fn young(roll: &Roll, miss: &Miss) -> bool {
    let so_far = |pod: &PodRow| {
        let ready = pod.ready_s?;
        Some((ready - LATE_S, pod.first_answer_s.unwrap_or(ready + YOUNG_S).max(ready) + LATE_S))
    };
    roll.pods.iter().filter(|pod| !pod.old).filter_map(so_far).any(|(from, to)| (from..to).contains(&miss.due_s))
}

/// How long after the deletion of a pod this was missed: of the one that was told to go last before that. One that was in
/// hand by then was missed for the same reason: it needs the time that it takes.
fn withdrawal(roll: &Roll, miss: &Miss) -> Option<f64> {
    let stopped = roll.pods.iter().filter_map(|pod| {
        let deleted = pod.deleted_s?;
        let until = pod.exit.as_ref().map_or(deleted + pod.grace_s.unwrap_or(0) as f64, |exit| exit.at_s);
        let near = deleted - LATE_S <= miss.ended_s && miss.due_s <= until + LINGERS_S;
        near.then_some(deleted)
    });
    let due = |deleted: &f64| *deleted - LATE_S <= miss.due_s;
    let (before, after): (Vec<f64>, Vec<f64>) = stopped.partition(due);
    let latest = before.into_iter().reduce(f64::max).or(after.into_iter().reduce(f64::min))?;
    Some((miss.due_s - latest).max(0.0))
}
