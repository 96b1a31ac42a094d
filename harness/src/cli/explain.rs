//! `drainspec explain`: everything there is to know about a rule, a scenario or a topology.

mod topology;

use std::path::{Path, PathBuf};

use anstyle::Style;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::rulebook::{self, RuleFacts, ServerMarkers};
use super::{Among, CliError, Status, project};
use crate::catalog::Topology;
use crate::catalog::markers::Marker;
use crate::report::paint;
use crate::rules;
use crate::scenario::{self, Scenario};

/// Width of prose, where the terminal has as much.
const PROSE: usize = 100;
/// The narrowest column in which code is still readable.
const COLUMN: usize = 58;
/// Between two columns.
const GAP: &str = "  ";

/// Arguments of `drainspec explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Slug of a rule or a scenario, or name of a topology such as `nginx/withdraw`
    #[arg(value_name = "RULE|SCENARIO|TOPOLOGY")]
    name: String,
    /// As text, or as JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Folder with the servers [default: `servers`, here or above]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,
    /// Folder of a matrix run, for what was found behind a topology
    #[arg(long, value_name = "DIR", default_value = "drainspec-out")]
    run: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    // A rule and a scenario may share a name: then both are shown.
    let (rule, scenario) = (rules::find(&args.name), scenario::find(&args.name));
    let topologies = topologies(args.servers.as_deref())?;
    let topology = topologies.iter().find(|topology| topology.name == args.name);
    if rule.is_none() && scenario.is_none() && topology.is_none() {
        return Err(unknown(&args.name, &topologies));
    }
    let marked = rule.map(|_| reference_markers(args.servers.as_deref())).transpose()?;
    let rule = rule.map(|rule| RuleFacts::of(rule, marked.as_ref().and_then(Option::as_deref).unwrap_or(&[])));
    match args.format {
        Format::Json => {
            let items = rule.iter().map(rule_json).chain(scenario.map(scenario_json));
            let items = items.chain(topology.map(topology::json)).collect();
            super::print(&format!("{:#}\n", Value::Array(items)))?;
        }
        Format::Text => {
            let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
            let rule = rule.map(|facts| rule_text(&facts, matches!(marked, Some(None)), width));
            let topology = topology.map(|one| topology::text(one, &args.run, width)).transpose()?;
            let scenario = scenario.map(|scenario| scenario_text(scenario, width));
            let parts: Vec<String> = rule.into_iter().chain(scenario).chain(topology).collect();
            super::print(&parts.join("\n"))?;
        }
    }
    Ok(Status::AsExpected)
}

/// The markers of the reference servers; `None` where drainspec does not run inside a checkout.
fn reference_markers(folder: Option<&Path>) -> Result<Option<Vec<ServerMarkers>>, CliError> {
    match project::servers_folder(folder) {
        Ok(folder) => rulebook::reference_markers(&folder).map(Some),
        Err(CliError::NoServers { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The topologies; without a checkout only that in which nothing stands between.
fn topologies(folder: Option<&Path>) -> Result<Vec<Topology>, CliError> {
    match project::servers_folder(folder) {
        Ok(folder) => project::topologies(&folder, None),
        Err(CliError::NoServers { .. }) => Ok(vec![Topology::direct()]),
        Err(error) => Err(error),
    }
}

fn unknown(name: &str, topologies: &[Topology]) -> CliError {
    let slugs = rules::all().map(|rule| rule.slug).chain(scenario::all().map(|scenario| scenario.slug));
    let names = slugs.chain(topologies.iter().map(|topology| topology.name.as_str()));
    CliError::Unknown { name: name.to_owned(), known: Among(names.map(str::to_owned).collect()) }
}

// As JSON.

fn rule_json(facts: &RuleFacts) -> Value {
    let places = facts.kept.iter().flat_map(|kept| kept.markers.iter().map(|marker| place(kept.server, marker)));
    json!({
        "kind": "rule",
        "name": facts.rule.slug,
        "level": facts.rule.level,
        "basis": facts.rule.basis,
        "summary": facts.rule.sentence,
        "why": facts.text.map(|text| &text.why),
        "sources": facts.text.map(|text| &text.sources),
        "remedy": facts.text.map(|text| &text.remedy),
        "scenarios": facts.scenarios.iter().map(|scenario| scenario.slug).collect::<Vec<_>>(),
        "markers": places.collect::<Vec<_>>(),
    })
}

fn place(server: &ServerMarkers, marker: &Marker) -> Value {
    json!({
        "server": server.name,
        "language": server.language,
        "file": server.path(marker),
        "line": marker.line,
        "first_line": marker.excerpt.first,
        "lines": marker.excerpt.lines,
    })
}

fn scenario_json(scenario: &'static Scenario) -> Value {
    json!({
        "kind": "scenario",
        "name": scenario.slug,
        "group": scenario.group,
        "summary": scenario.summary,
        "needs": scenario.needs,
        "parameters": rulebook::parameters(scenario).into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "rules": scenario.rules,
    })
}

// As text.

fn rule_text(facts: &RuleFacts, no_checkout: bool, width: Option<usize>) -> String {
    let mut page = Page::new(width);
    page.title("Rule", facts.rule.slug);
    page.prose(facts.rule.sentence);
    page.prose(&rulebook::demand(facts.rule));
    if let Some(text) = facts.text {
        page.heading("Why");
        page.prose(&text.why);
        page.heading("Sources");
        text.sources.iter().for_each(|source| page.item("- ", source));
        page.heading("How to keep it");
        for (key, name) in rulebook::LANGUAGES {
            if let Some(remedy) = text.remedy.get(key) {
                page.item(&format!("{:<9}", format!("{name}:")), remedy);
            }
        }
    }
    page.heading("Proved by");
    let longest = facts.scenarios.iter().map(|scenario| scenario.slug.len()).max().unwrap_or(0);
    for scenario in &facts.scenarios {
        page.item(&format!("{:<longest$}  ", scenario.slug), scenario.summary);
    }
    page.heading("Kept by the reference servers");
    let blocks = facts.kept.iter().flat_map(|kept| kept.markers.iter().map(|marker| block(kept.server, marker)));
    let blocks: Vec<Vec<String>> = blocks.collect();
    if no_checkout {
        page.prose("(The lines are shown where drainspec runs inside a checkout, or with --servers DIR.)");
    } else if blocks.is_empty() {
        page.prose("(No line of theirs is marked.)");
    }
    page.blocks(&blocks);
    page.text
}

fn scenario_text(scenario: &'static Scenario, width: Option<usize>) -> String {
    let mut page = Page::new(width);
    page.title("Scenario", scenario.slug);
    page.prose(scenario.summary);
    page.prose(&format!("Group: {}.", scenario.group));
    page.heading("Needs of a server");
    if scenario.needs.is_empty() {
        page.prose("nothing but an answer to `GET /`");
    }
    for feature in scenario.needs {
        page.item(&format!("{:<15}", feature.word()), feature.meaning());
    }
    page.heading("Parameters (durations in seconds)");
    for (param, value) in rulebook::parameters(scenario) {
        page.item(&format!("{:<18}", param.slug()), &value.to_string());
    }
    page.heading("Judged by");
    let longest = scenario.rules.iter().map(|slug| slug.len()).max().unwrap_or(0);
    for rule in scenario.rules.iter().filter_map(|slug| rules::find(slug)) {
        page.item(&format!("{:<longest$}  {:<6}  ", rule.slug, rule.level.word()), rule.sentence);
    }
    page.text
}

/// The place and the lines of a marker; the line of the marker itself is pointed at.
fn block(server: &ServerMarkers, marker: &Marker) -> Vec<String> {
    let numbered = marker.excerpt.lines.iter().enumerate().map(|(at, line)| {
        let number = marker.excerpt.first + at;
        let mark = if number == marker.line { "▶" } else { " " };
        format!("{mark}{number:>4}  {}", line.replace('\t', "    "))
    });
    std::iter::once(format!("{}:{}", server.path(marker), marker.line)).chain(numbered).collect()
}

/// Text that grows from the top.
struct Page {
    text: String,
    width: Option<usize>,
}

impl Page {
    fn new(width: Option<usize>) -> Self {
        Self { text: String::new(), width }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn title(&mut self, kind: &str, name: &str) {
        self.line(&format!("{kind} {}", paint(Style::new().bold(), name)));
    }

    fn heading(&mut self, heading: &str) {
        self.line("");
        self.line(&paint(Style::new().bold(), heading));
    }

    fn prose(&mut self, text: &str) {
        self.item("", text);
    }

    /// A label, and a text beside it.
    fn item(&mut self, label: &str, text: &str) {
        let first = format!("  {label}");
        let rest = " ".repeat(first.chars().count());
        let width = self.width.unwrap_or(PROSE).clamp(first.len() + 20, PROSE.max(first.len() + 20));
        let options = unhyphenated(width).initial_indent(&first).subsequent_indent(&rest).break_words(false);
        textwrap::wrap(text, options).iter().for_each(|line| self.line(line));
    }

    /// Side by side where the terminal is wide enough, otherwise one after the other.
    fn blocks(&mut self, blocks: &[Vec<String>]) {
        let columns = match self.width.map_or(1, |width| width / (COLUMN + GAP.len())) {
            0 | 1 => 1,
            2 | 3 => 2,
            _ => 4,
        };
        let width = self.width.filter(|_| columns > 1).map(|width| width / columns - GAP.len());
        for (row, blocks) in blocks.chunks(columns).enumerate() {
            if row > 0 {
                self.line("");
            }
            let blocks: Vec<Vec<String>> = blocks.iter().map(|block| fold(block, width)).collect();
            for at in 0..blocks.iter().map(Vec::len).max().unwrap_or(0) {
                let cell = |block: &Vec<String>| {
                    let text = block.get(at).map_or("", String::as_str);
                    let padded = format!("{text:<width$}", width = width.unwrap_or(0));
                    if at == 0 { paint(Style::new().underline(), &padded) } else { padded }
                };
                let cells: Vec<String> = blocks.iter().map(cell).collect();
                self.line(format!("{GAP}{}", cells.join(GAP)).trim_end());
            }
        }
    }
}

/// Names and addresses are full of hyphens: nobody could copy them.
fn unhyphenated(width: usize) -> textwrap::Options<'static> {
    textwrap::Options::new(width).word_splitter(textwrap::WordSplitter::NoHyphenation)
}

/// Breaks the lines that are wider than a column; what is left stands below their code.
fn fold(lines: &[String], width: Option<usize>) -> Vec<String> {
    let Some(width) = width else { return lines.to_vec() };
    let mut folded = Vec::new();
    for line in lines {
        let code = line.chars().skip(5).take_while(|c| *c == ' ').count() + 5;
        let rest = " ".repeat((code + 2).min(width / 2));
        let options = unhyphenated(width).subsequent_indent(&rest);
        folded.extend(textwrap::wrap(line, options).into_iter().map(std::borrow::Cow::into_owned));
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four() -> Vec<Vec<String>> {
        ["a", "b", "c", "d"]
            .map(|name| vec![format!("servers/{name}/x:2"), "    1  one".to_owned(), "▶   2      two".to_owned()])
            .to_vec()
    }

    fn laid_out(width: Option<usize>) -> Vec<String> {
        let mut page = Page::new(width);
        page.blocks(&four());
        anstream::adapter::strip_str(&page.text).to_string().lines().map(str::to_owned).collect()
    }

    #[test]
    fn four_servers_stand_side_by_side_where_there_is_room() {
        let wide = laid_out(Some(250));
        assert_eq!(wide.len(), 3);
        assert!(["a", "b", "c", "d"].iter().all(|name| wide[0].contains(&format!("servers/{name}/x:2"))), "{wide:?}");
        assert_eq!(laid_out(Some(130)).len(), 7, "two rows of two, and a line between");
    }

    #[test]
    fn in_a_narrow_terminal_they_stand_one_after_the_other() {
        for width in [None, Some(80)] {
            let lines = laid_out(width);
            assert_eq!(lines.len(), 4 * 3 + 3, "{lines:?}");
            assert_eq!(lines[2], "  ▶   2      two");
        }
    }

    #[test]
    fn a_long_line_loses_nothing() {
        let line = format!("▶  12      call({})", ["argument"; 12].join(", "));
        let folded = fold(std::slice::from_ref(&line), Some(60));
        assert!(folded.len() > 1 && folded.iter().all(|part| part.chars().count() <= 60), "{folded:?}");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&folded.join(" ")), words(&line));
    }

    #[test]
    fn every_rule_and_scenario_can_be_explained() {
        for rule in rules::all() {
            let text = rule_text(&RuleFacts::of(rule, &[]), true, None);
            let page = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(page.contains(rule.sentence), "{page}");
            for source in &rules::text(rule.slug).unwrap().sources {
                assert!(page.contains(source), "{source}: {page}");
            }
        }
        for scenario in scenario::all() {
            let text = scenario_text(scenario, Some(80));
            assert!(scenario.rules.iter().all(|rule| text.contains(rule)), "{text}");
        }
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        let error = unknown("listener-close-first", &[]).to_string();
        assert!(error.contains("did you mean listener-closes-first"), "{error}");
    }
}
