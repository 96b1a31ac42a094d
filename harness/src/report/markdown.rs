//! Results as a page in Markdown: the matrix, and below it what failed, with the reason where it is known.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::fleets::{caption, grids, is_fleet, words};
use super::table::{columns, place, rows};
use crate::catalog::{Known, Server};
use crate::results::{Cell, Results};
use crate::verdict::{RuleVerdict, Verdict};

/// The page. `servers` tell what each server is and why it is known to fail; one that is not among them is shown
/// without.
pub fn markdown(results: &Results, servers: &[Server]) -> String {
    let names = columns(results);
    let prefix = common_folder(&names);
    let mut out = header(results, &names, prefix);
    matrix(&mut out, results, &names, prefix);
    rollouts(&mut out, results, prefix);
    for name in names {
        let cells: Vec<&Cell> = results.cells.iter().filter(|cell| cell.server == name).collect();
        let server = servers.iter().find(|server| server.name == name);
        let _ = writeln!(out, "\n## {}\n", &name[prefix.len()..]);
        if let Some(server) = server {
            let _ = writeln!(out, "{}.\n", server.spec.summary);
        }
        findings(&mut out, &cells, server);
    }
    out
}

/// A rule as it was judged in a cell.
type Seen<'r> = (&'r Cell, &'r RuleVerdict);

/// What was run, where, and how to run it again.
fn header(results: &Results, names: &[&str], prefix: &str) -> String {
    let repeats = results.cells.iter().map(|cell| cell.repeats.of).max().unwrap_or(1);
    let globs = match prefix {
        "" => names.iter().map(|name| format!(" --server {name}")).collect(),
        folder => format!(" --server '{folder}*'"),
    };
    let machine = |key: &str| results.machine.get(key).map_or("unknown", String::as_str);
    format!(
        "# Results: {}

<!-- Written by `drainspec report`: change what it is made from, and run these commands again. -->

    drainspec matrix{globs} --repeat {repeats} --out RUN
    drainspec report RUN

Measured on {} by drainspec {} on {} {}, {}, {} cores; each scenario {} against each server. A cell
shows the worst that was seen, and how many runs passed where they did not agree; `–` says that the server lacks
a feature that the scenario needs. A *fail* is a violated MUST, a *warn* a violated SHOULD.

",
        if prefix.is_empty() { "servers" } else { prefix.trim_end_matches('/') },
        results.started.get(..10).unwrap_or_default(),
        results.version,
        machine("os"),
        machine("kernel"),
        machine("arch"),
        machine("cores"),
        if repeats == 1 { "once".to_owned() } else { format!("{repeats} times") },
    )
}

fn matrix(out: &mut String, results: &Results, names: &[&str], prefix: &str) {
    let labels: Vec<&str> = names.iter().map(|name| &name[prefix.len()..]).collect();
    let _ = writeln!(out, "| scenario | {} |", labels.join(" | "));
    let _ = writeln!(out, "|---|{}", "---|".repeat(names.len()));
    let mut nobody = Vec::new();
    for slug in rows(results) {
        let cells: Vec<&Cell> = results.cells.iter().filter(|cell| cell.scenario == slug && !is_fleet(cell)).collect();
        if cells.is_empty() {
            continue;
        }
        if cells.iter().all(|cell| cell.verdict == Verdict::Unsupported) {
            nobody.push(format!("`{slug}`"));
            continue;
        }
        let words = names.iter().map(|name| {
            let cell = cells.iter().find(|cell| cell.server == **name);
            cell.map_or(String::new(), |cell| word(cell))
        });
        let _ = writeln!(out, "| `{slug}` | {} |", words.collect::<Vec<_>>().join(" | "));
    }
    if !nobody.is_empty() {
        let _ = writeln!(out, "\nNo server here has the features for {}.", nobody.join(", "));
    }
}

/// What rollouts cost: a table for each scenario.
fn rollouts(out: &mut String, results: &Results, prefix: &str) {
    for grid in grids(results) {
        let labels: Vec<&str> = grid.servers.iter().map(|name| &name[prefix.len()..]).collect();
        let _ = writeln!(out, "\n{}\n\n| topology | {} |", caption(grid.scenario), labels.join(" | "));
        let _ = writeln!(out, "|---|{}", "---|".repeat(labels.len()));
        for (topology, cells) in &grid.rows {
            let word = |cell: &Option<&Cell>| match cell {
                Some(cell) if cell.verdict == Verdict::Fail => format!("**{}**", words(cell)),
                Some(cell) => words(cell),
                None => String::new(),
            };
            let _ = writeln!(out, "| `{topology}` | {} |", cells.iter().map(word).collect::<Vec<_>>().join(" | "));
        }
    }
}

/// The verdict; where not all repeats came to the same, how many of them passed.
fn word(cell: &Cell) -> String {
    let word = match cell.verdict {
        Verdict::Pass | Verdict::Warn => cell.verdict.word().to_owned(),
        Verdict::Unsupported => "–".to_owned(),
        verdict => format!("**{}**", verdict.word()),
    };
    match cell.repeats {
        repeats if (1..repeats.of).contains(&repeats.pass) => format!("{word} {}/{}", repeats.pass, repeats.of),
        _ => word,
    }
}

/// What is not in order, rule by rule: failures first.
fn findings(out: &mut String, cells: &[&Cell], server: Option<&Server>) {
    let known = |cell: &Cell, rule: &RuleVerdict| {
        let known = server.and_then(|server| {
            let here = |known: &&Known| known.is_of(&cell.server, &cell.topology);
            server.known.entries.iter().filter(here).find(|known| known.covers(&cell.scenario, &rule.rule))
        });
        known.filter(|_| rule.verdict == Verdict::Fail)
    };
    let mut found: BTreeMap<(usize, &str, &str), Vec<Seen>> = BTreeMap::new();
    for cell in cells {
        for rule in cell.rules.iter().filter(|rule| rule.verdict != Verdict::Pass) {
            let severity = Verdict::BY_SEVERITY.iter().rev().position(|verdict| *verdict == rule.verdict);
            let reason = known(cell, rule).map_or("", |known| &known.reason);
            found.entry((severity.unwrap_or_default(), &rule.rule, reason)).or_default().push((cell, rule));
        }
        if cell.rules.is_empty() && cell.verdict != Verdict::Unsupported {
            let reason = cell.reason.as_deref().unwrap_or_default();
            let _ = writeln!(out, "- **{}** `{}`: {reason}", cell.verdict.word(), place(cell));
        }
    }
    if found.is_empty() && cells.iter().all(|cell| !cell.rules.is_empty() || cell.verdict == Verdict::Unsupported) {
        let _ = writeln!(out, "Every rule holds.");
    }
    for ((_, rule, _), seen) in &found {
        let (first, verdict) = seen[0];
        let scenarios: Vec<String> = seen.iter().map(|(cell, _)| format!("`{}`", place(cell))).collect();
        let word = match verdict.verdict {
            Verdict::Warn => "warn".to_owned(),
            verdict => format!("**{}**", verdict.word()),
        };
        let _ = write!(out, "- {word} `{rule}` in {}. Seen: {}.", scenarios.join(", "), verdict.actual);
        if let Some(known) = known(first, verdict) {
            let _ = write!(out, " {}", sentence(&known.reason));
            if let Some(link) = &known.link {
                let _ = write!(out, " <{link}>");
            }
        }
        out.push('\n');
    }
}

fn sentence(reason: &str) -> String {
    let mut letters = reason.trim_end_matches('.').chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// The folder, with its slash, that all servers are in.
fn common_folder<'n>(names: &[&'n str]) -> &'n str {
    let folder = |name: &'n str| name.rfind('/').map_or("", |slash| &name[..=slash]);
    let first = names.first().map_or("", |name| folder(name));
    if names.iter().all(|name| folder(name) == first) { first } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Topology;
    use crate::results::Outcome;
    use crate::rules::{Basis, Level};

    fn outcome(verdict: Verdict) -> Outcome {
        let rule = RuleVerdict {
            rule: "term-ends-process".to_owned(),
            level: Level::Must,
            basis: Basis::Wire,
            verdict,
            expected: "it ends".to_owned(),
            actual: "it did not".to_owned(),
            evidence: Vec::new(),
            reason: None,
            share: None,
        };
        Outcome { rules: vec![rule], ..Outcome::without_run(verdict, "") }
    }

    #[test]
    fn a_failure_is_shown_with_its_count_and_its_reason() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("frameworks").join("slow");
        std::fs::create_dir_all(&folder).unwrap();
        let spec = "kind = \"framework\"\nlanguage = \"go\"\nsummary = \"Slow 1.0\"\nfeatures = []\nrun = [\"true\"]";
        std::fs::write(folder.join("server.toml"), spec).unwrap();
        let known = "[[known]]\npattern = \"idle-exit/*\"\nreason = \"it waits\"\nlink = \"https://example.org/1\"";
        std::fs::write(folder.join("known.toml"), known).unwrap();
        let server = Server::load(root.path(), &folder).unwrap();

        let mut results = Results::new(BTreeMap::new());
        for (slug, verdict) in [
            ("idle-exit", Verdict::Pass),
            ("idle-exit", Verdict::Fail),
            ("many-in-flight", Verdict::Pass),
            ("overload-sheds", Verdict::Unsupported),
        ] {
            let outcome = match verdict {
                Verdict::Unsupported => Outcome::without_run(verdict, ""),
                verdict => outcome(verdict),
            };
            let scenario = crate::scenario::find(slug).unwrap();
            results.add(&server, &Topology::direct(), scenario, &outcome);
        }
        let page = markdown(&results, &[server]);
        for expected in [
            "--server 'frameworks/*' --repeat 2 ",
            "| scenario | slow |",
            "| `idle-exit` | **fail** 1/2 |",
            "| `many-in-flight` | pass |",
            "features for `overload-sheds`.",
            "## slow\n\nSlow 1.0.",
            "- **fail** `term-ends-process` in `idle-exit`. Seen: it did not. It waits. <https://example.org/1>",
        ] {
            assert!(page.contains(expected), "{expected:?} is not in:\n{page}");
        }
    }
}
