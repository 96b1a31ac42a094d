//! What people get wrong around a server: who receives the signal, and who holds the port.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scenario::Target;

/// Programs that start another one and wait for it.
const WRAPPERS: [&str; 9] = ["sh", "bash", "dash", "busybox", "npm", "yarn", "pnpm", "make", "timeout"];
/// Programs that drain on another signal than SIGTERM, and which.
const OTHER_SIGNALS: [(&str, &str); 2] = [("nginx", "QUIT"), ("php-fpm", "QUIT")];
/// How long an idle process is watched after the signal.
const WATCH: Duration = Duration::from_secs(6);

/// Something odd about the way a server is started or stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnosis {
    /// The leader is a wrapper, and the server is its child, which did not stop.
    SignalNotPassedOn {
        /// The wrapper.
        wrapper: String,
        /// The server.
        server: String,
        /// Whether the wrapper itself ended.
        wrapper_ended: bool,
    },
    /// The leader ended, and somebody else still holds the port.
    PortHeldByChild {
        /// The leader's program.
        leader: String,
        /// Who holds it.
        holder: String,
        /// The port.
        port: u16,
    },
    /// The program drains on another signal.
    OtherSignal {
        /// The program.
        program: String,
        /// The signal.
        signal: &'static str,
    },
    /// An idle process did not stop.
    IgnoresSignal {
        /// The signal.
        signal: &'static str,
    },
}

impl std::fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SignalNotPassedOn { wrapper, server, wrapper_ended: true } => write!(
                f,
                "the signal ended `{wrapper}`, which had started `{server}` and did not pass it on: the server runs on as \
                 an orphan. Write `exec` before the command, use the exec form of CMD, or name the server itself"
            ),
            Self::SignalNotPassedOn { wrapper, server, wrapper_ended: false } => write!(
                f,
                "the signal reached `{wrapper}`, which waits for `{server}` and does not pass it on. Write `exec` before \
                 the command, use the exec form of CMD, or name the server itself"
            ),
            Self::PortHeldByChild { leader, holder, port } => write!(
                f,
                "`{leader}` ended, but `{holder}` still listens on port {port}: a supervisor takes the server for stopped, \
                 and a successor cannot listen. Let the leader wait for its children"
            ),
            Self::OtherSignal { program, signal } => {
                write!(
                    f,
                    "`{program}` drains on SIG{signal}; SIGTERM stops it at once. Check it with --signal {signal}"
                )
            }
            Self::IgnoresSignal { signal } => write!(
                f,
                "{} s after {signal} the idle process was still there: it would be killed when the grace period is over",
                WATCH.as_secs()
            ),
        }
    }
}

impl Diagnosis {
    /// Stops an idle server and watches what becomes of it and of its children.
    pub async fn watch_stop(target: &mut Target, signal: Signal) -> Vec<Self> {
        let mut found = Vec::new();
        let port = target.address.port();
        let tree = target.process().tree();
        let leader = program(target.process().pid());
        let others: Vec<String> = tree.others_on(port).into_iter().map(program).collect();
        let runs = |program: &str| leader == program || others.iter().any(|other| other == program);
        if signal == Signal::SIGTERM
            && let Some((program, signal)) = OTHER_SIGNALS.iter().find(|(program, _)| runs(program))
        {
            found.push(Self::OtherSignal { program: (*program).to_owned(), signal });
        }
        target.signal(signal);
        let ended = target.exited_within(WATCH).await.is_some();
        let wrapper = WRAPPERS.contains(&leader.as_str());
        if ended && !target.listener_closed(Duration::from_millis(500)).await {
            let holder = target.process().tree().others_on(port).first().map(|pid| program(*pid)).unwrap_or_default();
            found.push(match wrapper {
                true => Self::SignalNotPassedOn { wrapper: leader, server: holder, wrapper_ended: true },
                false => Self::PortHeldByChild { leader, holder, port },
            });
        } else if !ended {
            found.push(match others.into_iter().next() {
                Some(server) if wrapper => Self::SignalNotPassedOn { wrapper: leader, server, wrapper_ended: false },
                _ => Self::IgnoresSignal { signal: signal.as_str() },
            });
        }
        found
    }

    /// The language of whoever listens, as far as the program tells.
    pub fn language(target: &Target) -> Option<&'static str> {
        let tree = target.process().tree();
        let listening = tree.others_on(target.address.port());
        let pid = listening.first().copied().unwrap_or(target.process().pid());
        let name = program(pid);
        if name.starts_with("python") {
            Some("python")
        } else if name == "node" {
            Some("node")
        } else {
            compiled(pid)
        }
    }
}

/// The name of a process's program, such as `sh` or `node`; empty where it has ended.
fn program(pid: i32) -> String {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Go writes its build information into every binary; Rust's standard library leaves its source paths.
fn compiled(pid: i32) -> Option<&'static str> {
    let binary = std::fs::read(format!("/proc/{pid}/exe")).ok()?;
    let holds = |needle: &[u8]| memchr::memmem::find(&binary, needle).is_some();
    if holds(b"\xff Go buildinf:") {
        Some("go")
    } else if holds(b"/rustc/") {
        Some("rust")
    } else {
        None
    }
}
