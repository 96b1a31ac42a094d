//! The harness is stopped in the middle of a run: by Ctrl-C, by SIGTERM, and by SIGKILL. Nothing stays behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use drainspec::link::Link;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::servers::{DRAINSPEC, GOOD, PATIENCE, Servers, pids, runs};

/// Ignores SIGTERM and has two children, one of them in a session of its own; all three leave their pids.
const STUBBORN: &str = r"
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
child(detached=False)
child(detached=True)
listener = listen()
connection, _ = listener.accept()
answer(connection)
print(os.getpid(), file=open('pids', 'a'), flush=True)
time.sleep(300)
";

/// Answers, ignores SIGTERM, and says in which network namespace it is.
const FAR_AWAY: &str = r"
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child(detached=True)
listener = listen()
print(os.readlink('/proc/self/ns/net'), file=open('network', 'w'), flush=True)
print(os.getpid(), file=open('pids', 'a'), flush=True)
while True:
    connection, _ = listener.accept()
    answer(connection)
    connection.close()
";

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A harness in the middle of a run against a stubborn server. Dropping it leaves nothing behind either.
struct Interrupted {
    servers: Servers,
    stubborn: PathBuf,
    harness: Child,
}

impl Interrupted {
    /// Starts the harness and waits until the good server has its result and the stubborn one is being tested.
    fn in_the_middle() -> Self {
        let servers = Servers::with_good();
        let stubborn = servers.add("stubborn", STUBBORN);
        servers.add("good", GOOD);
        // What an earlier run has left is not the result of this one.
        std::fs::create_dir_all(servers.out()).unwrap();
        std::fs::write(servers.out().join("results.json"), "an earlier run").unwrap();
        let mut command = Command::new(DRAINSPEC);
        command.args(servers.arguments("*", "idle-exit")).args(["--jobs", "2"]).env("TMPDIR", servers.tmp());
        let harness = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let run = Self { servers, stubborn, harness };
        until("the servers are started", || pids(&run.stubborn).len() == 3);
        until("the good one has its result", || {
            let text = std::fs::read_to_string(run.servers.out().join("results.json")).unwrap();
            text.contains("\"good\"")
        });
        run
    }

    /// Starts the harness and waits until it has a server at the far end of a link.
    fn over_a_link() -> Self {
        let servers = Servers::new();
        let stubborn = servers.add("far-away", FAR_AWAY);
        let mut command = Command::new(DRAINSPEC);
        command.args(servers.arguments("far-away", "connect-storm-over-delay")).env("TMPDIR", servers.tmp());
        let harness = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let run = Self { servers, stubborn, harness };
        until("the server is started", || pids(&run.stubborn).len() == 2);
        run
    }

    /// The network namespace of the server.
    fn network(&self) -> PathBuf {
        PathBuf::from(std::fs::read_to_string(self.stubborn.join("network")).unwrap().trim())
    }

    /// Sends the signal and waits for the end of the harness.
    fn stop(&mut self, signal: Signal) -> ExitStatus {
        let began = Instant::now();
        kill(Pid::from_raw(self.harness.id() as i32), signal).unwrap();
        let mut status = None;
        until("the harness ends", || {
            status = self.harness.try_wait().unwrap();
            status.is_some()
        });
        // The server would be waited for for 20 s: an interrupted harness does not wait for it.
        assert!(began.elapsed() < Duration::from_secs(15), "took {:?}", began.elapsed());
        status.unwrap()
    }

    fn assert_nothing_is_left(&self) {
        for pid in pids(&self.stubborn) {
            assert!(!runs(pid), "process {pid} is still there");
        }
        assert_eq!(self.servers.left_behind(), Vec::<PathBuf>::new());
    }

    fn assert_results_are_whole(&self) {
        let results = self.servers.results();
        crate::results::assert_valid(&results);
        assert_eq!(results["cells"].as_array().unwrap().len(), 1, "{results:#}");
        assert_eq!(self.servers.cell("good")["verdict"], "pass");
    }
}

impl Drop for Interrupted {
    fn drop(&mut self) {
        let _ = self.harness.kill();
        let _ = self.harness.wait();
        for pid in pids(&self.stubborn) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[test]
fn ctrl_c_stops_everything_and_keeps_what_has_come() {
    let mut run = Interrupted::in_the_middle();
    assert_eq!(run.stop(Signal::SIGINT).code(), Some(130));
    run.assert_nothing_is_left();
    run.assert_results_are_whole();
}

#[test]
fn sigterm_does_so_too() {
    let mut run = Interrupted::in_the_middle();
    assert_eq!(run.stop(Signal::SIGTERM).code(), Some(130));
    run.assert_nothing_is_left();
    run.assert_results_are_whole();
}

#[test]
fn a_harness_that_is_killed_leaves_nothing_either() {
    let mut run = Interrupted::in_the_middle();
    assert_eq!(run.stop(Signal::SIGKILL).code(), None);
    // Its guardian does that, a moment later.
    until("everything is gone", || {
        pids(&run.stubborn).into_iter().all(|pid| !runs(pid)) && run.servers.left_behind().is_empty()
    });
    run.assert_results_are_whole();
}

/// Whether somebody runs in this network namespace, or holds it.
fn exists(network: &Path) -> bool {
    let is = |link: PathBuf| std::fs::read_link(link).is_ok_and(|target| target == network);
    let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let holds = |process: PathBuf| {
        let held = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        is(process.join("ns/net")) || held.map(|entry| entry.path()).any(is)
    };
    let mounted = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    processes.into_iter().any(holds) || mounted.contains(&*network.to_string_lossy())
}

#[test]
fn a_link_ends_with_the_harness_however_that_ends() {
    if let Err(why) = Link::new(Duration::ZERO) {
        eprintln!("skipped: no link with delay can be made here: {why}");
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut run = Interrupted::over_a_link();
        let network = run.network();
        assert_ne!(std::fs::read_link("/proc/self/ns/net").unwrap(), network);
        assert!(exists(&network), "{} is not seen", network.display());
        run.stop(signal);
        until("everything is gone", || {
            let nobody = pids(&run.stubborn).into_iter().all(|pid| !runs(pid));
            nobody && !exists(&network) && run.servers.left_behind().is_empty()
        });
    }
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let servers = Servers::new();
    let build = "build = [[\"sh\", \"-c\", \"echo $$ > pids; sleep 300 & echo $! >> pids; wait\"]]\n";
    let folder = servers.add_toml("slow", &crate::servers::toml("framework", "[\"true\"]", build));
    let mut command = Command::new(DRAINSPEC);
    command.args(servers.arguments("slow", "idle-exit")).env("TMPDIR", servers.tmp());
    let harness = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut run = Interrupted { servers, stubborn: folder, harness };
    until("the build runs", || pids(&run.stubborn).len() == 2);
    assert_eq!(run.stop(Signal::SIGINT).code(), Some(130));
    until("everything is gone", || pids(&run.stubborn).into_iter().all(|pid| !runs(pid)));
    assert_eq!(run.servers.left_behind(), Vec::<PathBuf>::new());
}
