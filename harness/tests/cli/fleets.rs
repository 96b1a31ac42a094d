//! Fleets as a user plays them: balancers that do harm are found, one that cannot be had is said, and nothing stays behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

use crate::servers::{DRAINSPEC, PATIENCE};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A rollout of the Python reference behind these topologies, with its results below `out`.
fn rollout(out: &Path, topology: &str, more: &[&str]) -> Command {
    let mut command = Command::new(DRAINSPEC);
    command.args(["matrix", "--server", "python", "--scenario", "rolling-restart", "--topology", topology]);
    command.args(more).arg("--out").arg(out).current_dir(root()).env("NO_COLOR", "1");
    command
}

/// As [`rollout`], behind the topologies of these tests.
fn faulty(out: &Path, topology: &str, more: &[&str]) -> Command {
    let folder = root().join("harness/tests/topologies");
    let mut command = rollout(out, topology, more);
    command.arg("--topologies").arg(folder);
    command
}

fn cell(out: &Path) -> Value {
    let results: Value = serde_json::from_slice(&std::fs::read(out.join("results.json")).unwrap()).unwrap();
    crate::results::assert_valid(&results);
    results["cells"][0].clone()
}

pub fn verdict(cell: &Value, rule: &str) -> String {
    let rules = cell["rules"].as_array().unwrap();
    let found = rules.iter().find(|one| one["rule"] == rule).unwrap_or_else(|| panic!("no {rule}: {cell:#}"));
    found["verdict"].as_str().unwrap().to_owned()
}

#[test]
fn a_balancer_that_sends_posts_twice_is_found() {
    let out = tempfile::tempdir().unwrap();
    let done = faulty(out.path(), "nginx/doubles-posts", &[]).output().unwrap();
    let cell = cell(out.path());
    assert_eq!(done.status.code(), Some(1), "{cell:#}");
    assert_eq!(verdict(&cell, "nothing-done-twice"), "fail", "{cell:#}");
    // Nobody misses anything, so only who counts what was done can see it.
    assert_eq!(verdict(&cell, "nothing-lost-in-roll"), "pass", "{cell:#}");
    let shown = String::from_utf8_lossy(&done.stdout);
    assert!(shown.contains(" twice !"), "{shown}");
}

#[test]
fn a_balancer_that_fails_one_request_in_fifty_is_found() {
    let out = tempfile::tempdir().unwrap();
    let rate = ["--rate", "150"];
    let status = faulty(out.path(), "nginx/answers-502", &rate).output().unwrap().status;
    assert!(matches!(status.code(), Some(1 | 5)), "{status}");
    let cell = cell(out.path());
    // Some come before anything was done to the fleet, and then nobody knows what the roll is to blame for.
    let found = verdict(&cell, "nothing-lost-in-roll");
    assert!(found == "fail" || found == "inconclusive", "{cell:#}");
    let actual = cell["rules"][0]["actual"].as_str().unwrap();
    assert!(actual.contains("answered 502") || actual.contains("missed before anything was done"), "{actual}");
}

#[test]
fn a_reload_that_ends_the_connections_of_idle_clients_is_found() {
    // A race: a client asks just when its connection ends.
    const TRIES: usize = 6;
    let found = (0..TRIES).any(|_| {
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new(DRAINSPEC);
        command.args(["matrix", "--server", "python", "--scenario", "balancer-reload", "--topology", "haproxy/cuts-*"]);
        command.arg("--topologies").arg(root().join("harness/tests/topologies"));
        command.args(["--rate", "300"]).arg("--out").arg(out.path()).current_dir(root());
        command.output().unwrap();
        verdict(&cell(out.path()), "nothing-lost-in-roll") == "fail"
    });
    assert!(found, "nothing was lost in {TRIES} runs of five reloads each");
}

#[test]
fn a_configuration_that_is_not_taken_is_shown_in_the_words_of_the_program() {
    let out = tempfile::tempdir().unwrap();
    let command = faulty(out.path(), "nginx/broken", &[]);
    let told = contains("unknown directive \"sever\"").and(contains("tests/topologies/nginx/broken/nginx.conf:6"));
    assert_cmd::Command::from_std(command).assert().code(1).stdout(told);
}

#[test]
fn a_program_that_is_not_installed_is_skipped_with_the_way_to_get_it() {
    // A PATH with all that the server needs, and no nginx.
    let (out, path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for program in ["sh", "env", "python3"] {
        let found = Command::new("which").arg(program).output().unwrap();
        let target = String::from_utf8(found.stdout).unwrap();
        std::os::unix::fs::symlink(target.trim(), path.path().join(program)).unwrap();
    }
    let mut command = rollout(out.path(), "nginx/keep-alive", &[]);
    command.env("PATH", path.path());
    let told = contains("1 skipped: nginx is not installed: apt-get install nginx-light");
    assert_cmd::Command::from_std(command).assert().stdout(told);
    assert_eq!(cell(out.path())["verdict"], "skipped");
}

/// Processes whose command line has this in it.
pub fn with(words: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(words)).collect()
}

/// Processes that work in this folder.
fn working_in(folder: &Path) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok())
        .filter(|cwd| cwd.starts_with(folder))
        .count()
}

#[test]
fn nothing_is_left_of_a_fleet_whose_harness_is_killed() {
    for topology in ["nginx/keep-alive", "haproxy/agent-check"] {
        let (out, tmp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tmp_path = tmp.path().canonicalize().unwrap();
        let mut command = rollout(out.path(), topology, &["--rounds", "50"]);
        command.env("TMPDIR", &tmp_path).stdout(Stdio::null()).stderr(Stdio::null());
        let mut harness = command.spawn().unwrap();
        until("the balancer runs", || working_in(&tmp_path) > 1);
        harness.kill().unwrap();
        harness.wait().unwrap();
        until("balancer and agent are gone", || working_in(&tmp_path) == 0);
        until("its folder is gone", || std::fs::read_dir(&tmp_path).unwrap().count() == 0);
        until("nobody is left who knows of it", || with(&tmp_path.display().to_string()).is_empty());
    }
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn topologies_are_listed_and_explained() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(DRAINSPEC);
        command.args(arguments).current_dir(root()).env("NO_COLOR", "1");
        assert_cmd::Command::from_std(command).assert().success()
    };
    run(&["list", "topologies"])
        .stdout(contains("direct").and(contains("haproxy/runtime-api")).and(contains("warning")));
    let told = contains("In a roll an instance is marked").and(contains("worker_shutdown_timeout")).and(contains("█"));
    run(&["explain", "nginx/withdraw"]).stdout(told.and(contains("keepalive_timeout 0;")));
    run(&["explain", "nginx/defaults"]).stdout(contains("Known losses").and(contains("service-stays")));
    let told = contains("a pod is deleted").and(contains("k8s/quick/prestop-sleep/kustomization.yaml"));
    run(&["explain", "pod/prestop-sleep"]).stdout(told.and(contains("models of the kubelet")));
    run(&["explain", "aws-alb/ecs", "--format", "json"]).stdout(contains("\"deregistration_delay\": 60.0"));
}
