//! The matrix: a row for each scenario, a column for each server.

use std::collections::BTreeMap;

use anstyle::Style;
use comfy_table::{Cell as TableCell, CellAlignment, Color, ContentArrangement, Table, presets};

use textwrap::core::display_width;

use super::fleets::{Grid, caption, grids, is_fleet, marked};
use crate::catalog::language_order;
use crate::results::{Cell, Results};
use crate::verdict::Verdict;

/// The matrix as text, no wider than this: a table where it fits, else a paragraph for each server.
pub fn overview(results: &Results, colour: bool, width: usize) -> String {
    let table = [table(results, colour), fleets(results, colour)].into_iter().filter(|table| !table.is_empty());
    let table = table.collect::<Vec<_>>().join("\n\n");
    let fits = |line: &str| display_width(anstream::adapter::strip_str(line).to_string().as_str()) <= width;
    if table.lines().all(fits) { table } else { list(results, colour, width) }
}

/// Each server with what did not pass, by verdict.
fn list(results: &Results, colour: bool, width: usize) -> String {
    let mut out = String::new();
    for server in columns(results) {
        let cells: Vec<&Cell> = results.cells.iter().filter(|cell| cell.server == server).collect();
        let mut told = Vec::new();
        for verdict in Verdict::BY_SEVERITY.into_iter().rev() {
            let with_it: Vec<&&Cell> = cells.iter().filter(|cell| cell.verdict == verdict).collect();
            let names: Vec<String> = match verdict {
                _ if with_it.is_empty() => continue,
                Verdict::Pass => vec![with_it.len().to_string()],
                _ => with_it.iter().map(|cell| format!("{}{}", place(cell), mark(cell))).collect(),
            };
            told.push(format!("{}: {}", verdict.word(), names.join(", ")));
        }
        let options = textwrap::Options::new(width).subsequent_indent("    ");
        for line in textwrap::wrap(&format!("{server}  {}", told.join("; ")), options) {
            let unexpected = colour && line.contains(UNEXPECTED);
            out += &if unexpected { super::paint(Style::new().bold(), &line) } else { line.into_owned() };
            out.push('\n');
        }
    }
    out.trim_end().to_owned()
}

/// What nobody expected, and what was not told, a line for each cell.
pub fn unexpected(results: &Results) -> Vec<String> {
    let cells = results.cells.iter().filter(|cell| !cell.as_expected || cell.untold);
    let line = |cell: &Cell| {
        let what = if cell.as_expected { "not told" } else { "unexpected" };
        let why = cell.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
        format!("{what}: {} · {}{why}", cell.id(), cell.verdict.word())
    };
    cells.map(line).collect()
}

/// The mark of an unexpected result.
const UNEXPECTED: &str = " !";

pub(super) fn mark(cell: &Cell) -> &'static str {
    match cell.as_expected {
        false => UNEXPECTED,
        true if cell.untold => " ?",
        true => "",
    }
}

/// Cells of servers that failed where that is known are plain; an unexpected result is marked.
fn table(results: &Results, colour: bool) -> String {
    let alone: Vec<&Cell> = results.cells.iter().filter(|cell| !is_fleet(cell)).collect();
    if alone.is_empty() {
        return String::new();
    }
    let servers = columns(results);
    let mut cells = BTreeMap::new();
    for cell in alone {
        cells.insert((cell.scenario.as_str(), cell.server.as_str()), cell);
    }

    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(std::iter::once("").chain(servers.iter().copied()).map(TableCell::new));
    let mut group = "";
    for slug in rows(results).into_iter().filter(|slug| cells.keys().any(|(own, _)| own == slug)) {
        let own = crate::scenario::find(slug).map_or("", |scenario| scenario.group);
        if own != group {
            group = own;
            table.add_row(vec![TableCell::new(own.to_uppercase())]);
        }
        let mut row = vec![TableCell::new(format!("  {slug}"))];
        for server in &servers {
            row.push(match cells.get(&(slug, *server)) {
                Some(cell) => verdict_cell(cell, colour),
                None => TableCell::new(""),
            });
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table.trim_fmt()
}

/// What rollouts cost: a table for each scenario, with a row for each topology.
fn fleets(results: &Results, colour: bool) -> String {
    let table = |grid: Grid| {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(std::iter::once("").chain(grid.servers).map(TableCell::new));
        for (topology, cells) in grid.rows {
            let own = cells
                .into_iter()
                .map(|cell| cell.map_or(TableCell::new(""), |cell| painted(&marked(cell), cell, colour)));
            table.add_row(std::iter::once(TableCell::new(format!("  {topology}"))).chain(own));
        }
        format!("{}\n{}", caption(grid.scenario), table.trim_fmt())
    };
    grids(results).into_iter().map(table).collect::<Vec<_>>().join("\n\n")
}

/// Where a cell belongs, in a list of one server's.
pub(super) fn place(cell: &Cell) -> String {
    match is_fleet(cell) {
        true => format!("{} behind {}", cell.scenario, cell.topology),
        false => cell.scenario.clone(),
    }
}

fn verdict_cell(cell: &Cell, colour: bool) -> TableCell {
    let word = match cell.verdict {
        Verdict::Unsupported => "–",
        Verdict::Inconclusive => "unclear",
        verdict => verdict.word(),
    };
    let count = match cell.repeats {
        repeats if repeats.of > 1 && cell.verdict != Verdict::Unsupported => {
            format!(" {}/{}", repeats.pass, repeats.of)
        }
        _ => String::new(),
    };
    painted(&format!("{word}{count}{}", mark(cell)), cell, colour)
}

fn painted(text: &str, cell: &Cell, colour: bool) -> TableCell {
    let text = TableCell::new(text);
    if !colour {
        return text;
    }
    text.fg(match cell.verdict {
        Verdict::Pass => Color::Green,
        Verdict::Warn | Verdict::Inconclusive => Color::Yellow,
        Verdict::Fail | Verdict::Error => Color::Red,
        Verdict::Unsupported | Verdict::Skipped => Color::DarkGrey,
    })
}

/// The lines below the matrix: what the words mean, and how many cells there are of each.
pub fn summary(results: &Results, seconds: f64) -> String {
    let mut counts: Vec<String> = Vec::new();
    for verdict in Verdict::BY_SEVERITY.iter().rev() {
        let count = results.cells.iter().filter(|cell| cell.verdict == *verdict).count();
        if count > 0 {
            counts.push(super::paint(super::verdict_style(*verdict), &format!("{count} {}", verdict.word())));
        }
    }
    let unexpected = results.cells.iter().filter(|cell| !cell.as_expected).count();
    let bold = Style::new().bold();
    let outcome = match unexpected {
        0 => super::paint(bold, "all as expected"),
        1 => super::paint(bold, "1 unexpected result"),
        n => super::paint(bold, &format!("{n} unexpected results")),
    };
    let untold = match results.untold() {
        0 => String::new(),
        n => format!("; {n} not told, because the machine was too busy"),
    };
    format!("{} cells in {seconds:.0} s: {}; {outcome}{untold}", results.cells.len(), counts.join(", "))
}

/// What is said of a cell that was played again.
pub fn played_again(times: usize) -> String {
    match times {
        0 => String::new(),
        1 => ", played again".to_owned(),
        n => format!(", played again {n} times"),
    }
}

/// How much was played again, because stalls had left it without a verdict: by how often each cell was.
pub fn all_played_again(times: impl Iterator<Item = usize>) -> Option<String> {
    let times: Vec<usize> = times.filter(|times| *times > 0).collect();
    let cells = if times.len() == 1 { "1 cell was".to_owned() } else { format!("{} cells were", times.len()) };
    let plays: usize = times.iter().sum();
    (plays > 0).then(|| format!("{cells} played again, {plays} times in all: the machine was too busy to tell"))
}

/// Why cells were skipped: a line for each reason.
pub fn skipped(results: &Results) -> Vec<String> {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for cell in results.cells.iter().filter(|cell| cell.verdict == Verdict::Skipped) {
        *reasons.entry(cell.reason.as_deref().unwrap_or_default()).or_default() += 1;
    }
    reasons.into_iter().map(|(reason, count)| format!("{count} skipped: {reason}")).collect()
}

/// The servers: by kind, language and name.
pub(super) fn columns(results: &Results) -> Vec<&str> {
    let mut ordered: Vec<&Cell> = results.cells.iter().collect();
    ordered.sort_by_key(|cell| (cell.kind, language_order(&cell.language), &cell.server));
    let mut servers: Vec<&str> = ordered.into_iter().map(|cell| cell.server.as_str()).collect();
    servers.dedup();
    servers
}

/// The scenarios, group by group.
pub(super) fn rows(results: &Results) -> Vec<&str> {
    let order: BTreeMap<&str, usize> = crate::scenario::all().map(|scenario| scenario.slug).zip(0..).collect();
    let mut scenarios: Vec<&str> = results.cells.iter().map(|cell| cell.scenario.as_str()).collect();
    scenarios.sort_by_key(|slug| (order.get(slug).copied().unwrap_or(usize::MAX), *slug));
    scenarios.dedup();
    scenarios
}
