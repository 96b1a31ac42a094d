//! Files that are not in order: the message names the file, the place, and what is wrong.

use predicates::prelude::*;
use predicates::str::contains;

use crate::servers::{GOOD, Servers, toml};

const RUN: &str = r#"["true"]"#;

/// Every mention in the message; the program ends with 4 and runs nothing.
fn refused(servers: &Servers, mentions: &[&str]) {
    let mut done = servers.matrix("*", "idle-exit").assert().code(4).stdout("");
    for mention in mentions {
        done = done.stderr(contains(*mention));
    }
    assert!(!servers.out().join("results.json").exists(), "nothing was run");
}

#[test]
fn a_server_toml_that_is_no_toml_names_file_line_and_reason() {
    let servers = Servers::with_good();
    let folder = servers.add_toml("broken", "kind = \"framework\"\nlanguage = python\n");
    refused(&servers, &[&folder.join("server.toml").display().to_string(), "line 2", "language = python"]);
}

#[test]
fn an_unknown_key_is_named_with_the_ones_that_are_known() {
    let servers = Servers::with_good();
    let folder = servers.add_toml("broken", &toml("framework", RUN, "colour = \"red\"\n"));
    refused(&servers, &[&folder.join("server.toml").display().to_string(), "colour", "line 6", "inputs"]);
}

#[test]
fn a_key_that_is_missing_is_named() {
    let servers = Servers::with_good();
    servers.add_toml("broken", "kind = \"framework\"\nlanguage = \"none\"\nsummary = \"\"\nfeatures = []\n");
    refused(&servers, &["broken/server.toml", "missing field `run`"]);
}

#[test]
fn a_value_that_is_not_allowed_is_named_with_those_that_are() {
    for (text, mentions) in [
        (toml("reverence", RUN, ""), ["reverence", "reference"]),
        (toml("framework", RUN, "").replace("features = []", "features = [\"slwo\"]"), ["slwo", "slow"]),
        (toml("framework", "[]", ""), ["`run`", "list of arguments"]),
        (toml("framework", RUN, "build = [[]]\n"), ["`build`", "lists of arguments"]),
        (toml("framework", RUN, "inputs = [\"[\"]\n"), ["`inputs`", "`[`"]),
        (toml("framework", "\"true\"", ""), ["run = \"true\"", "sequence"]),
    ] {
        let servers = Servers::new();
        servers.add_toml("broken", &text);
        refused(&servers, &["broken/server.toml", mentions[0], mentions[1]]);
    }
}

#[test]
fn a_known_failure_is_checked_like_everything_else() {
    for (text, mentions) in [
        ("[[known]]\npattern = \"idle-exit/no-such-rule\"\nreason = \"r\"\n", ["idle-exit/no-such-rule", "no rule"]),
        ("[[known]]\npattern = \"term-ends-process\"\nreason = \"r\"\n", ["term-ends-process", "`scenario/rule`"]),
        ("[[known]]\npattern = \"idle-exit/*\"\nreason = \" \"\n", ["idle-exit/*", "reason"]),
        ("[[known]]\npattern = \"idle-exit/*\"\n", ["line 1", "missing field `reason`"]),
        ("[[known]]\npattern = \"idle-exit/[\"\nreason = \"r\"\n", ["idle-exit/[", "glob"]),
        ("[[know]]\npattern = \"idle-exit/*\"\nreason = \"r\"\n", ["know", "known"]),
        ("known\n", ["line 1", "known"]),
    ] {
        let servers = Servers::new();
        let folder = servers.add("good", GOOD);
        std::fs::write(folder.join("known.toml"), text).unwrap();
        refused(&servers, &["good/known.toml", mentions[0], mentions[1]]);
    }
}

#[test]
fn a_reference_has_no_known_failures() {
    let servers = Servers::new();
    let folder = servers.add_toml("model", &toml("reference", RUN, ""));
    std::fs::write(folder.join("known.toml"), "[[known]]\npattern = \"idle-exit/*\"\nreason = \"r\"\n").unwrap();
    refused(&servers, &["model/server.toml", "`kind`", "known.toml"]);
}

#[test]
fn only_what_is_known_to_fail_can_be_played() {
    let servers = Servers::with_good();
    let asked = |status, said: &str| {
        let run = servers.matrix("good", "{idle-exit,sighup-keeps-serving}").arg("--only-known").assert().code(status);
        run.stderr(contains(said.to_owned()));
    };
    asked(3, "--only-known");
    let known = "[[known]]\npattern = \"idle-exit/term-ends-process\"\nreason = \"it lingers\"\n";
    std::fs::write(servers.servers().join("good/known.toml"), known).unwrap();
    asked(1, "[1/1] good · idle-exit pass (unexpected)");
}

#[test]
fn known_failures_turn_failure_and_pass_round() {
    let servers = Servers::with_good();
    let known = "[[known]]\npattern = \"idle-exit/term-ends-process\"\nreason = \"it lingers\"\n";
    std::fs::write(servers.servers().join("good/known.toml"), known).unwrap();
    let said = contains("1 unexpected").and(contains("remove it from known.toml"));
    servers.matrix("good", "idle-exit").assert().code(1).stdout(said);
    assert_eq!(servers.cell("good")["verdict"], "pass");
    assert_eq!(servers.cell("good")["as_expected"], false);
}

#[test]
fn a_program_that_is_not_installed_skips_and_ends_with_4() {
    let servers = Servers::with_good();
    servers.add_toml("lacking", &toml("framework", RUN, "build = [[\"no-such-compiler\", \"-o\", \"x\"]]\n"));
    servers.matrix("*", "idle-exit").assert().code(4).stdout(contains("skipped"));
    assert_eq!(servers.cell("lacking")["verdict"], "skipped");
    assert!(servers.cell("lacking")["reason"].as_str().unwrap().contains("no-such-compiler"));
    assert_eq!(servers.cell("good")["verdict"], "pass", "the others are played all the same");
    servers.matrix("*", "idle-exit").arg("--allow-missing").assert().code(0);
}

#[test]
fn a_build_that_fails_is_an_error_with_its_last_words() {
    let servers = Servers::with_good();
    let build = "build = [[\"sh\", \"-c\", \"echo 7 errors on line 3 >&2; exit 3\"]]\n";
    servers.add_toml("broken", &toml("framework", RUN, build));
    servers.matrix("*", "idle-exit").assert().code(1).stderr(contains("7 errors on line 3"));
    let cell = servers.cell("broken");
    assert_eq!(cell["verdict"], "error");
    assert!(cell["reason"].as_str().unwrap().contains("exit status: 3"), "{cell:#}");
    assert_eq!(servers.cell("good")["verdict"], "pass");
}

#[test]
fn an_error_is_never_excused() {
    let servers = Servers::new();
    let folder = servers.add("broken", "sys.exit(3)\n");
    std::fs::write(folder.join("known.toml"), "[[known]]\npattern = \"*/*\"\nreason = \"it is broken\"\n").unwrap();
    servers.matrix("broken", "idle-exit").arg("--allow-missing").assert().code(1);
    assert_eq!(servers.cell("broken")["verdict"], "error");
    assert_eq!(servers.cell("broken")["as_expected"], false);
}
