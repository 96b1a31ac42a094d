//! A process and what it has started: by descent, by process group, and by the run's tag.

use std::collections::{BTreeMap, BTreeSet};

use super::{groups, guardian, sockets};
use crate::link::Place;

/// The processes that belong to one leader, at one moment.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Every process, the leader among them while it lives.
    pub pids: BTreeSet<i32>,
    leader: i32,
    pub(super) place: Place,
}

impl Tree {
    /// Looks at /proc for the group of a leader, for whatever carries its tag, and for orphans that came to this
    /// process. Without /proc the tree is empty.
    pub fn of(leader: i32, tag: Option<&str>, place: &Place) -> Self {
        let processes = processes();
        let mut pids: BTreeSet<i32> = processes
            .iter()
            .filter(|(pid, stat)| stat.group == leader || tag.is_some_and(|tag| carries(**pid, tag)))
            .map(|(pid, _)| *pid)
            .collect();
        pids.extend(orphans_among(&processes));
        loop {
            let children = processes.iter().filter(|(pid, stat)| pids.contains(&stat.parent) && !pids.contains(pid));
            let children: Vec<i32> = children.map(|(pid, _)| *pid).collect();
            if children.is_empty() {
                break;
            }
            pids.extend(children);
        }
        Self { pids, leader, place: place.clone() }
    }

    /// Ports that these processes listen on.
    pub fn ports(&self) -> BTreeSet<u16> {
        let inodes = self.pids.iter().flat_map(|pid| socket_inodes(*pid)).collect();
        sockets::listening_ports(&self.place, &inodes).unwrap_or_default()
    }

    /// Whoever of these listens on this port, without the leader.
    pub fn others_on(&self, port: u16) -> Vec<i32> {
        let listens = |pid: &i32| {
            let inodes = socket_inodes(*pid).collect();
            sockets::listening_ports(&self.place, &inodes).unwrap_or_default().contains(&port)
        };
        self.pids.iter().copied().filter(|pid| *pid != self.leader).filter(listens).collect()
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
    Some(Stat { parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

fn carries(pid: i32, tag: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == format!("{}={tag}", guardian::VARIABLE).as_bytes())
}

pub(super) fn socket_inodes(pid: i32) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}
