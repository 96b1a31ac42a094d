//! `drainspec check`: anybody's server.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use super::{Among, CliError, Status, session};
use crate::catalog::KnownFailures;
use crate::check::{self, Asked, CheckResults, CheckedRule, Learned, NotLearned, Profile};
use crate::process::{self, Addressee, Launch, guardian};
use crate::recorder::Recorder;
use crate::report::{self, Progress};
use crate::rules::{self, Level};
use crate::runner;
use crate::scenario::{Manner, Pace, Patience, Route, Stranger, Subject};
use crate::timeline::Param;
use crate::verdict::Verdict;

/// Arguments of `drainspec check`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The server is started once for each scenario. It learns its port from {port} in the command or from the
variable PORT; where it takes neither, --port names it, or the port that it listens on is found.

Examples:
  drainspec check --slow /report -- ./my-server --port {port}
  drainspec check --slow /report --ready /ready --profile kubernetes --grace 30 -- ./my-server --port {port}
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
    /// Seconds from the signal to SIGKILL where the server runs: what needs longer fails [default: 30, of which idle
    /// connections may take 8]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=600))]
    grace: Option<u64>,
    /// Seconds for which the server goes on serving new connections after the signal, as a preStop sleep would have it;
    /// 0 where none is expected of it [default: what is learnt]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(0..=600))]
    lame_duck: Option<u64>,
    /// Seconds for which the balancer keeps an idle connection to the server; 0 leaves that out. Only in the profiles
    /// load-balancer and kubernetes
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    balancer_idle: u64,
    /// Seconds that the server may take to start
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    start: u64,
    /// Where the server runs, which decides what matters
    #[arg(long, value_enum, default_value_t = Profile::Standalone)]
    profile: Profile,
    /// Scenarios played side by side, where each can have a port of its own [default: up to 6, and fewer where the
    /// server needs seconds of a processor to start]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// Failures that are known (the format of known.toml): they do not count
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// A rule whose violation is a failure, whatever its level (may be repeated)
    #[arg(long, value_name = "RULE")]
    fail_on: Vec<String>,
    /// Warnings, and MUST rules that could not be tested, count as failures
    #[arg(long)]
    strict: bool,
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

/// How long a stranger's idle connections may hold it, where nobody says how long it may take to stop: long enough for the
/// usual keep-alive time-outs.
const IDLE_LINGER: f64 = 5.0;
/// How long it may take to stop, where nobody says: what Kubernetes grants.
const GRACE: u64 = 30;

fn path(text: &str) -> Result<String, String> {
    let good = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.to_owned()).ok_or_else(|| "expected a path that begins with /, without spaces".to_owned())
}

pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `Name: value`")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is no name of a header field"))?;
    let value = value.trim().parse().map_err(|_| format!("{:?} is no value of a header field", value.trim()))?;
    Ok((name, value))
}

/// Whether a rule exists, and is judged where the server runs.
fn is_judged(rule: &str, profile: Profile) -> Result<(), CliError> {
    if rules::find(rule).is_none() {
        let known = Among(rules::all().map(|rule| rule.slug.to_owned()).collect());
        return Err(CliError::UnknownRule { name: rule.to_owned(), known });
    }
    let why_not = profile.why_not(rule);
    why_not.map_or(Ok(()), |why| Err(CliError::NotJudged { name: rule.to_owned(), why: why.to_owned() }))
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let grace = args.grace.unwrap_or(GRACE);
    if let Some(lame_duck) = args.lame_duck.filter(|lame_duck| *lame_duck >= grace) {
        return Err(CliError::NoTimeToDrain { lame_duck, grace });
    }
    args.fail_on.iter().try_for_each(|rule| is_judged(rule, args.profile))?;
    let known = match &args.known {
        Some(file) => KnownFailures::read(file)?,
        None => KnownFailures::default(),
    };
    session::guarded(async || {
        let out = args.out.clone().unwrap_or_else(|| guardian::run_folder().join("check"));
        let io = |source| CliError::Io { path: out.clone(), source };
        std::fs::create_dir_all(&out).map_err(io)?;
        let out = out.canonicalize().map_err(io)?;
        checkup(args, &known, &out).await
    })
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
    let (chosen, left_out): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|scenario| !args.without_load || scenario.pace != Pace::Heavy);
    let mut progress = Progress::new(chosen.len());
    let make = || subject(Some(&learned)).unwrap_or_else(|_| chosen_for.clone());
    let side_by_side = args.jobs.map_or(learned.side_by_side(), usize::from);
    let played = check::play(chosen, make, &learned, side_by_side, out, |played| {
        let again = report::played_again(played.outcome.replaced.len());
        progress.step(&format!("{} {}{again}", played.scenario.slug, played.outcome.verdict.word()));
    })
    .await;
    progress.finish();
    let asked = Asked {
        command: &args.command,
        profile: args.profile,
        grace_s: args.grace.unwrap_or(GRACE),
        known,
        fail_on: &args.fail_on,
        left_out: &left_out,
    };
    let results = CheckResults::new(&asked, &learned, &played, &left, began.elapsed().as_secs_f64());
    let json = serde_json::to_string_pretty(&results).unwrap_or_default();
    if args.out.is_some() {
        let path = out.join(check::FILE);
        std::fs::write(&path, format!("{json}\n")).map_err(|source| CliError::Io { path, source })?;
    }
    if let Some(told) = report::all_played_again(played.iter().map(|played| played.outcome.replaced.len())) {
        anstream::eprintln!("{told}");
    }
    if args.out.is_some() {
        tell!("timelines: {}", out.join("timelines").display());
    }
    // Last, where it is seen.
    match args.format {
        Format::Text => super::print(&report::check(&results))?,
        Format::Json => say!("{json}")?,
    }
    Ok(args.status(&results))
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
            None => process::free_port().map_err(|source| CliError::Io { path: "a free port".into(), source })?,
        };
        let features: BTreeSet<_> = learned.into_iter().flat_map(Learned::features).collect();
        Ok(Subject {
            name: "check".to_owned(),
            launch: Launch {
                command: self.command.clone(),
                folder: folder.to_owned(),
                env: Default::default(),
                ..Launch::default()
            },
            features,
            promises_contract: false,
            params: self.params(learned),
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
                takes_signal: learned.is_some_and(|learned| learned.identity.takes_signal),
                children: learned.is_some_and(|learned| learned.identity.children),
                port,
                takes_port: self.port.or(fixed).is_none(),
                // The next start may come on a busier machine.
                start_within: Duration::from_secs(self.start).max(3 * learned.map_or(Duration::ZERO, |l| l.start)),
                grace: Duration::from_secs(self.grace.unwrap_or(GRACE)),
                lame_duck: self.lame_duck.map(Duration::from_secs),
                ends: learned.is_none_or(|learned| learned.lame_duck.ends()),
                over: CancellationToken::new(),
                patience: Patience::default(),
            })),
        })
    }

    /// What rules measure by.
    fn params(&self, learned: Option<&Learned>) -> Vec<(Param, f64)> {
        let grace = self.grace.unwrap_or(GRACE) as f64;
        let lame_duck = learned.map_or(Duration::ZERO, |learned| learned.lame_duck.lasts());
        let mut params = vec![
            (Param::ShutdownDelay, lame_duck.as_secs_f64()),
            (Param::LameDuck, self.lame_duck.unwrap_or(0) as f64),
            (Param::Grace, grace),
            (Param::DrainTimeout, grace),
            (Param::IdleLinger, self.grace.map_or(IDLE_LINGER, |grace| grace as f64)),
        ];
        params.extend(learned.into_iter().flat_map(Learned::params));
        if self.profile != Profile::Standalone && self.balancer_idle > 0 {
            params.push((Param::BalancerIdle, self.balancer_idle as f64));
        }
        params
    }

    fn status(&self, results: &CheckResults) -> Status {
        let any = |verdict: Verdict| results.rules.iter().any(|rule| rule.verdict == verdict && !rule.known);
        let counts = |rule: &CheckedRule| rule.level == Level::Must || results.fail_on.contains(&rule.rule);
        let untold = |rule: &&CheckedRule| rule.verdict == Verdict::Inconclusive && !rule.known && counts(rule);
        // Where no request could be caught in flight, nobody knows whether one would be lost.
        let caught = results.rule("in-flight-answered").is_some_and(|rule| rule.verdict != Verdict::Inconclusive);
        if any(Verdict::Fail) || (self.strict && any(Verdict::Warn)) {
            Status::Unexpected
        } else if !results.errors.is_empty() {
            Status::Environment
        } else if results.rules.iter().any(|rule| untold(&rule)) || !caught || !results.not_judged().is_empty() {
            if self.strict { Status::Unexpected } else { Status::Untested }
        } else {
            Status::AsExpected
        }
    }
}
