//! `drainspec docs`: writes the pages about rules and scenarios, from the same data as `explain`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::rulebook::{self, RuleFacts, ServerMarkers};
use super::{CliError, Status, project};
use crate::catalog::Feature;
use crate::catalog::markers::Marker;
use crate::rules::{self, Rule};
use crate::scenario::{self, Scenario};

/// The first line of every page: a page without it is not ours to remove.
const GENERATED: &str = "<!-- Generated: do not edit. `cargo run -- docs docs` renews it. -->\n";

/// Arguments of `drainspec docs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder `docs` of the checkout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Folder with the servers [default: `servers`, here or above]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let markers = rulebook::reference_markers(&project::servers_folder(args.servers.as_deref())?)?;
    let pages = pages(&markers);
    let rules = args.folder.join("rules");
    create(&rules)?;
    for path in generated(&rules)? {
        let page = path.strip_prefix(&args.folder).unwrap_or(&path);
        if !pages.contains_key(page) {
            std::fs::remove_file(&path).map_err(|source| CliError::Io { path: path.clone(), source })?;
        }
    }
    for (page, text) in &pages {
        let path = args.folder.join(page);
        std::fs::write(&path, text).map_err(|source| CliError::Io { path: path.clone(), source })?;
    }
    super::print(&format!("{} pages in {}\n", pages.len(), args.folder.display()))?;
    Ok(Status::AsExpected)
}

fn create(folder: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(folder).map_err(|source| CliError::Io { path: folder.to_owned(), source })
}

/// The pages in a folder that this command wrote.
fn generated(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let io = |source| CliError::Io { path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if std::fs::read_to_string(&path).is_ok_and(|text| text.starts_with(GENERATED)) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Every page, by its path below `docs`.
fn pages(servers: &[ServerMarkers]) -> BTreeMap<PathBuf, String> {
    let rules = rules::all().map(|rule| {
        let path = Path::new("rules").join(format!("{}.md", rule.slug));
        (path, GENERATED.to_owned() + &rule_page(&RuleFacts::of(rule, servers)))
    });
    let index = ("rules/README.md".into(), GENERATED.to_owned() + &rule_index());
    let scenarios = ("scenarios.md".into(), GENERATED.to_owned() + &scenario_page());
    rules.chain([index, scenarios]).collect()
}

fn rule_index() -> String {
    let mut page = String::from(
        "# Rules\n\n\
         A rule is one sentence that must hold, judged from what was recorded while a scenario was played. Its basis \
         is `wire` where a specification says so or a client can see the loss, and `contract` where the \
         [contract of the reference servers](../../servers/CONTRACT.md) says so: a server that has not promised it \
         is only warned. `drainspec explain RULE` shows the same pages in a terminal.\n\n\
         | rule | level | basis | sentence | scenarios |\n|---|---|---|---|---|\n",
    );
    for rule in rules::all() {
        let scenarios = list(RuleFacts::of(rule, &[]).scenarios.into_iter().map(|s| scenario_link(s, "../")));
        let (slug, level, basis) = (rule.slug, rule.level.word(), rule.basis.word());
        line(
            &mut page,
            &format!("| [`{slug}`]({slug}.md) | {level} | {basis} | {} | {scenarios} |", cell(rule.sentence)),
        );
    }
    page
}

fn rule_page(facts: &RuleFacts) -> String {
    let mut page = format!("# `{}`\n\n**{}**\n\n", facts.rule.slug, facts.rule.sentence);
    line(&mut page, &rulebook::demand(facts.rule));
    if let Some(text) = facts.text {
        line(&mut page, &format!("\n## Why\n\n{}\n\n## Sources\n", text.why));
        text.sources.iter().for_each(|source| line(&mut page, &format!("- {}", source_link(source))));
    }
    line(&mut page, "\n## Proved by\n");
    for scenario in &facts.scenarios {
        line(&mut page, &format!("- {}: {}", scenario_link(scenario, "../"), scenario.summary));
    }
    line(&mut page, "\n## How to keep it");
    for (key, name) in rulebook::LANGUAGES {
        line(&mut page, &format!("\n### {name}"));
        if let Some(remedy) = facts.text.and_then(|text| text.remedy.get(key)) {
            line(&mut page, &format!("\n{remedy}"));
        }
        let own = facts.kept.iter().filter(|kept| kept.server.language == key);
        for (kept, marker) in own.flat_map(|kept| kept.markers.iter().map(move |marker| (kept, marker))) {
            line(&mut page, &format!("\n{}", marked_code(kept.server, marker)));
        }
    }
    page.push_str("\n[All rules](README.md)\n");
    page
}

/// A link to the line of a marker, and the code around it.
fn marked_code(server: &ServerMarkers, marker: &Marker) -> String {
    let (path, line) = (server.path(marker), marker.line);
    let highlight = match server.language.as_str() {
        "node" => "js",
        language => language,
    };
    format!("[{path}:{line}](../../{path}#L{line})\n\n```{highlight}\n{}\n```", marker.excerpt.lines.join("\n"))
}

fn scenario_page() -> String {
    let mut page = String::from(
        "# Scenarios\n\n\
         A scenario is what clients do and which signal is sent when; the [rules](rules/README.md) judge what was \
         recorded. `drainspec explain SCENARIO` shows its parameters, too.\n",
    );
    let mut group = "";
    let mut needed: Vec<Feature> = Vec::new();
    for scenario in scenario::all() {
        if scenario.group != group {
            group = scenario.group;
            line(&mut page, &format!("\n## {group}\n\n| scenario | what happens | needs | rules |\n|---|---|---|---|"));
        }
        needed.extend(scenario.needs);
        let slug = scenario.slug;
        let needs = list(scenario.needs.iter().map(|feature| format!("[{0}](#needs)", feature.word())));
        let rules = list(scenario.rules.iter().filter_map(|slug| rules::find(slug)).map(rule_link));
        let summary = cell(scenario.summary);
        line(&mut page, &format!("| <a id=\"{slug}\"></a>`{slug}` | {summary} | {needs} | {rules} |"));
    }
    needed.sort();
    needed.dedup();
    line(&mut page, "\n## Needs\n\nWhere a server lacks what a scenario needs, its verdict is `unsupported`.\n");
    line(&mut page, "| feature in `server.toml` | what it is |\n|---|---|");
    for feature in needed {
        line(&mut page, &format!("| `{}` | {} |", feature.word(), cell(feature.meaning())));
    }
    page
}

/// Makes a link of `RFC 9112, 9.6 Tear-down` and of `owner/repository#1`; other sources bring their address.
fn source_link(source: &str) -> String {
    let rfc = source.strip_prefix("RFC ").and_then(|rest| rest.split_once(", "));
    if let Some((number, place)) = rfc
        && let Some((section, _)) = place.split_once(' ')
    {
        return format!("[{source}](https://www.rfc-editor.org/rfc/rfc{number}#section-{section})");
    }
    let issue = source.split_once('#').filter(|(repository, number)| {
        repository.split('/').count() == 2 && number.chars().all(|digit| digit.is_ascii_digit())
    });
    match issue {
        Some((repository, number)) => format!("[{source}](https://github.com/{repository}/issues/{number})"),
        None => source.to_owned(),
    }
}

fn scenario_link(scenario: &Scenario, up: &str) -> String {
    format!("[`{slug}`]({up}scenarios.md#{slug})", slug = scenario.slug)
}

fn rule_link(rule: &Rule) -> String {
    format!("[`{slug}`](rules/{slug}.md)", slug = rule.slug)
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Text that may stand in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn line(page: &mut String, text: &str) {
    let _ = writeln!(page, "{text}"); // a String takes everything
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_ours_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules");
        std::fs::create_dir(&rules).unwrap();
        std::fs::write(rules.join("gone.md"), GENERATED).unwrap();
        std::fs::write(rules.join("mine.md"), "# Mine\n").unwrap();
        let servers = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers"));
        run(&Args { folder: folder.path().to_owned(), servers }).unwrap();
        assert!(!rules.join("gone.md").exists());
        assert!(rules.join("mine.md").exists());
    }

    #[test]
    fn sources_become_links() {
        let tear_down = "[RFC 9112, 9.6 Tear-down](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)";
        assert_eq!(source_link("RFC 9112, 9.6 Tear-down"), tear_down);
        assert_eq!(source_link("golang/go#22682"), "[golang/go#22682](https://github.com/golang/go/issues/22682)");
        for plain in ["listen(2)", "Docs: https://example.org/a/b#c", "CVE-2007-6750 (Slowloris)"] {
            assert_eq!(source_link(plain), plain);
        }
    }

    #[test]
    fn every_link_between_pages_leads_somewhere() {
        let pages = pages(&[]);
        let scenarios = &pages[Path::new("scenarios.md")];
        for (path, text) in &pages {
            for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                if file.starts_with("http") || file.starts_with("../../servers/") {
                    continue;
                }
                let page = match (file, path.starts_with("rules")) {
                    ("", _) => path.clone(),
                    (file, true) if file.starts_with("../") => PathBuf::from(&file[3..]),
                    (file, true) => Path::new("rules").join(file),
                    (file, false) => PathBuf::from(file),
                };
                assert!(pages.contains_key(&page), "{}: {target}", path.display());
                let anchored =
                    anchor.is_empty() || anchor == "needs" || scenarios.contains(&format!("id=\"{anchor}\""));
                assert!(anchored, "{}: {target}", path.display());
            }
        }
    }
}
