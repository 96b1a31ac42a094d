//! Nothing stays behind, also when the harness is killed.
//!
//! The guardian is a small process in a session of its own that holds the read end of a pipe, through which it is
//! told of every process group that starts and ends. However the harness ends, the pipe closes; the guardian then
//! kills the groups that are left and whatever carries the run's tag in its environment (a child that made a
//! session of its own), and removes the run's temporary folder. Both are needed: some servers write their title
//! over their environment. A parent-death signal would not do: it follows the thread that spawned, and is not
//! inherited.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// The variable that marks every process of a run.
pub const VARIABLE: &str = "DRAINSPEC_RUN";
/// The hidden subcommand that makes this program a guardian.
pub const SUBCOMMAND: &str = "guardian";

/// How the folder of a run is called.
const PREFIX: &str = "drainspec-";

/// Looks for what is left, so many in a row without a find, before the guardian rests: a child that was just being
/// forked bears the tag only after its exec.
const QUIET_LOOKS: u32 = 4;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

static FOLDER: OnceLock<PathBuf> = OnceLock::new();
static GUARDIAN: OnceLock<u32> = OnceLock::new();
static PIPE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// The harness's side. Dropping it lets the guardian clean up, and waits for that.
pub struct Guardian {
    child: Child,
}

impl Guardian {
    /// Makes the run's folder and starts the guardian.
    ///
    /// # Errors
    /// When the folder or the process cannot be made.
    pub fn start() -> std::io::Result<Self> {
        super::raise_file_limit();
        super::adopt_orphans();
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?.keep();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(SUBCOMMAND)
            .arg(&folder)
            .env_remove(VARIABLE)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
        }
        let mut child = command.spawn().inspect_err(|_| {
            let _ = std::fs::remove_dir(&folder);
        })?;
        *PIPE.lock().unwrap_or_else(PoisonError::into_inner) = child.stdin.take();
        let _ = GUARDIAN.set(child.id());
        let _ = FOLDER.set(folder);
        Ok(Self { child })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(PIPE.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.child.wait();
    }
}

/// Whether this process is the guardian.
pub fn is(pid: i32) -> bool {
    GUARDIAN.get().is_some_and(|guardian| *guardian == pid as u32)
}

/// The folder of this run; the system's own where no guardian was started.
pub fn run_folder() -> PathBuf {
    FOLDER.get().cloned().unwrap_or_else(std::env::temp_dir)
}

/// The variable, with its value, that marks one more process of this run and whatever it starts.
pub fn tag() -> Option<(&'static str, String)> {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let run = FOLDER.get()?.file_name()?.to_string_lossy();
    Some((VARIABLE, format!("{run}.{}", STARTED.fetch_add(1, Ordering::Relaxed))))
}

/// Tells the guardian of a process group that starts (`+`) or has ended (`-`).
pub fn tell(what: char, group: u32) {
    if let Some(pipe) = PIPE.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        let _ = writeln!(pipe, "{what}{group}");
    }
}

/// Something of a cluster that is not to stay as it is. The guardian sees to it where nobody has said that this is done.
#[derive(Debug)]
pub struct Charge(String);

/// What was left in a cluster, by its name there, and the context of the kubeconfig, if not the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// A namespace that is to be deleted.
    Namespace(Option<String>, String),
    /// A node on which pods may run again.
    Cordon(Option<String>, String),
}

impl Charge {
    /// Takes charge of a namespace that is about to be made, in the current context or in this one.
    pub fn namespace(context: Option<&str>, name: &str) -> Self {
        Self::take('n', context, name)
    }

    /// Takes charge of a node that is about to be cordoned.
    pub fn cordon(context: Option<&str>, node: &str) -> Self {
        Self::take('c', context, node)
    }

    fn take(what: char, context: Option<&str>, name: &str) -> Self {
        let charge = Self(format!("{what}{}\t{name}", context.unwrap_or_default()));
        charge.say('*');
        charge
    }

    /// It is as it was.
    pub fn done(self) {
        self.say('/');
    }

    fn say(&self, what: char) {
        if let Some(pipe) = PIPE.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let _ = writeln!(pipe, "{what}{}", self.0);
        }
    }
}

impl Left {
    fn read(charge: &str) -> Option<Self> {
        let (context, name) = charge.get(1..)?.split_once('\t')?;
        let (context, name) = ((!context.is_empty()).then(|| context.to_owned()), name.to_owned());
        match charge.get(..1)? {
            "n" => Some(Self::Namespace(context, name)),
            "c" => Some(Self::Cordon(context, name)),
            _ => None,
        }
    }
}

/// The guardian's side: waits for the end of the harness, then cleans up; what is left in a cluster by means of whoever
/// knows clusters.
pub fn guard(folder: &Path, mend: impl Fn(Left)) {
    let (mut groups, mut charges) = (BTreeSet::new(), BTreeSet::new());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Some((what, rest)) = line.split_at_checked(1) else { continue };
        match (what, rest.parse::<i32>()) {
            ("+", Ok(group)) => drop(groups.insert(group)),
            ("-", Ok(group)) => drop(groups.remove(&group)),
            ("*", _) => drop(charges.insert(rest.to_owned())),
            ("/", _) => drop(charges.remove(rest)),
            _ => {}
        }
    }
    for group in groups {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    charges.iter().filter_map(|charge| Left::read(charge)).for_each(mend);
    // Only ever a folder that `Guardian::start` made.
    let name = folder.file_name().map(|name| name.to_string_lossy()).filter(|name| name.starts_with(PREFIX));
    let Some(name) = name else { return };
    let tag = format!("{VARIABLE}={name}.");
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        let found = carriers(&tag);
        quiet = if found.is_empty() { quiet + 1 } else { 0 };
        for pid in found {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if quiet > 0 && quiet < QUIET_LOOKS {
            std::thread::sleep(LOOK);
        }
    }
    let _ = std::fs::remove_dir_all(folder);
}

/// Processes that carry the tag in their environment. Zombies have none any more.
fn carriers(tag: &str) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let carries = |pid: &Pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(tag.as_bytes()))
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(carries).collect()
}
