//! Timelines that were recorded by earlier versions, with what they were judged to be: an old run is judged the same
//! for ever. Where a rule is changed so that one of them comes to another verdict, it is another rule.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use drainspec::timeline::{FORMAT, read};
use drainspec::verdict::judge;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/timelines")
}

/// Name and text of each.
fn recorded() -> BTreeMap<String, String> {
    let paths = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
    let name = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn an_old_run_is_judged_as_it_was() {
    let verdicts = std::fs::read_to_string(folder().join("verdicts.toml")).unwrap();
    let expected: BTreeMap<String, BTreeMap<String, String>> = toml::from_str(&verdicts).unwrap();
    let judged = recorded().into_iter().map(|(name, text)| {
        let timeline = read(text.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!((1..=FORMAT).contains(&timeline.header.format), "{name}");
        let rules = judge(&timeline).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, rules.into_iter().map(|rule| (rule.rule, rule.verdict.word().to_owned())).collect())
    });
    assert_eq!(judged.collect::<BTreeMap<_, BTreeMap<String, String>>>(), expected);
    for verdict in ["pass", "warn", "fail", "inconclusive"] {
        let there = expected.values().flat_map(BTreeMap::values).any(|found| found == verdict);
        assert!(there, "no timeline comes to `{verdict}`");
    }
}

#[test]
fn they_are_small_and_tell_nothing_of_a_machine() {
    for (name, text) in recorded() {
        assert!(text.len() < 50_000, "{name}: {} bytes", text.len());
        for path in ["/home/", "/root/", "/tmp/", "/Users/"] {
            assert!(!text.contains(path), "{name} contains {path}");
        }
    }
}
