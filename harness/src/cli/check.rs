//! `drainspec check`: anybody's server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anstyle::Style;
use clap::ValueEnum;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{CliError, Status, exit::Among};
use crate::catalog::{Feature, KnownFailures};
use crate::check::{self, Learned, NotLearned, Profile, RuleSummary};
use crate::link::Place;
use crate::process::{Addressee, Launch, guardian::Guardian};
use crate::recorder::Recorder;
use crate::report::{self, Progress};
use crate::rules::Level;
use crate::runner;
use crate::scenario::{Manner, Pace, Route, Stranger, Subject};
use crate::timeline::Param;
use crate::verdict::{RuleVerdict, Verdict};

/// Arguments of `drainspec check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The server is started once for each scenario. It learns its port from {port} in the command or from the
variable PORT; where it takes neither, --port names it, or the port that it listens on is found.

Examples:
  drainspec check --slow /report -- ./my-server --port {port}
  drainspec check --slow /report --method POST --body '{}' -H 'Content-Type: application/json' -- ./my-server
  drainspec check --port 8080 --stream /events --upload /files -- ./my-server
  drainspec check --signal QUIT -- nginx -c /etc/nginx/nginx.conf -g 'daemon off;'"
)]
pub struct Args {
    /// A path that the server answers
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path)]
    path: String,
    /// A path that takes half a second or more: with it a request is certainly in flight when the signal arrives
    #[arg(long, value_name = "PATH", value_parser = path)]
    slow: Option<String>,
    /// The method of the slow path
    #[arg(long, value_name = "METHOD", default_value = "GET", requires = "slow")]
    method: Method,
    /// The body of the request to the slow path
    #[arg(long, value_name = "TEXT", requires = "slow")]
    body: Option<String>,
    /// A path whose response comes in pieces over half a second or more, or without an end
    #[arg(long, value_name = "PATH", value_parser = path)]
    stream: Option<String>,
    /// A path that takes a body of 240 KiB by POST
    #[arg(long, value_name = "PATH", value_parser = path)]
    upload: Option<String>,
    /// A header field of every request (may be repeated)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// The host that is asked for
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    host: HeaderValue,
    /// The port that it listens on, where it takes neither {port} nor PORT
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The readiness probe: with it the probe must fail before the listener closes
    #[arg(long, value_name = "PATH", value_parser = path)]
    ready: Option<String>,
    /// The signal that stops the server
    #[arg(long, value_enum, default_value_t = StopSignal::Term)]
    signal: StopSignal,
    /// Who gets the signal
    #[arg(long, value_enum, default_value_t = Addressee::Leader)]
    signal_to: Addressee,
    /// Seconds that the server may take to stop while requests are in flight
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    grace: u64,
    /// Seconds that the server may take to start
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    start: u64,
    /// Where the server runs, which decides what matters
    #[arg(long, value_enum, default_value_t = Profile::Standalone)]
    profile: Profile,
    /// Failures that are known (the format of known.toml): they do not count
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Warnings, and MUST rules that could not be tested, count as failures
    #[arg(long)]
    strict: bool,
    /// A warning of this rule counts as a failure, too (may be repeated)
    #[arg(long, value_name = "RULE")]
    fail_on: Vec<String>,
    /// Leave out the scenarios that load the machine
    #[arg(long)]
    without_load: bool,
    /// As text, or as JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Keep the timelines and the results (check.json) in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The server's command, after --
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StopSignal {
    Term,
    Quit,
    Int,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// How a user makes a server testable in more ways, and the features that this brings. What is missing here needs
/// a server that keeps drainspec's contract.
const TESTABLE: [(&str, &[Feature]); 4] = [
    ("--slow PATH", &[Feature::Slow]),
    ("--stream PATH", &[Feature::FiniteStream, Feature::EndlessStream]),
    ("--upload PATH", &[Feature::Upload]),
    ("--ready PATH", &[Feature::Health, Feature::LameDuck]),
];

/// How long a stranger's idle connections may hold it: long enough for the usual keep-alive time-outs.
const IDLE_LINGER: f64 = 5.0;

fn path(text: &str) -> Result<String, String> {
    let good = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.to_owned()).ok_or_else(|| "expected a path that begins with /, without spaces".to_owned())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `Name: value`")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is no name of a header field"))?;
    let value = value.trim().parse().map_err(|_| format!("{:?} is no value of a header field", value.trim()))?;
    Ok((name, value))
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let known = match &args.known {
        Some(file) => KnownFailures::read(file)?,
        None => KnownFailures::default(),
    };
    if let Some(name) = args.fail_on.iter().find(|name| crate::rules::find(name).is_none()) {
        let known = crate::rules::all().map(|rule| rule.slug.to_owned()).collect();
        return Err(CliError::Unknown { name: name.clone(), known: Among(known) });
    }
    let guardian = Guardian::start().map_err(CliError::Guardian)?;
    let out = args.out.clone().unwrap_or_else(|| crate::process::guardian::run_folder().join("check"));
    let io = |source| CliError::Io { path: out.clone(), source };
    std::fs::create_dir_all(&out).map_err(io)?;
    let out = out.canonicalize().map_err(io)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)?;
    let status = runtime.block_on(async {
        tokio::select! {
            status = checkup(args, &known, &out) => status,
            () = super::matrix::interrupted() => Ok(Status::Interrupted),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    crate::process::kill_all();
    drop(guardian);
    status
}

async fn checkup(args: &Args, known: &KnownFailures, out: &std::path::Path) -> Result<Status, CliError> {
    let began = Instant::now();
    let folder = std::env::current_dir().map_err(|source| CliError::Io { path: PathBuf::from("."), source })?;
    let subject = |learned: Option<&Learned>| args.subject(&folder, learned);

    let (first, second) = (subject(None)?, subject(None)?);
    let recorder = |what: &str, subject: &Subject| {
        let log = out.join("timelines").join(format!("{what}.ndjson"));
        Recorder::create(runner::plain_header(subject, what), &log).map_err(|source| CliError::Io { path: log, source })
    };
    let recorders = [recorder("learning", &first)?, recorder("learning-again", &second)?];
    let learned = check::learn(&first, &second, args.port.is_some(), recorders).await;
    let learned = learned.map_err(|why| match why {
        NotLearned::Unusable { .. } => CliError::Unusable(why),
        why => CliError::NotTestable { command: args.command.join(" "), why: why.to_string() },
    })?;
    let chosen_for = subject(Some(&learned))?;
    let (chosen, left) = check::choose(&chosen_for);
    let (chosen, loading): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|scenario| !args.without_load || scenario.pace != Pace::Heavy);
    let left_out: Vec<&str> = loading.iter().map(|scenario| scenario.slug).collect();
    let mut progress = Progress::new(chosen.len());
    let make = || subject(Some(&learned)).unwrap_or_else(|_| chosen_for.clone());
    let played = check::play(chosen, make, &learned, out, |played| {
        progress.step(&format!("{} {}", played.scenario.slug, played.outcome.verdict.word()));
    })
    .await;
    progress.finish();
    let summaries = check::summarise(&played, args.profile, known);
    let reasons = |verdict: Verdict| -> Vec<String> {
        let of = played.iter().filter(|played| played.outcome.verdict == verdict);
        of.map(|played| format!("{}: {}", played.scenario.slug, played.outcome.reason.clone().unwrap_or_default()))
            .collect()
    };
    let (skipped, errors) = (reasons(Verdict::Skipped), reasons(Verdict::Error));
    let status = args.status(&summaries, &errors);
    let mut results = to_json(&learned, &summaries, &left, &skipped, &errors);
    results["left_out"] = json!(left_out);
    results["lost"] = json!(check::lost(&played));
    let results = check::to_be_judged_again(results, args.profile, known, &played);
    if args.out.is_some() {
        let path = out.join(check::FILE);
        std::fs::write(&path, format!("{results:#}\n")).map_err(|source| CliError::Io { path, source })?;
    }
    match args.format {
        Format::Text => {
            args.print(&learned, &summaries, &left, &skipped, &errors)?;
            if !left_out.is_empty() {
                say!("\nnot tested, but without --without-load: {}", left_out.join(", "))?;
            }
            say!("\n{}", total(&summaries, check::lost(&played), began.elapsed()))?;
        }
        Format::Json => say!("{results:#}")?,
    }
    if args.out.is_some() {
        anstream::eprintln!("timelines: {}", out.join("timelines").display());
    }
    Ok(status)
}

impl Args {
    fn slow_route(&self, path: &str) -> Route {
        let body = self.body.as_ref().map(|body| body.clone().into());
        Route { method: self.method.clone(), body, ..Route::get(path) }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.header {
            headers.append(name, value.clone());
        }
        headers.entry(HOST).or_insert_with(|| self.host.clone());
        headers
    }

    /// The subject of one run, with a port of its own where the server takes it.
    fn subject(&self, folder: &std::path::Path, learned: Option<&Learned>) -> Result<Subject, CliError> {
        let fixed = learned.filter(|learned| !learned.own_port).map(|learned| learned.port);
        let port = match self.port.or(fixed) {
            Some(port) => port,
            None => check::free_port().map_err(|source| CliError::Io { path: "a free port".into(), source })?,
        };
        let command = self.command.iter().map(|part| part.replace("{port}", &port.to_string())).collect();
        let features: BTreeSet<_> = learned.into_iter().flat_map(|l| l.features(self.ready.is_some())).collect();
        let mut env = std::collections::BTreeMap::new();
        env.insert("PORT".to_owned(), port.to_string());
        let mut params = vec![(Param::IdleLinger, IDLE_LINGER), (Param::DrainTimeout, self.grace as f64)];
        params.extend(learned.into_iter().flat_map(Learned::params));
        Ok(Subject {
            name: "check".to_owned(),
            launch: Launch { command, folder: folder.to_owned(), env, place: Place::HERE },
            features,
            promises_contract: false,
            params,
            learned: learned.map_or(Vec::new(), Learned::words),
            manner: Manner::Stranger(Box::new(Stranger {
                quick: learned.map_or_else(|| Route::get(&self.path), |learned| learned.quick.0.clone()),
                slow: match learned {
                    Some(learned) => learned.slow.as_ref().map(|(route, _)| route.clone()),
                    None => self.slow.as_ref().map(|path| self.slow_route(path)),
                },
                finite: match learned {
                    Some(learned) => learned.finite.as_ref().map(|(route, _)| route.clone()),
                    None => self.stream.as_ref().map(Route::get),
                },
                endless: learned.and_then(|learned| learned.endless.clone()),
                upload: match learned {
                    Some(learned) => learned.upload.as_ref().map(|(route, _)| route.clone()),
                    None => self.upload.as_ref().map(|path| Route { method: Method::POST, ..Route::get(path) }),
                },
                rate: learned.and_then(|learned| learned.peace.limit()),
                ready: self.ready.clone(),
                headers: self.headers(),
                stop: match self.signal {
                    StopSignal::Term => Signal::SIGTERM,
                    StopSignal::Quit => Signal::SIGQUIT,
                    StopSignal::Int => Signal::SIGINT,
                },
                to: self.signal_to,
                children: learned.is_some_and(|learned| learned.identity.children),
                port,
                // The next start may come on a busier machine.
                start_within: Duration::from_secs(self.start).max(3 * learned.map_or(Duration::ZERO, |l| l.start)),
            })),
        })
    }

    fn status(&self, summaries: &[RuleSummary], errors: &[String]) -> Status {
        let some = |verdict: Verdict, which: &dyn Fn(&RuleVerdict) -> bool| {
            summaries.iter().any(|s| s.verdict.verdict == verdict && !s.known && which(&s.verdict))
        };
        let promoted = |rule: &RuleVerdict| self.strict || self.fail_on.contains(&rule.rule);
        let must = |rule: &RuleVerdict| rule.level == Level::Must || self.fail_on.contains(&rule.rule);
        if some(Verdict::Fail, &|_| true) || some(Verdict::Warn, &promoted) {
            Status::Unexpected
        } else if !errors.is_empty() {
            Status::Environment
        } else if some(Verdict::Inconclusive, &must) {
            if self.strict { Status::Unexpected } else { Status::Untested }
        } else {
            Status::AsExpected
        }
    }

    fn print(
        &self,
        learned: &Learned,
        summaries: &[RuleSummary],
        left: &[check::Left],
        skipped: &[String],
        errors: &[String],
    ) -> Result<(), CliError> {
        let bold = Style::new().bold();
        say!("{}", report::paint(bold, &self.command.join(" ")))?;
        for note in learned.notes() {
            say!("  {}    {note}", report::paint(report::verdict_style(Verdict::Warn), "note"))?;
        }
        for words in learned.words() {
            say!("  learnt  {words}")?;
        }
        for verdict in [Verdict::Pass, Verdict::Inconclusive, Verdict::Warn, Verdict::Fail] {
            let group: Vec<_> = summaries.iter().filter(|summary| summary.verdict.verdict == verdict).collect();
            let word = report::paint(report::verdict_style(verdict), verdict.word());
            if verdict == Verdict::Pass && !group.is_empty() {
                let names: Vec<&str> = group.iter().map(|summary| summary.verdict.rule.as_str()).collect();
                say!("\n{word} {}", names.join(", "))?;
                continue;
            }
            let (missed, group): (Vec<_>, Vec<_>) = group
                .into_iter()
                .partition(|summary| check::UNTOLD.iter().any(|why| summary.verdict.actual.starts_with(why)));
            if let Some(first) = missed.first() {
                let names: Vec<&str> = missed.iter().map(|summary| summary.verdict.rule.as_str()).collect();
                say!("\n{word} {}\n  actual    {}", names.join(", "), first.verdict.actual)?;
            }
            for summary in group {
                let rule = &summary.verdict;
                let known = if summary.known { ", known" } else { "" };
                say!(
                    "\n{word} {} ({}{known}; {})",
                    report::paint(bold, &rule.rule),
                    rule.level.word(),
                    summary.scenario
                )?;
                say!("  expected  {}", rule.expected)?;
                say!("  actual    {}", rule.actual)?;
                if verdict == Verdict::Inconclusive {
                    say!("  to test   {}", to_test(learned, &rule.rule))?;
                    continue;
                }
                if let Some(why) = self.profile.why(&rule.rule) {
                    say!("  why here  {why}")?;
                }
                if let Some((remedy, source)) = learned.identity.remedy(&rule.rule) {
                    say!("  remedy    {remedy}{}", source.map_or(String::new(), |source| format!(" ({source})")))?;
                }
            }
        }
        for (how, features) in TESTABLE {
            let names = left.iter().filter(|(_, lacks)| lacks.iter().all(|lack| features.contains(lack)));
            let names: Vec<&str> = names.map(|(scenario, _)| scenario.slug).collect();
            if !names.is_empty() {
                say!("\nnot tested, but with {how}: {}", names.join(", "))?;
            }
        }
        say!("\nnever tested: {}", check::NEVER_TESTED)?;
        for (verdict, reasons) in [(Verdict::Skipped, skipped), (Verdict::Error, errors)] {
            for reason in reasons {
                say!("\n{} {reason}", report::paint(report::verdict_style(verdict), verdict.word()))?;
            }
        }
        Ok(())
    }
}

fn total(summaries: &[RuleSummary], lost: u64, took: Duration) -> String {
    let lost = match lost {
        0 => String::new(),
        lost => format!("; {lost} requests lost under load"),
    };
    let count = |verdict: Verdict| summaries.iter().filter(|summary| summary.verdict.verdict == verdict).count();
    format!(
        "{} rules in {:.0} s: {} fail, {} warn, {} inconclusive, {} pass{lost}",
        summaries.len(),
        took.as_secs_f64(),
        count(Verdict::Fail),
        count(Verdict::Warn),
        count(Verdict::Inconclusive),
        count(Verdict::Pass)
    )
}

fn to_test(learned: &Learned, rule: &str) -> &'static str {
    match rule {
        "in-flight-answered" | "response-untruncated" if learned.slow.is_none() => {
            "name a path that takes half a second or more: --slow PATH"
        }
        _ => "run it again; where it stays so, keep the timelines with --out DIR and look at what came first",
    }
}

fn to_json(
    learned: &Learned,
    summaries: &[RuleSummary],
    left: &[check::Left],
    skipped: &[String],
    errors: &[String],
) -> Value {
    json!({
        "port": learned.port,
        "keep_alive": learned.keep_alive,
        "latency_ms": learned.quick.1.takes.as_secs_f64() * 1e3,
        "learned": learned.words(),
        "language": learned.identity.language,
        "framework": learned.identity.framework.map(|framework| &framework.name),
        "leader": learned.identity.leader,
        "server": learned.identity.server,
        "start_ms": learned.start.as_secs_f64() * 1e3,
        "notes": learned.notes(),
        "rules": summaries.iter().map(|summary| json!({
            "rule": summary.verdict.rule,
            "level": summary.verdict.level,
            "verdict": summary.verdict.verdict,
            "known": summary.known,
            "scenario": summary.scenario,
            "expected": summary.verdict.expected,
            "actual": summary.verdict.actual,
            "remedy": learned.identity.remedy(&summary.verdict.rule).map(|(remedy, _)| remedy),
            "source": learned.identity.remedy(&summary.verdict.rule).and_then(|(_, source)| source),
        })).collect::<Vec<_>>(),
        "not_tested": left.iter().map(|(scenario, lacks)| json!({"scenario": scenario.slug, "lacks": lacks})).collect::<Vec<_>>(),
        "never_tested": check::NEVER_TESTED,
        "skipped": skipped,
        "errors": errors,
    })
}
