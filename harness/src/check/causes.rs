//! One fault breaks many rules: what several of them come from. Pure.
//!
//! A rule is put below a cause only where the run that decides it shows the cause as well: a fault of its own is never
//! hidden by another one.

use serde::{Deserialize, Serialize};

use super::{Diagnosis, Played, RuleSummary};
use crate::rules::{self, MISSED, Reason};
use crate::verdict::Verdict;

/// A process that ends so soon after the signal, in milliseconds, and loses what is in flight, has not drained.
const AT_ONCE_MS: f64 = 500.0;

/// The measure that a scenario has whose process ended.
const ENDED: &str = "exit_after_signal_ms";

/// What several rules come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What it is, in a sentence.
    pub what: String,
    /// What to do about it, where that is not what the rule says.
    pub remedy: Option<String>,
    /// The rule that says it best.
    pub rule: String,
    /// The others, which follow from it.
    pub follows: Vec<String>,
}

/// Rules about what holds the process: where one holds it, connections do.
const HOLDS: [&str; 5] = [
    "idle-holds-nothing",
    "kept-open-holds-nothing",
    "unused-holds-nothing",
    "half-request-holds-nothing",
    "load-does-not-hold-exit",
];

/// Rules that tell nothing, or are broken, where the process does not end, though another one of their scenario may.
const SEVERAL_STARTS: [&str; 3] = ["startup-signal-ends-process", "exit-is-prompt", "port-free-after-exit"];

/// Rules that are broken, or tell nothing, where nothing is waited for.
const NEEDS_DRAIN: [&str; 15] = [
    "response-untruncated",
    "late-request-answered",
    "nothing-lost-on-keep-alive",
    "nothing-lost-in-accept-queue",
    "pipelined-in-order",
    "continue-answered",
    "close-announced",
    "new-connections-refused",
    "listener-closes-first",
    "idle-closed-by-fin",
    "kept-open-holds-nothing",
    "client-gone-releases",
    "second-signal-exits",
    "int-like-term",
    "group-signal-drains",
];

/// Rules that are broken where what is in flight is cut.
const CUT_TOO: [&str; 4] = ["response-untruncated", "late-request-answered", "pipelined-in-order", "continue-answered"];

/// Rules that say where a signal went.
const SIGNALS: [&str; 3] = ["term-ends-process", "port-free-after-exit", "int-like-term"];

/// The causes. A rule follows from one of them, the first that claims it.
///
/// `grace_s` is how long the server may take to stop, in seconds.
pub fn causes(rules: &[RuleSummary], played: &[Played], diagnoses: &[Diagnosis], grace_s: u64) -> Vec<Cause> {
    let found = [signal_missed, never_ends, ends_late, no_drain, cut_early, connections_hold];
    let seen = Seen { rules, played, diagnoses, grace_s };
    let mut taken: Vec<&str> = Vec::new();
    let mut causes = Vec::new();
    for Found { what, remedy, lead, claims, tells } in found.iter().filter_map(|find| find(&seen)) {
        if taken.contains(&lead) {
            continue;
        }
        taken.push(lead);
        let follows = rules.iter().filter(|rule| rule.verdict.verdict != Verdict::Pass && !rule.known && claims(rule));
        let mut follows: Vec<&RuleSummary> = follows.filter(|rule| !taken.contains(&rule.slug())).collect();
        follows.sort_by_key(|rule| std::cmp::Reverse(super::weight(rule.verdict.verdict)));
        taken.extend(follows.iter().map(|rule| rule.slug()));
        let follows: Vec<String> = follows.iter().map(|rule| rule.slug().to_owned()).collect();
        if tells || !follows.is_empty() {
            causes.push(Cause { what, remedy, rule: lead.to_owned(), follows });
        }
    }
    causes
}

struct Seen<'s> {
    rules: &'s [RuleSummary],
    played: &'s [Played],
    diagnoses: &'s [Diagnosis],
    grace_s: u64,
}

struct Found<'s> {
    what: String,
    remedy: Option<String>,
    /// The rule that says it best.
    lead: &'s str,
    /// Which others follow from it.
    claims: Box<dyn Fn(&RuleSummary) -> bool + 's>,
    /// Whether it says more than the rule, though nothing else may follow from it.
    tells: bool,
}

impl<'s> Found<'s> {
    fn new(what: &str, lead: &'s RuleSummary, claims: impl Fn(&RuleSummary) -> bool + 's) -> Self {
        Self { what: what.to_owned(), remedy: None, lead: lead.slug(), claims: Box::new(claims), tells: false }
    }

    /// Where it is known before the signal is sent, that is what it is.
    fn or(mut self, diagnosed: Option<(String, Option<String>)>) -> Self {
        if let Some((what, remedy)) = diagnosed {
            (self.what, self.remedy, self.tells) = (what, remedy, true);
        }
        self
    }
}

impl<'s> Seen<'s> {
    /// A rule that is broken, and not known to be.
    fn broken(&self, slug: &str) -> Option<&'s RuleSummary> {
        self.rules.iter().find(|rule| rule.slug() == slug && rule.is_broken() && !rule.known)
    }

    fn played(&self, scenario: &str) -> Option<&'s Played> {
        self.played.iter().find(|played| played.scenario.slug == scenario)
    }

    /// How long after the signal the process of a scenario ended, in milliseconds; `None` where it did not.
    fn ended(&self, scenario: &str) -> Option<f64> {
        self.played(scenario)?.outcome.measures.get(ENDED).copied()
    }

    /// What was known before the signal was sent, in short, and what to do about it.
    fn diagnosed<T>(&self, wanted: impl Fn(&Diagnosis) -> Option<T>) -> Option<T> {
        self.diagnoses.iter().find_map(wanted)
    }
}

fn signal_missed<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = seen.broken("signal-reaches-server")?;
    let claims = |rule: &RuleSummary| {
        rule.verdict.reason == Some(Reason::Missed) || (rule.is_broken() && SIGNALS.contains(&rule.slug()))
    };
    Some(Found::new(MISSED, lead, claims))
}

fn never_ends<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = seen.broken("term-ends-process")?;
    let alone = seen.played("idle-exit").filter(|played| played.outcome.timeline.is_some())?;
    let same = |rule: &&crate::verdict::RuleVerdict| rule.rule == lead.slug() && rule.verdict == lead.verdict.verdict;
    let violated = alone.outcome.rules.iter().any(|rule| same(&rule));
    if !violated || seen.ended("idle-exit").is_some() {
        return None;
    }
    let diagnosed = seen.diagnosed(|diagnosis| match diagnosis {
        Diagnosis::Ignored { signal, .. } => Some((
            format!("{signal} is ignored: it does not end"),
            Some(format!(
                "Handle {signal} in the server. Where it was started with {signal} ignored (nohup, `trap ''`, a careless \
                 parent), start it in another way: `env --default-signal={} COMMAND`.",
                signal.trim_start_matches("SIG")
            )),
        )),
        Diagnosis::FirstProcess { signal, .. } => Some((
            format!("{signal} is dropped by the kernel: the first process of a container has no handler for it"),
            Some(format!("Handle {signal}, or start under an init (docker run --init, tini, dumb-init).")),
        )),
        _ => None,
    });
    let played = seen.played;
    let gone = |one: &&Played| one.outcome.measures.contains_key(ENDED);
    let ended: Vec<&str> = played.iter().filter(gone).map(|one| one.scenario.slug).collect();
    let goes_on = move |scenario: &str| !ended.contains(&scenario);
    let claims = move |rule: &RuleSummary| {
        // What is lost is lost for another reason; a late request is answered, as if there had been no signal.
        let of_it = match rules::is_about_loss(rule.slug()) {
            true => rule.slug() == "late-request-answered" && !loses(rule, played),
            false => true,
        };
        SEVERAL_STARTS.contains(&rule.slug()) || (of_it && goes_on(rule.scenario))
    };
    Some(Found::new("the signal does not end it, even when nothing is going on", lead, claims).or(diagnosed))
}

/// Whether requests were lost where a rule is broken that is about losses.
pub(super) fn loses(rule: &RuleSummary, played: &[Played]) -> bool {
    let of = played.iter().find(|played| played.scenario.slug == rule.scenario);
    let lost = of.and_then(|played| played.outcome.measures.get("requests_lost")).is_some_and(|lost| *lost > 0.0);
    rule.is_broken() && rules::is_about_loss(rule.slug()) && lost
}

fn no_drain<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = seen.broken("in-flight-answered")?;
    let diagnosed = seen.diagnosed(|diagnosis| match diagnosis {
        Diagnosis::NoHandler { signal, launcher: false, .. } => {
            Some((format!("no handler for {signal}: it ends at once, whatever is in flight"), None))
        }
        _ => None,
    });
    // Where it is known that nothing can wait, it does not matter when that was seen.
    let at_once = |scenario: &str| seen.ended(scenario).is_some_and(|after| diagnosed.is_some() || after < AT_ONCE_MS);
    if !at_once(lead.scenario) {
        return None;
    }
    let soon: Vec<&str> = seen.played.iter().map(|played| played.scenario.slug).filter(|slug| at_once(slug)).collect();
    let claims = move |rule: &RuleSummary| NEEDS_DRAIN.contains(&rule.slug()) && soon.contains(&rule.scenario);
    Some(Found::new("the signal ends it at once, whatever is in flight", lead, claims).or(diagnosed))
}

/// It takes its time even where there is nothing to wait for.
fn ends_late<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = seen.broken("term-ends-process").filter(|rule| rule.scenario == "idle-exit")?;
    let after = seen.ended("idle-exit")?;
    let what = format!("it takes {:.1} s to end, even when nothing is going on", after / 1e3);
    let claims = |rule: &RuleSummary| {
        rule.is_broken() && (HOLDS.contains(&rule.slug()) || rule.slug() == "startup-signal-ends-process")
    };
    Some(Found::new(&what, lead, claims))
}

/// It waits, but not for as long as it may.
fn cut_early<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = seen.broken("in-flight-answered").filter(|rule| loses(rule, seen.played))?;
    let after = seen.ended(lead.scenario).filter(|after| (AT_ONCE_MS..seen.grace_s as f64 * 1e3).contains(after))?;
    let what = format!(
        "it ends {:.1} s after the signal and cuts what is in flight, though --grace gives it {} s",
        after / 1e3,
        seen.grace_s
    );
    let played = seen.played;
    let claims = move |rule: &RuleSummary| loses(rule, played) && CUT_TOO.contains(&rule.slug());
    Some(Found { tells: true, ..Found::new(&what, lead, claims) })
}

fn connections_hold<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = HOLDS.iter().find_map(|slug| seen.broken(slug))?;
    let alone = seen.played("idle-exit").filter(|played| played.outcome.verdict == Verdict::Pass);
    alone?; // or it is not they who hold it
    let claims = move |rule: &RuleSummary| {
        rule.is_broken() && (HOLDS.contains(&rule.slug()) || rule.slug() == "term-ends-process")
    };
    Some(Found::new("connections that are open hold the process", lead, claims))
}
