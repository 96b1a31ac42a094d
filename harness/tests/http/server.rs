//! A server under test, started as its `server.toml` says, and gone when it is dropped.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use drainspec::catalog::{self, Kind};

use crate::wire::Wire;

/// For a server to start, and for whatever else is waited for without a hurry.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The folder with the servers: this checkout's, or that of the variable HTTP_SERVERS.
pub fn folder() -> PathBuf {
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../servers");
    std::env::var_os("HTTP_SERVERS").map_or_else(own, PathBuf::from)
}

/// The references, or the server that the variable HTTP_SERVER names.
pub fn selected() -> Vec<catalog::Server> {
    let Some(wanted) = std::env::var("HTTP_SERVER").ok().filter(|name| !name.is_empty()) else {
        return references();
    };
    let chosen: Vec<_> = all().into_iter().filter(|server| server.name == wanted).collect();
    assert!(!chosen.is_empty(), "HTTP_SERVER: there is no server {wanted:?} in {}", folder().display());
    chosen
}

/// The servers for which the table is.
pub fn references() -> Vec<catalog::Server> {
    let references: Vec<_> = all().into_iter().filter(|server| server.spec.kind == Kind::Reference).collect();
    assert!(!references.is_empty(), "no server in {} is a reference", folder().display());
    references
}

fn all() -> Vec<catalog::Server> {
    catalog::discover(&folder()).expect("every server.toml is in order")
}

/// A running server.
pub struct Server {
    pub port: u16,
    pub admin_port: Option<u16>,
    child: Child,
    /// What it wrote on standard output after `listening`, and when there is more.
    output: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Server {
    /// Builds it where needed, starts it, and waits for its `listening` line.
    pub fn start(server: &catalog::Server, env: &[(&str, &str)]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(drainspec::process::build(server)).unwrap_or_else(|error| panic!("{error}"));
        let mut child = Command::new(&server.spec.run[0])
            .args(&server.spec.run[1..])
            .current_dir(&server.folder)
            .envs(&server.spec.env)
            .envs([("PORT", "0"), ("ADMIN_PORT", "0")])
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {}: {error}", server.name, server.spec.run[0]));
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let _ = stdout.read_line(&mut line);
        let listening: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let port = |name: &str| listening[name].as_u64().and_then(|port| u16::try_from(port).ok());
        let (Some(traffic), admin_port) = (port("port"), port("admin_port")) else {
            let _ = child.kill();
            panic!("{}: its first line is not `listening`: {line:?}", server.name);
        };
        let output = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let lines = Arc::clone(&output);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                lines.0.lock().unwrap().push(line);
                lines.1.notify_all();
            }
        });
        Self { port: traffic, admin_port, child, output }
    }

    /// How many lines it has written.
    pub fn lines(&self) -> usize {
        self.output.0.lock().unwrap().len()
    }

    /// The ids of the `executed` lines from line `from` on, up to that of the request `last`, which is waited for.
    pub fn executed(&self, from: usize, last: &str) -> Option<Vec<String>> {
        let deadline = Instant::now() + START_TIMEOUT;
        let (lines, more) = &*self.output;
        let mut lines = lines.lock().unwrap();
        loop {
            let ids: Vec<String> = lines[from..].iter().filter_map(|line| executed(line)).collect();
            if let Some(end) = ids.iter().position(|id| id == last) {
                return Some(ids[..end].to_vec());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            lines = more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// The status that a new connection gets for a path.
    pub fn get(&self, path: &str) -> Option<u16> {
        let mut wire = Wire::connect(self.port, false).ok()?;
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
        wire.answer(false).ok().map(|answer| answer.status)
    }

    /// Waits until `/metrics` has all of these lines.
    pub fn await_metrics(&self, lines: &[String], within: Duration) -> Result<(), String> {
        let port = self.admin_port.ok_or("no admin port")?;
        let deadline = Instant::now() + within;
        loop {
            let mut wire = Wire::connect(port, false).map_err(|error| format!("/metrics: {error}"))?;
            wire.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let answer = wire.answer(false).map_err(|end| format!("/metrics: {end}"))?;
            let text = String::from_utf8_lossy(&answer.body);
            let has = |line: &&String| text.lines().any(|other| other == line.as_str());
            let Some(missing) = lines.iter().find(|line| !has(line)) else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(format!("/metrics does not come to say {missing:?} within {} s", within.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0) * 1024
    }

    /// How it ended, if it did: no request may do that.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
    }

    /// Waits for its end; `None` where it does not come in time.
    pub fn exited(&mut self, within: Duration) -> Option<std::process::ExitStatus> {
        let until = Instant::now() + within;
        loop {
            match self.child.try_wait().expect("it is a child") {
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                status => return status,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn executed(line: &str) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    (event["event"] == "executed").then(|| event["request_id"].as_str().map(str::to_owned))?
}
