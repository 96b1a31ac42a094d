//! What failed, with the rule, what was expected, what was seen, and the part of the timeline that shows it.

use std::collections::BTreeMap;
use std::fmt::Write;

use anstyle::Style;

use super::{paint, verdict_style};
use crate::results::Cell;
use crate::rules::text;
use crate::verdict::Verdict;

/// One cell's violations, in words.
pub fn failures(cell: &Cell, excerpts: &BTreeMap<String, Vec<String>>) -> String {
    let mut out = String::new();
    let bold = Style::new().bold();
    let known = if cell.as_expected { " (known)" } else { "" };
    let title = format!("{} · {}{known}", cell.id(), cell.verdict.word());
    let _ = writeln!(out, "{}", paint(verdict_style(cell.verdict).bold(), &title));
    let quiet = [Verdict::Pass, Verdict::Unsupported];
    let told: Vec<_> = cell.rules.iter().filter(|rule| !quiet.contains(&rule.verdict)).collect();
    if told.is_empty() {
        let reason =
            cell.reason.as_deref().unwrap_or("every rule holds, though it is known to fail: remove it from known.toml");
        let _ = writeln!(out, "  {reason}");
    }
    for rule in told {
        let _ = writeln!(
            out,
            "  {} {} ({}, {})",
            rule.verdict.word(),
            paint(bold, &rule.rule),
            rule.level.word(),
            rule.basis.word()
        );
        let _ = writeln!(out, "    expected  {}", rule.expected);
        let _ = writeln!(out, "    actual    {}", rule.actual);
        let broken = matches!(rule.verdict, Verdict::Fail | Verdict::Warn);
        if let Some(remedy) = text(&rule.rule).filter(|_| broken).and_then(|text| text.remedy.get(&cell.language)) {
            let _ = writeln!(out, "    remedy    {remedy}");
        }
        for line in excerpts.get(&rule.rule).into_iter().flatten() {
            let _ = writeln!(out, "      {line}");
        }
    }
    if let Some(timeline) = cell.timelines.last() {
        let _ = writeln!(out, "    timeline  {}", timeline.display());
    }
    out
}
