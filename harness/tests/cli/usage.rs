//! The command line: what is wrong with it is said, and told by the exit status.

use predicates::prelude::*;
use predicates::str::contains;

use crate::servers::{Servers, drainspec};

#[test]
fn help_and_version_are_no_errors() {
    let help = drainspec().arg("--help").assert().success().stderr("");
    // The exit statuses are part of the interface, and so of the help.
    let statuses = ["0 ", "1 ", "2 ", "3 ", "4 ", "130 "].map(|status| format!("\n  {status}"));
    for status in statuses {
        help.get_output().stdout.windows(status.len()).find(|part| *part == status.as_bytes()).expect(&status);
    }
    drainspec().arg("--version").assert().success().stdout(contains(env!("CARGO_PKG_VERSION")));
    for subcommand in ["matrix", "list", "explain", "judge", "compare", "check", "doctor", "completions"] {
        drainspec().args([subcommand, "--help"]).assert().success().stdout(contains("Usage: drainspec"));
    }
}

#[test]
fn a_wrong_command_line_is_told_and_ends_with_2() {
    for (arguments, said) in [
        (&["matrix", "--colour"][..], "--colour"),
        (&["no-such-command"], "no-such-command"),
        (&[], "Usage"),
        (&["matrix", "--jobs", "0"], "0 is not in 1..=256"),
        (&["matrix", "--jobs", "many"], "many"),
        (&["matrix", "--repeat", "0"], "0 is not in 1..=1000"),
        (&["list", "colours"], "colours"),
        (&["list"], "<WHAT>"),
        (&["completions", "perl"], "perl"),
        (&["explain", "in-flight-anwsered"], "in-flight-answered"),
        (&["judge"], "<PATH>"),
        (&["check", "--grace", "3", "--lame-duck", "3", "--", "true"], "--lame-duck 3 leaves nothing of the 3 s"),
    ] {
        drainspec().args(arguments).assert().code(2).stdout("").stderr(contains(said));
    }
}

#[test]
fn a_selection_of_nothing_ends_with_3_and_says_what_there_is() {
    let servers = Servers::with_good();
    servers.add("other", "");
    servers
        .matrix("bda", "idle-exit")
        .assert()
        .code(3)
        .stdout("")
        .stderr(contains("no server matches `bda`").and(contains("good")).and(contains("other")));
    servers
        .matrix("good", "idle-exot")
        .assert()
        .code(3)
        .stdout("")
        .stderr(contains("no scenario matches `idle-exot`").and(contains("did you mean idle-exit")));
    // One that selects something does not excuse one that does not.
    servers.matrix("good", "idle-exit").args(["--server", "bda"]).assert().code(3).stderr(contains("`bda`"));
    assert!(!servers.out().join("results.json").exists(), "nothing was run, so there is nothing to read");
}

#[test]
fn a_matrix_without_servers_is_no_success() {
    let servers = Servers::new();
    let folder = servers.servers();
    let matrix = || {
        let mut command = drainspec();
        command.args(["matrix", "--scenario", "idle-exit", "--servers"]).arg(&folder).arg("--out").arg(servers.out());
        command
    };
    matrix().assert().code(3).stderr(contains("no server"));
    // Without a glob only references and naive servers are played.
    servers.add("framework", crate::servers::GOOD);
    matrix().assert().code(3).stderr(contains("framework").and(contains("--server")));
}

#[test]
fn a_malformed_glob_is_told() {
    let servers = Servers::with_good();
    for glob in ["[", "{a", "a**[!"] {
        let quoted = format!("`{glob}` is not a glob");
        servers.matrix(glob, "idle-exit").assert().failure().stdout("").stderr(contains(quoted.as_str()));
        servers.matrix("good", glob).assert().failure().stdout("").stderr(contains(quoted.as_str()));
    }
    servers.matrix("[", "idle-exit").assert().code(2);
}

#[test]
fn without_a_checkout_the_way_out_is_named() {
    let empty = tempfile::tempdir().unwrap();
    drainspec()
        .args(["list", "servers"])
        .current_dir(empty.path())
        .assert()
        .code(4)
        .stderr(contains("no folder `servers`").and(contains("--servers")));
    let missing = empty.path().join("nowhere");
    let mut command = drainspec();
    command.args(["list", "servers", "--servers"]).arg(&missing);
    command.assert().code(4).stderr(contains(missing.display().to_string()));
}

#[test]
fn results_that_cannot_be_written_are_told() {
    let servers = Servers::with_good();
    std::fs::write(servers.out(), "a file, where a folder should be").unwrap();
    servers.matrix("good", "idle-exit").assert().code(4).stderr(contains(servers.out().display().to_string()));
}

#[test]
fn every_list_is_text_and_json() {
    let servers = Servers::with_good();
    for (what, name) in [("servers", "good"), ("scenarios", "idle-exit"), ("rules", "in-flight-answered")] {
        let list = |format: &str| {
            let mut command = drainspec();
            command.args(["list", what, "--format", format, "--servers"]).arg(servers.servers());
            String::from_utf8(command.assert().success().stderr("").get_output().stdout.clone()).unwrap()
        };
        let items: Vec<serde_json::Value> = serde_json::from_str(&list("json")).unwrap();
        let item = items.iter().find(|item| item["name"] == name);
        assert!(item.is_some_and(|item| !item["summary"].as_str().unwrap().is_empty()), "{what}: {items:#?}");
        assert_eq!(list("text").lines().count(), items.len(), "{what}: a line for each");
        assert!(list("text").lines().any(|line| line.starts_with(name)), "{what}");
    }
}

#[test]
fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "zsh", "fish"] {
        let script = contains("drainspec").and(contains("repeat")).and(contains("completions"));
        drainspec().args(["completions", shell]).assert().success().stdout(script).stderr("");
    }
    // Where bash is at hand, it is asked whether that is a script at all.
    let script = drainspec().args(["completions", "bash"]).output().unwrap().stdout;
    if std::path::Path::new("/bin/bash").exists() {
        assert_cmd::Command::new("/bin/bash").arg("-n").write_stdin(script).assert().success().stderr("");
    }
    // What is not for people is not offered to them.
    drainspec().args(["completions", "bash"]).assert().stdout(contains("guardian").not());
    drainspec().arg("--help").assert().stdout(contains("guardian").not());
}

#[test]
fn a_pipe_gets_no_colour() {
    let servers = Servers::with_good();
    servers.add("bad", "sys.exit(1)");
    let plain = || contains("\u{1b}").not();
    servers.matrix("*", "idle-exit").assert().code(1).stdout(plain()).stderr(plain());
    for arguments in [&["list", "rules"][..], &["explain", "in-flight-answered"], &["--help"]] {
        drainspec().args(arguments).assert().success().stdout(plain());
    }
    drainspec().arg("no-such-command").assert().stderr(plain());
}

#[test]
fn a_selection_can_leave_out_and_choose_by_kind_and_group() {
    let servers = Servers::with_good();
    servers.add("other", crate::servers::GOOD);
    let played = |arguments: &[&str]| {
        let mut command = drainspec();
        command.arg("matrix").args(arguments).arg("--servers").arg(servers.servers()).arg("--out").arg(servers.out());
        command.assert().success();
        let results = servers.results();
        let cells = results["cells"].as_array().unwrap().clone();
        let mut names: Vec<String> = cells
            .iter()
            .map(|cell| format!("{} {}", cell["server"].as_str().unwrap(), cell["scenario"].as_str().unwrap()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(played(&["--server", "*", "--server", "!oth*", "--scenario", "idle-exit"]), ["good idle-exit"]);
    assert_eq!(played(&["--kind", "framework", "--scenario", "idle-exit"]), ["good idle-exit", "other idle-exit"]);
    let signals =
        ["--group", "signals", "--scenario", "!{sig,second,listener,output,group,prompt}*", "--server", "good"];
    assert_eq!(played(&signals), ["good idle-exit"]);
    // Each cell is played in one part, and a part without any is told.
    let part = |part: &str| {
        let run = servers.matrix("*", "idle-exit").args(["--shard", part]).output().unwrap();
        match run.status.code() {
            Some(0) => servers.results()["cells"].as_array().unwrap().len(),
            Some(3) => 0,
            status => panic!("{part}: {status:?}: {run:?}"),
        }
    };
    assert_eq!((1..=5).map(|number| part(&format!("{number}/5"))).sum::<usize>(), 2);
    servers.matrix("*", "idle-exit").args(["--shard", "0/5"]).assert().code(2).stderr(contains("I/N"));
    servers.matrix("*", "idle-exit").args(["--kind", "faulty"]).assert().code(3).stderr(contains("faulty"));
    servers.matrix("*", "idle-exit").args(["--group", "signal"]).assert().code(3).stderr(contains("signals"));
}

#[test]
fn what_nobody_expected_is_shown_and_can_be_played_again() {
    let servers = Servers::with_good();
    servers.add("bad", &crate::servers::GOOD.replace("sys.exit(0)", "os._exit(3)"));
    servers.matrix("*", "idle-exit").assert().code(0);

    // An earlier run in which a cell was unexpected.
    let mut results = servers.results();
    let cell = results["cells"].as_array_mut().unwrap().iter_mut().find(|cell| cell["server"] == "bad").unwrap();
    cell["as_expected"] = serde_json::json!(false);
    let earlier = servers.out().join("earlier.json");
    std::fs::write(&earlier, results.to_string()).unwrap();
    servers
        .matrix("*", "*")
        .arg("--only-unexpected")
        .arg(&earlier)
        .assert()
        .stderr(contains("[1/1] bad · idle-exit").and(contains("1 of its 2 cells not played now")));
    assert_eq!(servers.results()["cells"].as_array().unwrap().len(), 1);
    servers.matrix("good", "*").arg("--only-unexpected").arg(&earlier).assert().code(3).stderr(contains("unexpected"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let program = assert_cmd::cargo::cargo_bin("drainspec");
    for arguments in ["completions zsh", "list rules", "explain in-flight-answered"] {
        let script = format!("{} {arguments} | true; exit ${{PIPESTATUS[0]}}", program.display());
        assert_cmd::Command::new("bash").args(["-c", &script]).assert().success().stderr("");
    }
}

#[test]
fn an_error_that_nobody_can_read_is_no_crash() {
    if !std::path::Path::new("/dev/full").exists() {
        return;
    }
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let servers = Servers::with_good();
    for (arguments, code) in [(servers.arguments("bda", "idle-exit"), 3), (servers.arguments("good", "idle-exit"), 0)] {
        let mut command = std::process::Command::new(crate::servers::DRAINSPEC);
        let done = command.args(&arguments).env("TMPDIR", servers.tmp()).stderr(full()).output().unwrap();
        assert_eq!(done.status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_line_of_any_length_is_shown_in_part() {
    let servers = Servers::with_good();
    std::fs::write(servers.servers().join("good/known.toml"), "x".repeat(3_000_000)).unwrap();
    let told = servers.matrix("good", "idle-exit").assert().code(4).stderr(contains("known.toml"));
    let length = told.get_output().stderr.len();
    assert!(length < 10_000, "{length} bytes");
}

#[test]
fn nothing_unrelated_is_proposed() {
    let explain = |name: &str| {
        let told = drainspec().args(["explain", name]).assert().code(2).stderr(contains("list` shows all"));
        String::from_utf8(told.get_output().stderr.clone()).unwrap()
    };
    for name in ["xyz", "foo", "timeout", "Q"] {
        assert!(!explain(name).contains("did you mean"), "{}", explain(name));
    }
    let listener = explain("listener");
    assert!(listener.contains("listener-closes-first") && !listener.contains("int-like-term"), "{listener}");
    assert!(explain("sigterm-at-startup").contains("sigterm-during-startup"));
}

/// Ends at once, whatever is in flight.
const LOSES: &str = r#"
on_term(lambda: os._exit(0))
listener = listen()
while True:
    connection, _ = listener.accept()
    if b"/slow" in connection.recv(65536):
        time.sleep(60)
    head = "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Instance-Id: one\r\nContent-Length: 2\r\n\r\nok"
    connection.sendall(head.encode())
    connection.close()
"#;

#[test]
fn a_matrix_tells_what_nobody_expected_then_the_table_then_how_much_is_known() {
    let servers = Servers::new();
    for name in ["known", "unknown"] {
        let folder = servers.add(name, LOSES);
        let spec = crate::servers::toml("framework", r#"["python3", "-B", "server.py"]"#, "");
        std::fs::write(folder.join("server.toml"), spec.replace("features = []", r#"features = ["slow"]"#)).unwrap();
    }
    let known = "[[known]]\npattern = \"*/in-flight-answered\"\nreason = \"it does not wait\"\n";
    std::fs::write(servers.servers().join("known/known.toml"), known).unwrap();
    let played = |failures: &[&str]| {
        let mut matrix = servers.matrix("*", "in-flight-completes");
        let told = matrix.args(failures).assert().code(1);
        String::from_utf8(told.get_output().stdout.clone()).unwrap()
    };
    let short = played(&[]);
    let unexpected = short.find("unknown · in-flight-completes · fail\n").expect(&short);
    assert!(unexpected < short.find(" REQUESTS").expect(&short), "{short}");
    assert!(!short.contains("(known)"), "{short}");
    assert_eq!(short.lines().last(), Some("1 known failure: `--failures all` shows what was seen"));
    let all = played(&["--failures", "all"]);
    let known = all.find("known · in-flight-completes · fail (known)").expect(&all);
    assert!(known < all.find("unknown · in-flight-completes · fail\n").expect(&all), "{all}");
    assert!(!all.contains("`--failures all`"), "{all}");
}
