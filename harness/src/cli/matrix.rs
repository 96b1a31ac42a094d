//! `drainspec matrix`: every chosen scenario against every chosen server.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::{CliError, Status, project, session};
use crate::catalog::{ClusterPlace, Kind, Server, Topology};
use crate::expectation::CellId;
use crate::process;
use crate::report::{self, Progress};
use crate::results::{Cell, Outcome, Results};
use crate::runner;
use crate::scenario::Scenario;
use crate::schedule::{self, Job, Schedule, Shard};
use crate::timeline::Param;
use crate::verdict::Verdict;

/// Builds that run side by side: compilers use several cores themselves.
const BUILDS: usize = 2;

/// The rollout that is always played: quick, because each instance is replaced once.
const QUICK_ROLLOUT: &str = "rolling-restart";

/// How wide the matrix may be in any case: what is wider cannot be read.
const WIDTH: usize = 180;

/// Arguments of `drainspec matrix`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only servers whose name matches, such as `go` or 'naive/*'; '!GLOB' leaves some out (may be repeated;
    /// default: references and naive)
    #[arg(long, value_name = "GLOB")]
    server: Vec<String>,
    /// Only servers of this kind (may be repeated)
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Vec<Kind>,
    /// Only scenarios whose slug matches; '!GLOB' leaves some out (may be repeated)
    #[arg(long, value_name = "GLOB")]
    scenario: Vec<String>,
    /// Only scenarios of a group that matches, such as `signals` (may be repeated)
    #[arg(long, value_name = "GLOB")]
    group: Vec<String>,
    /// Only behind topologies whose name matches, such as 'nginx/*', and every scenario that can be played there (may be
    /// repeated; default: `direct`, and a quick rollout behind each that is recommended)
    #[arg(long, value_name = "GLOB")]
    topology: Vec<String>,
    /// Context of the kubeconfig where topologies `kubernetes/…` are played: empty for its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Image of a server there, as SERVER=IMAGE, or of all of them with `{server}` in it (may be repeated; default:
    /// `drainspec/{server}:VERSION`)
    #[arg(long, value_name = "IMAGE")]
    image: Vec<String>,
    /// Replace each instance so many times, in scenarios that replace them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Requests a second, in scenarios with a steady load
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: Option<u32>,
    /// Only the cells that were unexpected in an earlier run
    #[arg(long, value_name = "RUN")]
    only_unexpected: Option<PathBuf>,
    /// Only what a server is known to fail: whether it is still noticed, without the time that the rest takes
    #[arg(long)]
    only_known: bool,
    /// Only the part I of N of all cells; the name of a cell alone decides to which it belongs
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Scenarios played side by side; most of their time is spent waiting [default: 10 for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// Play each scenario so many times; the worst verdict counts
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Folder for results.json and the timelines
    #[arg(long, value_name = "DIR", default_value = "drainspec-out")]
    out: PathBuf,
    /// Which failures are shown in detail
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Failures::Unexpected)]
    failures: Failures,
    /// Exit with 0 although cells were skipped because this machine lacks something
    #[arg(long)]
    allow_missing: bool,
    /// Exit with 0 although the machine was too busy to tell of one cell in ten
    #[arg(long)]
    allow_untold: bool,
    /// Folder with the servers [default: `servers`, here or above]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,
    /// Folder with the topologies [default: `lb-configs`, beside the servers]
    #[arg(long, value_name = "DIR")]
    topologies: Option<PathBuf>,
}

/// Which failures are shown in detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Failures {
    /// Those that nobody expected.
    Unexpected,
    /// Those that are known, too.
    All,
}

/// What is to be played, each with each.
struct Selected {
    servers: Vec<Server>,
    topologies: Vec<Topology>,
    scenarios: Vec<&'static Scenario>,
}

/// What has come so far.
struct Board {
    results: Results,
    excerpts: BTreeMap<CellId, BTreeMap<String, Vec<String>>>,
    progress: Progress,
    out: PathBuf,
    /// When what has come is to be written, where it has not been yet.
    due: Option<Instant>,
    /// No sooner than this is anything written again.
    rested: Instant,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let folder = project::servers_folder(args.servers.as_deref())?;
    let unexpected = args.only_unexpected.as_deref().map(Results::read).transpose()?;
    let servers = match &unexpected {
        // It says itself which servers it is about.
        Some(_) if args.server.is_empty() && args.kind.is_empty() => {
            project::select_servers(project::servers(&folder)?, &["*".to_owned()], &[])?
        }
        _ => project::select_servers(project::servers(&folder)?, &args.server, &args.kind)?,
    };
    let scenarios = project::select_scenarios(&args.scenario, &args.group)?;
    let topologies = project::topologies(&folder, args.topologies.as_deref())?;
    let topologies = match &unexpected {
        // What was unexpected behind warnings, too, and what servers are known to do there.
        Some(_) if args.topology.is_empty() => topologies,
        None if args.topology.is_empty() && args.only_known => topologies,
        _ => project::select_topologies(topologies, &args.topology)?,
    };
    let io = |source| CliError::Io { path: args.out.clone(), source };
    std::fs::create_dir_all(&args.out).map_err(io)?;
    let out = args.out.canonicalize().map_err(io)?;
    session::guarded(async || play(args, Selected { servers, topologies, scenarios }, unexpected, out).await)
}

async fn play(args: &Args, selected: Selected, unexpected: Option<Results>, out: PathBuf) -> Result<Status, CliError> {
    let began = Instant::now();
    let mut servers: Vec<Arc<Server>> = selected.servers.into_iter().map(Arc::new).collect();
    let place = args.cluster_place();
    let at = |topology: Topology| Topology { cluster: place.clone().filter(|_| topology.is_cluster()), ..topology };
    let topologies: Vec<Arc<Topology>> = selected.topologies.into_iter().map(at).map(Arc::new).collect();
    let mut jobs = schedule::jobs(&servers, &topologies, &selected.scenarios, args.repeat);
    for (param, value) in [(Param::Rolls, args.rounds), (Param::Rate, args.rate)] {
        let has = |job: &&mut Job| job.scenario.params.iter().any(|(own, _)| *own == param);
        jobs.iter_mut().filter(has).for_each(|job| job.params.extend(value.map(|value| (param, f64::from(value)))));
    }
    if args.topology.is_empty() && unexpected.is_none() {
        // One process is played behind a balancer where somebody asks for that; and several by default only quickly.
        let chosen = args.only_known || [&args.scenario, &args.group].into_iter().any(|globs| !globs.is_empty());
        jobs.retain(|job| match job.scenario.setting.is_single() {
            true => job.topology.is_direct(),
            false => chosen || is_quick_rollout(job),
        });
    }
    if args.only_known {
        let known = |job: &Job| job.server.known.of(&job.server.name, &job.topology.name);
        jobs.retain(|job| known(job).find_any(job.scenario.slug, job.scenario.rules).is_some());
        if jobs.is_empty() {
            return Err(CliError::NothingKnown);
        }
    }
    if let Some(earlier) = unexpected {
        jobs.retain(|job| earlier.is_unexpected(&job.id()));
        if jobs.is_empty() {
            return Err(CliError::NothingUnexpected);
        }
    }
    if let Some(shard) = args.shard {
        jobs.retain(|job| shard.has(&job.id()));
        if jobs.is_empty() {
            return Err(CliError::NothingInShard);
        }
    }
    servers.retain(|server| jobs.iter().any(|job| job.server.name == server.name));
    tell_of_replaced(&out, &jobs);
    let unbuilt = build_all(&servers).await;
    let began_playing = Instant::now();

    let mut board = Board {
        results: Results::new(runner::machine()),
        excerpts: BTreeMap::new(),
        progress: Progress::new(jobs.len()),
        out: out.clone(),
        due: None,
        rested: began_playing,
    };
    // From here on the file is this run's, however early the run ends.
    board.write()?;
    // A program can be installed. What a single scenario needs of the machine may not be to be had: it is told, and
    // is no reason to call the run incomplete.
    let lacks_programs = unbuilt.values().any(|(verdict, _)| *verdict == Verdict::Skipped);
    let (built, left_out): (Vec<Job>, _) = jobs.into_iter().partition(|job| !unbuilt.contains_key(&job.server.name));
    for job in left_out {
        let (verdict, reason) = &unbuilt[&job.server.name];
        board.add(&job, Outcome::without_run(*verdict, reason.clone()));
    }
    let mut schedule = Schedule::new(built, args.jobs.map(usize::from), out.clone());
    loop {
        schedule.start();
        board.progress.running(schedule.running());
        let Some((job, outcome)) = board.keep_while(schedule.next()).await? else { break };
        board.add(&job, outcome);
    }
    board.write()?;

    let Board { results, excerpts, progress, .. } = board;
    progress.finish();
    print(&results, &excerpts, args.failures, began_playing.elapsed().as_secs_f64())?;
    tell!("results: {} ({:.0} s with builds)", out.join(crate::results::FILE).display(), began.elapsed().as_secs_f64());
    Ok(if results.cells.iter().any(|cell| !cell.as_expected) {
        Status::Unexpected
    } else if lacks_programs && !args.allow_missing {
        Status::Environment
    } else if results.untold() > if args.allow_untold { results.cells.len() / 10 } else { 0 } {
        Status::Untested
    } else {
        Status::AsExpected
    })
}

impl Args {
    /// Where topologies of clusters are played, if anywhere.
    fn cluster_place(&self) -> Option<Arc<ClusterPlace>> {
        let context = self.context.as_ref()?;
        let mut place =
            ClusterPlace { context: Some(context.clone()).filter(|name| !name.is_empty()), ..Default::default() };
        for image in &self.image {
            match image.split_once('=') {
                Some((server, image)) => drop(place.images.insert(server.to_owned(), image.to_owned())),
                None => place.image = Some(image.clone()),
            }
        }
        Some(Arc::new(place))
    }
}

/// Whether a cell belongs to the rollouts that are always played.
fn is_quick_rollout(job: &Job) -> bool {
    let always = matches!(job.server.spec.kind, Kind::Reference | Kind::Naive);
    always && job.scenario.slug == QUICK_ROLLOUT
}

impl Board {
    fn add(&mut self, job: &Job, outcome: Outcome) {
        let cell = self.results.add(&job.server, &job.topology, job.scenario, &outcome);
        let mark = if cell.as_expected { "" } else { " (unexpected)" };
        let style = report::verdict_style(outcome.verdict);
        let word = report::paint(style, outcome.verdict.word());
        let seconds = outcome.duration_ms / 1e3;
        let again = report::played_again(outcome.replaced.len());
        self.progress.step(&format!("{} {word}{mark} {seconds:.1} s{again}", job.id()));
        self.excerpts.entry(job.id()).or_default().extend(outcome.excerpts);
        self.due.get_or_insert(self.rested.max(Instant::now()));
    }

    /// Waits for what comes next, and writes meanwhile what has come.
    async fn keep_while<T>(&mut self, next: impl Future<Output = T>) -> Result<T, CliError> {
        let mut next = std::pin::pin!(next);
        if let Some(due) = self.due {
            tokio::select! {
                biased; // however fast they come
                () = tokio::time::sleep_until(due.into()) => self.write()?,
                come = &mut next => return Ok(come),
            }
        }
        Ok(next.await)
    }

    fn write(&mut self) -> Result<(), CliError> {
        let began = Instant::now();
        self.results.write(&self.out).map_err(|source| CliError::Io { path: self.out.clone(), source })?;
        // A long run has a large file: writing it takes no more than a tenth of the time.
        self.rested = Instant::now() + 9 * began.elapsed();
        self.due = None;
        Ok(())
    }
}

/// Says so where the results of a larger run are about to be replaced by those of a smaller one.
fn tell_of_replaced(out: &std::path::Path, jobs: &[Job]) {
    let Ok(earlier) = Results::read(out) else { return };
    let again: BTreeSet<CellId> = jobs.iter().map(Job::id).collect();
    let lost = earlier.cells.iter().filter(|cell| !again.contains(&cell.id())).count();
    if lost > 0 {
        tell!(
            "replacing the run of {} in {}: {lost} of its {} cells not played now (--out DIR keeps both)",
            earlier.started,
            out.display(),
            earlier.cells.len(),
        );
    }
}

/// Builds what changed, and says of the rest why it cannot be run.
async fn build_all(servers: &[Arc<Server>]) -> BTreeMap<String, (Verdict, String)> {
    let mut unbuilt = BTreeMap::new();
    let mut progress = Progress::new(servers.len());
    let mut running = JoinSet::new();
    let mut waiting = servers.iter().cloned();
    loop {
        while running.len() < BUILDS
            && let Some(server) = waiting.next()
        {
            running.spawn(async move {
                let result = process::build(&server).await;
                (server, result)
            });
        }
        match running.join_next().await {
            Some(Ok((server, Ok(built)))) => {
                progress.step(&format!("{} {}", server.name, if built { "built" } else { "is up to date" }));
            }
            Some(Ok((server, Err(error)))) => {
                progress.step(&format!("{} could not be built", server.name));
                progress.note(&error.to_string());
                let missing = matches!(error, process::BuildError::Missing { .. });
                let verdict = if missing { Verdict::Skipped } else { Verdict::Error };
                unbuilt.insert(server.name.clone(), (verdict, error.to_string()));
            }
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => break,
        }
    }
    progress.finish();
    unbuilt
}

fn print(
    results: &Results,
    excerpts: &BTreeMap<CellId, BTreeMap<String, Vec<String>>>,
    failures: Failures,
    seconds: f64,
) -> Result<(), CliError> {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let none = BTreeMap::new();
    let tell = |cell: &Cell| say!("{}\n", report::failures(cell, excerpts.get(&cell.id()).unwrap_or(&none)).trim_end());
    let known: Vec<&Cell> =
        results.cells.iter().filter(|cell| cell.as_expected && cell.verdict == Verdict::Fail).collect();
    if failures == Failures::All {
        known.iter().try_for_each(|cell| tell(cell))?;
    }
    results.cells.iter().filter(|cell| !cell.as_expected).try_for_each(tell)?;
    // Last, where it is seen.
    let width = terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0).max(WIDTH));
    say!("{}", report::overview(results, colour, width))?;
    say!("\n{}", report::summary(results, seconds))?;
    for line in report::unexpected(results) {
        say!("{line}")?;
    }
    if let Some(told) = report::all_played_again(results.cells.iter().map(|cell| cell.replaced.len())) {
        say!("{told}")?;
    }
    for line in report::skipped(results) {
        say!("{line}")?;
    }
    if failures == Failures::Unexpected && !known.is_empty() {
        let cells = if known.len() == 1 { "1 known failure" } else { &format!("{} known failures", known.len()) };
        say!("{cells}: `--failures all` shows what was seen")?;
    }
    Ok(())
}
