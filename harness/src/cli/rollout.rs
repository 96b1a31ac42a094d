//! `drainspec rollout`: anybody's deploy.

mod dry_run;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::ValueEnum;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Uri};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::check::header;
use super::{CliError, Status, session};
use crate::client::{Ask, Payload};
use crate::client::{Asking, Route, Seen};
use crate::cluster::{self, Choice, Cluster, ClusterError, Name, Workload};
use crate::report;
use crate::rollout::{self, Advice, Asked, Plan, Roll, RolloutError, Stage, Tally};
use crate::timeline::Role;

/// Arguments of `drainspec rollout`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The load is steady and never asks again: what is refused, lost or answered by an error is counted. It goes to the one address that the name has when the run begins.

With a workload of a cluster its pods are watched: what became of each stands beside the losses, and below it what to change, as a patch. Nothing is written to the cluster but the annotation that `kubectl rollout restart` sets, and with a command not even that. KUBECONFIG, --context and -n say where it is; k8s/rbac/rollout.yaml is a Role with all that is needed.

Examples:
  drainspec rollout --url http://127.0.0.1:8080/ -- ./deploy.sh
  drainspec rollout --url http://10.0.0.7/orders --method POST --body '{}' -H 'Content-Type: application/json' -- ./deploy.sh
  drainspec rollout deployment/app -n shop --url http://10.0.0.7/
  drainspec rollout deployment/app -n shop --url http://10.0.0.7/ --dry-run
  drainspec rollout statefulset/db --url http://10.0.0.7/ --path /health --rate 50 -- helm upgrade db ./chart"
)]
pub struct Args {
    /// A workload whose pods are watched: deployment/NAME, statefulset/NAME or daemonset/NAME. Without a command it is restarted
    #[arg(value_name = "WORKLOAD", required_unless_present = "command")]
    workload: Option<Name>,
    /// Its namespace; by default that of the context
    #[arg(short = 'n', long, value_name = "NAME", requires = "workload")]
    namespace: Option<String>,
    /// A context of the kubeconfig; by default its current one
    #[arg(long, value_name = "NAME", requires = "workload")]
    context: Option<String>,
    /// Say what would be done and which rights in the cluster it needs, ask whether they are granted, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Where users come in: http://HOST[:PORT][/PATH]
    #[arg(long, value_name = "URL")]
    url: Uri,
    /// Other paths that are asked in turn (may be repeated)
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
    /// The method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: Method,
    /// The body
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,
    /// A header field of every request (may be repeated)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Header field in which responses name their instance, so that the switch-over is shown
    #[arg(long, value_name = "NAME", default_value = "X-Instance-Id")]
    instance_header: HeaderName,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 20.0, value_parser = rate)]
    rate: f64,
    /// Per cent of the requests that come on connections that are kept; each other has a connection of its own
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    kept: u8,
    /// Seconds before the deploy, in which nothing may be missed
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=600))]
    warm_up: u64,
    /// Seconds for which the load goes on when the deploy is over
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=600))]
    cool_down: u64,
    /// Seconds that the deploy may take, until the last old pod is gone
    #[arg(long, value_name = "S", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    within: u64,
    /// Seconds that an answer may take
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// So many requests may be missed
    #[arg(long, value_name = "N", default_value_t = 0)]
    allow_lost: u64,
    /// As text, or as JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Keep the timeline in this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The command that deploys, after --
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// What a program reads.
#[derive(Serialize)]
struct Report<'r> {
    format: u32,
    version: &'static str,
    url: String,
    command: &'r [String],
    allowed: u64,
    missed: u64,
    #[serde(flatten)]
    tally: &'r Tally,
    rollout: Option<&'r Roll>,
    advice: &'r [Advice],
}

const FILE: &str = "rollout.ndjson";

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.1..=2_000.0).contains(rate));
    rate.ok_or_else(|| "expected requests a second, from 0.1 to 2000".to_owned())
}

/// Runs it. What the command starts is meant to stay: no guardian kills it in the end.
pub fn run(args: &Args) -> Result<Status, CliError> {
    session::run(async || {
        let address = address(&args.url).await?;
        let workload = match &args.workload {
            Some(name) => Some(args.find(name).await.map_err(RolloutError::Cluster)?),
            None => None,
        };
        let plan = args.plan(address, workload)?;
        if args.dry_run {
            return dry_run::tell(&plan).await;
        }
        if let Some(workload) = &plan.workload {
            may(workload, plan.command.is_empty()).await.map_err(RolloutError::Cluster)?;
        }
        let out = args.out.as_ref().map(|folder| folder.join(FILE));
        let mut line = Line::new(args.rate);
        let told = |line: &str| tell!("  {line}");
        let played = rollout::play(&plan, out.as_deref(), |stage, seen| line.show(stage, seen), told).await;
        line.bar.finish_and_clear();
        let timeline = played?;
        let tally = rollout::tally(&timeline);
        let roll = rollout::roll(&timeline, &tally.instances);
        let requests = tally.during.asked + tally.after.asked;
        let asked = Asked { path: args.url.path(), context: args.context.as_deref(), requests };
        let advice = roll.as_ref().map(|roll| rollout::advise(roll, asked)).unwrap_or_default();
        if let Some(out) = out {
            tell!("timeline: {}", out.display());
        }
        match args.format {
            Format::Text => {
                let watched = roll.as_ref().map(|roll| (roll, &advice[..]));
                super::print(&report::rollout(&tally, args.allow_lost, watched))?;
            }
            Format::Json => say!("{}", args.json(&tally, roll.as_ref(), &advice))?,
        }
        Ok(args.status(&tally))
    })
}

/// Says all at once what may not be done, before anything is.
async fn may(workload: &Workload, restart: bool) -> Result<(), ClusterError> {
    if restart {
        workload.restartable()?;
    }
    let rights = cluster::needed(workload.name().kind, restart);
    let access = cluster::access(workload.cluster(), &rights).await?;
    let denied: Vec<String> = access.iter().filter(|one| !one.allowed).map(|one| one.right.to_string()).collect();
    match denied.is_empty() {
        true => Ok(()),
        false => {
            let namespace = workload.cluster().namespace().to_owned();
            Err(ClusterError::Denied { what: denied.join(", "), namespace })
        }
    }
}

/// Where the name leads now.
async fn address(url: &Uri) -> Result<SocketAddr, CliError> {
    let bad = |why: String| CliError::Url { url: url.to_string(), why };
    match url.scheme_str() {
        Some("http") => {}
        Some("https") => {
            let way_out = "name the plain HTTP port behind whatever ends TLS";
            return Err(bad(format!("TLS is not spoken yet: {way_out}")));
        }
        _ => return Err(bad("expected http://HOST[:PORT][/PATH]".to_owned())),
    }
    let host = url.host().ok_or_else(|| bad("it names no host".to_owned()))?;
    let target = (host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80));
    let mut found = tokio::net::lookup_host(target).await.map_err(|error| bad(error.to_string()))?;
    found.next().ok_or_else(|| bad("the name has no address".to_owned()))
}

impl Args {
    async fn find(&self, name: &Name) -> Result<Workload, ClusterError> {
        let choice = Choice { context: self.context.clone(), namespace: self.namespace.clone() };
        Workload::find(&Cluster::connect(&choice).await?, name).await
    }

    fn plan(&self, address: SocketAddr, workload: Option<Workload>) -> Result<Plan, CliError> {
        let own = self.url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let paths: Vec<String> = std::iter::once(own).chain(self.path.iter().cloned()).collect();
        if let Some(bad) =
            paths.iter().find(|path| !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()))
        {
            let why = format!("{bad:?} is no path: one begins with / and has no spaces");
            return Err(CliError::Url { url: self.url.to_string(), why });
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &self.header {
            headers.append(name, value.clone());
        }
        let host = self.url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        if let Some(host) = host {
            headers.entry(HOST).or_insert(host);
        }
        let ask = |path: &String| {
            let ask = Ask::get(path, Role::Storm).method(self.method.clone()).headers(&headers);
            let ask = ask.patience(Duration::from_secs(self.timeout)).instance_header(self.instance_header.clone());
            match &self.body {
                Some(body) => ask.payload(Payload::Whole(body.clone().into())),
                None => ask,
            }
        };
        let asks = paths.iter().map(ask).collect();
        Ok(Plan {
            target: address.to_string(),
            asking: Asking { route: Route::One(address), asks, rate: self.rate, kept: f64::from(self.kept) / 100.0 },
            warm_up: Duration::from_secs(self.warm_up),
            cool_down: Duration::from_secs(self.cool_down),
            within: Duration::from_secs(self.within),
            command: self.command.clone(),
            workload,
        })
    }

    fn json(&self, tally: &Tally, rollout: Option<&Roll>, advice: &[Advice]) -> String {
        let report = Report {
            format: 1,
            version: env!("CARGO_PKG_VERSION"),
            url: self.url.to_string(),
            command: &self.command,
            allowed: self.allow_lost,
            missed: tally.missed(),
            tally,
            rollout,
            advice,
        };
        serde_json::to_string_pretty(&report).unwrap_or_default()
    }

    fn status(&self, tally: &Tally) -> Status {
        if tally.untold.is_some() {
            Status::Untested
        } else if tally.missed() > self.allow_lost || !tally.succeeded() {
            Status::Unexpected
        } else {
            Status::AsExpected
        }
    }
}

/// The line that says how it goes: on a terminal all the time, elsewhere where something changes.
struct Line {
    bar: ProgressBar,
    rate: f64,
    stage: Option<Stage>,
}

impl Line {
    fn new(rate: f64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, rate, stage: None }
    }

    fn show(&mut self, stage: Stage, seen: &Seen) {
        let word = match stage {
            Stage::WarmUp => "warm-up",
            Stage::Deploy => "deploying",
            Stage::CoolDown => "cool-down",
        };
        let (served, missed) = (seen.served.load(Ordering::Relaxed), seen.missed.load(Ordering::Relaxed));
        let latest = seen.latest_us.load(Ordering::Relaxed) as f64 / 1e3;
        let line = format!("{word}: {} a second, {served} served, {missed} missed, latest {latest:.1} ms", self.rate);
        if self.bar.is_hidden() && self.stage != Some(stage) {
            tell!("{line}");
        }
        self.stage = Some(stage);
        self.bar.set_message(line);
        self.bar.tick();
    }
}
