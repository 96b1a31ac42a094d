//! Anybody's server: nothing is assumed of it but that it speaks HTTP/1.1 on a TCP port.

mod causes;
mod deploy;
mod lame_duck;
mod leader;
mod learn;
mod normal;
mod peace;
mod ports;
mod profile;
mod programs;
mod results;
mod words;

pub use causes::{Cause, causes};
pub use deploy::deploy;
pub use lame_duck::LameDuck;
pub use leader::{Diagnosis, Identity};
pub use learn::{Learned, NotLearned, learn};
pub use peace::Peace;
pub use profile::Profile;
pub use results::{Asked, CheckResults, CheckedRule, FILE, LeftOut};

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::catalog::{Feature, KnownFailures, Topology};
use crate::process::Addressee;
use crate::quiet::quiet;
use crate::results::Outcome;
use crate::rules::{self, Level, Reason};
use crate::runner;
use crate::scenario::{self, Manner, Pace, Patience, Scenario, Subject};
use crate::timeline::Param;
use crate::verdict::{RuleVerdict, Verdict};

/// The scenario in which nothing is going on.
const IDLE: &str = "idle-exit";

/// What is played first where another process leads than listens: whether it passes the signal on, and what it leaves.
const SIGNAL_FIRST: [&str; 2] = [IDLE, "immediate-rebind"];

/// What is played beside all else, for as long as that takes: in it a connection waits, and nothing happens.
const BESIDE: &str = "idle-in-balancers-pool";
/// What catches requests in flight where no path is slow enough to have one there for certain.
const WITHOUT_SLOW: &str = "saturated-in-flight";

/// So many of those that load the machine are played side by side: each does so for a moment, and waits then.
const HEAVY: usize = 2;

/// For how long, where a server cannot be started beside another: longer than the five seconds that many keep.
const ALONE: Duration = Duration::from_millis(6_500);

/// Rules of which it is said, without a verdict, where nothing could be told: that takes longer than all the rest, or
/// what nobody has said.
const TOLD: [&str; 2] = ["keep-alive-outlasts-balancer", "lame-duck-lasts"];

/// What is judged in passing in scenarios that are about something else.
const STREAM: &str = "endless-stream-ends";

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
    for scenario in scenario::all().filter(|scenario| scenario.setting.is_single()) {
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

/// Whether it tells anything that others do not: a signal to the group is another stimulus than one to the leader only
/// where there are others.
fn differs(subject: &Subject, scenario: &Scenario) -> bool {
    match &subject.manner {
        Manner::Stranger(stranger) if scenario.slug == "group-signal" => {
            stranger.children && stranger.to == Addressee::Leader
        }
        Manner::Stranger(_) if scenario.slug == BESIDE => {
            subject.params.iter().any(|(param, _)| *param == Param::BalancerIdle)
        }
        Manner::Stranger(_) if scenario.slug == WITHOUT_SLOW => !subject.has(Feature::Slow),
        _ => true,
    }
}

/// Plays scenarios, each against a process of its own. `subject` makes the subject for one run: where the server
/// takes the port that it is given, every run has another one, and light scenarios go on side by side where two of it
/// can live so. Where another process leads than listens, it is played first whether the signal gets through: where it
/// does not, nothing else can be told.
pub async fn play(
    scenarios: Vec<&'static Scenario>,
    subject: impl Fn() -> Subject,
    learned: &Learned,
    side_by_side: usize,
    out: &Path,
    mut done: impl FnMut(&Played),
) -> Vec<Played> {
    let through = |played: &Played| {
        let verdict = played.outcome.rules.iter().find(|verdict| verdict.rule == "signal-reaches-server");
        verdict.filter(|verdict| verdict.verdict != Verdict::Pass).map(|verdict| verdict.actual.clone())
    };
    let (beside, scenarios): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|scenario| scenario.slug == BESIDE);
    let waits = Waiting::of(beside.first().copied(), &subject, out);
    let waits = match learned.alone.is_none() {
        true => waits.map(Waiting::start),
        false => waits,
    };
    let (first, rest): (Vec<_>, Vec<_>) = scenarios
        .into_iter()
        .partition(|scenario| !learned.identity.leader_listens && SIGNAL_FIRST.contains(&scenario.slug));
    let side_by_side = if learned.alone.is_none() { side_by_side } else { 1 };
    let patience = Patience::default();
    let mut all = play_all(first, &subject, side_by_side, out, &patience, &mut done).await;
    match all.iter().find_map(through) {
        None => all.extend(play_all(rest, &subject, side_by_side, out, &patience, &mut done).await),
        Some(why) => {
            let why = format!("{}: {why}", rules::MISSED);
            all.extend(rest.into_iter().map(|scenario| untested(scenario, &why)).inspect(&mut done));
        }
    }
    if let Some(waits) = waits {
        let played = waits.end().await;
        done(&played);
        all.push(played);
    }
    all
}

/// What is played beside all else.
struct Waiting {
    scenario: &'static Scenario,
    subject: Subject,
    out: PathBuf,
    over: CancellationToken,
    task: Option<AbortOnDropHandle<Outcome>>,
}

impl Waiting {
    fn of(scenario: Option<&'static Scenario>, subject: impl Fn() -> Subject, out: &Path) -> Option<Self> {
        let (scenario, mut subject, over) = (scenario?, subject(), CancellationToken::new());
        if let Manner::Stranger(stranger) = &mut subject.manner {
            stranger.over = over.clone();
        }
        Some(Self { scenario, subject, out: out.to_owned(), over, task: None })
    }

    fn start(mut self) -> Self {
        let (subject, scenario, out) = (self.subject.clone(), self.scenario, self.out.clone());
        let play = async move { runner::play(&subject, &Topology::direct(), scenario, 1, 0, &out).await };
        self.task = Some(AbortOnDropHandle::new(tokio::spawn(play)));
        self
    }

    /// All else is over; where it was not started until now, it has a little time.
    async fn end(mut self) -> Played {
        if self.task.is_none() {
            self = self.start();
            let over = self.over.clone();
            tokio::spawn(async move {
                tokio::time::sleep(ALONE).await;
                over.cancel();
            });
        } else {
            self.over.cancel();
        }
        let outcome = match self.task {
            Some(task) => task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
            None => Outcome::without_run(Verdict::Error, "it was not played".to_owned()),
        };
        Played { scenario: self.scenario, outcome }
    }
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
            reason: Some(Reason::Missed),
            share: None,
        })
        .collect();
    Played { scenario, outcome }
}

/// What stalls have left without a verdict is played again when everything else has been, alone.
async fn play_all(
    scenarios: Vec<&'static Scenario>,
    subject: &impl Fn() -> Subject,
    side_by_side: usize,
    out: &Path,
    patience: &Patience,
    done: &mut impl FnMut(&Played),
) -> Vec<Played> {
    let mut all = play_each(scenarios, subject, side_by_side, out, patience, done).await;
    if patience.idle_ends() {
        // What was not waited for, because it had not ended yet, is waited for now.
        let again: Vec<_> = all.extract_if(.., |(_, ran_out)| *ran_out).map(|(played, _)| played.scenario).collect();
        all.extend(play_each(again, subject, side_by_side, out, patience, done).await);
    }
    let mut all: Vec<Played> = all.into_iter().map(|(played, _)| played).collect();
    let until = Instant::now() + runner::QUIET_WITHIN;
    for played in all.iter_mut().filter(|played| played.outcome.disturbed) {
        for turn in 1..=runner::AGAIN {
            quiet(until).await;
            let mut replaced = std::mem::take(&mut played.outcome.replaced);
            replaced.extend(played.outcome.timeline.take());
            let (other, _) =
                play_one(played.scenario, subject(), patience.of_another_run(), turn, out.to_owned()).await;
            played.outcome = Outcome { replaced, ..other.outcome };
            if !played.outcome.disturbed {
                break;
            }
        }
        done(played);
    }
    all
}

/// Plays each of these once, and tells of each whether its end was not waited for.
async fn play_each(
    scenarios: Vec<&'static Scenario>,
    subject: &impl Fn() -> Subject,
    side_by_side: usize,
    out: &Path,
    patience: &Patience,
    done: &mut impl FnMut(&Played),
) -> Vec<(Played, bool)> {
    let mut all = Vec::new();
    let (heavy, mut light): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(|s| s.pace == Pace::Heavy);
    // What it comes to says how long others are waited for; then those that wait longest.
    light.sort_by_key(|scenario| (scenario.slug != IDLE, scenario.pace));
    let (mut light, mut heavy) = (light.into_iter(), heavy.into_iter());
    let mut running = JoinSet::new();
    let mut paces: Vec<Pace> = Vec::new();
    let play = |scenario| play_one(scenario, subject(), patience.of_another_run(), 0, out.to_owned());
    loop {
        while running.len() < side_by_side
            && let Some(scenario) = light.next()
        {
            paces.push(pace(scenario));
            running.spawn(play(scenario));
        }
        // Those that do nothing but wait for their end are disturbed by nobody.
        while !paces.contains(&Pace::Short)
            && running.len() < side_by_side
            && paces.iter().filter(|pace| **pace == Pace::Heavy).count() < HEAVY
            && let Some(scenario) = heavy.next()
        {
            paces.push(Pace::Heavy);
            running.spawn(play(scenario));
        }
        match running.join_next().await {
            Some(Ok((played, ran_out))) => {
                let over = paces.iter().position(|other| *other == pace(played.scenario));
                over.map(|at| paces.swap_remove(at));
                if !played.outcome.disturbed {
                    done(&played);
                }
                all.push((played, ran_out));
            }
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => break,
        }
    }
    all
}

/// What a scenario does with its time. A server that has nothing to do, and does not end, is waited for longest.
fn pace(scenario: &Scenario) -> Pace {
    if scenario.slug == IDLE { Pace::Long } else { scenario.pace }
}

/// What was seen of rules that came to no verdict, and of which no more is to be known, in words.
pub fn told(played: &[Played], profile: Profile) -> Vec<String> {
    let verdicts = played.iter().flat_map(|one| &one.outcome.rules);
    let told = verdicts.filter(|verdict| {
        verdict.rule == TOLD[0] && verdict.verdict == Verdict::Inconclusive && profile.why_not(&verdict.rule).is_none()
    });
    told.map(|verdict| verdict.actual.clone()).collect()
}

/// Plays one against a process of its own.
async fn play_one(
    scenario: &'static Scenario,
    mut subject: Subject,
    patience: Patience,
    again: u32,
    out: PathBuf,
) -> (Played, bool) {
    if let Manner::Stranger(stranger) = &mut subject.manner {
        stranger.patience = patience.clone();
    }
    (
        Played { scenario, outcome: runner::play(&subject, &Topology::direct(), scenario, 1, again, &out).await },
        patience.has_run_out(),
    )
}

/// One verdict for each rule. A rule that holds in one scenario and could not be tested in another holds; one that
/// is violated anywhere is violated.
pub fn summarise(played: &[Played], profile: Profile, known: &KnownFailures) -> Vec<RuleSummary> {
    let place = |one: &&Played| scenario::all().position(|scenario| scenario.slug == one.scenario.slug);
    let mut summaries: Vec<RuleSummary> = Vec::new();
    // In whichever order they came to an end: the same is said every time.
    let mut in_order: Vec<&Played> = played.iter().collect();
    in_order.sort_by_key(place);
    for one in in_order {
        for verdict in &one.outcome.rules {
            if verdict.level == Level::Info || profile.why_not(&verdict.rule).is_some() {
                continue;
            }
            if TOLD.contains(&verdict.rule.as_str()) && verdict.verdict == Verdict::Inconclusive {
                continue;
            }
            // Where a stream goes on beside all else, there may be none.
            let beside = verdict.rule == STREAM && !one.scenario.needs.contains(&Feature::EndlessStream);
            if beside && verdict.verdict == Verdict::Inconclusive {
                continue;
            }
            let verdict = profile.weigh(verdict.clone());
            let failed = matches!(verdict.verdict, Verdict::Fail | Verdict::Warn);
            let known = failed && known.find(one.scenario.slug, &verdict.rule).is_some();
            let summary = RuleSummary { scenario: one.scenario.slug, known, verdict };
            // It shows best where nothing is going on, then where it is what the scenario is about.
            let about =
                |s: &RuleSummary| scenario::find(s.scenario).is_some_and(|it| it.rules.first() == Some(&s.slug()));
            let worth = |s: &RuleSummary| (weight(s.verdict.verdict), !s.known, s.scenario == IDLE, about(s));
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
