//! Pods as a user plays them: what each preStop hook comes to, what is read of the manifests, and nothing stays behind.

use std::path::Path;
use std::process::{Command, Stdio};

use predicates::str::contains;
use serde_json::Value;

use crate::fleets::{root, until, verdict, with};
use crate::servers::DRAINSPEC;

fn matrix(out: &Path, topology: &str, scenario: &str, server: &str) -> Command {
    let mut command = Command::new(DRAINSPEC);
    command.args(["matrix", "--server", server, "--scenario", scenario, "--topology", topology, "--out"]);
    command.arg(out).current_dir(root()).env("NO_COLOR", "1");
    command
}

/// The cells of a run, by topology, scenario and server.
fn cells(out: &Path) -> Vec<Value> {
    let results: Value = serde_json::from_slice(&std::fs::read(out.join("results.json")).unwrap()).unwrap();
    crate::results::assert_valid(&results);
    results["cells"].as_array().unwrap().clone()
}

fn cell<'c>(cells: &'c [Value], topology: &str, scenario: &str) -> &'c Value {
    let found = cells.iter().find(|cell| cell["topology"] == topology && cell["scenario"] == scenario);
    found.unwrap_or_else(|| panic!("no {topology} {scenario}"))
}

/// What users missed.
fn missed(cell: &Value) -> f64 {
    let sum =
        |name: &str| cell["measures"][name].as_array().into_iter().flatten().filter_map(Value::as_f64).sum::<f64>();
    ["requests_lost", "requests_unsent", "requests_failed"].map(sum).iter().sum()
}

fn timeline(out: &Path, cell: &Value) -> std::path::PathBuf {
    out.join(cell["timelines"][0].as_str().unwrap_or_else(|| panic!("no timeline: {cell:#}")))
}

#[test]
fn every_hook_keeps_requests_from_a_pod_that_ends_and_without_one_they_are_lost() {
    let out = tempfile::tempdir().unwrap();
    let scenarios = "{rolling-restart,last-instance}";
    let done = matrix(out.path(), "pod/*", scenarios, "go").output().unwrap();
    let shown = String::from_utf8_lossy(&done.stdout);
    assert!(matches!(done.status.code(), Some(0 | 5)), "{shown}");
    let cells = cells(out.path());
    for hook in ["prestop-sleep", "prestop-exec", "prestop-http"] {
        let cell = cell(&cells, &format!("pod/{hook}"), "rolling-restart");
        assert!(missed(cell) == 0.0, "{cell:#}");
        let text = std::fs::read_to_string(timeline(out.path(), cell)).unwrap();
        assert!(
            text.contains("\"hook-ended\":{\"process\":1,\"why\":\"done\"}"),
            "the hook of {hook} has not been run"
        );
    }
    let raced = cell(&cells, "pod/no-prestop", "rolling-restart");
    assert_eq!(verdict(raced, "nothing-lost-in-roll"), "fail", "{raced:#}");
    // The picture shows why: nodes send to an instance that has got its signal.
    let picture = drawn(&timeline(out.path(), raced));
    assert!(picture.contains("node 1") && picture.contains("missed"), "{picture}");

    // The only pod serves on while it ends, as long as its readiness does not fail: nobody else is there.
    let alone = |hook: &str| missed(cell(&cells, &format!("pod/{hook}"), "last-instance"));
    assert_eq!(alone("prestop-sleep"), 0.0, "{cells:#?}");
    assert!(alone("no-prestop") > 0.0, "{cells:#?}");
}

#[test]
fn a_hook_that_outlives_the_grace_gets_its_pod_killed() {
    let out = tempfile::tempdir().unwrap();
    matrix(out.path(), "pod/prestop-longer-than-grace", "long-request-across-roll", "go").output().unwrap();
    let killed = cell_of(out.path());
    assert_eq!(verdict(&killed, "roll-ends"), "fail", "{killed:#}");
    let text = std::fs::read_to_string(timeline(out.path(), &killed)).unwrap();
    assert!(text.contains("\"why\":\"out-of-grace\""), "the hook was not cut");
}

fn cell_of(out: &Path) -> Value {
    cells(out)[0].clone()
}

fn drawn(timeline: &Path) -> String {
    let mut command = Command::new(DRAINSPEC);
    command.args(["report", "--timeline"]).arg(timeline);
    let done = assert_cmd::Command::from_std(command).assert().success();
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

#[test]
fn a_server_without_shutdown_handling_loses_what_is_in_flight_although_a_hook_waits() {
    // What is in flight just then is a matter of chance.
    const TRIES: usize = 5;
    let found = (0..TRIES).any(|_| {
        let out = tempfile::tempdir().unwrap();
        matrix(out.path(), "pod/prestop-sleep", "rolling-restart", "naive/go").output().unwrap();
        missed(&cells(out.path())[0]) > 0.0
    });
    assert!(found, "nothing was lost in {TRIES} rolls");
}

#[test]
fn what_is_wrong_with_a_manifest_is_said_with_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("quick/own");
    std::fs::create_dir_all(&own).unwrap();
    let about = "kind = \"warning\"\nsummary = \"s\"\nfile = \"kustomization.yaml\"\nwithdraw = \"pod\"\n[budget]\n";
    std::fs::write(own.join("topology.toml"), about).unwrap();
    let play = |kustomization: &str, told: &str| {
        std::fs::write(own.join("kustomization.yaml"), kustomization).unwrap();
        let out = tempfile::tempdir().unwrap();
        let mut command = matrix(out.path(), "pod/own", "rolling-restart", "go");
        command.arg("--topologies").arg(folder.path());
        assert_cmd::Command::from_std(command).assert().code(1).stdout(contains(told));
    };
    play("resources: [absent.yaml]\n", "absent.yaml");
    std::fs::write(own.join("service.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: app}\n").unwrap();
    play("resources: [service.yaml]\n", "there is no Deployment");
}

#[test]
fn nothing_is_left_of_pods_whose_harness_is_killed() {
    let (out, tmp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tmp_path = tmp.path().canonicalize().unwrap();
    let mut command = matrix(out.path(), "pod/prestop-exec", "rolling-restart", "go");
    command.args(["--rounds", "50"]).env("TMPDIR", &tmp_path).stdout(Stdio::null()).stderr(Stdio::null());
    let mut harness = command.spawn().unwrap();
    let hooks = || with("/bin/sleep 3").len();
    until("a hook runs", || hooks() > 0);
    harness.kill().unwrap();
    harness.wait().unwrap();
    until("its folder is gone", || std::fs::read_dir(&tmp_path).unwrap().count() == 0);
    until("nobody is left who knows of it", || with(&tmp_path.display().to_string()).is_empty());
    until("no hook is left", || hooks() == 0);
}

#[test]
fn a_picture_needs_a_fleet() {
    let mut command = Command::new(DRAINSPEC);
    let timelines = root().join("harness/tests/timelines");
    let alone = std::fs::read_dir(timelines).unwrap().flatten().map(|entry| entry.path());
    let alone = alone.filter(|path| path.extension().is_some_and(|extension| extension == "ndjson")).min().unwrap();
    command.args(["report", "--timeline"]).arg(alone);
    assert_cmd::Command::from_std(command).assert().code(3).stderr(contains("no instance of a fleet was replaced"));
}
