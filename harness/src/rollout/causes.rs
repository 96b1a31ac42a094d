//! Why each request was missed, as far as its time and what became of it tell. Pure.

use super::pods::{PodRow, Roll};
use super::tally::{Miss, Missed};

/// So much later than it happens may it be heard of, in seconds.
const LATE_S: f64 = 0.3;
/// After a pod has been told to go, connections that reach it no more are its own for so long on top of its grace.
const LINGERS_S: f64 = 10.0;
/// So long without a miss is a lull, in seconds: rules that are behind by less than that are renewed together.
const LULL_S: f64 = 1.5;
/// A new pod of which no first answer is known is young for so long.
const YOUNG_S: f64 = 2.0;

/// Why a request was missed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// No endpoint was ready.
    Nobody,
    /// A new pod got requests before it could answer.
    TooEarly,
    /// A pod that had got its signal still got new connections.
    Withdrawal {
        /// So many seconds after it was told to go.
        after_s: f64,
        /// So many seconds after the signal.
        signal_s: f64,
    },
    /// It was on its way on a kept connection, or in hand, when the server ended.
    InHand,
    /// No pod began or ended at that time, or only long before.
    Unknown,
}

/// What each was missed for.
pub fn causes(roll: &Roll) -> Vec<(Miss, Cause)> {
    let probed = roll.spec.containers.iter().filter(|container| container.serves).all(|container| container.readiness);
    let cause = |miss: &Miss| {
        let (young, withdrawal) = (young(roll, miss), withdrawal(roll, miss));
        match (is_kept(miss), withdrawal) {
            _ if !probed && young && !is_kept(miss) => Cause::TooEarly,
            _ if nobody(roll, miss) => Cause::Nobody,
            (true, Some(_)) => Cause::InHand,
            (_, Some(cause)) => cause,
            (_, None) if young => Cause::TooEarly,
            (_, None) => Cause::Unknown,
        }
    };
    let mut causes: Vec<(Miss, Cause)> = roll.misses.iter().map(|miss| (*miss, cause(miss))).collect();
    let until = withdrawn_s(&causes);
    for (_, cause) in &mut causes {
        if matches!(cause, Cause::Withdrawal { signal_s, .. } if *signal_s > until) {
            *cause = Cause::Unknown;
        }
    }
    causes
}

/// For how long after a signal new connections still reached pods. What comes after a lull is none of that: it followed a
/// connection that the network remembers, to a pod that is long gone.
fn withdrawn_s(causes: &[(Miss, Cause)]) -> f64 {
    let since = causes.iter().filter_map(|(_, cause)| match cause {
        Cause::Withdrawal { signal_s, .. } => Some(*signal_s),
        _ => None,
    });
    let mut since: Vec<f64> = since.collect();
    since.sort_by(f64::total_cmp);
    since.into_iter().fold(0.0, |until, next| if next - until <= LULL_S { next } else { until })
}

fn nobody(roll: &Roll, miss: &Miss) -> bool {
    roll.nobody.iter().any(|(from, to)| (*from..*to + LULL_S).contains(&miss.due_s))
}

fn young(roll: &Roll, miss: &Miss) -> bool {
    let so_far = |pod: &PodRow| {
        let ready = pod.ready_s?;
        Some((ready - LATE_S, pod.first_answer_s.unwrap_or(ready + YOUNG_S).max(ready) + LATE_S))
    };
    roll.pods.iter().filter(|pod| !pod.old).filter_map(so_far).any(|(from, to)| (from..to).contains(&miss.due_s))
}

/// How long after the deletion of a pod this was missed. One that was in hand by then was missed for the same reason.
fn withdrawal(roll: &Roll, miss: &Miss) -> Option<Cause> {
    let pod = &roll.pods[stopped_before(&roll.pods, miss)?];
    let deleted = pod.deleted_s?;
    let since = |at: f64| (miss.due_s - at).max(0.0);
    // Where nobody knows when the signal came, nobody knows of a lull after it.
    let signal_s = pod.signalled.map_or(0.0, |signalled| since(signalled.at_s));
    Some(Cause::Withdrawal { after_s: since(deleted), signal_s })
}

/// The pod whose server got its signal last before this was missed, or while it was in hand; none where that was long ago.
/// Until then it has answered: its hook saw to that.
pub(super) fn stopped_before(pods: &[PodRow], miss: &Miss) -> Option<usize> {
    // What a kept connection loses it loses when its server ends, and others what comes after that.
    let since = if is_kept(miss) { miss.ended_s } else { miss.due_s };
    let stopped = pods.iter().enumerate().filter_map(|(at, pod)| {
        let deleted = pod.deleted_s?;
        let signal = pod.signalled.map_or(deleted, |signalled| signalled.at_s);
        let until = pod.exit.as_ref().map_or(deleted + pod.grace_s.unwrap_or(0) as f64, |exit| exit.at_s);
        let near = signal - LATE_S <= miss.ended_s && miss.due_s <= until + LINGERS_S;
        near.then_some((at, signal))
    });
    let (before, after): (Vec<_>, Vec<_>) = stopped.partition(|(_, signal)| *signal - LATE_S <= since);
    let by_time = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
    let found = before.into_iter().max_by(by_time).or(after.into_iter().min_by(by_time));
    found.map(|(at, _)| at)
}

/// Whether it was asked on a connection that stays with its pod, whoever else is ready.
fn is_kept(miss: &Miss) -> bool {
    matches!(miss.how, Missed::LostKept | Missed::UnsentKept)
}
