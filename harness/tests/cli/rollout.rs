//! `rollout`: what anybody's deploy loses, and where nothing can be said of it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::CommandCargoExt;
use drainspec::process::free_port;
use serde_json::Value;

/// A server of a few lines: it answers after so many seconds, one request at a time where that is asked for.
const SERVER: &str = "
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        time.sleep(float(sys.argv[2]))
        self.send_response(200)
        self.send_header('Content-Length', '2')
        self.send_header('X-Instance-Id', sys.argv[3])
        self.end_headers()
        self.wfile.write(b'ok')
    def log_message(self, *_):
        pass
kind = HTTPServer if sys.argv[4] == 'one' else ThreadingHTTPServer
kind(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rollout.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A server, gone when this is dropped, whoever has started its successor.
struct Target {
    port: u16,
    folder: tempfile::TempDir,
    first: Child,
}

impl Target {
    fn start(delay: &str, kind: &str) -> Self {
        let (port, folder) = (free_port().unwrap(), tempfile::tempdir().unwrap());
        let script = folder.path().join("server.py");
        std::fs::write(&script, SERVER).unwrap();
        let mut command = Command::new("python3");
        command.arg(&script).args([&port.to_string(), delay, "first", kind]);
        let first = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { port, folder, first }
    }

    /// A rollout of this command, with what the command finds in its environment.
    fn rollout(&self, arguments: &[&str], script: &str) -> (Option<i32>, Value, String) {
        let done = Command::cargo_bin("drainspec")
            .unwrap()
            .args(["rollout", "--url", &format!("http://127.0.0.1:{}/", self.port)])
            .args(["--warm-up", "2", "--cool-down", "1", "--format", "json"])
            .args(arguments)
            .args(["--", "sh", "-c", script])
            .env("OLD", self.first.id().to_string())
            .env("PORT", self.port.to_string())
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&done.stderr).into_owned();
        let report = serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {words}"));
        let validator = jsonschema::draft202012::new(&schema()).expect("the schema is a schema");
        let faults: Vec<String> = validator.iter_errors(&report).map(|fault| fault.to_string()).collect();
        assert_eq!(faults, Vec::<String>::new(), "{report:#}");
        (done.status.code(), report, words)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
        if let Ok(pid) = std::fs::read_to_string(self.folder.path().join("second"))
            && let Ok(pid) = pid.trim().parse()
        {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
    }
}

#[test]
fn a_deploy_that_touches_nothing_loses_nothing() {
    let (status, report, words) = Target::start("0", "many").rollout(&[], "echo building; sleep 1");
    assert_eq!(status, Some(0), "{words}");
    assert_eq!((&report["missed"], &report["status"], &report["untold"]), (&0.into(), &0.into(), &Value::Null));
    assert!(report["during"]["served"].as_u64() > Some(5), "{report}");
    assert_eq!(report["steps"][0]["line"], "building");
    assert!(words.contains("building"), "{words}");
}

#[test]
fn a_restart_in_place_is_seen_with_the_step_that_cost_it_and_its_server_stays() {
    let target = Target::start("0", "many");
    let restart = "echo stopping; kill $OLD; sleep 1
        python3 server.py $PORT 0 second many 2>/dev/null >/dev/null & echo $! > second; sleep 1; echo started";
    let (status, report, words) = target.rollout(&[], restart);
    assert_eq!(status, Some(1), "{words}");
    assert!(report["during"]["unsent"].as_u64() > Some(0), "{report}");
    assert_eq!((&report["steps"][0]["line"], &report["steps"][1]["missed"]), (&"stopping".into(), &0.into()));
    assert!(report["instances"]["first"].is_array() && report["instances"]["second"].is_array(), "{report}");
    std::net::TcpStream::connect(("127.0.0.1", target.port)).expect("what was deployed goes on");
}

#[test]
fn so_much_may_be_allowed_and_a_command_that_fails_is_no_success() {
    let target = Target::start("0", "many");
    let stop = "kill -STOP $OLD; sleep 1; kill -CONT $OLD";
    let (status, report, words) = target.rollout(&["--allow-lost", "1000"], stop);
    assert_eq!((status, &report["missed"]), (Some(0), &0.into()), "a pause is no loss: {words}");
    assert!(report["longest_gap_s"].as_f64() > Some(0.8), "{report}");
    assert_eq!(target.rollout(&[], "exit 3").0, Some(1));
    assert_eq!(target.rollout(&["--allow-lost", "1000"], "kill -9 $OLD").0, Some(0));
}

#[test]
fn a_target_that_is_not_in_order_is_left_alone_and_not_judged() {
    let slow = Target::start("0.2", "one");
    let (status, report, words) = slow.rollout(&["--rate", "50", "--kept", "0", "--timeout", "60"], "touch deployed");
    assert_eq!(status, Some(5), "{words}");
    assert!(report["untold"].is_string(), "{report}");
    assert!(!slow.folder.path().join("deployed").exists(), "the command was started all the same");

    let gone = Target::start("0", "many");
    std::process::Command::new("kill").args(["-9", &gone.first.id().to_string()]).status().unwrap();
    let (status, report, _) = gone.rollout(&[], "touch deployed");
    assert_eq!(status, Some(5));
    assert!(report["untold"].as_str().is_some_and(|why| why.contains("missed before")), "{report}");
}

#[test]
fn what_cannot_be_asked_is_said_at_once() {
    for (url, said) in [
        ("https://127.0.0.1:1/", "TLS is not spoken yet"),
        ("ftp://127.0.0.1/", "expected http://"),
        ("127.0.0.1:80", "expected http://"),
        ("http://nowhere.invalid/", "--url http://nowhere.invalid/"),
    ] {
        let done =
            Command::cargo_bin("drainspec").unwrap().args(["rollout", "--url", url, "--", "true"]).output().unwrap();
        let words = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{url}: {words}");
        assert!(words.contains(said), "{url}: {words}");
    }
    let target = Target::start("0", "many");
    let url = format!("http://127.0.0.1:{}/", target.port);
    let none = ["rollout", "--url", &url, "--warm-up", "2", "--", "/no/such/program"];
    let done = Command::cargo_bin("drainspec").unwrap().args(none).output().unwrap();
    let words = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(4), "{words}");
    assert!(words.contains("`/no/such/program` cannot be started"), "{words}");
}
