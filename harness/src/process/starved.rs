//! How long a process is kept waiting for a processor, by the kernel's word. The heartbeat of the harness does not see
//! that: on a machine with several cores the one may run while the other waits.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Exit;
use crate::recorder::Recorder;
use crate::timeline::{Event, ProcessId};

/// Interval of the looks.
const LOOK: Duration = Duration::from_millis(100);
/// How much waiting is worth a record, once it has added up to that: what a quiet machine does not come to in a run.
const STARVED: Duration = Duration::from_millis(20);

/// Records, until the process has ended, how long it and its children were ready to run and did not.
pub fn watch(pid: u32, process: ProcessId, recorder: &Recorder, mut ended: watch::Receiver<Option<Exit>>) {
    if recorder.discards() {
        return;
    }
    let looks = look(pid, process, recorder.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = looks => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
    });
}

async fn look(pid: u32, process: ProcessId, recorder: Recorder) {
    let mut before = BTreeMap::new();
    let (mut told, mut waited) = (Instant::now(), Duration::ZERO);
    loop {
        // At once: how long it waits for its first turn counts as well. Of threads that wait at the same time, as those
        // of a server with much to do always do, the one that waited longest tells.
        let now = waits(pid);
        let more = now.iter().map(|(task, wait)| wait.saturating_sub(before.get(task).copied().unwrap_or_default()));
        waited += more.max().unwrap_or_default();
        before = now;
        if waited >= STARVED {
            let within = told.elapsed();
            let waited_us = waited.min(within).as_micros() as u64;
            recorder.record(Event::Starved { process, waited_us, within_us: within.as_micros() as u64 });
            (told, waited) = (Instant::now(), Duration::ZERO);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How long each thread of this process, and of its children, has waited so far. Empty without /proc.
fn waits(pid: u32) -> BTreeMap<u32, Duration> {
    let mut waits = BTreeMap::new();
    let mut processes = vec![pid];
    while let Some(pid) = processes.pop() {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let Some(id) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            waits.extend(waited(&task.path()).map(|wait| (id, wait)));
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            processes.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    waits
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
        let waits = waits(std::process::id());
        assert!(waits.len() >= 2, "{waits:?}");
        assert!(waits.contains_key(&std::process::id()), "{waits:?}");
        drop(sender);
        let _ = thread.join().unwrap();
    }

    #[test]
    fn nobody_waits_in_a_process_that_is_gone() {
        assert!(waits(u32::MAX).is_empty());
    }
}
