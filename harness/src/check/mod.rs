//! Anybody's server: nothing is assumed of it but that it speaks HTTP/1.1 on a TCP port.

mod causes;
mod deploy;
mod leader;
mod learn;
mod profile;
mod programs;
mod results;

pub use causes::{Cause, causes};
pub use deploy::deploy;
pub use leader::{Diagnosis, Identity};
pub use learn::{Learned, free_port, learn};
pub use profile::Profile;
pub use results::{Asked, CheckResults, CheckedRule, FILE, LeftOut};

use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use crate::catalog::{Feature, KnownFailures};
use crate::process::Addressee;
use crate::results::Outcome;
use crate::rules::{self, Level};
use crate::runner;
use crate::scenario::{self, Manner, Pace, Patience, Scenario, Subject};
use crate::verdict::{RuleVerdict, Verdict};

/// Scenarios played side by side, where each can have a port of its own.
const SIDE_BY_SIDE: usize = 6;

/// The scenario in which nothing is going on.
const IDLE: &str = "idle-exit";

/// What is played first where another process leads than listens: whether it passes the signal on, and what it leaves.
const SIGNAL_FIRST: [&str; 2] = [IDLE, "immediate-rebind"];

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

impl RuleSummary {
    /// The rule.
    pub fn slug(&self) -> &str {
        &self.verdict.rule
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        matches!(self.verdict.verdict, Verdict::Fail | Verdict::Warn)
    }
}

/// A scenario that was left out, and what the subject lacks for it.
pub type Left = (&'static Scenario, Vec<Feature>);

/// The scenarios that can tell something about this subject, and for each other one what it lacks.
pub fn choose(subject: &Subject) -> (Vec<&'static Scenario>, Vec<Left>) {
    let (mut chosen, mut left) = (Vec::new(), Vec::new());
    for scenario in scenario::all() {
        let informs = scenario.rules.iter().filter_map(|rule| rules::find(rule)).any(|r| r.level != Level::Info);
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
/// takes the port that it is given, every run has another one, and light scenarios go on side by side. Where another
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
    let patience = Patience::default();
    let mut all = play_all(first, &subject, learned.own_port, out, &patience, &mut done).await;
    match all.iter().find_map(through) {
        None => all.extend(play_all(rest, &subject, learned.own_port, out, &patience, &mut done).await),
        Some(why) => {
            let why = format!("{}: {why}", rules::MISSED);
            all.extend(rest.into_iter().map(|scenario| untested(scenario, &why)).inspect(&mut done));
        }
    }
    all
}

/// A scenario that was not played.
fn untested(scenario: &'static Scenario, why: &str) -> Played {
    let mut outcome = Outcome::without_run(Verdict::Inconclusive, why.to_owned());
    let rules = scenario.rules.iter().filter_map(|rule| rules::find(rule));
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
    own_ports: bool,
    out: &Path,
    patience: &Patience,
    done: &mut impl FnMut(&Played),
) -> Vec<Played> {
    let mut all = play_each(scenarios, subject, own_ports, out, patience, done).await;
    if patience.idle_ends() {
        // What was not waited for, because it had not ended yet, is waited for now.
        let again: Vec<_> = all.extract_if(.., |(_, ran_out)| *ran_out).map(|(played, _)| played.scenario).collect();
        all.extend(play_each(again, subject, own_ports, out, patience, done).await);
    }
    all.into_iter().map(|(played, _)| played).collect()
}

/// Plays each of these once, and tells of each whether its end was not waited for.
async fn play_each(
    scenarios: Vec<&'static Scenario>,
    subject: &impl Fn() -> Subject,
    own_ports: bool,
    out: &Path,
    patience: &Patience,
    done: &mut impl FnMut(&Played),
) -> Vec<(Played, bool)> {
    let mut all = Vec::new();
    let (heavy, mut light): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|s| s.pace == Pace::Heavy);
    light.sort_by_key(|scenario| scenario.slug != IDLE); // what it comes to says how long others are waited for
    let (mut light, mut heavy) = (light.into_iter(), heavy.into_iter());
    let side_by_side = if own_ports { SIDE_BY_SIDE } else { 1 };
    let mut running = JoinSet::new();
    let mut idles = false;
    loop {
        while running.len() < side_by_side
            && let Some(scenario) = light.next()
        {
            idles |= scenario.slug == IDLE;
            running.spawn(play_one(scenario, subject(), patience.of_another_run(), out.to_owned()));
        }
        // One that does nothing but wait for its end disturbs nobody.
        let others = running.len() - usize::from(idles);
        if others == 0
            && (running.is_empty() || own_ports)
            && let Some(scenario) = heavy.next()
        {
            running.spawn(play_one(scenario, subject(), patience.of_another_run(), out.to_owned()));
        }
        match running.join_next().await {
            Some(Ok((played, ran_out))) => {
                idles &= played.scenario.slug != IDLE;
                done(&played);
                all.push((played, ran_out));
            }
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => break,
        }
    }
    all
}

/// Plays one against a process of its own.
async fn play_one(
    scenario: &'static Scenario,
    mut subject: Subject,
    patience: Patience,
    out: PathBuf,
) -> (Played, bool) {
    if let Manner::Stranger(stranger) = &mut subject.manner {
        stranger.patience = patience.clone();
    }
    (Played { scenario, outcome: runner::play(&subject, scenario, 1, &out).await }, patience.has_run_out())
}

/// One verdict for each rule. A rule that holds in one scenario and could not be tested in another holds; one that
/// is violated anywhere is violated.
pub fn summarise(played: &[Played], profile: Profile, known: &KnownFailures) -> Vec<RuleSummary> {
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
            // Where nothing is going on it shows best.
            let worth = |s: &RuleSummary| (weight(s.verdict.verdict), !s.known, s.scenario == IDLE);
            match summaries.iter_mut().find(|other| other.verdict.rule == summary.verdict.rule) {
                None => summaries.push(summary),
                Some(other) if worth(&summary) > worth(other) => *other = summary,
                Some(_) => {}
            }
        }
    }
    summaries
}

/// What counts more where scenarios differ: what was seen to be broken, then what was seen to hold.
fn weight(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Fail => 4,
        Verdict::Warn => 3,
        Verdict::Pass => 2,
        _ => 1,
    }
}

/// Makes failures of warnings about these rules.
pub fn promote(summaries: &mut [RuleSummary], fail_on: &[String]) {
    for summary in summaries.iter_mut().filter(|summary| fail_on.contains(&summary.verdict.rule)) {
        if summary.verdict.verdict == Verdict::Warn {
            summary.verdict.verdict = Verdict::Fail;
        }
    }
}
