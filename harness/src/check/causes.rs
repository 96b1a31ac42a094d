//! One fault breaks many rules: what several of them come from. Pure.
//!
//! A rule is put below a cause only where the run that decides it shows the cause as well: a fault of its own is never
//! hidden by another one.

use serde::{Deserialize, Serialize};

use super::{Diagnosis, Played, RuleSummary};
use crate::rules::{self, MISSED};
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

/// Rules that say where a signal went.
const SIGNALS: [&str; 3] = ["term-ends-process", "port-free-after-exit", "int-like-term"];

/// The causes, each with one rule at least that follows from it. A rule follows from one of them, the first.
pub fn causes(rules: &[RuleSummary], played: &[Played], diagnoses: &[Diagnosis]) -> Vec<Cause> {
    let found = [signal_missed, never_ends, no_drain, connections_hold];
    let seen = Seen { rules, played, diagnoses };
    let mut taken: Vec<&str> = Vec::new();
    let mut causes = Vec::new();
    for (what, lead, claims) in found.iter().filter_map(|find| find(&seen)) {
        if taken.contains(&lead) {
            continue;
        }
        taken.push(lead);
        let follows = rules.iter().filter(|rule| rule.verdict.verdict != Verdict::Pass && !rule.known && claims(rule));
        let mut follows: Vec<&RuleSummary> = follows.filter(|rule| !taken.contains(&rule.slug())).collect();
        follows.sort_by_key(|rule| std::cmp::Reverse(super::weight(rule.verdict.verdict)));
        taken.extend(follows.iter().map(|rule| rule.slug()));
        let follows: Vec<String> = follows.iter().map(|rule| rule.slug().to_owned()).collect();
        if !follows.is_empty() {
            causes.push(Cause { what, rule: lead.to_owned(), follows });
        }
    }
    causes
}

struct Seen<'s> {
    rules: &'s [RuleSummary],
    played: &'s [Played],
    diagnoses: &'s [Diagnosis],
}

/// What it is, the rule that says it best, and which others follow from it.
type Found<'s> = (String, &'s str, Box<dyn Fn(&RuleSummary) -> bool + 's>);

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

    fn diagnosed(&self, wanted: impl Fn(&Diagnosis) -> bool) -> Option<String> {
        self.diagnoses.iter().find(|diagnosis| wanted(diagnosis)).map(ToString::to_string)
    }
}

fn signal_missed<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = seen.broken("signal-reaches-server")?;
    let claims = |rule: &RuleSummary| {
        rule.verdict.actual.starts_with(MISSED) || (rule.is_broken() && SIGNALS.contains(&rule.slug()))
    };
    Some((MISSED.to_owned(), lead.slug(), Box::new(claims)))
}

fn never_ends<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = seen.broken("term-ends-process")?;
    let alone = seen.played("idle-exit").filter(|played| played.outcome.timeline.is_some())?;
    let same = |rule: &&crate::verdict::RuleVerdict| rule.rule == lead.slug() && rule.verdict == lead.verdict.verdict;
    let violated = alone.outcome.rules.iter().any(|rule| same(&rule));
    if !violated || seen.ended("idle-exit").is_some() {
        return None;
    }
    let ignored = |d: &Diagnosis| matches!(d, Diagnosis::Ignored { .. } | Diagnosis::FirstProcess { .. });
    let what = seen.diagnosed(ignored);
    let played = seen.played;
    let gone = |one: &&Played| one.outcome.measures.contains_key(ENDED);
    let ended: Vec<&str> = played.iter().filter(gone).map(|one| one.scenario.slug).collect();
    let goes_on = move |scenario: &str| !ended.contains(&scenario);
    let claims = move |rule: &RuleSummary| {
        let loses = rule.is_broken() && loses(rule, played);
        SEVERAL_STARTS.contains(&rule.slug()) || (!loses && goes_on(rule.scenario))
    };
    let what = what.unwrap_or_else(|| "the signal does not end it, even when nothing is going on".to_owned());
    Some((what, lead.slug(), Box::new(claims)))
}

/// Whether requests were lost, and the rule is about that.
fn loses(rule: &RuleSummary, played: &[Played]) -> bool {
    let of = played.iter().find(|played| played.scenario.slug == rule.scenario);
    let lost = of.and_then(|played| played.outcome.measures.get("requests_lost")).is_some_and(|lost| *lost > 0.0);
    rules::is_about_loss(rule.slug()) && lost
}

fn no_drain<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = seen.broken("in-flight-answered")?;
    let at_once = |scenario: &str| seen.ended(scenario).is_some_and(|after| after < AT_ONCE_MS);
    if !at_once(lead.scenario) {
        return None;
    }
    let none = |d: &Diagnosis| matches!(d, Diagnosis::NoHandler { launcher: false, .. });
    let what = seen.diagnosed(none);
    let what = what.unwrap_or_else(|| "the signal ends it at once, whatever is in flight".to_owned());
    let soon: Vec<&str> = seen.played.iter().map(|played| played.scenario.slug).filter(|slug| at_once(slug)).collect();
    let claims = move |rule: &RuleSummary| NEEDS_DRAIN.contains(&rule.slug()) && soon.contains(&rule.scenario);
    Some((what, lead.slug(), Box::new(claims)))
}

fn connections_hold<'s>(seen: &Seen<'s>) -> Option<Found<'s>> {
    let lead = HOLDS.iter().find_map(|slug| seen.broken(slug))?;
    let alone = seen.played("idle-exit").is_some_and(|played| played.outcome.verdict == Verdict::Pass);
    let claims = move |rule: &RuleSummary| {
        rule.is_broken() && (HOLDS.contains(&rule.slug()) || (alone && rule.slug() == "term-ends-process"))
    };
    Some(("connections that are open hold the process".to_owned(), lead.slug(), Box::new(claims)))
}
