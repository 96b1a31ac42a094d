//! What a check came to: `check.json` in its folder, described by `docs/check.schema.json`. All that is printed is in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::causes::{self, Cause};
use super::{Learned, Left, Played, Profile, RuleSummary, deploy};
use crate::catalog::{Feature, Kind, KnownFailures};
use crate::results::{Cell, ReadError, Repeats, Results};
use crate::rules::{Level, Reason};
use crate::scenario::Scenario;
use crate::timeline::Seen;
use crate::verdict::{RuleVerdict, Verdict};

/// The format that this version writes and reads.
const FORMAT: u32 = 1;
/// The file's name.
pub const FILE: &str = "check.json";

/// What no check tests, whatever it is told about the server.
const UNTESTABLE: [&str; 5] = [
    "WebSockets and other upgraded connections",
    "HTTP/2",
    "gRPC",
    "TLS",
    "workers that are recycled while nobody stops the server (--max-requests and the like)",
];

/// How a user makes a server testable in more ways, and the features that this brings. What is missing here needs
/// a server that keeps drainspec's contract.
const WAYS: [(&str, &[Feature]); 4] = [
    ("--slow PATH", &[Feature::Slow]),
    ("--stream PATH", &[Feature::FiniteStream, Feature::EndlessStream]),
    ("--upload PATH", &[Feature::Upload]),
    ("--ready PATH", &[Feature::Health, Feature::LameDuck]),
];

/// What a check came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckResults {
    /// Format version.
    pub format: u32,
    /// Version of drainspec.
    pub version: String,
    /// When it ended, UTC, RFC 3339.
    pub ended: String,
    /// The machine: operating system, kernel, cores.
    pub machine: BTreeMap<String, String>,
    /// The server's command, as it was given.
    pub command: Vec<String>,
    /// Where the server runs.
    pub profile: Profile,
    /// How long it may take to stop, in seconds.
    pub grace_s: u64,
    /// What was known to fail: `scenario/rule`, either of them a glob.
    pub known: Vec<String>,
    /// Rules whose violation is a failure, whatever their level.
    pub fail_on: Vec<String>,
    /// The port that it listened on first.
    pub port: u16,
    /// Whether a connection stays open after a response.
    pub keep_alive: bool,
    /// The median latency of the path.
    pub latency_ms: f64,
    /// What was learnt of it, a sentence each.
    pub learned: Vec<String>,
    /// Its language, where that shows.
    pub language: Option<String>,
    /// What it is made with, where that shows.
    pub framework: Option<String>,
    /// The process that was started.
    pub leader: Seen,
    /// The process that listens.
    pub server: Seen,
    /// From its start to its first answer, in milliseconds.
    pub start_ms: f64,
    /// What the kernel says of the signal, and what is odd.
    pub notes: Vec<String>,
    /// What several rules come from, worst first.
    pub causes: Vec<Cause>,
    /// One for each rule.
    pub rules: Vec<CheckedRule>,
    /// Scenarios that were left out.
    pub not_tested: Vec<LeftOut>,
    /// Scenarios that `--without-load` left out.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// What no check tests.
    pub untestable: Vec<String>,
    /// Scenarios that this machine cannot play, and why.
    pub skipped: Vec<String>,
    /// Scenarios in which the harness or its environment failed, and how.
    pub errors: Vec<String>,
    /// What was seen of rules that came to no verdict, and of which no more is to be known.
    #[serde(default)]
    pub told: Vec<String>,
    /// What all this means for a deploy, in a sentence or two.
    pub deploy: String,
    /// How long the check took, in seconds.
    pub took_s: f64,
    /// Recorded timelines, relative to the folder of this file, in the order in which they came to an end.
    pub timelines: Vec<PathBuf>,
}

/// What one rule came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckedRule {
    /// Its slug.
    pub rule: String,
    /// The level at which it was judged.
    pub level: Level,
    /// Its verdict.
    pub verdict: Verdict,
    /// Whether that is known.
    pub known: bool,
    /// The scenario that decides.
    pub scenario: String,
    /// What it wants.
    pub expected: String,
    /// What was seen.
    pub actual: String,
    /// What it comes from, where others have to know.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// Why it matters in this profile.
    pub why: Option<String>,
    /// What to do where it is broken.
    pub remedy: Option<String>,
    /// Where that is documented.
    pub source: Option<String>,
    /// Requests that were lost, where the rule is about losses and is broken.
    pub lost: Option<u64>,
    /// Of how many.
    pub of: Option<u64>,
    /// The part of the timeline that shows it.
    pub excerpt: Vec<String>,
}

/// A scenario that was left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its slug.
    pub scenario: String,
    /// What the server lacks for it, as far as is known.
    pub lacks: Vec<String>,
    /// The option with which it would be played, where there is one.
    pub with: Option<String>,
}

impl CheckedRule {
    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        matches!(self.verdict, Verdict::Fail | Verdict::Warn)
    }
}

/// How it was asked, and what for.
pub struct Asked<'a> {
    /// The server's command, as it was given.
    pub command: &'a [String],
    /// Where the server runs.
    pub profile: Profile,
    /// How long it may take to stop, in seconds.
    pub grace_s: u64,
    /// What is known to fail.
    pub known: &'a KnownFailures,
    /// Rules whose violation is a failure, whatever their level.
    pub fail_on: &'a [String],
    /// Scenarios that load the machine, where they were not wanted.
    pub left_out: &'a [&'static Scenario],
}

impl CheckResults {
    /// What was played, summed up.
    pub fn new(asked: &Asked, learned: &Learned, played: &[Played], left: &[Left], took_s: f64) -> Self {
        let mut summaries = super::summarise(played, asked.profile, asked.known);
        super::promote(&mut summaries, asked.fail_on);
        let causes = causes::causes(&summaries, played, &learned.identity.diagnoses, asked.grace_s);
        let rules = summaries.iter().map(|summary| checked(summary, asked.profile, learned, played)).collect();
        let reasons = |verdict: Verdict| {
            let of = played.iter().filter(|played| played.outcome.verdict == verdict);
            of.map(|played| format!("{}: {}", played.scenario.slug, played.outcome.reason.clone().unwrap_or_default()))
                .collect()
        };
        let mut results = Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ended: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            machine: crate::runner::machine(),
            command: asked.command.to_vec(),
            profile: asked.profile,
            grace_s: asked.grace_s,
            known: asked.known.entries.iter().map(|known| known.pattern.clone()).collect(),
            fail_on: asked.fail_on.to_vec(),
            port: learned.port,
            keep_alive: learned.keep_alive,
            latency_ms: learned.quick.1.takes.as_secs_f64() * 1e3,
            learned: learned.words(),
            language: learned.identity.language.map(str::to_owned),
            framework: learned.identity.framework.map(|framework| framework.name.clone()),
            leader: learned.identity.leader.clone(),
            server: learned.identity.server.clone(),
            start_ms: learned.start.as_secs_f64() * 1e3,
            notes: learned.notes(),
            causes,
            rules,
            not_tested: left.iter().map(LeftOut::of).collect(),
            left_out: asked.left_out.iter().map(|scenario| scenario.slug.to_owned()).collect(),
            untestable: UNTESTABLE.map(str::to_owned).to_vec(),
            skipped: reasons(Verdict::Skipped),
            errors: reasons(Verdict::Error),
            told: super::told(played, asked.profile),
            deploy: String::new(),
            took_s,
            timelines: played.iter().filter_map(|played| played.outcome.timeline.clone()).collect(),
        };
        results.deploy = deploy::deploy(&results);
        results
    }

    /// Reads the file, or the one in a folder.
    ///
    /// # Errors
    /// Names the file, and the line and column at fault, or the format of another version.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = std::fs::read_to_string(&path).map_err(|source| ReadError::Io { path: path.clone(), source })?;
        let json = |source| ReadError::Json { path: path.clone(), source };
        let format: Format = serde_json::from_str(&text).map_err(json)?;
        match format.format {
            found if found == u64::from(FORMAT) => serde_json::from_str(&text).map_err(json),
            found => Err(ReadError::Format { path, found }),
        }
    }

    /// Whether the results there are those of a check.
    pub fn is_at(path: &Path) -> bool {
        match path.is_dir() {
            true => path.join(FILE).is_file() && !path.join(crate::results::FILE).is_file(),
            false => path.file_name().is_some_and(|name| name == FILE),
        }
    }

    /// A rule of these results.
    pub fn rule(&self, slug: &str) -> Option<&CheckedRule> {
        self.rules.iter().find(|rule| rule.rule == slug)
    }

    /// Rules that were asked for by `fail_on` and could not be judged: nobody knows whether they hold.
    pub fn not_judged(&self) -> Vec<&str> {
        self.fail_on.iter().map(String::as_str).filter(|slug| self.rule(slug).is_none()).collect()
    }

    /// The same as a matrix with a row for each rule, so that two checks can be compared.
    pub fn by_rule(&self) -> Results {
        let cells = self.rules.iter().map(|rule| Cell {
            server: "check".to_owned(),
            kind: Kind::Framework,
            language: self.language.clone().unwrap_or_default(),
            topology: crate::expectation::DIRECT.to_owned(),
            scenario: rule.rule.clone(),
            verdict: rule.verdict,
            expected_verdict: if rule.known { rule.verdict } else { Verdict::Pass },
            as_expected: rule.known || rule.verdict != Verdict::Fail,
            untold: false,
            reason: Some(rule.actual.clone()),
            duration_ms: 0.0,
            repeats: Repeats { pass: u32::from(!rule.is_broken()), of: 1 },
            measures: rule.lost.map(|lost| ("requests_lost".to_owned(), vec![lost as f64])).into_iter().collect(),
            rules: Vec::new(),
            timelines: Vec::new(),
            replaced: Vec::new(),
        });
        let (version, started) = (self.version.clone(), self.ended.clone());
        Results {
            format: crate::results::FORMAT,
            version,
            started,
            machine: self.machine.clone(),
            cells: cells.collect(),
        }
    }
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

impl LeftOut {
    fn of((scenario, lacks): &Left) -> Self {
        let brings = |(_, features): &&(&str, &[Feature])| lacks.iter().all(|lack| features.contains(lack));
        Self {
            scenario: scenario.slug.to_owned(),
            lacks: lacks.iter().map(|lack| lack.word().to_owned()).collect(),
            with: WAYS.iter().find(brings).map(|(option, _)| (*option).to_owned()),
        }
    }
}

fn checked(summary: &RuleSummary, profile: Profile, learned: &Learned, played: &[Played]) -> CheckedRule {
    let RuleVerdict { rule, level, verdict, expected, actual, reason, share, .. } = &summary.verdict;
    let outcome = played.iter().find(|played| played.scenario.slug == summary.scenario).map(|played| &played.outcome);
    let broken = matches!(verdict, Verdict::Fail | Verdict::Warn);
    // A request in flight that gets another answer than in peace has failed, too.
    let loses = causes::loses(summary, played) || (broken && rule == "in-flight-answered");
    let share = share.filter(|_| loses);
    let remedy = learned.identity.remedy(rule).filter(|_| broken);
    CheckedRule {
        rule: rule.clone(),
        level: *level,
        verdict: *verdict,
        known: summary.known,
        scenario: summary.scenario.to_owned(),
        expected: expected.clone(),
        actual: actual.clone(),
        reason: *reason,
        why: profile.why(rule).map(str::to_owned),
        remedy: remedy.map(|(remedy, _)| remedy.to_owned()),
        source: remedy.and_then(|(_, source)| source).map(str::to_owned),
        lost: share.map(|share| share.bad),
        of: share.map(|share| share.of),
        excerpt: outcome.and_then(|outcome| outcome.excerpts.get(rule)).filter(|_| broken).cloned().unwrap_or_default(),
    }
}
