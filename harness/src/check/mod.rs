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

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::catalog::{Feature, KnownFailures};
use crate::process::Addressee;
use crate::results::Outcome;
use crate::rules::Level;
use crate::runner;
use crate::scenario::{self, Manner, Pace, Scenario, Subject};
use crate::verdict::{RuleVerdict, Verdict};

/// Scenarios played side by side, where each can have a port of its own.
const SIDE_BY_SIDE: usize = 6;

/// What is played first: whether the process ends at all; and where another process leads than listens, whether that
/// one passes the signal on, and what it leaves.
const SIGNAL_FIRST: [&str; 2] = ["idle-exit", "immediate-rebind"];

/// How long scenarios under way may go on when it is known that the process never ends.
const LAST: Duration = Duration::from_secs(2);

/// What is said of all rules of which nothing can be told for the same reason.
pub const UNTOLD: [&str; 2] =
    ["the signal did not reach the server", "the process does not even end when nothing is going on"];

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
/// takes the port that it is given, every run has another one, and light scenarios go on side by side where two of it
/// can live so. Where another process leads than listens, it is played first whether the signal gets through. What
/// cannot be told any more, see [`hopeless`], is not played.
pub async fn play(
    scenarios: Vec<&'static Scenario>,
    subject: impl Fn() -> Subject,
    learned: &Learned,
    out: &Path,
    mut done: impl FnMut(&Played),
) -> Vec<Played> {
    let shim = |scenario: &&Scenario| !learned.identity.leader_listens && SIGNAL_FIRST.contains(&scenario.slug);
    let (first, rest): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(shim);
    let (heavy, mut light): (Vec<_>, Vec<_>) = rest.into_iter().partition(|scenario| scenario.pace == Pace::Heavy);
    // Those that wait longest come next, as nobody waits for them in the end.
    light.sort_by_key(|scenario| (!SIGNAL_FIRST.contains(&scenario.slug), scenario.pace));
    let side_by_side = if learned.alone.is_none() { SIDE_BY_SIDE } else { 1 };
    let mut all = Vec::new();
    for (scenarios, limit) in [(first, side_by_side), (light, side_by_side), (heavy, 1)] {
        play_some(scenarios, limit, &subject, learned, out, &mut all, &mut done).await;
    }
    all
}

/// Plays scenarios, as many at once as `limit` allows, unless what has been played says that it is of no use.
async fn play_some(
    scenarios: Vec<&'static Scenario>,
    limit: usize,
    subject: &impl Fn() -> Subject,
    learned: &Learned,
    out: &Path,
    all: &mut Vec<Played>,
    done: &mut impl FnMut(&Played),
) {
    let mut waiting = VecDeque::from(scenarios);
    let mut running = JoinSet::new();
    let mut under_way = Vec::new();
    let hopeless = |played: &Played| hopeless(played, &learned.identity).map(|why| (Instant::now(), why));
    let mut hopeless_since = all.iter().find_map(hopeless);
    loop {
        while hopeless_since.is_none()
            && running.len() < limit
            && let Some(scenario) = waiting.pop_front()
        {
            let (subject, out) = (subject(), out.to_owned());
            under_way.push(scenario);
            running.spawn(async move { Played { scenario, outcome: runner::play(&subject, scenario, 1, &out).await } });
        }
        let next = match &hopeless_since {
            None => running.join_next().await,
            // They have seen what they can see, and wait for an end that does not come.
            Some((since, _)) => timeout_at(*since + LAST, running.join_next()).await.unwrap_or_default(),
        };
        match next {
            Some(Ok(played)) => {
                under_way.retain(|scenario| scenario.slug != played.scenario.slug);
                done(&played);
                hopeless_since = hopeless_since.or_else(|| hopeless(&played));
                all.push(played);
            }
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => break,
        }
    }
    running.shutdown().await;
    if let Some((_, why)) = hopeless_since {
        let rest = under_way.into_iter().chain(waiting);
        all.extend(rest.map(|scenario| untested(scenario, &why)).inspect(|played| done(played)));
    }
}

/// Why nothing else can be told, where that is so: the signal does not get through, or the process does not even end
/// when nothing is going on, and every other scenario would wait for that, too.
fn hopeless(played: &Played, identity: &Identity) -> Option<String> {
    let outcome = &played.outcome;
    let find = |slug: &str| outcome.rules.iter().find(|rule| rule.rule == slug);
    let missed =
        |verdict: Verdict| verdict == Verdict::Fail || (verdict == Verdict::Inconclusive && !identity.leader_listens);
    if let Some(rule) = find("signal-reaches-server").filter(|rule| missed(rule.verdict)) {
        return Some(format!("{}: {}", UNTOLD[0], rule.actual));
    }
    let stays = played.scenario.slug == SIGNAL_FIRST[0] && !outcome.measures.contains_key("exit_after_signal_ms");
    let rule = find("term-ends-process").filter(|rule| stays && rule.verdict == Verdict::Fail)?;
    Some(format!("{}: {}", UNTOLD[1], rule.actual))
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

/// Requests of a load that were lost, whatever the level of the rules that mind it.
pub fn lost(played: &[Played]) -> u64 {
    let load = ["nothing-lost-on-keep-alive", "nothing-lost-in-accept-queue", "nothing-lost-in-peace"];
    let minded = |played: &&Played| played.scenario.rules.iter().any(|rule| load.contains(rule));
    let measured = played.iter().filter(minded).filter_map(|played| played.outcome.measures.get("requests_lost"));
    measured.sum::<f64>() as u64
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
