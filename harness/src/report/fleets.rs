//! What rollouts cost: for each scenario a row for each topology and a column for each server.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::table::{columns, mark, rows};
use crate::expectation::DIRECT;
use crate::results::{Cell, Results};
use crate::verdict::Verdict;

/// Whether a cell is one of several instances, or behind a balancer.
pub(super) fn is_fleet(cell: &Cell) -> bool {
    let single = crate::scenario::find(&cell.scenario).is_none_or(|scenario| scenario.setting.is_single());
    !single || cell.topology != DIRECT
}

/// The cells of one scenario: their topologies, in the order in which they were played, and what each server came to.
pub(super) struct Grid<'r> {
    /// Slug of the scenario.
    pub scenario: &'r str,
    /// The servers.
    pub servers: Vec<&'r str>,
    /// Topology, and the cell of each server, where there is one.
    pub rows: Vec<(&'r str, Vec<Option<&'r Cell>>)>,
}

/// A grid for each scenario with several instances.
pub(super) fn grids(results: &Results) -> Vec<Grid<'_>> {
    let servers: Vec<&str> = {
        let with = |server: &&str| results.cells.iter().any(|cell| is_fleet(cell) && cell.server == *server);
        columns(results).into_iter().filter(with).collect()
    };
    let grid = |scenario| {
        let cells = results.cells.iter().filter(|cell| cell.scenario == scenario && is_fleet(cell));
        let mut by_key: BTreeMap<(&str, &str), &Cell> = BTreeMap::new();
        let mut topologies: Vec<&str> = Vec::new();
        for cell in cells {
            by_key.insert((&cell.topology, &cell.server), cell);
            if !topologies.contains(&cell.topology.as_str()) {
                topologies.push(&cell.topology);
            }
        }
        topologies.sort_by_key(|topology| (*topology != DIRECT, order(topology), *topology));
        let row =
            |topology| (topology, servers.iter().map(|server| by_key.get(&(topology, *server)).copied()).collect());
        Grid { scenario, servers: servers.clone(), rows: topologies.into_iter().map(row).collect() }
    };
    let fleets =
        rows(results).into_iter().filter(|slug| results.cells.iter().any(|c| c.scenario == **slug && is_fleet(c)));
    fleets.map(grid).collect()
}

/// nginx, HAProxy, ALB, pods, in this order as everywhere.
fn order(topology: &str) -> usize {
    ["nginx", "haproxy", "aws-alb", "pod"].iter().position(|kind| topology.starts_with(kind)).unwrap_or(usize::MAX)
}

/// What users missed of what they asked, over all repeats, and what was done twice; or why that is not known.
pub(super) fn words(cell: &Cell) -> String {
    let sum = |measure: &str| cell.measures.get(measure).map(|values| values.iter().sum::<f64>());
    let missed =
        ["requests_lost", "requests_unsent", "requests_failed"].iter().filter_map(|name| sum(name)).sum::<f64>();
    let mut words = match (cell.verdict, sum("requests_asked")) {
        (Verdict::Unsupported, _) => "–".to_owned(),
        (Verdict::Inconclusive, _) => "unclear".to_owned(),
        (Verdict::Skipped | Verdict::Error, _) | (_, None) => cell.verdict.word().to_owned(),
        (_, Some(asked)) => format!("{missed} of {asked}"),
    };
    if let Some(twice) = sum("done_twice").filter(|twice| *twice > 0.0) {
        let _ = write!(words, ", {twice} twice");
    }
    // Where nothing was missed something else is wrong, and is named.
    let broken = cell.rules.iter().find(|rule| rule.verdict == Verdict::Fail);
    if let Some(rule) = broken.filter(|rule| missed == 0.0 && rule.rule != "nothing-done-twice") {
        let _ = write!(words, ", {}", rule.rule);
    }
    words
}

/// What is said above such a table.
pub(super) fn caption(scenario: &str) -> String {
    let summary = crate::scenario::find(scenario).map_or("", |scenario| scenario.summary);
    format!("{} (missed of asked): {summary}", scenario.to_uppercase())
}

/// The cell with the mark of an unexpected result.
pub(super) fn marked(cell: &Cell) -> String {
    format!("{}{}", words(cell), mark(cell))
}
