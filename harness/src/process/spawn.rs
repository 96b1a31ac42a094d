//! Starting one server: a process group of its own, its output drained and bounded, its start awaited.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};

use super::groups::Group;
use super::lines::Splitter;
use super::{Tree, guardian, listener_inode, sabotage, starved};
use crate::link::Place;
use crate::recorder::Recorder;
use crate::timeline::{Event, Lines, Part, ProcessId, Slot};

/// Lines of each stream that are recorded; all further ones are read and thrown away, which the timeline tells.
const MAX_LINES: u64 = 2_000;
/// `executed` lines that are recorded: there are as many as requests.
const MAX_EXECUTED: u64 = 200_000;
/// Lines of standard error that are shown when a server does not start.
const LAST_LINES: usize = 8;
/// How long what a process printed may take through the pipe when it has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Time for a server to say that it listens.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Folder to start it in.
    pub folder: PathBuf,
    /// Environment, on top of the harness's own.
    pub env: BTreeMap<String, String>,
    /// Where it runs.
    pub place: Place,
    /// The part that it plays.
    pub part: Part,
    /// Its place in a fleet.
    pub slot: Option<Slot>,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Addressee {
    /// The process that was started, as a kubelet and systemd's KillMode=mixed do
    #[default]
    Leader,
    /// Its whole process group, as a terminal, foreman and Heroku do
    Group,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit status, where it exited.
    pub code: Option<i32>,
    /// The signal that killed it, where one did.
    pub signal: Option<i32>,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => write!(f, "an unknown end"),
        }
    }
}

/// A server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program could not be executed.
    #[error("`{program}` cannot be started: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended before it listened.
    #[error("ended with {exit} before it listened{output}")]
    Exited {
        /// How it ended.
        exit: Exit,
        /// Its last lines of standard error.
        output: Output,
    },
    /// It never said that it listens.
    #[error("printed no `listening` line within {} s{output}", START_TIMEOUT.as_secs())]
    Silent {
        /// Its last lines of standard error.
        output: Output,
    },
    /// It went on in the background.
    #[error(
        "went on in the background while its command ended, and no supervisor finds it there: run it in the foreground (nginx: -g 'daemon off;')"
    )]
    Daemonised,
    /// No process of it ever listened on a port.
    #[error("listened on no port within {} s{output}", within.as_secs())]
    NeverListened {
        /// How long it was waited for.
        within: Duration,
        /// Its last lines of standard error.
        output: Output,
    },
    /// Its first line is not what the contract says.
    #[error("its first line is not a `listening` event: {line:?}")]
    NotListening {
        /// The line, shortened.
        line: String,
    },
}

/// The last lines of standard error, for people.
#[derive(Debug, Clone, Default)]
pub struct Output(pub Vec<String>);

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return write!(f, "; it printed nothing on standard error");
        }
        write!(f, "; the last it printed on standard error:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// The `listening` line.
#[derive(Debug, Clone, Deserialize)]
pub struct Listening {
    /// Traffic port.
    pub port: u16,
    /// Admin port.
    pub admin_port: Option<u16>,
    /// Instance id.
    pub instance: Option<String>,
}

/// A process that was started. Dropping it kills its group.
pub struct Spawned {
    /// Its number in the timeline.
    pub id: ProcessId,
    pid: Pid,
    tag: Option<String>,
    place: Place,
    recorder: Recorder,
    group: Group,
    exit: watch::Receiver<Option<Exit>>,
    listening: oneshot::Receiver<Result<Listening, String>>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    muted: watch::Sender<bool>,
}

/// Starts a process. Its signal dispositions are the default ones, whatever the harness inherited.
///
/// # Errors
/// When the program cannot be executed.
pub fn start(launch: &Launch, id: ProcessId, recorder: &Recorder) -> Result<Spawned, StartError> {
    let tag = guardian::tag();
    let mut command = Command::new(&launch.command[0]);
    command
        .args(&launch.command[1..])
        .current_dir(&launch.folder)
        .envs(&launch.env)
        .envs(tag.clone())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let place = launch.place.clone();
    // SAFETY: between fork and exec only signal(2) and setns(2) are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            place.enter()?;
            for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
                signal(ignored, SigHandler::SigDfl)?;
            }
            Ok(())
        });
    }
    let mut child =
        command.spawn().map_err(|source| StartError::Spawn { program: launch.command[0].clone(), source })?;
    let pid = child.id().unwrap_or_default();
    recorder.record(Event::Started {
        process: id,
        pid,
        part: launch.part,
        slot: launch.slot,
        settings: launch.env.clone(),
    });
    let (listening_sender, listening) = oneshot::channel();
    let stderr = Arc::new(Mutex::new(VecDeque::new()));
    let (exit_sender, exit) = watch::channel(None);
    let muted = watch::Sender::new(false);
    if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
        let ear = Ear { muted: muted.subscribe(), exit: exit.clone() };
        tokio::spawn(read_stdout(out, ear.clone(), id, recorder.clone(), listening_sender));
        tokio::spawn(read_stderr(err, ear, id, recorder.clone(), stderr.clone()));
    }
    starved::watch(pid, id, recorder, exit.clone());
    tokio::spawn(wait(child, id, recorder.clone(), exit_sender));
    let tag = tag.map(|(_, value)| value);
    let (pid, group, recorder) = (Pid::from_raw(pid as i32), Group::new(pid), recorder.clone());
    let place = launch.place.clone();
    Ok(Spawned { id, pid, tag, place, recorder, group, exit, listening, stderr, muted })
}

impl Spawned {
    /// Sends a signal; `false` where the leader has ended already.
    pub fn signal(&self, signal: Signal, to: Addressee) -> bool {
        if self.exit.borrow().is_some() {
            return false;
        }
        let group = to == Addressee::Group;
        self.recorder.record(Event::Signal { process: self.id, name: signal.as_str().to_owned(), group });
        match to {
            Addressee::Leader => nix::sys::signal::kill(self.pid, signal).is_ok(),
            Addressee::Group => nix::sys::signal::killpg(self.pid, signal).is_ok(),
        }
    }

    /// From now on nobody reads its output, and there is no room left in it.
    ///
    /// # Errors
    /// Where the pipes cannot be filled.
    pub async fn mute(&self) -> std::io::Result<()> {
        /// Time for whoever reads to notice, and for what is being written to arrive.
        const SETTLE: Duration = Duration::from_millis(50);
        self.muted.send_replace(true);
        for _ in 0..2 {
            tokio::time::sleep(SETTLE).await;
            for descriptor in [1, 2] {
                sabotage::fill_pipe(self.pid(), descriptor)?;
            }
        }
        self.recorder.record(Event::Muted { process: self.id });
        Ok(())
    }

    /// Holds it and whatever it has started, by SIGSTOP.
    pub fn freeze(&self) {
        self.to_all(Signal::SIGSTOP);
        self.recorder.record(Event::Frozen { process: self.id });
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.recorder.record(Event::Thawed { process: self.id });
        self.to_all(Signal::SIGCONT);
    }

    fn to_all(&self, signal: Signal) {
        for pid in self.tree().pids {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal); // one that has ended needs neither
        }
    }

    /// Breaks its listener: accept(2) fails from now on.
    ///
    /// # Errors
    /// Where that is not allowed, or it has none.
    pub fn break_listener(&self, port: u16) -> std::io::Result<()> {
        let inode = listener_inode(&self.place, port)?;
        self.recorder.record(Event::ListenerBroken { process: self.id });
        sabotage::break_listener(self.pid(), inode)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// What this process and its children are at the moment.
    pub fn tree(&self) -> Tree {
        Tree::of(self.pid.as_raw(), self.tag.as_deref(), &self.place)
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Waits for the end of the leader; `None` where it does not come in time.
    pub async fn exited(&self, within: Duration) -> Option<Exit> {
        let mut exit = self.exit.clone();
        let ended = tokio::time::timeout(within, exit.wait_for(Option::is_some)).await;
        ended.ok().and_then(Result::ok).and_then(|exit| *exit)
    }

    /// How the leader ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Whether anybody of the process group is alive.
    pub fn group_alive(&self) -> bool {
        self.group.alive()
    }

    /// Kills everything of this start, daemons too, and waits for the leader to be gone.
    pub async fn kill(&self) {
        self.note_kill();
        self.group.kill();
        Tree::kill(|| self.tree());
        let _ = self.exited(Duration::from_secs(5)).await;
    }

    /// Or the end that is the harness's doing would look like the server's own.
    fn note_kill(&self) {
        if self.exit.borrow().is_none() {
            self.recorder.record(Event::Killed { process: self.id });
        }
    }

    /// Waits for the `listening` line.
    ///
    /// # Errors
    /// When it does not come: the process ended, kept silent, or says something else.
    pub async fn listening(&mut self) -> Result<Listening, StartError> {
        let mut exit = self.exit.clone();
        let ended = async move { exit.wait_for(Option::is_some).await.is_ok() };
        let line = tokio::select! {
            biased;
            line = &mut self.listening => line.ok(),
            // What it has printed may still be on its way through the pipe.
            _ = ended => tokio::time::timeout(LAST_WORDS, &mut self.listening).await.ok().and_then(Result::ok),
            () = tokio::time::sleep(START_TIMEOUT) => return Err(StartError::Silent { output: self.last_lines() }),
        };
        match line {
            Some(Ok(listening)) => Ok(listening),
            Some(Err(line)) => Err(StartError::NotListening { line }),
            None => Err(self.ended_early().await),
        }
    }

    async fn ended_early(&self) -> StartError {
        match self.exited(Duration::from_secs(1)).await {
            Some(exit) => {
                // Its last words may still be on their way through the pipe.
                tokio::time::sleep(Duration::from_millis(50)).await;
                StartError::Exited { exit, output: self.last_lines() }
            }
            None => StartError::Silent { output: self.last_lines() },
        }
    }

    /// The last lines that it printed on standard error.
    pub fn last_lines(&self) -> Output {
        Output(self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect())
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.note_kill();
        self.group.kill();
        Tree::kill(|| self.tree());
    }
}

async fn wait(mut child: Child, id: ProcessId, recorder: Recorder, exit: watch::Sender<Option<Exit>>) {
    use std::os::unix::process::ExitStatusExt;
    let Ok(status) = child.wait().await else { return };
    let ended = Exit { code: status.code(), signal: status.signal() };
    recorder.record(Event::Exited { process: id, code: ended.code, signal: ended.signal });
    let _ = exit.send(Some(ended));
}

/// Whether anybody reads a process's output.
#[derive(Clone)]
struct Ear {
    muted: watch::Receiver<bool>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Ear {
    /// Returns when nobody is to read any more.
    async fn closes(&mut self) {
        if self.muted.wait_for(|muted| *muted).await.is_err() {
            std::future::pending().await // the handle of the process is gone; its output is read to the end
        }
    }

    /// Returns when the process has ended.
    async fn ended(&mut self) {
        let _ = self.exit.wait_for(Option::is_some).await;
    }
}

async fn read_stdout(
    stream: impl AsyncRead + Unpin,
    ear: Ear,
    id: ProcessId,
    recorder: Recorder,
    listening: oneshot::Sender<Result<Listening, String>>,
) {
    let mut listening = Some(listening);
    let mut log = Bound::new(Lines::Log, MAX_LINES);
    let mut counted = Bound::new(Lines::Executed, MAX_EXECUTED);
    read_lines(stream, ear, |line| {
        if let Some(sender) = listening.take() {
            let parsed = event(&line).filter(|(event, _)| event == "listening");
            let parsed = parsed.and_then(|(_, value)| serde_json::from_value(value).ok());
            let _ = sender.send(parsed.ok_or_else(|| line.chars().take(200).collect()));
        }
        match executed(&line) {
            Some(request) => counted.record(&recorder, id, Event::Executed { process: id, request }),
            None => log.record(&recorder, id, Event::Log { process: id, line }),
        }
    })
    .await;
}

async fn read_stderr(
    stream: impl AsyncRead + Unpin,
    ear: Ear,
    id: ProcessId,
    recorder: Recorder,
    last: Arc<Mutex<VecDeque<String>>>,
) {
    let mut bound = Bound::new(Lines::Stderr, MAX_LINES);
    read_lines(stream, ear, |line| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back(line.chars().take(300).collect());
        if last.len() > LAST_LINES {
            last.pop_front();
        }
        bound.record(&recorder, id, Event::Stderr { process: id, line });
    })
    .await;
}

/// Records lines of one kind, up to so many, and says once that there are more.
struct Bound {
    lines: Lines,
    most: u64,
    came: u64,
}

impl Bound {
    fn new(lines: Lines, most: u64) -> Self {
        Self { lines, most, came: 0 }
    }

    fn record(&mut self, recorder: &Recorder, process: ProcessId, line: Event) {
        match self.came.cmp(&self.most) {
            Ordering::Less => recorder.record(line),
            Ordering::Equal => {
                recorder.record(Event::Unrecorded { process, lines: self.lines, recorded: self.most });
            }
            Ordering::Greater => {}
        }
        self.came += 1;
    }
}

/// Reads until the end whatever comes, however long its lines: a full pipe would block the server. Muted, it keeps the
/// stream open and reads no more.
async fn read_lines(mut stream: impl AsyncRead + Unpin, mut ear: Ear, mut take: impl FnMut(String)) {
    let mut chunk = vec![0; 16 << 10];
    let mut splitter = Splitter::default();
    loop {
        let length = tokio::select! {
            biased;
            () = ear.closes() => return ear.ended().await,
            read = stream.read(&mut chunk) => match read {
                Ok(length @ 1..) => length,
                _ => break,
            },
        };
        splitter.feed(&chunk[..length], &mut take);
    }
    splitter.rest().into_iter().for_each(take);
}

fn event(line: &str) -> Option<(String, serde_json::Value)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some((value.get("event")?.as_str()?.to_owned(), value))
}

fn executed(line: &str) -> Option<String> {
    if !line.starts_with("{\"event\":") || !line.contains("executed") {
        return None;
    }
    let (event, value) = event(line)?;
    (event == "executed").then(|| value.get("request_id")?.as_str().map(str::to_owned)).flatten()
}
