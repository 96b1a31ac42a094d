//! A process and what it has started: by descent, by process group, and by the run's tag.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{groups, guardian, sockets};
use crate::link::Place;
use crate::timeline::Seen;

/// How often a tree is killed: what is being forked meanwhile shows at the next look.
const ROUNDS: usize = 4;
/// Longest command line that is shown, in characters.
const SHOWN: usize = 80;

/// USER_HZ, which is part of the ABI: the same on all architectures of today.
const TICKS_PER_SECOND: u64 = 100;

/// The processes that belong to one leader, at one moment.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Every process, the leader among them while it lives.
    pub pids: BTreeSet<i32>,
    pub(super) place: Place,
}

impl Tree {
    /// Looks at /proc for the group of a leader, for its descendants, and for orphans that came to this process and
    /// carry its tag. A daemon may have written over its environment: it has a session of its own, and is the leader's
    /// where no other one lives. Without /proc the tree is empty.
    pub fn of(leader: i32, tag: Option<&str>, place: &Place) -> Self {
        let processes = processes();
        let session = processes.get(&(std::process::id() as i32)).map(|stat| stat.session);
        let alone = groups::count() <= 1;
        let belongs = |pid: i32| match (tag, tag_of(pid)) {
            (Some(tag), Some(found)) => tag == found,
            _ => alone && processes.get(&pid).map(|stat| stat.session) != session,
        };
        let mut pids: BTreeSet<i32> =
            processes.iter().filter(|(_, stat)| stat.group == leader).map(|(pid, _)| *pid).collect();
        // Without this process as their new parent, orphans go to init.
        let adopted = processes.iter().filter(|(_, stat)| stat.parent == 1).map(|(pid, _)| *pid);
        pids.extend(adopted.filter(|pid| tag.is_some() && tag_of(*pid).as_deref() == tag));
        pids.extend(orphans_among(&processes).filter(|pid| !pids.contains(pid) && belongs(*pid)).collect::<Vec<_>>());
        loop {
            let children = processes.iter().filter(|(pid, stat)| pids.contains(&stat.parent) && !pids.contains(pid));
            let children: Vec<i32> = children.map(|(pid, _)| *pid).collect();
            if children.is_empty() {
                break;
            }
            pids.extend(children);
        }
        Self { pids, place: place.clone() }
    }

    /// The time of processors that these processes have taken so far.
    pub fn cpu(&self) -> Duration {
        self.pids.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.cpu).sum()
    }

    /// Whoever listens at this address: those of this tree, and whoever else.
    pub fn listeners(&self, address: SocketAddr) -> Listeners {
        let sockets = sockets::listener_inodes(&self.place, address).unwrap_or_default();
        let holds = |pid: &i32| socket_inodes(*pid).any(|inode| sockets.contains(&inode));
        let own: Vec<i32> = self.pids.iter().copied().filter(holds).collect();
        let owned: BTreeSet<u32> = own.iter().flat_map(|pid| socket_inodes(*pid)).collect();
        let unowned: BTreeSet<u32> = sockets.difference(&owned).copied().collect();
        let strangers = match unowned.is_empty() {
            true => Vec::new(),
            false => processes()
                .into_keys()
                .filter(|pid| socket_inodes(*pid).any(|inode| unowned.contains(&inode)))
                .collect(),
        };
        let unseen = !unowned.is_empty() && strangers.is_empty();
        Listeners { own, strangers, unseen }
    }

    /// Kills all of them, and what they start meanwhile. `again` looks anew.
    pub fn kill(again: impl Fn() -> Self) {
        for _ in 0..ROUNDS {
            let pids: Vec<Pid> = again().pids.into_iter().map(Pid::from_raw).collect();
            if pids.is_empty() {
                return;
            }
            for pid in pids {
                let _ = kill(pid, Signal::SIGKILL);
                // Orphans came to this process, and nobody else waits for them.
                if !groups::is_leader(pid.as_raw()) {
                    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
                }
            }
        }
    }
}

/// Whoever listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listeners {
    /// Processes of the tree.
    pub own: Vec<i32>,
    /// Others.
    pub strangers: Vec<i32>,
    /// Whether there is a socket whose process cannot be seen.
    pub unseen: bool,
}

impl Listeners {
    /// All of them, as the timeline has it.
    pub fn seen(&self) -> Vec<Seen> {
        let mut seen: Vec<Seen> = self.own.iter().chain(&self.strangers).map(|pid| see(*pid)).collect();
        if self.unseen {
            seen.push(Seen { pid: None, command: String::new() });
        }
        seen
    }
}

/// A process as people know it: its pid and its command line.
pub fn see(pid: i32) -> Seen {
    let mut words = command_line(pid);
    if let Some(program) = words.first_mut() {
        // The folder of the program says little, and is long.
        let name = program.split(' ').next().unwrap_or_default().rsplit_once('/').map(|(folder, _)| folder.len() + 1);
        program.drain(..name.unwrap_or(0));
    }
    let line = words.join(" ");
    let command = match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    };
    Seen { pid: Some(pid as u32), command }
}

/// The command line of a process, or its name in brackets where it has none; empty where it has ended.
pub fn command_line(pid: i32) -> Vec<String> {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&raw);
    // What a server has written over it ends in zeros and spaces.
    let words: Vec<String> =
        text.split('\0').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect();
    match words.is_empty() {
        false => words,
        true => std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .map_or(Vec::new(), |name| vec![format!("[{}]", name.trim())]),
    }
}

/// Processes that a server has left behind and that came to this process, see [`super::adopt_orphans`].
pub fn orphans() -> Vec<i32> {
    orphans_among(&processes()).collect()
}

fn orphans_among(processes: &BTreeMap<i32, Stat>) -> impl Iterator<Item = i32> {
    let own = std::process::id() as i32;
    let ours = |pid: i32| groups::is_leader(pid) || guardian::is(pid);
    processes.iter().filter(move |(pid, stat)| stat.parent == own && !ours(**pid)).map(|(pid, _)| *pid)
}

struct Stat {
    parent: i32,
    group: i32,
    session: i32,
    cpu: Duration,
}

fn processes() -> BTreeMap<i32, Stat> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

/// proc_pid_stat(5). The second field may hold anything, parentheses too: the rest begins after the last one.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(1);
    let mut next = || fields.next()?.parse().ok();
    let (parent, group, session) = (next()?, next()?, next()?);
    // In user mode and in the kernel, of itself and of the children that it has waited for.
    let ticks: u64 = fields.skip(7).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some(Stat { parent, group, session, cpu: Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND) })
}

fn tag_of(pid: i32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let text = String::from_utf8_lossy(&environment);
    let mut variables = text.split('\0').filter_map(|variable| variable.split_once('='));
    variables.find(|(name, _)| *name == guardian::VARIABLE).map(|(_, value)| value.to_owned())
}

pub(super) fn socket_inodes(pid: i32) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}
