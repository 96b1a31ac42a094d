//! `rollout` against a deploy script that restarts two instances behind nginx, one after the other.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::CommandCargoExt;
use drainspec::catalog::discover;
use drainspec::process::{build, free_port};
use serde_json::Value;

/// Restarts the instance on each of these ports: SIGTERM, the end, a successor, its readiness.
const DEPLOY: &str = r#"
for port in $PORTS; do
    echo "restarting $port"
    kill -TERM "$(cat "$port.pid")"
    while kill -0 "$(cat "$port.pid")" 2>/dev/null; do sleep 0.05; done
    sh ./start.sh "$port"
    until curl -fsS -o /dev/null "http://127.0.0.1:$port/health/ready"; do sleep 0.05; done
    sleep 1
done
"#;

/// Two instances of a server behind nginx; gone when this is dropped, and so are their successors.
struct Fleet {
    folder: tempfile::TempDir,
    listen: u16,
    ports: [u16; 2],
    nginx: Child,
}

impl Fleet {
    fn start(server: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        let servers = discover(&root.join("servers")).unwrap();
        let server = servers.iter().find(|one| one.name == server).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(build(server)).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let [listen, one, two] = [(); 3].map(|()| free_port().unwrap());
        let text = std::fs::read_to_string(root.join("lb-configs/nginx/keep-alive/nginx.conf")).unwrap();
        let text = [("8080", listen), ("8081", one), ("8082", two)]
            .iter()
            .fold(text, |text, (old, new)| text.replace(&format!("127.0.0.1:{old}"), &format!("127.0.0.1:{new}")));
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let start = format!(
            "cd '{}' && PORT=$1 ADMIN_PORT=0 exec setsid {} > '{}/'$1.log 2>&1 < /dev/null &\necho $! > '{}/'$1.pid\n",
            server.folder.display(),
            server.spec.run.join(" "),
            folder.path().display(),
            folder.path().display(),
        );
        std::fs::write(folder.path().join("start.sh"), start).unwrap();
        let nginx = Command::new("nginx")
            .args(["-p", ".", "-c", "nginx.conf", "-g", "user root; daemon off;"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed by scripts/setup.sh");
        let fleet = Self { folder, listen, ports: [one, two], nginx };
        for port in fleet.ports {
            assert!(fleet.shell().arg("./start.sh").arg(port.to_string()).status().unwrap().success());
        }
        for port in fleet.ports.into_iter().chain([listen]) {
            let began = Instant::now();
            while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(began.elapsed() < Duration::from_secs(30), "nobody listens on {port}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        fleet
    }

    fn shell(&self) -> Command {
        let mut shell = Command::new("sh");
        shell.current_dir(self.folder.path()).stdin(Stdio::null());
        shell
    }

    fn rollout(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let done = Command::cargo_bin("drainspec")
            .unwrap()
            // Of what has begun to come nginx cannot ask the other instance again, as it does for a GET otherwise.
            .args(["rollout", "--url", &format!("http://127.0.0.1:{}/stream?chunks=5&interval=0.1", self.listen)])
            .args(["--rate", "40", "--warm-up", "3", "--cool-down", "2", "--format", "json"])
            .args(arguments)
            .args(["--", "sh", "-c", DEPLOY])
            .env("PORTS", self.ports.map(|port| port.to_string()).join(" "))
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {words}")))
    }

    fn pid_files(&self) -> Vec<PathBuf> {
        self.ports.map(|port| self.folder.path().join(format!("{port}.pid"))).to_vec()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The master takes its workers along.
        let _ = Command::new("kill").args(["-TERM", &self.nginx.id().to_string()]).status();
        let _ = self.nginx.wait();
        for file in self.pid_files() {
            if let Ok(pid) = std::fs::read_to_string(file) {
                let _ = Command::new("kill").args(["-KILL", pid.trim()]).stderr(Stdio::null()).status();
            }
        }
    }
}

#[test]
fn a_server_that_ends_at_once_loses_requests_behind_nginx() {
    let (status, report) = Fleet::start("naive/python").rollout(&[]);
    assert_eq!(report["untold"], Value::Null, "{report:#}");
    assert!(report["missed"].as_u64().unwrap() > 0, "{report:#}");
    assert_eq!(status, Some(1));
    let steps: u64 = report["steps"].as_array().unwrap().iter().map(|step| step["missed"].as_u64().unwrap()).sum();
    assert!(steps > 0, "what is missed is put down to a line of the deploy: {report:#}");
}

#[test]
fn a_reference_loses_none_behind_nginx_and_the_switch_over_is_shown() {
    let (status, report) = Fleet::start("python").rollout(&[]);
    assert_eq!((report["untold"].clone(), report["missed"].as_u64()), (Value::Null, Some(0)), "{report:#}");
    assert_eq!(status, Some(0));
    assert_eq!(report["instances"].as_object().unwrap().len(), 4, "two instances, and two successors: {report:#}");
}

#[test]
fn who_answers_is_read_from_the_field_that_is_named() {
    let (_, report) = Fleet::start("python").rollout(&["--instance-header", "Server"]);
    // nginx answers for all of them.
    let names: Vec<&String> = report["instances"].as_object().unwrap().keys().collect();
    assert!(names.len() == 1 && names[0].starts_with("nginx"), "{report:#}");
}
