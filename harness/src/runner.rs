//! Plays one scenario against one server and judges it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::catalog::{Advice, Feature, Topology};
use crate::client::NO_DESCRIPTOR;
use crate::expectation::{CellId, DIRECT};
use crate::measures::measures;
use crate::process;
use crate::recorder::Recorder;
use crate::report::excerpt;
use crate::results::Outcome;
use crate::rules::{self, Reason};
use crate::scenario::{DEFAULTS, Run, Scenario, Setting, Stop, Subject};
use crate::timeline::{self, Event, Header, Param, Timeline, View};
use crate::verdict::{NoVerdict, RuleVerdict, Verdict, judge};

/// The machine that this runs on.
pub fn machine() -> BTreeMap<String, String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    BTreeMap::from([
        ("os".to_owned(), std::env::consts::OS.to_owned()),
        ("arch".to_owned(), std::env::consts::ARCH.to_owned()),
        ("kernel".to_owned(), kernel.trim().to_owned()),
        ("cores".to_owned(), cores.to_string()),
    ])
}

/// So often at most a cell is played again, because stalls have left it without a verdict.
pub const AGAIN: u32 = 2;
/// How long a run waits, in all, for the machine to be quiet before it plays cells again.
pub const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// What stalls must have cost, in microseconds, to be the reason why there is no verdict.
const DISTURBED_US: u64 = 200_000;

/// Plays one repeat of one cell, for the first time or again. The timeline is written below `out`.
pub async fn play(
    subject: &Subject,
    topology: &Topology,
    scenario: &Scenario,
    repeat: u32,
    again: u32,
    out: &Path,
) -> Outcome {
    // Behind a balancer the kernel does not tell what a server works on; its metrics do.
    let behind = scenario.setting.is_single() && !topology.is_direct();
    let needs = scenario.needs.iter().chain(&topology.spec.needs).chain(behind.then_some(&Feature::Admin));
    if let Some(lacking) = needs.into_iter().find(|feature| !subject.has(**feature)) {
        return Outcome::without_run(Verdict::Unsupported, format!("the server lacks `{}`", lacking.word()));
    }
    let began = Instant::now();
    let path = CellId::new(&subject.name, &topology.name, scenario.slug).timeline(repeat, again);
    let params = params(subject, topology, scenario);
    let header = header(subject, topology, scenario, repeat, &params);
    let mut outcome = match Recorder::create(header, &out.join(&path)) {
        Ok(recorder) => record(subject, topology, scenario, params, recorder).await,
        Err(error) => Outcome::without_run(Verdict::Error, format!("{}: {error}", out.join(&path).display())),
    };
    outcome.duration_ms = began.elapsed().as_secs_f64() * 1e3;
    outcome.timeline = Some(path);
    outcome
}

async fn record(
    subject: &Subject,
    topology: &Topology,
    scenario: &Scenario,
    params: BTreeMap<Param, f64>,
    recorder: Recorder,
) -> Outcome {
    let heartbeat = recorder.heartbeat();
    let mut run = match Run::new(recorder.clone(), subject, params) {
        Ok(run) => run.behind(topology),
        Err(error) => return Outcome::without_run(Verdict::Error, format!("no temporary folder: {error}")),
    };
    let played = scenario.play(&mut run).await;
    drop(run);
    drop(heartbeat);
    match played {
        Ok(()) => {}
        Err(Stop::Skipped(why)) => recorder.record(Event::Skipped { why }),
        Err(stop) if stop.is_starved() => {
            let what = "drainspec can do its part".to_owned();
            recorder.record(Event::Unconfirmed { what, why: NO_DESCRIPTOR.to_owned() });
        }
        Err(Stop::Unconfirmed { what, why }) => recorder.record(Event::Unconfirmed { what, why }),
        // Half of the time that it has to start.
        Err(stop) if stop.is_late() && 2 * recorder.lost() >= process::START_TIMEOUT => {
            recorder.record(Event::Unconfirmed { what: "the server starts".to_owned(), why: stop.to_string() });
        }
        Err(stop) => recorder.record(Event::Aborted { why: stop.to_string() }),
    }
    match recorder.finish() {
        Ok(timeline) => verdict(&timeline),
        Err(error) => Outcome::without_run(Verdict::Error, format!("the timeline could not be written: {error}")),
    }
}

/// Judges a timeline. Nothing but the timeline decides.
pub fn verdict(timeline: &Timeline) -> Outcome {
    let rules = match judge(timeline) {
        Ok(rules) => rules,
        Err(NoVerdict::Skipped(why)) => return Outcome::without_run(Verdict::Skipped, why),
        Err(error) => return Outcome::without_run(Verdict::Error, error.to_string()),
    };
    let verdict = Verdict::worst(rules.iter().map(|rule| rule.verdict)).unwrap_or(Verdict::Error);
    let worst = rules.iter().find(|rule| rule.verdict == verdict);
    let reason = worst.filter(|_| verdict != Verdict::Pass).map(|rule| format!("{}: {}", rule.rule, rule.actual));
    let excerpts = rules
        .iter()
        .filter(|rule| !rule.evidence.is_empty())
        .map(|rule| (rule.rule.clone(), excerpt(timeline, &rule.evidence)))
        .collect();
    let view = View::new(timeline);
    // Whatever a rule has found counts, if the next play finds it or not: only what has found nothing is played again.
    let broken = rules.iter().any(|rule| matches!(rule.verdict, Verdict::Fail | Verdict::Warn));
    // Where a rule says another reason, it says the same on a quiet machine.
    let stalled = |rule: &RuleVerdict| {
        rule.verdict == Verdict::Inconclusive && matches!(rule.reason, None | Some(Reason::Stalled))
    };
    let disturbed = !broken && rules.iter().any(stalled) && view.lost(0, view.end) >= DISTURBED_US;
    let measures = measures(&view);
    Outcome {
        verdict,
        reason,
        measures,
        excerpts,
        duration_ms: 0.0,
        timeline: None,
        rules,
        disturbed,
        replaced: Vec::new(),
    }
}

/// What the scenario says counts more than what the topology needs of every server.
fn params(subject: &Subject, topology: &Topology, scenario: &Scenario) -> BTreeMap<Param, f64> {
    let needed: &[_] = match scenario.setting {
        Setting::Alone | Setting::Anywhere => &[],
        // As the manifests have it.
        _ if topology.is_pods() => &[
            (Param::ShutdownDelay, topology.budget("shutdown_delay")),
            (Param::DrainTimeout, topology.budget("drain")),
            (Param::InFlightFor, long_request(topology)),
        ],
        _ => &[(Param::ShutdownDelay, topology.lame_duck()), (Param::InFlightFor, long_request(topology))],
    };
    DEFAULTS.iter().chain(needed).chain(scenario.params).chain(&subject.params).copied().collect()
}

/// How long a long request takes, in seconds: longer than a replacement, and where the topology is a warning of that,
/// longer than it lets a request be.
fn long_request(topology: &Topology) -> f64 {
    const USUAL: f64 = 5.0;
    const PAST_THE_LIMIT: f64 = 2.0;
    const AFFORDABLE: f64 = 10.0;
    match topology.longest_request() {
        limit if limit > 0.0 && limit < AFFORDABLE && topology.spec.kind == Advice::Warning => limit + PAST_THE_LIMIT,
        limit if limit > 0.0 => limit.min(USUAL),
        _ => USUAL,
    }
}

fn header(
    subject: &Subject,
    topology: &Topology,
    scenario: &Scenario,
    repeat: u32,
    params: &BTreeMap<Param, f64>,
) -> Header {
    // What a balancer says to its clients is its own affair.
    let rules = scenario.rules.iter().filter(|rule| topology.is_direct() || !rules::is_of_one_hop(rule));
    Header {
        format: timeline::FORMAT,
        scenario: scenario.slug.to_owned(),
        rules: rules.map(|rule| (*rule).to_owned()).collect(),
        server: subject.name.clone(),
        topology: topology.name.clone(),
        repeat,
        promises_contract: subject.promises_contract,
        features: subject.features.iter().map(|feature| feature.word().to_owned()).collect(),
        params: params.clone(),
        environment: machine(),
        learned: subject.learned.clone(),
    }
}

/// The header of a timeline by which nothing is judged.
pub fn plain_header(subject: &Subject, what: &str) -> Header {
    Header {
        format: timeline::FORMAT,
        scenario: what.to_owned(),
        rules: Vec::new(),
        server: subject.name.clone(),
        topology: DIRECT.to_owned(),
        repeat: 1,
        promises_contract: subject.promises_contract,
        features: Vec::new(),
        params: BTreeMap::new(),
        environment: machine(),
        learned: subject.learned.clone(),
    }
}
