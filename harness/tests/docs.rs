//! The generated pages are what the program would write now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;

/// How they are renewed, from the root of the checkout.
const RENEW: &str = "cargo run -- docs docs";

#[test]
fn the_generated_pages_are_up_to_date() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let fresh = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_drainspec"));
    command.arg("docs").arg(fresh.path()).arg("--servers").arg(checkout.join("servers")).assert().success();

    let (written, kept) = (pages(fresh.path()), pages(&checkout.join("docs")));
    assert!(written.len() > 2, "`drainspec docs` wrote {} pages", written.len());
    let mut stale = Vec::new();
    for (page, text) in &written {
        match kept.get(page) {
            None => stale.push(format!("docs/{} is missing", page.display())),
            Some(old) if old != text => stale.push(format!("docs/{}: {}", page.display(), first_difference(old, text))),
            Some(_) => {}
        }
    }
    let gone = kept.keys().filter(|page| !written.contains_key(*page));
    stale.extend(gone.map(|page| format!("docs/{} is about nothing that exists", page.display())));
    assert!(stale.is_empty(), "renew the pages with `{RENEW}`:\n{}", stale.join("\n"));
}

#[test]
fn the_pictures_of_the_race_are_those_of_the_recorded_runs() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = std::fs::read_to_string(docs.join("pod-model.md")).unwrap();
    for run in ["no-prestop", "prestop-sleep"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drainspec"));
        command.args(["report", "--timeline"]).arg(docs.join("races").join(run).with_extension("ndjson"));
        let drawn = String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap();
        let first: Vec<&str> = drawn.split("\n\n").take(2).collect();
        assert!(page.contains(&first.join("\n\n")), "docs/pod-model.md lacks the picture of {run}:\n{drawn}");
    }
}

/// The pages of `docs` that are generated: all of `rules`, and the table of scenarios.
fn pages(docs: &Path) -> BTreeMap<PathBuf, String> {
    let rules = std::fs::read_dir(docs.join("rules")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let paths = rules.chain([docs.join("scenarios.md")]).filter(|path| path.is_file());
    paths
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (path.strip_prefix(docs).unwrap().to_owned(), text)
        })
        .collect()
}

fn first_difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let at = (0..old.len().max(new.len())).find(|at| old.get(*at) != new.get(*at)).unwrap_or(0);
    let line = |lines: &[&str]| lines.get(at).map_or("the end".to_owned(), |line| format!("`{line}`"));
    format!("line {} is {}, not {}", at + 1, line(&old), line(&new))
}
