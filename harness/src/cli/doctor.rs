//! `drainspec doctor`: what this machine has, what would be skipped without the rest, how to install it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use super::{CliError, Status, project};
use crate::catalog;
use crate::report::paint;

mod kernel;

/// Arguments of `drainspec doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As text, or as JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Folder with the servers [default: `servers`, here or above]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Something that a run needs.
struct Need {
    name: &'static str,
    probe: Probe,
    without: Without,
    debian: &'static str,
    homebrew: &'static str,
}

enum Probe {
    /// A program: how it is asked for its version, and the oldest that will do.
    Program { ask: &'static str, oldest: Version },
    /// Something that the kernel lets this process do.
    Kernel(fn() -> Result<String, String>),
}

/// What is missed where it is missing.
enum Without {
    /// Every server in this language is skipped.
    Language(&'static str),
    /// Something else.
    Text(&'static str),
    /// Something that nobody has to have: it is no reason to call the machine incomplete.
    Optional(&'static str),
}

const NEEDS: [Need; 14] = [
    Need {
        name: "python3",
        probe: Probe::Program { ask: "--version", oldest: Version(3, 11, 0) },
        without: Without::Language("python"),
        debian: "apt install python3 python3-venv",
        homebrew: "brew install python",
    },
    Need {
        name: "node",
        probe: Probe::Program { ask: "--version", oldest: Version(20, 0, 0) },
        without: Without::Language("node"),
        debian: "apt install nodejs (Debian 13 or later; before that https://nodejs.org/en/download)",
        homebrew: "brew install node",
    },
    Need {
        name: "npm",
        probe: Probe::Program { ask: "--version", oldest: Version(9, 0, 0) },
        without: Without::Language("node"),
        debian: "apt install npm (it comes with Node.js where that is not Debian's own)",
        homebrew: "brew install node",
    },
    Need {
        name: "go",
        probe: Probe::Program { ask: "version", oldest: Version(1, 24, 0) },
        without: Without::Language("go"),
        debian: "apt install golang-go (Debian 13 or later; before that https://go.dev/doc/install)",
        homebrew: "brew install go",
    },
    Need {
        name: "cargo",
        probe: Probe::Program { ask: "--version", oldest: Version(1, 90, 0) },
        without: Without::Language("rust"),
        debian: RUSTUP,
        homebrew: "brew install rust",
    },
    Need {
        name: "rustc",
        probe: Probe::Program { ask: "--version", oldest: Version(1, 90, 0) },
        without: Without::Language("rust"),
        debian: RUSTUP,
        homebrew: "brew install rust",
    },
    Need {
        name: "minimum TTL",
        probe: Probe::Kernel(kernel::keep_out_new_connections),
        without: Without::Text(
            "the reference servers may lose requests in a connect storm (`nothing-lost-in-accept-queue`)",
        ),
        debian: SECCOMP,
        homebrew: LINUX_ONLY,
    },
    Need {
        name: "socket table",
        probe: Probe::Kernel(kernel::read_socket_table),
        without: Without::Text(
            "nobody sees when a listener closes: rules that stand on it are inconclusive (`listener-closes-first`)",
        ),
        debian: SECCOMP,
        homebrew: LINUX_ONLY,
    },
    Need {
        name: "delayed link",
        probe: Probe::Kernel(kernel::make_link),
        without: Without::Optional("what goes over a link with delay is skipped (`connect-storm-over-delay`)"),
        debian: crate::link::WAY_OUT,
        homebrew: LINUX_ONLY,
    },
    Need {
        name: "oha",
        probe: Probe::Program { ask: "--version", oldest: Version(1, 0, 0) },
        without: Without::Optional("`bench` cannot hold its own load generator against another one"),
        debian: "cargo install oha --locked",
        homebrew: "brew install oha",
    },
    Need {
        name: "nginx",
        probe: Probe::Program { ask: "-v", oldest: Version(1, 0, 0) },
        without: Without::Optional("no scenario needs it: `check` cannot be tried on it here"),
        debian: "apt install nginx-light",
        homebrew: "brew install nginx",
    },
    Need {
        name: "haproxy",
        probe: Probe::Program { ask: "-v", oldest: Version(2, 0, 0) },
        without: Without::Optional("no scenario needs it: `check` cannot be tried on it here"),
        debian: "apt install haproxy",
        homebrew: "brew install haproxy",
    },
    Need {
        name: "docker",
        probe: Probe::Program { ask: "--version", oldest: Version(20, 10, 0) },
        without: Without::Optional(
            "no scenario needs it: a server in a container cannot be checked here by `check -- docker run`",
        ),
        debian: "apt install docker.io",
        homebrew: "brew install docker",
    },
    Need {
        name: "kubectl",
        probe: Probe::Program { ask: "version --client", oldest: Version(1, 24, 0) },
        without: Without::Optional("no scenario needs it: the profile `kubernetes` judges without a cluster"),
        debian: "https://kubernetes.io/docs/tasks/tools/",
        homebrew: "brew install kubectl",
    },
];

const RUSTUP: &str = "https://rustup.rs (Debian's own is older)";
const SECCOMP: &str = "nothing to install: every usual kernel has it; look at the seccomp profile of the container";
const LINUX_ONLY: &str = "not to be had on macOS; run drainspec in a Linux virtual machine or container";

/// A version, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Whether a need is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    TooOld,
    Missing,
}

impl State {
    fn painted(self) -> String {
        let (word, colour) = match self {
            Self::Ok => ("ok     ", AnsiColor::Green),
            Self::TooOld => ("too old", AnsiColor::Red),
            Self::Missing => ("missing", AnsiColor::Red),
        };
        paint(Style::new().fg_color(Some(colour.into())), word)
    }
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let servers = match project::servers_folder(args.servers.as_deref()) {
        Ok(folder) => catalog::discover(&folder)?,
        Err(CliError::NoServers { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    let in_language = |language: &str| -> Vec<String> {
        servers.iter().filter(|server| server.spec.language == language).map(|server| server.name.clone()).collect()
    };
    let findings: Vec<(&Need, State, String)> = NEEDS
        .iter()
        .map(|need| {
            let (state, found) = need.probe.find(need.name);
            (need, state, found)
        })
        .collect();
    let lines = findings.iter().map(|(need, state, found)| need.text(*state, found, &in_language));
    let items = findings.iter().map(|(need, state, found)| need.json(*state, found, &in_language));
    super::print(&match args.format {
        Format::Json => format!("{:#}\n", serde_json::Value::Array(items.collect())),
        Format::Text => lines.collect(),
    })?;
    let all = findings.iter().all(|(need, state, _)| *state == State::Ok || need.is_optional());
    Ok(if all { Status::AsExpected } else { Status::Environment })
}

impl Need {
    /// Whether a machine without it is complete.
    fn is_optional(&self) -> bool {
        matches!(self.without, Without::Optional(_))
    }

    fn text(&self, state: State, found: &str, in_language: &dyn Fn(&str) -> Vec<String>) -> String {
        let wanted = match self.probe {
            Probe::Program { oldest, .. } => format!(" (at least {}.{} is needed)", oldest.0, oldest.1),
            Probe::Kernel(_) => String::new(),
        };
        if state == State::Ok {
            return format!("{}  {:<13}  {found}\n", state.painted(), self.name);
        }
        format!(
            "{}  {:<13}  {found}{wanted}\n         without it: {}\n         Debian:     {}\n         Homebrew:   {}\n",
            state.painted(),
            self.name,
            self.without.words(in_language),
            self.debian,
            self.homebrew,
        )
    }

    fn json(&self, state: State, found: &str, in_language: &dyn Fn(&str) -> Vec<String>) -> serde_json::Value {
        let oldest = match self.probe {
            Probe::Program { oldest, .. } => Some(oldest.to_string()),
            Probe::Kernel(_) => None,
        };
        let skipped = match self.without {
            Without::Language(language) => in_language(language),
            Without::Text(_) | Without::Optional(_) => Vec::new(),
        };
        json!({
            "name": self.name,
            "state": state,
            "found": found,
            "oldest": oldest,
            "optional": self.is_optional(),
            "without": self.without.words(in_language),
            "servers": skipped,
            "debian": self.debian,
            "homebrew": self.homebrew,
        })
    }
}

impl Without {
    fn words(&self, in_language: &dyn Fn(&str) -> Vec<String>) -> String {
        match self {
            Self::Text(text) | Self::Optional(text) => (*text).to_owned(),
            Self::Language(language) => match in_language(language).as_slice() {
                [] => format!("servers in {language} are skipped"),
                [server] => format!("{server} is skipped"),
                servers => format!("{} are skipped", servers.join(", ")),
            },
        }
    }
}

impl Probe {
    fn find(&self, name: &str) -> (State, String) {
        match self {
            Self::Kernel(try_it) => match try_it() {
                Ok(found) => (State::Ok, found),
                Err(why) => (State::Missing, why),
            },
            Self::Program { ask, oldest } => match ask_version(Path::new(name), ask) {
                Err(why) => (State::Missing, why),
                Ok(found) if found < *oldest => (State::TooOld, found.to_string()),
                Ok(found) => (State::Ok, found.to_string()),
            },
        }
    }
}

/// What a program says of its version.
fn ask_version(program: &Path, ask: &str) -> Result<Version, String> {
    let output = Command::new(program)
        .args(ask.split(' '))
        // Away from files that would make a version manager fetch another version.
        .current_dir(std::env::temp_dir())
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "not found".to_owned(),
            _ => format!("cannot be run: {error}"),
        })?;
    // nginx says it on standard error.
    let said = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
    let said = String::from_utf8_lossy(said);
    let said = said.lines().next().unwrap_or_default();
    if !output.status.success() {
        return Err(format!("`{} {ask}` failed with {}", program.display(), output.status));
    }
    version(said).ok_or_else(|| format!("`{} {ask}` says no version: {said:?}", program.display()))
}

/// The first word that is a version: `v20.11.1`, `go1.26.8`, `3.13.0rc1`, `nginx/1.22.1`.
fn version(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let number = word.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '/');
        let mut parts = number.split('.').map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        });
        Some(Version(parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_print_them() {
        for (said, expected) in [
            ("Python 3.11.7", Version(3, 11, 7)),
            ("v20.20.2", Version(20, 20, 2)),
            ("go version go1.26.8 linux/amd64", Version(1, 26, 8)),
            ("go version go1.27rc1 linux/amd64", Version(1, 27, 0)),
            ("cargo 1.95.0 (f2d3ce0bd 2026-03-21)", Version(1, 95, 0)),
            ("11.19.1", Version(11, 19, 1)),
            ("nginx version: nginx/1.22.1", Version(1, 22, 1)),
            ("HAProxy version 2.6.12-1+deb12u1 2023/12/16 - https://haproxy.org/", Version(2, 6, 12)),
            ("Docker version 29.1.3, build f52814d", Version(29, 1, 3)),
            ("Client Version: v1.29.0", Version(1, 29, 0)),
            ("oha 1.4.5", Version(1, 4, 5)),
        ] {
            assert_eq!(version(said), Some(expected), "{said}");
        }
        assert_eq!(version("no such toolchain"), None);
        assert!(Version(1, 9, 0) < Version(1, 24, 0), "as numbers, not as text");
    }

    #[test]
    fn what_cannot_be_asked_is_missing_and_says_why() {
        let missing = Probe::Program { ask: "--version", oldest: Version(1, 0, 0) };
        assert_eq!(missing.find("drainspec-no-such-program"), (State::Missing, "not found".to_owned()));
        let (state, why) = missing.find("false");
        assert_eq!(state, State::Missing);
        assert!(why.contains("failed"), "{why}");
        let silent = Probe::Program { ask: "words", oldest: Version(1, 0, 0) };
        let (state, why) = silent.find("echo");
        assert_eq!(state, State::Missing);
        assert!(why.contains("says no version"), "{why}");
    }

    #[test]
    fn what_is_too_old_says_what_is_skipped_and_how_to_get_it() {
        let need = &NEEDS[3];
        let text =
            need.text(State::TooOld, "1.19.8", &|language| vec![language.to_owned(), format!("naive/{language}")]);
        for part in ["1.19.8", "at least 1.24", "go, naive/go are skipped", "apt install golang-go", "brew install go"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
