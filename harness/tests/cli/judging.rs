//! `judge` says the same of a run as the run did, and says where it does not.

use std::path::Path;

use predicates::str::contains;
use serde_json::{Value, json};

use crate::servers::{GOOD, Servers, drainspec};

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_cell_that_was_expected_otherwise_is_told() {
    let servers = Servers::with_good();
    servers.add("rude", &GOOD.replace("sys.exit(0)", "os._exit(3)"));
    servers.matrix("*", "idle-exit").assert().success();
    let judge = || {
        let mut judge = drainspec();
        judge.arg("judge").arg(servers.out()).arg("--servers").arg(servers.servers());
        judge
    };
    judge().assert().success().stdout(contains("2 timelines judged, 0 cells differ"));

    let path = servers.out().join("results.json");
    let results = read(&path);
    let mut other = results.clone();
    other["cells"][0]["as_expected"] = json!(false);
    std::fs::write(&path, other.to_string()).unwrap();
    judge().assert().code(1).stdout(contains("unexpected in results.json, as expected now"));

    std::fs::write(&path, results.to_string()).unwrap();
    let known = "[[known]]\npattern = \"idle-exit/term-ends-process\"\nreason = \"it lingers\"\n";
    std::fs::write(servers.servers().join("good/known.toml"), known).unwrap();
    judge().assert().code(1).stdout(contains("good · idle-exit: as expected in results.json, unexpected now"));

    // Somebody who has the timelines alone is told what was not compared.
    drainspec().arg("judge").arg(servers.out()).assert().success().stdout(contains("was not compared: good, rude"));
}

#[test]
fn a_check_is_judged_again() {
    let stranger = Path::new(env!("CARGO_MANIFEST_DIR")).join("../servers/strangers/ends-at-once");
    let out = tempfile::tempdir().unwrap();
    let mut check = drainspec();
    check.args(["check", "--ready", "/ready", "--format", "json", "--out"]).arg(out.path());
    let done = check.args(["--", "python3", "-B", "main.py", "{port}"]).current_dir(stranger).output().unwrap();
    // Its root takes a millisecond: whether one was in flight is luck, and nobody says that all is well.
    assert!([Some(1), Some(5)].contains(&done.status.code()), "{done:?}");
    let said = done.stdout;
    let path = out.path().join("check.json");
    let results = read(&path);
    assert_eq!(serde_json::from_slice::<Value>(&said).unwrap(), results, "what it says is what it writes");

    let schema = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/check.schema.json"));
    let validator = jsonschema::draft202012::new(&schema).expect("the schema is a schema");
    let faults: Vec<String> = validator.iter_errors(&results).map(|fault| fault.to_string()).collect();
    assert_eq!(faults, Vec::<String>::new(), "{results:#}");

    let judge = |arguments: &[&str]| drainspec().arg("judge").arg(out.path()).args(arguments).assert();
    judge(&[]).success().stdout(contains(" 0 rules differ"));

    // Another verdict, another rule, another word on what is known.
    let rule = results["rules"].as_array().unwrap().iter().position(|rule| rule["verdict"] == "pass").unwrap();
    let slug = results["rules"][rule]["rule"].as_str().unwrap();
    for (key, value, said) in [
        ("verdict", json!("fail"), format!("{slug}: fail in check.json, pass now")),
        ("rule", json!("kill-recovers"), format!("{slug}: not judged in check.json, pass now")),
        ("known", json!(true), format!("{slug}: pass, known, in check.json, pass now")),
    ] {
        let mut other = results.clone();
        other["rules"][rule][key] = value;
        std::fs::write(&path, other.to_string()).unwrap();
        judge(&[]).code(1).stdout(contains(said));
    }
    std::fs::write(&path, results.to_string()).unwrap();

    // Another profile judges by other rules.
    let word = "readiness-fails";
    assert!(results["rules"].as_array().unwrap().iter().all(|rule| rule["rule"] != word), "nobody asks, standalone");
    let output = |profile: &str| String::from_utf8(judge(&["--profile", profile]).get_output().stdout.clone()).unwrap();
    assert!(output("kubernetes").contains(word), "{}", output("kubernetes"));
    assert!(!output("standalone").contains(word), "{}", output("standalone"));

    // Another timeline comes to another verdict.
    let timeline = out.path().join("timelines/check/idle-exit-1.ndjson");
    let text = std::fs::read_to_string(&timeline).unwrap();
    // Nor was the machine busy, which would excuse it.
    let gone = [r#""exited""#, r#""stalled""#, r#""starved""#];
    let without: String =
        text.split_inclusive('\n').filter(|line| !gone.iter().any(|event| line.contains(event))).collect();
    assert_ne!(without, text);
    std::fs::write(&timeline, without).unwrap();
    judge(&[]).code(1).stdout(contains("term-ends-process: pass in check.json, fail now"));
    judge(&["--profile", "kubernetes"]).code(1);

    std::fs::write(&path, results.to_string().replace(r#""format":1"#, r#""format":2"#)).unwrap();
    judge(&[]).code(4).stderr(contains("check.json: format 2 is not known"));
}
