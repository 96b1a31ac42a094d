//! `drainspec judge`: recorded timelines, judged again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::{CliError, Status, project};
use crate::catalog::{KnownFailures, Server, Topology};
use crate::check::{self, CheckResults, Played, Profile};
use crate::report;
use crate::results::{Cell, FILE, Outcome, Results};
use crate::runner;
use crate::scenario;
use crate::timeline::{self, Timeline};
use crate::verdict::Verdict;

/// Arguments of `drainspec judge`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A folder with a results.json or a check.json is judged whole, and held against it: exit status 1 where the verdict
of a rule differs, or where a cell is as expected in one of them only. With --profile a check is judged anew: exit
status 1 where a rule fails that is not known to. Timelines named one by one: exit status 1 where a rule fails."
)]
pub struct Args {
    /// Timelines (.ndjson), folders of them, or the folder of a matrix run or of a check
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Judges a check as if the server ran here
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Folder with the servers, whose known.toml say what is expected [default: `servers`, here or above, if there is one]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let mut status = Status::AsExpected;
    for path in &args.paths {
        let good = if path.join(FILE).is_file() {
            let (servers, topologies) = known(args.servers.as_deref())?;
            against_results(path, &servers, &topologies)?
        } else if path.join(check::FILE).is_file() {
            against_check(path, args.profile)?
        } else {
            alone(path)?
        };
        if !good {
            status = Status::Unexpected;
        }
    }
    Ok(status)
}

/// The servers and topologies whose known failures can be asked; none without a checkout.
fn known(given: Option<&Path>) -> Result<(Vec<Server>, Vec<Topology>), CliError> {
    match project::servers_folder(given) {
        Ok(folder) => Ok((project::servers(&folder)?, project::topologies(&folder, None)?)),
        Err(CliError::NoServers { .. }) if given.is_none() => Ok(Default::default()),
        Err(error) => Err(error),
    }
}

/// Judges every timeline of a matrix run; whether the verdict of each rule is that of its results, and each cell as
/// expected or not as it is there.
fn against_results(folder: &Path, servers: &[Server], topologies: &[Topology]) -> Result<bool, CliError> {
    let results = Results::read(folder)?;
    let (mut judged, mut differing) = (0, 0);
    let mut unknown = BTreeSet::new();
    for cell in results.cells.iter().filter(|cell| !cell.timelines.is_empty()) {
        let mut outcomes = Vec::new();
        for path in &cell.timelines {
            outcomes.push(runner::verdict(&read(&folder.join(path))?));
            judged += 1;
        }
        let before = std::iter::once((WHOLE, cell.verdict))
            .chain(cell.rules.iter().map(|rule| (rule.rule.as_str(), rule.verdict)))
            .collect();
        let mut differences: Vec<String> = differences(&before, &worst(&outcomes))
            .into_iter()
            .map(|(what, was, now)| format!("{what}: {} in {FILE}, {} now", word(was), word(now)))
            .collect();
        match as_expected(cell, &outcomes, servers, topologies) {
            Some(now) if now != cell.as_expected => {
                differences.push(format!(": {} in {FILE}, {} now", expected(cell.as_expected), expected(now)));
            }
            Some(_) => {}
            None => drop(unknown.insert(cell.server.as_str())),
        }
        differing += usize::from(!differences.is_empty());
        for difference in differences {
            say!("{}{difference}", cell.id())?;
        }
    }
    if !unknown.is_empty() {
        let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
        say!("what is expected of them is not known here, and was not compared: {names}")?;
    }
    say!("{}: {judged} timelines judged, {differing} cells differ from {FILE}", folder.display())?;
    Ok(differing == 0)
}

/// Whether these outcomes are what is known of the server; `None` where the server is not there.
fn as_expected(cell: &Cell, outcomes: &[Outcome], servers: &[Server], topologies: &[Topology]) -> Option<bool> {
    let server = servers.iter().find(|server| server.name == cell.server)?;
    let topology = topologies.iter().find(|topology| topology.name == cell.topology)?;
    let scenario = scenario::find(&cell.scenario)?;
    let mut again = Results::new(BTreeMap::new());
    outcomes.iter().map(|outcome| again.add(server, topology, scenario, outcome).as_expected).last()
}

fn expected(as_expected: bool) -> &'static str {
    if as_expected { "as expected" } else { "unexpected" }
}

/// The cell as a whole, beside the names of its rules.
const WHOLE: &str = "";

/// The worst verdict of the cell, and of each rule.
fn worst(outcomes: &[Outcome]) -> BTreeMap<&str, Verdict> {
    let mut worst = BTreeMap::new();
    for outcome in outcomes {
        let rules = outcome.rules.iter().map(|rule| (rule.rule.as_str(), rule.verdict));
        for (what, verdict) in std::iter::once((WHOLE, outcome.verdict)).chain(rules) {
            let known = worst.entry(what).or_insert(verdict);
            *known = Verdict::worst([*known, verdict]).unwrap_or(verdict);
        }
    }
    worst
}

/// What is not the same in both, as ` · RULE`, before and now; nothing where it was not judged.
fn differences<T: Copy + PartialEq>(
    before: &BTreeMap<&str, T>,
    now: &BTreeMap<&str, T>,
) -> Vec<(String, Option<T>, Option<T>)> {
    let names: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
    let both = names.into_iter().map(|name| (name, before.get(name).copied(), now.get(name).copied()));
    both.filter(|(_, before, now)| before != now)
        .map(|(name, before, now)| (if name == WHOLE { String::new() } else { format!(" · {name}") }, before, now))
        .collect()
}

fn word(verdict: Option<Verdict>) -> &'static str {
    verdict.map_or("not judged", Verdict::word)
}

/// Judges every timeline of a check. Whether each rule comes to the verdict of its results; where another profile is
/// asked for, whether none fails that is not known to.
fn against_check(folder: &Path, profile: Option<Profile>) -> Result<bool, CliError> {
    let results = CheckResults::read(folder)?;
    let known = KnownFailures::of_patterns(&results.known)?;
    let mut played = Vec::new();
    for path in &results.timelines {
        let timeline = read(&folder.join(path))?;
        if let Some(scenario) = scenario::find(&timeline.header.scenario) {
            played.push(Played { scenario, outcome: runner::verdict(&timeline) });
        }
    }
    let mut summaries = check::summarise(&played, profile.unwrap_or(results.profile), &known);
    check::promote(&mut summaries, &results.fail_on);
    if profile.is_some() {
        for summary in &summaries {
            let rule = &summary.verdict;
            let known = if summary.known { " (known)" } else { "" };
            say!("  {:<12} {:<30} {}{known}", rule.verdict.word(), rule.rule, rule.actual)?;
        }
        return Ok(!summaries.iter().any(|summary| summary.verdict.verdict == Verdict::Fail && !summary.known));
    }
    let before = results.rules.iter().map(|rule| (rule.rule.as_str(), (rule.verdict, rule.known))).collect();
    let now = summaries.iter().map(|s| (s.verdict.rule.as_str(), (s.verdict.verdict, s.known))).collect();
    let differences = differences(&before, &now);
    let word = |found: Option<(Verdict, bool)>| match found {
        Some((verdict, true)) => format!("{}, known,", verdict.word()),
        found => word(found.map(|(verdict, _)| verdict)).to_owned(),
    };
    for (rule, was, now) in &differences {
        say!("check{rule}: {} in {}, {} now", word(*was), check::FILE, word(*now))?;
    }
    let (judged, differing) = (played.len(), differences.len());
    say!("{}: {judged} timelines judged, {differing} rules differ from {}", folder.display(), check::FILE)?;
    Ok(differences.is_empty())
}

/// Judges timelines for themselves; whether no rule fails.
fn alone(path: &Path) -> Result<bool, CliError> {
    let mut good = true;
    for path in timelines(path)? {
        let outcome = runner::verdict(&read(&path)?);
        let word = report::paint(report::verdict_style(outcome.verdict), outcome.verdict.word());
        say!("{}: {word}", path.display())?;
        if outcome.rules.is_empty() {
            say!("  {}", outcome.reason.unwrap_or_default())?;
        }
        for rule in &outcome.rules {
            say!("  {:<12} {:<30} {}", rule.verdict.word(), rule.rule, rule.actual)?;
        }
        good &= !matches!(outcome.verdict, Verdict::Fail | Verdict::Error);
    }
    Ok(good)
}

/// One timeline.
pub(super) fn read(path: &Path) -> Result<Timeline, CliError> {
    let file = File::open(path).map_err(|source| CliError::Io { path: path.to_owned(), source })?;
    let timeline = timeline::read(BufReader::new(file));
    timeline.map_err(|source| CliError::Timeline { path: path.to_owned(), source })
}

/// The file itself, or all timelines below a folder.
fn timelines(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let io = |source| CliError::Io { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?.path();
        if entry.is_dir() {
            found.extend(timelines(&entry)?);
        } else if entry.extension().is_some_and(|extension| extension == "ndjson") {
            found.push(entry);
        }
    }
    if found.is_empty() {
        return Err(CliError::NothingToJudge { folder: path.to_owned() });
    }
    found.sort();
    Ok(found)
}
