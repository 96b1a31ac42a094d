//! How long a process is kept waiting for a processor, by the kernel's word. The heartbeat of the harness does not see
//! that: on a machine with several cores the one may run while the other waits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Exit;
use crate::recorder::Recorder;
use crate::timeline::{Event, ProcessId};

/// Interval of the looks, at all processes that are watched. Each takes time itself, which is short on a busy machine.
const LOOK: Duration = Duration::from_millis(200);
/// Every so many looks it is looked for new threads and children.
const ANEW: u32 = 5;
/// How much waiting is worth a record, once it has added up to that: what a quiet machine does not come to in a run.
const STARVED: Duration = Duration::from_millis(20);

/// Those that the thread which looks has not seen yet; `None` where there is no such thread.
static ARRIVED: Mutex<Option<Vec<Watched>>> = Mutex::new(None);

/// A process and its children, and how long they have waited so far.
struct Watched {
    pid: u32,
    process: ProcessId,
    recorder: Recorder,
    exit: watch::Receiver<Option<Exit>>,
    looks: u32,
    tasks: BTreeMap<PathBuf, Duration>,
    told: Instant,
    waited: Duration,
}

/// Records, until the process has ended, how long it and its children were ready to run and did not. One thread looks
/// at all of them, so that nobody else has to wait for it.
pub fn watch(pid: u32, process: ProcessId, recorder: &Recorder, exit: watch::Receiver<Option<Exit>>) {
    if recorder.discards() {
        return;
    }
    let (recorder, tasks) = (recorder.clone(), BTreeMap::new());
    let (told, waited) = (Instant::now(), Duration::ZERO);
    let watched = Watched { pid, process, recorder, exit, looks: 0, tasks, told, waited };
    let mut arrived = ARRIVED.lock().unwrap_or_else(PoisonError::into_inner);
    match arrived.as_mut() {
        Some(arrived) => arrived.push(watched),
        None => {
            *arrived = Some(vec![watched]);
            std::thread::spawn(look_at_all);
        }
    }
}

fn look_at_all() {
    let mut all: Vec<Watched> = Vec::new();
    loop {
        let mut arrived = ARRIVED.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(arrived.iter_mut().flat_map(std::mem::take));
        all.retain(Watched::lives);
        if all.is_empty() {
            *arrived = None;
            return;
        }
        drop(arrived);
        all.iter_mut().for_each(Watched::look);
        std::thread::sleep(LOOK);
    }
}

impl Watched {
    fn lives(&self) -> bool {
        self.exit.has_changed().is_ok() && self.exit.borrow().is_none()
    }

    fn look(&mut self) {
        if self.looks.is_multiple_of(ANEW) {
            // How long a thread has waited before it was found counts as well.
            let known = std::mem::take(&mut self.tasks);
            let waited = |task: &PathBuf| known.get(task).copied().unwrap_or_default();
            self.tasks = tasks(self.pid).into_iter().map(|task| (task.clone(), waited(&task))).collect();
        }
        self.looks += 1;
        // Of threads that wait at the same time, as those of a server with much to do always do, the one that waited
        // longest tells.
        let more = self.tasks.iter_mut().filter_map(|(task, before)| {
            let now = waited(task)?;
            Some(now.saturating_sub(std::mem::replace(before, now)))
        });
        self.waited += more.max().unwrap_or_default();
        if self.waited >= STARVED {
            let within = self.told.elapsed();
            let (waited_us, within_us) = (self.waited.min(within).as_micros() as u64, within.as_micros() as u64);
            self.recorder.record(Event::Starved { process: self.process, waited_us, within_us });
            (self.told, self.waited) = (Instant::now(), Duration::ZERO);
        }
    }
}

/// The threads of this process, and of its children, as folders in /proc. Empty without /proc.
fn tasks(pid: u32) -> Vec<PathBuf> {
    let (mut found, mut processes) = (Vec::new(), vec![pid]);
    while let Some(pid) = processes.pop() {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten().map(|task| task.path()) {
            let children = std::fs::read_to_string(task.join("children")).unwrap_or_default();
            processes.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
            found.push(task);
        }
    }
    found
}

/// How long a thread, by its folder in /proc, has waited for a processor so far: the second number, in nanoseconds
/// (Documentation/scheduler/sched-stats.rst).
pub(crate) fn waited(task: &Path) -> Option<Duration> {
    let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
    Some(Duration::from_nanos(text.split_whitespace().nth(1)?.parse().ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn every_thread_of_a_process_has_a_wait_of_its_own() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || receiver.recv());
        let own = std::process::id();
        let tasks = tasks(own);
        assert!(tasks.len() >= 2 && tasks.contains(&PathBuf::from(format!("/proc/{own}/task/{own}"))), "{tasks:?}");
        assert!(tasks.iter().any(|task| waited(task).is_some()), "{tasks:?}");
        drop(sender);
        let _ = thread.join().unwrap();
    }

    #[test]
    fn nobody_waits_in_a_process_that_is_gone() {
        assert!(tasks(u32::MAX).is_empty());
    }
}
