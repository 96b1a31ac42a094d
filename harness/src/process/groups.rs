//! The process groups that this harness has started and that may still live.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// How deep a tree of orphans may be.
const GENERATIONS: usize = 4;

static GROUPS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// A group that is killed when this is dropped: servers under test may have children.
#[derive(Debug)]
pub struct Group(Pid);

impl Group {
    /// Takes charge of the group whose leader has this pid.
    pub fn new(leader: u32) -> Self {
        let pid = Pid::from_raw(leader as i32);
        groups().insert(pid.as_raw());
        super::guardian::tell('+', leader);
        Self(pid)
    }

    /// Whether anybody of the group is alive. A leader that was not waited for yet counts.
    pub fn alive(&self) -> bool {
        killpg(self.0, None).is_ok()
    }

    /// Kills whoever is left.
    pub fn kill(&self) {
        // ESRCH says that nobody is.
        let _ = killpg(self.0, Signal::SIGKILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        groups().remove(&self.0.as_raw());
        super::guardian::tell('-', self.0.as_raw() as u32);
    }
}

/// Kills every group, and every orphan that came to this process: the last act of a harness.
pub fn kill_all() {
    for group in groups().iter() {
        let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
    }
    // The children of an orphan come here when it dies.
    for _ in 0..GENERATIONS {
        for orphan in super::tree::orphans() {
            let _ = kill(Pid::from_raw(orphan), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(orphan), None);
        }
    }
}

/// How many leaders may still live.
pub fn count() -> usize {
    groups().len()
}

/// Whether this process was started as a leader and may still live.
pub fn is_leader(pid: i32) -> bool {
    groups().contains(&pid)
}

fn groups() -> MutexGuard<'static, BTreeSet<i32>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}
