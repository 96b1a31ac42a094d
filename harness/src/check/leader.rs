//! Who gets the signal and who listens, by the kernel's word, before any signal is sent.

use nix::sys::signal::Signal;

use super::programs::{self, Framework, Launcher};
use crate::process::{self, Disposition};
use crate::scenario::Target;
use crate::timeline::Seen;

/// Who leads, who listens, and what they are.
#[derive(Debug)]
pub struct Identity {
    /// The process that was started.
    pub leader: Seen,
    /// The process that listens: the leader, where it does so itself.
    pub server: Seen,
    /// Whether the leader listens itself.
    pub leader_listens: bool,
    /// Whether there are others beside the leader.
    pub children: bool,
    /// Whether the server takes the signal, as far as the kernel tells.
    pub takes_signal: bool,
    /// What the leader is, where it only starts others and is known for that.
    pub launcher: Option<&'static Launcher>,
    /// What the server is made with, where it shows.
    pub framework: Option<&'static Framework>,
    /// Its language, where it shows.
    pub language: Option<&'static str>,
    /// What the kernel says of the signal, and what people get wrong: the first thing that a report says.
    pub diagnoses: Vec<Diagnosis>,
}

/// Something about the signal that is known before it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnosis {
    /// The default action ends the process at once.
    NoHandler {
        /// The process.
        process: Seen,
        /// The signal.
        signal: &'static str,
        /// Whether it only starts the server.
        launcher: bool,
    },
    /// The process ignores the signal.
    Ignored {
        /// The process.
        process: Seen,
        /// The signal.
        signal: &'static str,
    },
    /// The first process of a container has no handler, and the kernel drops the signal.
    FirstProcess {
        /// The process.
        process: Seen,
        /// The signal.
        signal: &'static str,
    },
    /// The program drains on another signal.
    OtherSignal {
        /// The program.
        program: String,
        /// The signal.
        signal: String,
    },
}

impl std::fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoHandler { process, signal, launcher: true } => {
                write!(f, "{process} has no handler for {signal}: the signal ends it and goes no further by itself")
            }
            Self::NoHandler { process, signal, launcher: false } => write!(
                f,
                "no handler for {signal} in {process}: it ends at once, whatever is in flight, and as the first process \
                 of a container it would not even end"
            ),
            Self::Ignored { process, signal } => write!(
                f,
                "{signal} is ignored by {process}, or by whoever started it and left it so: it is killed when the grace \
                 period is over"
            ),
            Self::FirstProcess { process, signal } => write!(
                f,
                "{process} is PID 1 of its namespace and has no handler for {signal}: the kernel drops the signal. \
                 Handle it, or start under an init (docker run --init, tini, dumb-init)"
            ),
            Self::OtherSignal { program, signal } => write!(
                f,
                "{program} drains on SIG{signal}; SIGTERM stops it at once. Check it with --signal {}",
                signal.to_lowercase()
            ),
        }
    }
}

impl Identity {
    /// Looks at a server that has started. `header` is its `Server` field.
    pub fn of(target: &Target, signal: Signal, header: Option<&str>) -> Self {
        let leader = target.process().pid();
        let tree = target.process().tree();
        let listeners = tree.listeners(target.address).own;
        let leader_listens = listeners.contains(&leader) || listeners.is_empty();
        let server = if leader_listens { leader } else { listeners[0] };
        let framework = programs::framework(server, header);
        let launcher = (!leader_listens).then(|| programs::launcher(&process::command_line(leader))).flatten();
        let mut diagnoses = Vec::new();
        for pid in if leader_listens { vec![leader] } else { vec![leader, server] } {
            diagnoses.extend(diagnose(pid, signal, pid != server));
        }
        if let Some(framework) = framework
            && let Some(wanted) = framework.stop.as_deref().filter(|_| signal == Signal::SIGTERM)
        {
            diagnoses.push(Diagnosis::OtherSignal { program: framework.name.clone(), signal: wanted.to_owned() });
        }
        Self {
            leader: process::see(leader),
            server: process::see(server),
            leader_listens,
            children: tree.pids.len() > 1,
            takes_signal: Disposition::of(server, signal) == Some(Disposition::Taken),
            launcher,
            framework,
            language: framework.map(|framework| framework.language.as_str()).or_else(|| programs::language(server)),
            diagnoses,
        }
    }

    /// Whether the signal ends nobody.
    pub fn is_deaf(&self) -> bool {
        let deaf =
            |diagnosis: &Diagnosis| matches!(diagnosis, Diagnosis::Ignored { .. } | Diagnosis::FirstProcess { .. });
        self.diagnoses.iter().any(deaf)
    }

    /// The same in words, a sentence each.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if !self.leader_listens {
            words.push(format!("{} gets the signals, {} listens", self.leader, self.server));
        }
        words.extend(match (self.framework, self.language) {
            (Some(framework), _) => Some(format!("it is served by {}", framework.name)),
            (None, Some(language)) => Some(format!("it is written in {}", programs::language_name(language))),
            (None, None) => None,
        });
        words
    }

    /// What to do about a rule that is broken, and where that is documented.
    pub fn remedy(&self, rule: &str) -> Option<(&str, Option<&str>)> {
        match self.launcher {
            Some(launcher)
                if matches!(rule, "signal-reaches-server" | "port-free-after-exit" | "group-signal-drains") =>
            {
                Some((&launcher.way_out, Some(&launcher.source)))
            }
            _ => programs::remedy(self.framework, self.language, rule),
        }
    }
}

fn diagnose(pid: i32, signal: Signal, launcher: bool) -> Option<Diagnosis> {
    let (disposition, process, signal) = (Disposition::of(pid, signal)?, process::see(pid), signal.as_str());
    Some(match disposition {
        Disposition::Ignored => Diagnosis::Ignored { process, signal },
        Disposition::DroppedAsFirst => Diagnosis::FirstProcess { process, signal },
        Disposition::Default => Diagnosis::NoHandler { process, signal, launcher },
        Disposition::Taken => return None,
    })
}
