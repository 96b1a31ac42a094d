//! `drainspec check` tells the truth about lame-ducks: the four references with one are in order, wherever they run, and
//! faulty servers are not, in a pod.

use std::path::Path;
use std::process::Command;

use drainspec::catalog::{self, Server};
use serde_json::Value;

/// The delay, which nobody tells `check`, or which is told.
const DELAY: &str = "3";

fn servers(names: &[&str]) -> Vec<Server> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers");
    let mut servers = catalog::discover(&folder).expect("every server.toml is in order");
    servers.retain(|server| names.contains(&server.name.as_str()));
    assert_eq!(servers.len(), names.len(), "{names:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for server in &servers {
        runtime.block_on(drainspec::process::build(server)).unwrap_or_else(|error| panic!("{error}"));
    }
    servers
}

fn drainspec() -> Command {
    Command::new(env!("CARGO_BIN_EXE_drainspec"))
}

/// Checks a server, and returns what failed: `RULE: what was seen`.
fn check(server: &Server, options: &[&str], out: &Path) -> Vec<String> {
    let done = drainspec()
        .args([
            "check",
            "--format",
            "json",
            "--ready",
            "/health/ready",
            "--without-load",
            "--profile",
            "kubernetes",
            "--out",
        ])
        .arg(out)
        .args(options)
        .arg("--")
        .args(&server.spec.run)
        .current_dir(&server.folder)
        .envs([("SHUTDOWN_DELAY", DELAY), ("ADMIN_PORT", "0")])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{}: {error}: {}", server.name, String::from_utf8_lossy(&done.stderr)));
    let rules = report["rules"].as_array().unwrap();
    let failed = rules.iter().filter(|rule| rule["verdict"] == "fail");
    failed.map(|rule| format!("{}: {}", rule["rule"], rule["actual"])).collect()
}

/// With the delay said and not, in every profile.
fn with_and_without(server: &Server, more: &[&str], judge: impl Fn(&str, Vec<String>) + Sync) {
    std::thread::scope(|scope| {
        for said in [&["--lame-duck", DELAY][..], &[]] {
            let judge = &judge;
            scope.spawn(move || {
                let out = tempfile::tempdir().unwrap();
                let failed = check(server, &[more, said].concat(), out.path());
                judge("kubernetes", failed);
                for profile in ["standalone", "load-balancer"] {
                    judge(profile, judged_as(out.path(), profile));
                }
            });
        }
    });
}

/// What fails of a check that is judged as if the server ran elsewhere.
fn judged_as(out: &Path, profile: &str) -> Vec<String> {
    let done = drainspec().args(["judge", "--profile", profile]).arg(out).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("term-ends-process"), "{said}{}", String::from_utf8_lossy(&done.stderr));
    said.lines().filter(|line| line.trim_start().starts_with("fail")).map(str::to_owned).collect()
}

#[test]
fn references_with_a_lame_duck_are_in_order_wherever_they_run() {
    let servers = servers(&["python", "node", "go", "rust"]);
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| {
                with_and_without(server, &["--slow", "/slow?delay=1"], |profile, failed| {
                    assert!(failed.is_empty(), "{} as {profile}: {failed:?}", server.name);
                });
            });
        }
    });
}

#[test]
fn without_a_readiness_probe_a_lame_duck_is_seen_as_well() {
    let server = &servers(&["go"])[0];
    let done = drainspec()
        .args(["check", "--slow", "/slow?delay=1", "--"])
        .args(&server.spec.run)
        .current_dir(&server.folder)
        .envs([("SHUTDOWN_DELAY", DELAY), ("ADMIN_PORT", "0")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("it goes on serving new connections for"), "{said}");
    assert!(said.contains(" 0 fail,"), "{said}");
}

#[test]
fn a_lame_duck_that_does_not_serve_fails_in_a_pod() {
    let names =
        ["faulty/lame-duck-rejects-requests", "faulty/lame-duck-skipped", "faulty/lame-duck-refuses-connections"];
    let servers = servers(&names);
    std::thread::scope(|scope| {
        for server in &servers {
            scope.spawn(|| {
                with_and_without(server, &[], |profile, failed| {
                    let found = failed.iter().any(|failed| failed.contains("lame-duck-serves"));
                    assert_eq!(found, profile == "kubernetes", "{} as {profile}: {failed:?}", server.name);
                });
            });
        }
    });
}
