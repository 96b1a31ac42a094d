//! `drainspec judge`: recorded timelines, judged again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::{CliError, Status};
use crate::report;
use crate::results::{FILE, Outcome, Results};
use crate::runner;
use crate::timeline;
use crate::verdict::Verdict;

/// Arguments of `drainspec judge`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A folder with a results.json is judged whole, and held against it: exit status 1 where a verdict differs.
Timelines named one by one: exit status 1 where a rule fails."
)]
pub struct Args {
    /// Timelines (.ndjson), folders of them, or the folder of a matrix run
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let mut status = Status::AsExpected;
    for path in &args.paths {
        let good = if path.join(FILE).is_file() { against_results(path)? } else { alone(path)? };
        if !good {
            status = Status::Unexpected;
        }
    }
    Ok(status)
}

/// Judges every timeline of a matrix run; whether the verdict of each rule is that of its results.
fn against_results(folder: &Path) -> Result<bool, CliError> {
    let results = Results::read(folder)?;
    let (mut judged, mut differing) = (0, 0);
    for cell in results.cells.iter().filter(|cell| !cell.timelines.is_empty()) {
        let mut outcomes = Vec::new();
        for path in &cell.timelines {
            outcomes.push(judge(&folder.join(path))?);
            judged += 1;
        }
        let before = std::iter::once((WHOLE, cell.verdict))
            .chain(cell.rules.iter().map(|rule| (rule.rule.as_str(), rule.verdict)))
            .collect();
        let differences = differences(&before, &worst(&outcomes));
        differing += usize::from(!differences.is_empty());
        for (what, was, now) in differences {
            say!("{} · {}{what}: {} in {FILE}, {} now", cell.server, cell.scenario, word(was), word(now))?;
        }
    }
    say!("{}: {judged} timelines judged, {differing} cells differ from {FILE}", folder.display())?;
    Ok(differing == 0)
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
fn differences(
    before: &BTreeMap<&str, Verdict>,
    now: &BTreeMap<&str, Verdict>,
) -> Vec<(String, Option<Verdict>, Option<Verdict>)> {
    let names: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
    let both = names.into_iter().map(|name| (name, before.get(name).copied(), now.get(name).copied()));
    both.filter(|(_, before, now)| before != now)
        .map(|(name, before, now)| (if name == WHOLE { String::new() } else { format!(" · {name}") }, before, now))
        .collect()
}

fn word(verdict: Option<Verdict>) -> &'static str {
    verdict.map_or("not judged", Verdict::word)
}

/// Judges timelines for themselves; whether no rule fails.
fn alone(path: &Path) -> Result<bool, CliError> {
    let mut good = true;
    for path in timelines(path)? {
        let outcome = judge(&path)?;
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

fn judge(path: &Path) -> Result<Outcome, CliError> {
    let file = File::open(path).map_err(|source| CliError::Io { path: path.to_owned(), source })?;
    let timeline = timeline::read(BufReader::new(file));
    Ok(runner::verdict(&timeline.map_err(|source| CliError::Timeline { path: path.to_owned(), source })?))
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
