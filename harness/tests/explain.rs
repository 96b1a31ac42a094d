//! `drainspec explain` and `drainspec doctor`, as a user runs them.

use std::collections::BTreeSet;
use std::path::Path;

use assert_cmd::Command;
use predicates::str::contains;
use serde_json::Value;

fn drainspec(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drainspec"));
    command.args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command
}

fn json(command: &mut Command) -> Vec<Value> {
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_name_of_both_kinds_is_explained_as_both() {
    let items = json(&mut drainspec(&["explain", "overload-sheds", "--format", "json"]));
    let kinds: Vec<&str> = items.iter().filter_map(|item| item["kind"].as_str()).collect();
    assert_eq!(kinds, ["rule", "scenario"]);
    let marked = items[0]["markers"].as_array().unwrap().iter().filter_map(|marker| marker["language"].as_str());
    assert_eq!(marked.collect::<BTreeSet<_>>(), BTreeSet::from(["go", "node", "python", "rust"]));
}

#[test]
fn the_marker_itself_is_among_the_lines_shown() {
    for rule in ["listener-closes-first", "cut-is-visible"] {
        let items = json(&mut drainspec(&["explain", rule, "--format", "json"]));
        for marker in items[0]["markers"].as_array().unwrap() {
            let number = |key: &str| marker[key].as_u64().unwrap() as usize;
            let line = marker["lines"][number("line") - number("first_line")].as_str().unwrap();
            assert!(line.contains("rule: ") && line.contains(rule), "{marker:#}");
        }
    }
}

#[test]
fn an_unknown_name_is_a_usage_error_with_the_nearest_one() {
    drainspec(&["explain", "listener-close-first"])
        .assert()
        .code(2)
        .stderr(contains("did you mean listener-closes-first"));
}

#[test]
fn outside_of_a_checkout_a_rule_is_explained_without_lines() {
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = drainspec(&["explain", "cut-is-visible"]);
    command.current_dir(elsewhere.path()).assert().success().stdout(contains("inside a checkout"));
    let mut misled = drainspec(&["explain", "cut-is-visible", "--servers", "no-such-folder"]);
    misled.current_dir(elsewhere.path()).assert().code(4).stderr(contains("no-such-folder"));
}

#[test]
fn doctor_says_what_is_missed_where_nothing_is_installed() {
    let empty = tempfile::tempdir().unwrap();
    let mut command = drainspec(&["doctor", "--format", "json"]);
    command.env("PATH", empty.path());
    let items = json(&mut command);
    let missing = items.iter().filter(|item| item["state"] == "missing").filter_map(|item| item["name"].as_str());
    let missing: BTreeSet<&str> = missing.collect();
    assert!(missing.is_superset(&BTreeSet::from(["cargo", "go", "node", "npm", "python3", "rustc"])), "{missing:?}");
    // What people ask about, though nobody has to have it.
    let optional: BTreeSet<&str> =
        items.iter().filter(|item| item["optional"] == true).filter_map(|item| item["name"].as_str()).collect();
    let tools = BTreeSet::from(["oha", "nginx", "haproxy", "docker", "kubectl"]);
    assert!(missing.is_superset(&tools) && optional.is_superset(&tools), "{missing:?}, {optional:?}");
    let go = items.iter().find(|item| item["name"] == "go").unwrap();
    assert!(go["servers"].as_array().unwrap().contains(&"go".into()), "{go:#}");
    command.assert().code(4);
}

#[test]
fn the_exit_status_of_doctor_says_whether_all_is_there() {
    let mut command = drainspec(&["doctor", "--format", "json"]);
    let all = json(&mut command).iter().all(|item| item["state"] == "ok" || item["optional"] == true);
    command.assert().code(if all { 0 } else { 4 });
}
