//! `check` as its users meet it: what it says, in which order, and what else reads its results.

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use predicates::str::contains;

use crate::servers::{Servers, drainspec};

fn strangers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/strangers")
}

/// A check of one of the strangers with a slow path; what it prints.
fn check(server: &str, more: &[&str], out: &Path, code: i32) -> String {
    let mut command = drainspec();
    command.args(["check", "--slow", "/report"]).args(more).arg("--out").arg(out);
    let done = command.args(["--", "python3", "-B", server, "{port}"]).current_dir(strangers()).assert().code(code);
    String::from_utf8(done.get_output().stdout.clone()).unwrap()
}

#[test]
fn a_check_is_told_in_order_and_can_be_reported_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    // In order, but for SIGHUP, which is worth a warning where nobody asks for more.
    let good = check("drains.py", &["--fail-on", "hup-keeps-serving"], &before, 1);
    assert!(good.contains("\nfail hup-keeps-serving (SHOULD; sighup-keeps-serving)"), "{good}");
    drainspec().arg("judge").arg(&before).assert().success().stdout(contains(" 0 rules differ"));

    let bad = check("ends-at-once/main.py", &[], &after, 1);
    let parts = [
        "note    no handler for SIGTERM",
        "\nfail no handler for SIGTERM: it ends at once",
        "rule      in-flight-answered",
        "▶",
        "and from this follow",
        "\nnot tested",
        "with --ready PATH",
        "WebSockets",
        "HTTP/2",
        "gRPC",
        "TLS",
        "recycled",
        "\nwarn hup-keeps-serving",
        "\npass ",
    ];
    let places: Vec<Option<usize>> = parts.iter().map(|part| bad.find(part)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {bad}");
    let last = bad.lines().last().unwrap();
    assert!(last.starts_with("A restart loses requests: 1 of 1 in flight (in-flight-completes)"), "{last}");

    drainspec()
        .args(["compare"])
        .arg(&before)
        .arg(&after)
        .assert()
        .code(1)
        .stdout(contains("worse check · in-flight-answered: pass → fail"));
    drainspec().args(["compare"]).arg(&after).arg(&after).assert().success().stdout(contains("0 changes"));
    for run in [after.clone(), after.join("check.json")] {
        let title = contains("# Check: `python3 -B ends-at-once/main.py {port}`");
        drainspec().arg("report").arg(run).assert().success().stdout(title.and(contains("**A restart loses requests")));
    }

    let servers = Servers::with_good();
    servers.matrix("good", "idle-exit").assert().success();
    drainspec().arg("compare").arg(servers.out()).arg(&after).assert().code(2).stderr(contains("two of a kind"));
}

#[test]
fn a_rule_to_fail_on_exists_and_is_judged() {
    let check = |rule: &str| {
        let mut command = drainspec();
        command.args(["check", "--fail-on", rule, "--", "true"]).assert().code(2)
    };
    check("hup-keeps-servin").stderr(contains("is no rule").and(contains("did you mean hup-keeps-serving")));
    check("readiness-fails").stderr(contains("nobody asks whether it is ready"));
}
