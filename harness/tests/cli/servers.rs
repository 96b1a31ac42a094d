//! A temporary folder of servers. They are a few lines of Python, so that nothing has to be built.

use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub const DRAINSPEC: &str = env!("CARGO_BIN_EXE_drainspec");
/// Longer than anything here takes, on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What every server begins with.
const PRELUDE: &str = r#"
import json, os, signal, socket, sys, time

def say(**event):
    print(json.dumps(event), flush=True)

def listen(instance="one"):
    listener = socket.create_server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), backlog=128)
    say(event="listening", port=listener.getsockname()[1], pid=os.getpid(), instance=instance)
    return listener

def answer(connection, instance="one", body=b"ok", length=None):
    connection.recv(65536)
    head = "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Instance-Id: %s\r\nContent-Length: %d\r\n\r\n"
    connection.sendall((head % (instance, len(body) if length is None else length)).encode() + body)

def child(detached):
    ready, tell = os.pipe()
    if os.fork() == 0:
        if detached:
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(os.getpid(), file=open("pids", "a"), flush=True)
        os.write(tell, b".")
        time.sleep(300)
        os._exit(0)
    os.read(ready, 1)

def on_term(do):
    signal.signal(signal.SIGTERM, lambda *_: do())

"#;

/// Ends when it is told to: all that `idle-exit` asks for.
pub const GOOD: &str = r"
on_term(lambda: sys.exit(0))
listener = listen()
while True:
    connection, _ = listener.accept()
    answer(connection)
    connection.close()
";

/// A folder with servers, and one for results.
pub struct Servers {
    folder: TempDir,
}

impl Servers {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["servers", "tmp"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    /// With one server, which is in order.
    pub fn with_good() -> Self {
        let servers = Self::new();
        servers.add("good", GOOD);
        servers
    }

    /// Adds a server in Python. It promises nothing but what everybody expects.
    pub fn add(&self, name: &str, script: &str) -> PathBuf {
        let folder = self.add_toml(name, &toml("framework", r#"["python3", "-B", "server.py"]"#, ""));
        std::fs::write(folder.join("server.py"), format!("{PRELUDE}{script}")).unwrap();
        folder
    }

    /// Adds a folder with this `server.toml`.
    pub fn add_toml(&self, name: &str, toml: &str) -> PathBuf {
        let folder = self.servers().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("server.toml"), toml).unwrap();
        folder
    }

    pub fn servers(&self) -> PathBuf {
        self.folder.path().join("servers")
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// Where the program makes its temporary folders.
    pub fn tmp(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    /// Arguments that play one scenario against servers of this folder.
    pub fn arguments(&self, server: &str, scenario: &str) -> Vec<String> {
        let (servers, out) = (self.servers().display().to_string(), self.out().display().to_string());
        let arguments = ["matrix", "--servers", &servers, "--out", &out, "--server", server, "--scenario", scenario];
        arguments.map(str::to_owned).into()
    }

    pub fn matrix(&self, server: &str, scenario: &str) -> Command {
        let mut command = drainspec();
        command.args(self.arguments(server, scenario)).env("TMPDIR", self.tmp()).current_dir(self.folder.path());
        command
    }

    pub fn results(&self) -> Value {
        let text = std::fs::read_to_string(self.out().join("results.json")).expect("results.json was written");
        serde_json::from_str(&text).expect("results.json is whole")
    }

    /// The cell of a server in `idle-exit`.
    pub fn cell(&self, server: &str) -> Value {
        let results = self.results();
        let wanted = |cell: &&Value| cell["server"] == server && cell["scenario"] == "idle-exit";
        let cell = results["cells"].as_array().unwrap().iter().find(wanted);
        cell.unwrap_or_else(|| panic!("no cell of {server}: {results:#}")).clone()
    }

    /// What is left where temporary folders are made.
    pub fn left_behind(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.tmp()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

/// A `server.toml`.
pub fn toml(kind: &str, run: &str, more: &str) -> String {
    format!("kind = \"{kind}\"\nlanguage = \"python\"\nsummary = \"for a test\"\nfeatures = []\nrun = {run}\n{more}")
}

pub fn drainspec() -> Command {
    let mut command = Command::new(DRAINSPEC);
    command.timeout(PATIENCE).env_remove("NO_COLOR");
    command
}

/// Whether a process runs. One that has ended and was not waited for does not.
pub fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The pids that servers have written to `pids` in their folder, one a line.
pub fn pids(folder: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(folder.join("pids")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
