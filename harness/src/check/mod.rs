//! Anybody's server: nothing is assumed of it but that it speaks HTTP/1.1 on a TCP port.

mod leader;
mod learn;
mod normal;
mod peace;
mod ports;
mod profile;
mod programs;
mod results;
mod words;

pub use leader::{Diagnosis, Identity};
pub use learn::{Learned, NotLearned, free_port, learn};
pub use peace::Peace;
pub use profile::Profile;
pub use results::{CheckResults, FILE, to_be_judged_again};
pub use words::NEVER_TESTED;

use std::path::Path;

use tokio::task::JoinSet;

use crate::catalog::{Feature, KnownFailures};
use crate::process::Addressee;
use crate::results::Outcome;
use crate::rules::Level;
use crate::runner;
use crate::scenario::{self, Manner, Pace, Scenario, Subject};
use crate::verdict::{RuleVerdict, Verdict};

/// Scenarios played side by side, where each can have a port of its own.
const SIDE_BY_SIDE: usize = 6;

/// What is played first where another process leads than listens: whether it passes the signal on, and what it leaves.
const SIGNAL_FIRST: [&str; 2] = ["idle-exit", "immediate-rebind"];

/// What one scenario came to.
pub struct Played {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// What it came to.
    pub outcome: Outcome,
}

/// What one rule came to, over all scenarios that prove it.
#[derive(Debug, Clone)]
pub struct RuleSummary {
    /// The verdict that decides: of the scenario named here.
    pub verdict: RuleVerdict,
    /// The scenario that decides.
    pub scenario: &'static str,
    /// Whether the user has declared it as known.
    pub known: bool,
}

/// A scenario that was left out, and what the subject lacks for it.
pub type Left = (&'static Scenario, Vec<Feature>);

/// The scenarios that can tell something about this subject, and for each other one what it lacks.
pub fn choose(subject: &Subject) -> (Vec<&'static Scenario>, Vec<Left>) {
    let (mut chosen, mut left) = (Vec::new(), Vec::new());
    for scenario in scenario::all() {
        let informs = scenario.rules.iter().filter_map(|rule| crate::rules::find(rule)).any(|r| r.level != Level::Info);
        let lacks: Vec<Feature> = scenario.needs.iter().copied().filter(|feature| !subject.has(*feature)).collect();
        if !differs(subject, scenario) {
            continue;
        }
        match (informs, lacks.is_empty()) {
            (false, _) => {}
            (true, true) => chosen.push(scenario),
            (true, false) => left.push((scenario, lacks)),
        }
    }
    (chosen, left)
}

/// A signal to the group is another stimulus than one to the leader only where there are others.
fn differs(subject: &Subject, scenario: &Scenario) -> bool {
    match &subject.manner {
        Manner::Stranger(stranger) if scenario.slug == "group-signal" => {
            stranger.children && stranger.to == Addressee::Leader
        }
        _ => true,
    }
}

/// Plays scenarios, each against a process of its own. `subject` makes the subject for one run: where the server
/// takes the port that it is given, every run has another one, and light scenarios go on side by side where two can live
/// so. Where another
/// process leads than listens, it is played first whether the signal gets through: nothing else can be told where it
/// does not.
pub async fn play(
    scenarios: Vec<&'static Scenario>,
    subject: impl Fn() -> Subject,
    learned: &Learned,
    out: &Path,
    mut done: impl FnMut(&Played),
) -> Vec<Played> {
    let through = |played: &Played| {
        let verdict = played.outcome.rules.iter().find(|verdict| verdict.rule == "signal-reaches-server");
        verdict.filter(|verdict| verdict.verdict != Verdict::Pass).map(|verdict| verdict.actual.clone())
    };
    let (first, rest): (Vec<_>, Vec<_>) = scenarios
        .into_iter()
        .partition(|scenario| !learned.identity.leader_listens && SIGNAL_FIRST.contains(&scenario.slug));
    let mut all = play_all(first, &subject, learned.alone.is_none(), out, &mut done).await;
    match all.iter().find_map(through) {
        None => all.extend(play_all(rest, &subject, learned.alone.is_none(), out, &mut done).await),
        Some(why) => {
            let why = format!("the signal did not reach the server: {why}");
            all.extend(rest.into_iter().map(|scenario| untested(scenario, &why)).inspect(&mut done));
        }
    }
    all
}

/// A scenario that was not played.
fn untested(scenario: &'static Scenario, why: &str) -> Played {
    let mut outcome = Outcome::without_run(Verdict::Inconclusive, why.to_owned());
    let rules = scenario.rules.iter().filter_map(|rule| crate::rules::find(rule));
    outcome.rules = rules
        .map(|rule| RuleVerdict {
            rule: rule.slug.to_owned(),
            level: rule.level_for(false),
            basis: rule.basis,
            verdict: Verdict::Inconclusive,
            expected: rule.sentence.to_owned(),
            actual: why.to_owned(),
            evidence: Vec::new(),
        })
        .collect();
    Played { scenario, outcome }
}

async fn play_all(
    scenarios: Vec<&'static Scenario>,
    subject: &impl Fn() -> Subject,
    side_by_side: bool,
    out: &Path,
    done: &mut impl FnMut(&Played),
) -> Vec<Played> {
    let mut all = Vec::new();
    let (heavy, light): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|scenario| scenario.pace == Pace::Heavy);
    for (scenarios, limit) in [(light, if side_by_side { SIDE_BY_SIDE } else { 1 }), (heavy, 1)] {
        let mut waiting = scenarios.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < limit
                && let Some(scenario) = waiting.next()
            {
                let (subject, out) = (subject(), out.to_owned());
                running.spawn(
                    async move { Played { scenario, outcome: runner::play(&subject, scenario, 1, &out).await } },
                );
            }
            match running.join_next().await {
                Some(Ok(played)) => {
                    done(&played);
                    all.push(played);
                }
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => break,
            }
        }
    }
    all
}

/// One verdict for each rule. A rule that holds in one scenario and could not be tested in another holds; one that
/// is violated anywhere is violated.
pub fn summarise(played: &[Played], profile: Profile, known: &KnownFailures) -> Vec<RuleSummary> {
    let weight = |verdict: Verdict| match verdict {
        Verdict::Fail => 4,
        Verdict::Warn => 3,
        Verdict::Pass => 2,
        _ => 1,
    };
    let mut summaries: Vec<RuleSummary> = Vec::new();
    for one in played {
        for verdict in &one.outcome.rules {
            if verdict.level == Level::Info || profile.why_not(&verdict.rule).is_some() {
                continue;
            }
            let verdict = verdict.clone();
            let failed = matches!(verdict.verdict, Verdict::Fail | Verdict::Warn);
            let known = failed && known.find(one.scenario.slug, &verdict.rule).is_some();
            let summary = RuleSummary { scenario: one.scenario.slug, known, verdict };
            let worth = |s: &RuleSummary| (weight(s.verdict.verdict), !s.known);
            match summaries.iter_mut().find(|other| other.verdict.rule == summary.verdict.rule) {
                None => summaries.push(summary),
                Some(other) if worth(&summary) > worth(other) => *other = summary,
                Some(_) => {}
            }
        }
    }
    summaries
}
