//! What to change, so that the next rollout misses less: from how the workload is written and what became of its pods. Pure.

use serde::{Deserialize, Serialize};

use super::causes::{Cause, causes};
use super::patch::{self, Change};
use super::pods::{HOOK_FAILED, PodRow, Roll};
use super::tally::{Miss, Missed};
use crate::timeline::{ContainerSpec, Hook, Strategy, WorkloadKind};

/// What was measured may be as much again the next time, and is never worth less than so many seconds more.
const MARGIN_S: f64 = 2.0;
/// A server whose grace was too short gets twice as much as it had, and no less than so many seconds.
const DRAIN_S: u64 = 30;
/// A pod that ended so shortly before its grace was over was killed for it, in seconds: finer nobody looks.
const KILLED_S: f64 = 1.5;
/// Whatever the hook has used up, the kubelet leaves a server so many seconds.
const FLOOR_S: u64 = 2;
/// Exit status of what SIGKILL ended.
const KILLED: i32 = 137;

/// Something to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// What it is about.
    pub what: Topic,
    /// What was seen, and what would have helped.
    pub text: String,
    /// A strategic-merge patch in YAML; `null` where nobody can know the value, or it is the server that has to change.
    pub patch: Option<String>,
    /// The command that applies it; `null` where there is no patch.
    pub command: Option<String>,
}

/// What a piece of advice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// There is no preStop hook, and one would have helped.
    PreStopMissing,
    /// The hook was over too soon.
    PreStopTooShort,
    /// The hook failed, so that the signal came at once.
    PreStopFailing,
    /// The server was killed before it was done.
    GraceTooShort,
    /// It was killed for want of memory.
    OutOfMemory,
    /// Nobody asks a new pod whether it is ready.
    ReadinessMissing,
    /// What it is asked says yes too early.
    ReadinessTooEarly,
    /// Pods are stopped before there are others.
    NobodyLeft,
    /// The server cuts what it has in hand when it ends.
    CutsInHand,
    /// Nothing that was seen of the pods explains it.
    Unexplained,
}

/// What the rollout was asked to do, as far as advice repeats it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The path that users asked for.
    pub path: &'a str,
    /// The context of the kubeconfig, where one was named.
    pub context: Option<&'a str>,
    /// Requests from the start of the deploy on.
    pub requests: u64,
}

/// What to change, what costs most first.
pub fn advise(roll: &Roll, asked: Asked) -> Vec<Advice> {
    let Some(container) = roll.spec.containers.iter().find(|container| container.serves) else { return Vec::new() };
    let causes = causes(roll);
    let of = |wanted: fn(&Cause) -> bool| -> Vec<Miss> {
        causes.iter().filter(|(_, cause)| wanted(cause)).map(|(miss, _)| *miss).collect()
    };
    let lags = causes.iter().filter_map(|(_, cause)| match cause {
        Cause::Withdrawal { after_s, .. } => Some(*after_s),
        _ => None,
    });
    let judge = Judge { roll, asked, container, lag_s: lags.reduce(f64::max) };
    let found = [
        judge.hook(&of(|cause| matches!(cause, Cause::Withdrawal { .. }))),
        judge.grace(),
        judge.memory(),
        judge.nobody(&of(|cause| *cause == Cause::Nobody)),
        judge.too_early(&of(|cause| *cause == Cause::TooEarly)),
        judge.in_hand(&of(|cause| *cause == Cause::InHand)),
        judge.unknown(&of(|cause| *cause == Cause::Unknown)),
    ];
    found.into_iter().flatten().collect()
}

struct Judge<'r> {
    roll: &'r Roll,
    asked: Asked<'r>,
    container: &'r ContainerSpec,
    /// For how long after its deletion a pod still got new connections.
    lag_s: Option<f64>,
}

impl Judge<'_> {
    fn advice(&self, what: Topic, text: String, change: Option<Change>) -> Advice {
        let patch = change.map(|change| change.yaml(&self.container.name));
        let command = patch.as_ref().map(|patch| patch::command(self.roll, self.asked.context, patch));
        Advice { what, text, patch, command }
    }

    /// `37 of 12,000 requests were refused or …, all between +1.2 s and +3.4 s`
    fn seen(&self, misses: &[Miss]) -> String {
        let count = |how: Missed| misses.iter().filter(|miss| miss.how == how).count();
        let lost = count(Missed::LostFresh) + count(Missed::LostKept);
        let parts = [
            (count(Missed::Unsent), "refused or not answered in time"),
            (count(Missed::UnsentKept), "not sent, as the connection had ended"),
            (lost, "lost"),
            (count(Missed::Failed), "answered with an error"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| format!("{} {what}", grouped(*number as u64)))
            .collect();
        let first = misses.iter().map(|miss| miss.due_s).fold(f64::INFINITY, f64::min);
        let last = misses.iter().map(|miss| miss.due_s).fold(f64::NEG_INFINITY, f64::max);
        let (were, when) = match misses.len() {
            1 => ("requests was", format!("due at {first:+.1} s")),
            _ => ("requests were", format!("all due between {first:+.1} s and {last:+.1} s")),
        };
        let (missed, asked) = (grouped(misses.len() as u64), grouped(self.asked.requests));
        format!("{missed} of {asked} {were} missed ({}), {when}", parts.join(", "))
    }

    fn hook_s(&self) -> u64 {
        self.container.pre_stop.as_ref().and_then(Hook::seconds).unwrap_or(0)
    }

    fn failing(&self) -> Option<&str> {
        let notices = self.roll.pods.iter().flat_map(|pod| &pod.notices);
        notices.filter_map(|notice| notice.strip_prefix(HOOK_FAILED)).next()
    }

    /// The hook that would have covered what was measured: its length, and the grace that leaves the server what it has.
    fn covering(&self) -> (u64, u64) {
        let measured = self.lag_s.unwrap_or(0.0);
        let covers = (measured + measured.max(MARGIN_S)).ceil() as u64;
        let sleep_s = match self.failing() {
            Some(_) => covers.max(self.hook_s()),
            None => covers,
        };
        (sleep_s, self.grace_with(sleep_s))
    }

    /// A grace with a hook of this length, that leaves the server as much as it has now, or needs.
    fn grace_with(&self, hook_s: u64) -> u64 {
        let has = self.roll.spec.grace_s.saturating_sub(self.hook_s()).max(FLOOR_S);
        let drain = if self.killed().is_empty() { has } else { DRAIN_S.max(2 * has) };
        (hook_s + drain).max(self.roll.spec.grace_s)
    }

    fn hook(&self, misses: &[Miss]) -> Option<Advice> {
        let (sleep_s, grace_s) = self.covering();
        let measured = self.lag_s.map_or(String::new(), |lag| {
            format!(
                " New connections reached a pod up to {lag:.1} s after it was told to go; with as much again as a margin, at least \
                 {MARGIN_S:.0} s, that makes {sleep_s} s."
            )
        });
        let remedy = format!("a preStop sleep of {sleep_s} s and terminationGracePeriodSeconds of at least {grace_s}");
        let (what, text) = match (&self.container.pre_stop, self.failing()) {
            (Some(_), Some(why)) => {
                let cost =
                    if misses.is_empty() { "nothing was missed this time".to_owned() } else { self.seen(misses) };
                let text = format!(
                    "The preStop hook fails ({}), so that the signal comes at once: {cost}. The native sleep needs nothing in the \
                     image: {remedy}.{measured}",
                    first_words(why)
                );
                (Topic::PreStopFailing, text)
            }
            _ if misses.is_empty() => return None,
            (None, _) => {
                let text = format!(
                    "There is no preStop hook: the server gets its signal while others still send to it. {remedy} would have covered \
                     it: {}.{measured}",
                    self.seen(misses)
                );
                (Topic::PreStopMissing, capitalised(&text, &remedy))
            }
            (Some(_), None) => {
                let text = format!(
                    "The preStop hook is over before everybody has stopped sending: {}. {remedy} would have covered it.{measured}",
                    self.seen(misses)
                );
                (Topic::PreStopTooShort, capitalised(&text, &remedy))
            }
        };
        let change = Change::Hook { sleep_s, grace_s, instead_of: self.container.pre_stop.clone() };
        Some(self.advice(what, text, Some(change)))
    }

    /// Old pods that were killed because their grace was over.
    fn killed(&self) -> Vec<&PodRow> {
        let at_the_end = |pod: &&PodRow| {
            let (Some(deleted), Some(grace), Some(exit)) = (pod.deleted_s, pod.grace_s, &pod.exit) else {
                return false;
            };
            let killed = exit.code == KILLED && exit.reason != "OOMKilled";
            killed && exit.at_s - deleted >= grace as f64 - KILLED_S
        };
        self.roll.pods.iter().filter(at_the_end).collect()
    }

    fn grace(&self) -> Option<Advice> {
        let killed = self.killed();
        if killed.is_empty() {
            return None;
        }
        let (hook_s, has) = (self.hook_s(), self.roll.spec.grace_s);
        let sleep_s = if self.lag_s.is_some() { self.covering().0 } else { hook_s };
        let grace_s = self.grace_with(sleep_s);
        let used = match hook_s {
            0 => String::new(),
            hook if hook + FLOOR_S >= has => format!(", all of which the preStop hook of {hook} s used up"),
            hook => format!(", of which the preStop hook took {hook} s"),
        };
        let text = format!(
            "{} of {} pods that were replaced were killed (exit status {KILLED}) when the grace of {has} s was over{used}. Either \
             the server was not done: terminationGracePeriodSeconds of {grace_s} gives it {drain} s, and the next rollout tells \
             whether that is enough. Or it never heard of the signal, because a shell is its container's first process, or \
             because it is that itself and has no handler: `drainspec check` tells.",
            killed.len(),
            self.roll.pods.iter().filter(|pod| pod.deleted_s.is_some()).count(),
            drain = grace_s - sleep_s,
        );
        Some(self.advice(Topic::GraceTooShort, text, Some(Change::Grace { grace_s })))
    }

    fn memory(&self) -> Option<Advice> {
        let ended = |pod: &&PodRow| pod.exit.as_ref().is_some_and(|exit| exit.reason == "OOMKilled");
        let killed: Vec<&str> = self.roll.pods.iter().filter(ended).map(|pod| pod.name.as_str()).collect();
        (!killed.is_empty()).then(|| {
            let text = format!(
                "{} ended for want of memory (OOMKilled): what was in hand there was lost, whatever hooks there are. The memory limit \
                 has to be above what the server needs while it drains.",
                killed.join(", ")
            );
            self.advice(Topic::OutOfMemory, text, None)
        })
    }

    fn nobody(&self, misses: &[Miss]) -> Option<Advice> {
        if misses.is_empty() {
            return None;
        }
        let (spec, seen) = (&self.roll.spec, self.seen(misses));
        let longest = self.roll.nobody.iter().map(|(from, to)| to - from).fold(0.0, f64::max);
        let (why, change) = match (spec.kind, spec.strategy) {
            (WorkloadKind::Deployment, Strategy::Recreate) => (
                "The strategy Recreate stops all old pods before a new one is started.".to_owned(),
                Some(Change::Surge { kind: spec.kind }),
            ),
            (WorkloadKind::StatefulSet, _) if spec.replicas < 2 => (
                "A StatefulSet starts a pod only when the one that it replaces is gone, and this one has a single one: a second \
                 replica serves meanwhile, if the application can be run twice."
                    .to_owned(),
                Some(Change::Replicas { replicas: 2 }),
            ),
            (kind, Strategy::Rolling { max_unavailable, max_surge }) if max_unavailable > 0 => (
                format!(
                    "maxUnavailable allows {max_unavailable} of {} pods to be missing, and maxSurge {max_surge} more to be there.",
                    spec.replicas
                ),
                (kind != WorkloadKind::StatefulSet).then_some(Change::Surge { kind }),
            ),
            _ => ("More pods stopped being ready than were replaced: their events say why.".to_owned(), None),
        };
        let text = format!("For up to {longest:.1} s no pod was ready: {seen}. {why}");
        Some(self.advice(Topic::NobodyLeft, text, change))
    }

    fn too_early(&self, misses: &[Miss]) -> Option<Advice> {
        if misses.is_empty() {
            return None;
        }
        let seen = self.seen(misses);
        if self.container.readiness {
            let text = format!(
                "New pods were called ready before they could answer: {seen}. What the readiness probe asks says yes too early: it \
                 has to need what the answers need."
            );
            return Some(self.advice(Topic::ReadinessTooEarly, text, None));
        }
        let change = self.container.ports.first().map(|port| Change::Readiness {
            path: self.asked.path.split('?').next().unwrap_or("/").to_owned(),
            port: *port,
        });
        let text = format!(
            "There is no readiness probe: a new pod gets requests as soon as its process runs, and old ones are stopped for it. \
             {seen}. A probe that asks for what users ask for would have held them back."
        );
        Some(self.advice(Topic::ReadinessMissing, text, change))
    }

    fn in_hand(&self, misses: &[Miss]) -> Option<Advice> {
        (!misses.is_empty()).then(|| {
            let text = format!(
                "The server cut connections that were in use when it ended: {}. They were kept open by their clients, and stay with \
                 their pod whatever hook it has: the server has to answer what it has in hand, and what comes on kept connections, \
                 before it ends. `drainspec check` says what it lacks.",
                self.seen(misses)
            );
            self.advice(Topic::CutsInHand, text, None)
        })
    }

    fn unknown(&self, misses: &[Miss]) -> Option<Advice> {
        (!misses.is_empty()).then(|| {
            let text = format!(
                "No pod began or ended at that time: {}. Something else was in the way. It can be a node that remembers a \
                 connection to a pod that is gone, and for two minutes sends there whoever comes from the same port.",
                self.seen(misses)
            );
            self.advice(Topic::Unexplained, text, None)
        })
    }
}

/// The sentence that begins with this part begins with a capital.
fn capitalised(text: &str, part: &str) -> String {
    let mut upper = part.to_owned();
    upper.replace_range(..1, &part[..1].to_uppercase());
    text.replacen(&format!(". {part}"), &format!(". {upper}"), 1)
}

/// What a note says at first: the rest repeats it.
fn first_words(text: &str) -> String {
    const MOST: usize = 160;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A number as it is read: `12,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
