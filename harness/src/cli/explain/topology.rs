//! `drainspec explain TOPOLOGY`: a configuration with its reasons, its budget as a picture, and what was found behind it.

use std::path::Path;

use serde_json::{Value, json};

use super::Page;
use crate::catalog::terraform::Terraform;
use crate::catalog::{Balancer, Topology};
use crate::cli::CliError;
use crate::results::{Cell, FILE, Results};
use crate::verdict::Verdict;

/// Width of the longest bar.
const BAR: f64 = 40.0;
/// Counts of probes: they are no time.
const COUNTS: [&str; 4] = ["fall", "rise", "healthy_threshold", "unhealthy_threshold"];

/// As JSON.
pub fn json(topology: &Topology) -> Value {
    json!({
        "kind": "topology",
        "name": topology.name,
        "advice": topology.spec.kind,
        "summary": topology.spec.summary,
        "withdraw": topology.spec.withdraw.words(),
        "file": topology.spec.file,
        "budget": topology.spec.budget,
        "known": known(topology),
    })
}

/// As text. What was found is read from the folder of a run, where it has one.
///
/// # Errors
/// When its file, or the results, cannot be read.
pub fn text(topology: &Topology, run: &Path, width: Option<usize>) -> Result<String, CliError> {
    let mut page = Page::new(width);
    page.title("Topology", &topology.name);
    page.prose(&format!("{} ({}).", topology.spec.summary, topology.spec.kind.word()));
    page.prose(&format!("In a roll {}.", topology.spec.withdraw.words()));
    if topology.is_direct() {
        found(&mut page, topology, run)?;
        return Ok(page.text);
    }
    match topology.balancer {
        Balancer::Alb => page.prose("Played by a model of the balancer, ten times as fast as the numbers say."),
        Balancer::Pod => page.prose("Played by models of the kubelet, the EndpointSlice and kube-proxy."),
        Balancer::Cluster => page.prose("Played on a cluster that is named by --context."),
        Balancer::None | Balancer::Nginx | Balancer::Haproxy => {}
    }
    page.heading("Budget, in seconds");
    budget(&mut page, topology);
    if topology.balancer == Balancer::Alb {
        Terraform::load(&topology.folder)?.notes.iter().for_each(|note| page.item("- ", note));
    }
    let losses = known(topology);
    if !losses.is_empty() {
        page.heading("Known losses");
    }
    losses.iter().for_each(|loss| page.item("- ", loss));
    found(&mut page, topology, run)?;
    let path = topology.folder.join(&topology.spec.file);
    let file = std::fs::read_to_string(&path).map_err(|source| CliError::Io { path: path.clone(), source })?;
    let parts: Vec<_> = path.components().rev().take(4).map(|part| part.as_os_str().to_string_lossy()).collect();
    let shown: Vec<_> = parts.iter().rev().map(AsRef::as_ref).collect();
    page.heading(&shown.join("/"));
    file.lines().for_each(|line| page.line(format!("  {line}").trim_end()));
    Ok(page.text)
}

/// A bar for each time, the longest first; and the counts.
fn budget(page: &mut Page, topology: &Topology) {
    let (counts, mut times): (Vec<_>, Vec<_>) =
        topology.spec.budget.iter().partition(|(key, _)| COUNTS.contains(&key.as_str()));
    times.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let longest = times.first().map_or(1.0, |(_, value)| value.max(1.0));
    let name = times.iter().chain(&counts).map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in times {
        // What lasts at all is seen.
        let bar = (BAR * value / longest).ceil() as usize;
        page.line(format!("  {key:<name$}  {}{}{value}", "█".repeat(bar), if bar > 0 { " " } else { "" }).trim_end());
    }
    for (key, value) in counts {
        page.line(&format!("  {key:<name$}  {value} probes"));
    }
}

fn known(topology: &Topology) -> Vec<String> {
    let word = |known: &crate::catalog::Known| {
        let of = known.server.as_ref().map_or(String::new(), |server| format!(" of {server}"));
        format!("{}{of}: {}", known.pattern, known.reason)
    };
    topology.known.entries.iter().map(word).collect()
}

/// What the last run of the matrix came to behind it.
fn found(page: &mut Page, topology: &Topology, run: &Path) -> Result<(), CliError> {
    let fleets = |cell: &&Cell| cell.topology == topology.name && cell.measures.contains_key("requests_asked");
    let results = if run.join(FILE).is_file() { Some(Results::read(run)?) } else { None };
    let cells: Vec<&Cell> = results.iter().flat_map(|results| results.cells.iter().filter(fleets)).collect();
    if cells.is_empty() {
        page.heading("Found");
        page.prose(&format!(
            "Nothing: no run of it in {}. `drainspec matrix --topology {}` plays it.",
            run.display(),
            topology.name
        ));
        return Ok(());
    }
    page.heading(&format!("Found in {}", run.display()));
    let name = cells.iter().map(|cell| cell.server.len() + cell.scenario.len() + 3).max().unwrap_or(0);
    for cell in cells {
        let told = cell.rules.iter().find(|rule| rule.verdict == cell.verdict && rule.verdict != Verdict::Pass);
        let told = told
            .or_else(|| cell.rules.iter().find(|rule| rule.rule.ends_with("-in-roll") || rule.rule == "roll-costs"));
        let what = format!("{} · {}", cell.server, cell.scenario);
        let seen = told.map_or(String::new(), |rule| format!(": {}", rule.actual));
        page.item(&format!("{what:<name$}  "), &format!("{}{seen}", cell.verdict.word()));
    }
    Ok(())
}
