//! What changed between two results. Pure.

use std::collections::BTreeMap;

use crate::expectation::CellId;
use crate::results::{Cell, Results};
use crate::verdict::Verdict;

/// Measures that count losses: more of them is a regression. Times are shown and never judged: two runs on a
/// shared machine differ.
const LOSSES: [&str; 2] = ["requests_lost", "connections_reset"];
/// Times that differ by less than this factor, or by less than [`WORTH_MS`], are not worth a line.
const WORTH_FACTOR: f64 = 1.5;
/// See [`WORTH_FACTOR`].
const WORTH_MS: f64 = 20.0;

/// One difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The cell, in words.
    pub cell: String,
    /// What changed, in words.
    pub what: String,
    /// Whether it is for the worse.
    pub regression: bool,
}

/// All differences, regressions first.
pub fn changes(before: &Results, after: &Results) -> Vec<Change> {
    let (old, new) = (index(before), index(after));
    let mut changes = Vec::new();
    for (key, cell) in &old {
        match new.get(key) {
            None => changes.push(change(cell, "is gone".to_owned(), true)),
            Some(now) => {
                changes.extend(verdict_change(cell, now));
                changes.extend(measure_changes(cell, now));
            }
        }
    }
    for (key, cell) in &new {
        if !old.contains_key(key) {
            let bad = matches!(cell.verdict, Verdict::Fail | Verdict::Error) && !cell.as_expected;
            changes.push(change(cell, format!("is new: {}", cell.verdict.word()), bad));
        }
    }
    changes.sort_by_key(|change| !change.regression);
    changes
}

fn index(results: &Results) -> BTreeMap<CellId, &Cell> {
    results.cells.iter().map(|cell| (cell.id(), cell)).collect()
}

fn change(cell: &Cell, what: String, regression: bool) -> Change {
    Change { cell: cell.id().to_string(), what, regression }
}

fn verdict_change(before: &Cell, after: &Cell) -> Option<Change> {
    if before.verdict == after.verdict {
        return None;
    }
    let worse = Verdict::worst([before.verdict, after.verdict]) == Some(after.verdict);
    let reason = after.reason.as_ref().filter(|_| worse).map_or(String::new(), |reason| format!(" ({reason})"));
    Some(change(after, format!("{} → {}{reason}", before.verdict.word(), after.verdict.word()), worse))
}

fn measure_changes(before: &Cell, after: &Cell) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, values) in &after.measures {
        let (Some(was), Some(now)) = (before.measures.get(name).and_then(|v| median(v)), median(values)) else {
            continue;
        };
        if LOSSES.contains(&name.as_str()) {
            if was != now {
                changes.push(change(after, format!("{name}: {was} → {now}"), now > was && !after.as_expected));
            }
        } else if name.ends_with("_ms") {
            let (low, high) = (was.min(now), was.max(now));
            if high - low > WORTH_MS && high > low * WORTH_FACTOR {
                changes.push(change(after, format!("{name}: {was:.1} → {now:.1}"), false));
            }
        }
    }
    changes
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
