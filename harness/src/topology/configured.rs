//! The very file of a configuration, with the addresses of a run in the place of its own.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{FrontError, Member, Stage, io};
use crate::catalog::Topology;
use crate::process::{self, Launch, Spawned};
use crate::timeline::{Part, ProcessId};

/// Time for a balancer to start.
const STARTS_WITHIN: Duration = Duration::from_secs(15);
/// Pause between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// How a balancer is run.
pub(super) struct Program {
    /// Its name.
    pub name: &'static str,
    /// How to get it.
    pub install: &'static str,
    /// Asks it whether it takes its configuration.
    pub test: &'static [&'static str],
    /// Runs it in the foreground.
    pub run: &'static [&'static str],
    /// Marks the line of an instance that is to get nothing.
    pub without: fn(&str) -> String,
}

/// A file with the addresses of a run.
pub(super) struct Configured {
    /// Where the balancer listens.
    pub listen: SocketAddr,
    /// More addresses, for probes and agents.
    pub others: Vec<SocketAddr>,
    /// The instances.
    pub instances: Vec<SocketAddr>,
    /// Where the balancer is run.
    pub folder: PathBuf,
    program: &'static Program,
    origin: PathBuf,
    file: String,
    text: String,
}

impl Configured {
    /// Puts the addresses of a run into the file of a configuration. A place in it for which there is no instance gets an
    /// address at which nobody listens, and is marked.
    pub fn new(
        program: &'static Program,
        topology: &Topology,
        stage: &Stage<'_>,
        members: &[Member],
    ) -> Result<Self, FrontError> {
        let spec = &topology.spec;
        let origin = topology.folder.join(&spec.file);
        let mut text = std::fs::read_to_string(&origin).map_err(io(format!("reading {}", origin.display())))?;
        let free = || process::free_port().map_err(io("looking for a free port".to_owned()));
        let address = || Ok::<_, FrontError>(SocketAddr::from((Ipv4Addr::LOCALHOST, free()?)));
        let mut instances: Vec<SocketAddr> = members.iter().map(|member| member.address).collect();
        while instances.len() < spec.instances.len() {
            instances.push(address()?);
        }
        let listen = address()?;
        let others: Vec<SocketAddr> = spec.others.iter().map(|_| address()).collect::<Result<_, _>>()?;
        let old = spec.listen.iter().chain(&spec.instances).chain(&spec.others);
        for (old, new) in old.zip([&listen].into_iter().chain(&instances).chain(&others)) {
            text = with_address(&text, *old, *new);
        }
        let folder = stage.folder.join(program.name);
        std::fs::create_dir_all(&folder).map_err(io(format!("making {}", folder.display())))?;
        Ok(Self { listen, others, instances, folder, program, origin, file: spec.file.clone(), text })
    }

    /// The text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Writes the file, in which the instances in these places are to get nothing.
    pub fn write(&self, without: &BTreeSet<usize>) -> Result<(), FrontError> {
        let marked = |line: &str| {
            let names = |place: &usize| {
                let address = self.instances.get(*place).map(SocketAddr::to_string);
                address.is_some_and(|address| line.split_whitespace().any(|word| word.trim_end_matches(';') == address))
            };
            let is_server = line.split_whitespace().next() == Some("server");
            if is_server && without.iter().any(names) { (self.program.without)(line) } else { line.to_owned() }
        };
        let text: String = self.text.lines().map(|line| marked(line) + "\n").collect();
        let path = self.folder.join(&self.file);
        std::fs::write(&path, text).map_err(io(format!("writing {}", path.display())))
    }

    /// Asks the program whether it takes the file.
    pub async fn test(&self) -> Result<(), FrontError> {
        let mut command = tokio::process::Command::new(self.program.name);
        let run = command.args(self.program.test).current_dir(&self.folder).stdin(std::process::Stdio::null());
        let output = run.output().await.map_err(|source| self.not_started(source))?;
        if output.status.success() {
            return Ok(());
        }
        // It speaks of the copy; people want to know of the original, whose lines are the same.
        let origin = self.origin.display().to_string();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let said = said.replace(&format!("./{}", self.file), &self.file).replace(&self.file, &origin);
        let said = said.lines().map(str::to_owned).collect();
        Err(FrontError::Refused { program: self.program.name, file: origin, said })
    }

    fn not_started(&self, source: std::io::Error) -> FrontError {
        let Program { name: program, install, .. } = *self.program;
        match source.kind() {
            std::io::ErrorKind::NotFound => FrontError::Missing { program, install },
            _ => FrontError::Io { what: format!("starting {program}"), source },
        }
    }

    /// Starts the program, and waits until it listens.
    pub async fn start(&self, stage: &Stage<'_>) -> Result<Spawned, FrontError> {
        self.test().await?;
        let command = std::iter::once(self.program.name).chain(self.program.run.iter().copied());
        let process = self.spawn(command.map(str::to_owned).collect(), stage, stage.process)?;
        self.listens(&process).await?;
        Ok(process)
    }

    /// Starts a program beside it.
    pub fn spawn(&self, command: Vec<String>, stage: &Stage<'_>, id: ProcessId) -> Result<Spawned, FrontError> {
        let launch = Launch { command, folder: self.folder.clone(), part: Part::Balancer, ..Launch::default() };
        let program = self.program.name;
        process::start(&launch, id, stage.recorder).map_err(|source| FrontError::Start { program, source })
    }

    async fn listens(&self, process: &Spawned) -> Result<(), FrontError> {
        let deadline = Instant::now() + STARTS_WITHIN;
        while TcpStream::connect(self.listen).await.is_err() {
            if let Some(exit) = process.exit() {
                let source = process::StartError::Exited { exit, output: process.last_lines() };
                return Err(FrontError::Start { program: self.program.name, source });
            }
            if Instant::now() > deadline {
                let what = format!("{} listens on {}", self.program.name, self.listen);
                return Err(FrontError::Late { what, within: STARTS_WITHIN });
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

/// The children of a process.
pub(super) fn children(process: &Spawned) -> BTreeSet<i32> {
    process.tree().pids.into_iter().filter(|pid| *pid != process.pid()).collect()
}

/// Waits until none of these children is left.
pub(super) async fn gone(process: &Spawned, these: &BTreeSet<i32>, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while !children(process).is_disjoint(these) {
        if Instant::now() > deadline || process.exit().is_some() {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

/// Another address in the place of this one, also where its port stands alone.
fn with_address(text: &str, old: SocketAddr, new: SocketAddr) -> String {
    let text = replaced(text, &old.to_string(), &new.to_string());
    replaced(&text, &old.port().to_string(), &new.port().to_string())
}

/// Replaces what stands there as a whole: no digit, and no dot, before it or after it.
fn replaced(text: &str, old: &str, new: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(old) {
        let (before, after) = (&rest[..at], &rest[at + old.len()..]);
        let of_number = |c: char| c.is_ascii_digit() || c == '.';
        let whole = !before.ends_with(of_number) && !after.starts_with(|c: char| c.is_ascii_digit());
        out += before;
        out += if whole { new } else { old };
        rest = after;
    }
    out + rest
}

/// The path of a program of the configuration's folder.
pub(super) fn program_of(topology: &Topology, name: &str) -> String {
    let path: &Path = &topology.folder;
    path.join(name).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_replaced_as_a_whole() {
        let [old, new]: [SocketAddr; 2] = [([127, 0, 0, 1], 8081).into(), ([127, 0, 0, 1], 20_001).into()];
        for (text, expected) in [
            ("server 127.0.0.1:8081 max_fails=0;", "server 127.0.0.1:20001 max_fails=0;"),
            ("agent-send \"127.0.0.1:8081\\n\"", "agent-send \"127.0.0.1:20001\\n\""),
            ("addr 127.0.0.1 port 8081", "addr 127.0.0.1 port 20001"),
            ("server 127.0.0.1:80810; # 18081, 1.8081", "server 127.0.0.1:80810; # 18081, 1.8081"),
        ] {
            assert_eq!(with_address(text, old, new), expected);
        }
    }
}
