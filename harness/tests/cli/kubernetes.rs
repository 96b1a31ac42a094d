//! `rollout deployment/NAME`: against a cluster of a few lines, against none, and against what only looks like one.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use assert_cmd::cargo::CommandCargoExt;
use serde_json::{Value, json};

use crate::fake_cluster::{FakeCluster, Play, kubeconfig};

/// The program, with this kubeconfig and nothing else of a cluster around it.
fn rollout(kubeconfig: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("drainspec").unwrap();
    command.env("KUBECONFIG", kubeconfig).env_remove("KUBERNETES_SERVICE_HOST").arg("rollout").args(arguments);
    command.output().unwrap()
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl FakeCluster {
    fn rollout(&self, arguments: &[&str]) -> Output {
        let url = format!("http://127.0.0.1:{}/", self.service);
        let quick = ["--url", &url, "--rate", "50", "--warm-up", "2", "--cool-down", "1", "--within", "20"];
        rollout(&self.folder.path().join("config"), &[&["deployment/app"], &quick[..], arguments].concat())
    }

    fn report(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.rollout(&[&["--format", "json"], arguments].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", words(&output)));
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rollout.schema.json");
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(schema).unwrap()).unwrap();
        let validator = jsonschema::draft202012::new(&schema).expect("the schema is a schema");
        let faults: Vec<String> = validator.iter_errors(&report).map(|fault| fault.to_string()).collect();
        assert_eq!(faults, Vec::<String>::new(), "{report:#}");
        (output.status.code(), report)
    }
}

#[test]
fn a_restart_is_told_from_its_pods_to_the_patch() {
    let cluster = FakeCluster::start(Play::Loses, false, &[]);
    let (status, report) = cluster.report(&[]);
    assert_eq!(status, Some(1), "{report:#}");
    assert_eq!(
        (&report["rolled_out"], &report["status"], &report["command"]),
        (&json!(true), &Value::Null, &json!([]))
    );
    let (old, new) = (&report["rollout"]["pods"][0], &report["rollout"]["pods"][1]);
    assert_eq!((&old["name"], &old["old"], &old["instance"]), (&json!("app-old"), &json!(true), &json!("app-old")));
    assert_eq!(
        (&old["exit"]["code"], &old["exit"]["reason"], &old["node"]),
        (&json!(2), &json!("Error"), &json!("n1"))
    );
    assert_eq!(old["signalled"]["by"], "deletion");
    for field in ["deleted_s", "not_ready_s", "withdrawn_s", "last_answer_s", "gone_s"] {
        assert!(old[field].is_number(), "{field}: {old:#}");
    }
    assert!(new["ready_s"].is_number() && new["first_answer_s"].is_number(), "{new:#}");
    let advice = &report["advice"][0];
    assert_eq!(advice["what"], "pre-stop-missing", "{report:#}");
    assert!(advice["patch"].as_str().is_some_and(|patch| patch.contains("preStop")), "{advice:#}");

    let patches = cluster.patches();
    assert_eq!(patches.len(), 1, "nothing else is written");
    let annotations = &patches[0]["spec"]["template"]["metadata"]["annotations"];
    let at = annotations["kubectl.kubernetes.io/restartedAt"].as_str().expect("what `kubectl rollout restart` sets");
    assert_eq!(
        patches[0],
        json!({ "spec": { "template": { "metadata": { "annotations": {
        "kubectl.kubernetes.io/restartedAt": at } } } } })
    );
}

#[test]
fn where_nothing_is_missed_nothing_is_to_be_changed_and_broken_watches_change_nothing() {
    for play in [Play::Keeps, Play::Forgets] {
        let output = FakeCluster::start(play, true, &[]).rollout(&[]);
        let said = words(&output);
        assert_eq!(output.status.code(), Some(0), "{play:?}: {said}");
        for part in ["Nothing is to be changed.", "The deploy lost none of", "app-old", "2 Error", "first answer"] {
            assert!(said.contains(part), "{play:?}: {part}: {said}");
        }
    }
}

#[test]
fn a_rollout_that_the_cluster_gives_up_is_no_success_and_says_why() {
    let output = FakeCluster::start(Play::Sticks, true, &[]).rollout(&[]);
    let said = words(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["app waits: ErrImagePull", "the cluster has given up: it has timed out", "was not complete"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn with_a_command_nothing_is_written_and_one_that_fails_is_not_waited_for() {
    let cluster = FakeCluster::start(Play::Keeps, true, &[]);
    let (status, report) = cluster.report(&["--", "sh", "-c", "echo deployed"]);
    assert_eq!((status, &report["rolled_out"], &report["status"]), (Some(0), &json!(true), &json!(0)), "{report:#}");
    let (status, report) = cluster.report(&["--", "false"]);
    assert_eq!((status, &report["rolled_out"], &report["status"]), (Some(1), &Value::Null, &json!(1)), "{report:#}");
    assert_eq!(cluster.patches(), Vec::<Value>::new());
}

#[test]
fn a_dry_run_says_what_it_would_do_and_what_it_may() {
    let cluster = FakeCluster::start(Play::Keeps, true, &[]);
    let output = cluster.rollout(&["--dry-run"]);
    let said = words(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "would restart deployment/app in namespace shop",
        "select its pods: web",
        "patch deployments.apps",
        "get pods/log",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(cluster.patches(), Vec::<Value>::new());
    let cluster = FakeCluster::start(Play::Keeps, true, &["patch deployments"]);
    let output = cluster.rollout(&["--dry-run"]);
    assert_eq!(output.status.code(), Some(4), "{}", words(&output));
    assert!(words(&output).contains("DENIED"), "{}", words(&output));
    let output = cluster.rollout(&["--dry-run", "--", "helm", "upgrade"]);
    assert_eq!(output.status.code(), Some(0), "a command needs no patch: {}", words(&output));
}

#[test]
fn what_may_not_be_done_is_said_with_its_verb_before_anything_is_done() {
    for (denied, said) in [
        (
            &["watch pods", "patch deployments"][..],
            "not allowed to patch deployments.apps, watch pods in namespace `shop`",
        ),
        (&["get deployments"], "not allowed to get deployments.apps in namespace `shop`"),
        (&["list services"], "not allowed to list services"),
    ] {
        let cluster = FakeCluster::start(Play::Keeps, true, denied);
        let output = cluster.rollout(&[]);
        assert_eq!(output.status.code(), Some(4), "{}", words(&output));
        assert!(words(&output).contains(said), "{said}: {}", words(&output));
        assert_eq!(cluster.patches(), Vec::<Value>::new());
    }
}

#[test]
fn what_does_not_exist_is_said_with_what_does() {
    let cluster = FakeCluster::start(Play::Keeps, true, &[]);
    let config = cluster.folder.path().join("config");
    for (arguments, said) in [
        (&["deployment/ap"][..], "there is no deployment/ap in namespace `shop`; there are: app"),
        (&["deployment/app", "-n", "shoq"], "there is no namespace `shoq`; there are: shop"),
        (&["deployment/app", "--context", "her"], "no such context; there are: here"),
        (&["pod/app"], "expected deployment/NAME"),
        (&["deployment/APP"], "expected deployment/NAME"),
        (&["-n", "shop"], "required"),
    ] {
        let output = rollout(&config, &[arguments, &["--url", "http://127.0.0.1:1/"]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", words(&output));
        assert!(words(&output).contains(said), "{said}: {}", words(&output));
    }
}

#[test]
fn a_cluster_that_is_not_there_is_said_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    for (server, said, within_s) in [
        ("https://127.0.0.1:1", "the cluster at https://127.0.0.1:1 cannot be reached: Connection refused", 5),
        ("https://nowhere.invalid", "https://nowhere.invalid cannot be reached", 8),
        (&silent, "did not answer within 10 s, asked to get deployments.apps", 15),
    ] {
        let config = folder.path().join("config");
        std::fs::write(&config, kubeconfig(server)).unwrap();
        let began = Instant::now();
        let output = rollout(&config, &["deployment/app", "--url", "http://127.0.0.1:1/"]);
        assert_eq!(output.status.code(), Some(4), "{}", words(&output));
        assert!(words(&output).contains(said), "{said}: {}", words(&output));
        assert!(began.elapsed() < Duration::from_secs(within_s), "{server}: {:?}", began.elapsed());
    }
}

#[test]
fn a_kubeconfig_that_is_not_in_order_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let there = "clusters: [{name: c, cluster: {server: \"http://127.0.0.1:1\"}}]\n";
    for (text, said) in [
        (None, "kubeconfig: failed to read"),
        (Some("clusters: [".to_owned()), "kubeconfig: failed to parse"),
        (Some(there.to_owned()), "kubeconfig: failed to determine current context"),
        (Some(kubeconfig("not an address")), "kubeconfig: failed to parse cluster url"),
    ] {
        let _ = std::fs::remove_file(&config);
        if let Some(text) = &text {
            std::fs::write(&config, text).unwrap();
        }
        let output = rollout(&config, &["deployment/app", "--url", "http://127.0.0.1:1/"]);
        assert_eq!(output.status.code(), Some(4), "{}", words(&output));
        assert!(words(&output).contains(said), "{said}: {}", words(&output));
    }
}
