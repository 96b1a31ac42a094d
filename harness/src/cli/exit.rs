//! Exit statuses are part of the interface.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::catalog::CatalogError;
use crate::rollout::RolloutError;

/// What the exit status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Everything is as expected.
    AsExpected,
    /// At least one result is not as expected.
    Unexpected,
    /// The command line is wrong.
    Usage,
    /// Nothing was selected.
    NothingSelected,
    /// The environment lacks something, or a cell was skipped for it.
    Environment,
    /// Nothing failed, but something could not be tested.
    Untested,
    /// The run was interrupted.
    Interrupted,
}

/// Shown by `--help`, and by the documentation.
pub const HELP: &str = "Exit status:
  0    everything as expected
  1    at least one unexpected result
  2    the command line is wrong
  3    nothing was selected
  4    the environment lacks something (see `drainspec doctor`), or a file is not in order
  5    nothing failed, but something could not be tested: a MUST rule, a cell on a busy machine, a deploy
  130  interrupted; everything that was started has been stopped";

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::AsExpected => 0,
            Status::Unexpected => 1,
            Status::Usage => 2,
            Status::NothingSelected => 3,
            Status::Environment => 4,
            Status::Untested => 5,
            Status::Interrupted => 130,
        })
    }
}

/// Names among which one was sought.
#[derive(Debug)]
pub struct Among(pub Vec<String>);

impl Among {
    /// So many names fit into a message.
    const FEW: usize = 12;

    /// These names.
    pub fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// All of them where they are few, else those that resemble what was asked for, and how many there are.
    fn near(&self, wanted: &str) -> String {
        let names = &self.0;
        if names.len() <= Self::FEW {
            return format!("there are: {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") });
        }
        let mut near: Vec<(f64, &str)> = names.iter().map(|name| (likeness(name, wanted), name.as_str())).collect();
        // What holds the word itself is meant before what only resembles it.
        match !wanted.is_empty() && names.iter().any(|name| name.contains(wanted)) {
            true => near.retain(|(_, name)| name.contains(wanted)),
            false => near.retain(|(likeness, _)| *likeness > 0.8),
        }
        near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let near: Vec<&str> = near.iter().take(3).map(|(_, name)| *name).collect();
        let listed = format!("`drainspec list` shows all {}", names.len());
        match near.is_empty() {
            true => listed,
            false => format!("did you mean {}? {listed}", near.join(" or ")),
        }
    }
}

/// How much a name resembles another, from 0 to 1; of a path its last part alone may do so.
fn likeness(name: &str, wanted: &str) -> f64 {
    let last = name.rsplit('/').next().unwrap_or(name);
    strsim::jaro_winkler(name, wanted).max(strsim::jaro_winkler(last, wanted))
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A glob selects nothing.
    #[error("no {what} matches `{glob}`; {}", known.near(glob))]
    NothingSelected {
        /// What was to be selected.
        what: &'static str,
        /// The glob.
        glob: String,
        /// What there is.
        known: Among,
    },
    /// What the globs select is of another kind.
    #[error("no server that was chosen is {kinds}: choose with --server or --kind; {}", known.near(""))]
    NoneOfKind {
        /// The kinds that were wanted.
        kinds: String,
        /// What there is.
        known: Among,
    },
    /// None of what is selected is known to fail.
    #[error("none of these servers is known to fail any of these scenarios: leave out --only-known to play them")]
    NothingKnown,
    /// In the earlier run everything was as expected.
    #[error("no cell of that run was unexpected that these servers and scenarios include")]
    NothingUnexpected,
    /// A timeline holds nothing that could be drawn.
    #[error("{}: no instance of a fleet was replaced in it: there is nothing to draw", path.display())]
    NothingReplaced {
        /// The timeline.
        path: PathBuf,
    },
    /// None of what is selected is in the part that was asked for.
    #[error("this part has none of the cells that are selected: ask for another, or for fewer parts")]
    NothingInShard,
    /// A name is neither a rule nor a scenario.
    #[error("`{name}` is neither a rule nor a scenario; {}", known.near(name))]
    Unknown {
        /// The name.
        name: String,
        /// The rules and scenarios.
        known: Among,
    },
    /// A name is no rule.
    #[error("`{name}` is no rule; {}", known.near(name))]
    UnknownRule {
        /// The name.
        name: String,
        /// The rules.
        known: Among,
    },
    /// A rule is not judged where the server runs.
    #[error("`{name}` is not judged by this check: {why}")]
    NotJudged {
        /// The rule.
        name: String,
        /// Why not.
        why: String,
    },
    /// Results of different kinds cannot be held against each other.
    #[error("{} has the results of a check, {} those of a matrix: compare two of a kind", check.display(), matrix.display())]
    NotAlike {
        /// The check's.
        check: PathBuf,
        /// The matrix's.
        matrix: PathBuf,
    },
    /// The folder with the servers was not found.
    #[error("no folder `servers` here or above {}: run drainspec inside a checkout, or name the folder with --servers", start.display())]
    NoServers {
        /// Where the search began.
        start: PathBuf,
    },
    /// The catalogue is not in order.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A known failure covers nothing.
    #[error("{}: pattern \"{pattern}\" matches no rule of any scenario: a pattern is `scenario/rule`", path.display())]
    KnownMatchesNothing {
        /// The file.
        path: PathBuf,
        /// The pattern.
        pattern: String,
    },
    /// Something could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A server could not be tested at all.
    #[error("`{command}` cannot be tested: {why}")]
    NotTestable {
        /// Its command.
        command: String,
        /// Why not, and what to do.
        why: String,
    },
    /// The lame-duck takes all of the grace period.
    #[error(
        "--lame-duck {lame_duck} leaves nothing of the {grace} s after which the server is killed: a longer --grace, or a shorter one"
    )]
    NoTimeToDrain {
        /// The lame-duck, in seconds.
        lame_duck: u64,
        /// The grace period, in seconds.
        grace: u64,
    },
    /// An option of `check` names what cannot be used.
    #[error(transparent)]
    Unusable(crate::check::NotLearned),
    /// A timeline is not in order.
    #[error("{}: {source}", path.display())]
    Timeline {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: crate::timeline::ReadError,
    },
    /// A folder holds no timeline.
    #[error("{}: no timeline (*.ndjson) here or below", folder.display())]
    NothingToJudge {
        /// The folder.
        folder: PathBuf,
    },
    /// A results file is not in order.
    #[error(transparent)]
    Results(#[from] crate::results::ReadError),
    /// The guardian could not be started.
    #[error("the process that cleans up after this one could not be started: {0}")]
    Guardian(std::io::Error),
    /// An address is none that a rollout can ask.
    #[error("--url {url}: {why}")]
    Url {
        /// The address.
        url: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A rollout could not be played.
    #[error(transparent)]
    Rollout(#[from] crate::rollout::RolloutError),
    /// The runtime could not be started.
    #[error("the runtime could not be started: {0}")]
    Runtime(std::io::Error),
}

impl CliError {
    /// The exit status for it.
    pub fn status(&self) -> Status {
        match self {
            Self::NothingSelected { .. }
            | Self::NoneOfKind { .. }
            | Self::NothingKnown
            | Self::NothingInShard
            | Self::NothingUnexpected
            | Self::NothingReplaced { .. }
            | Self::NothingToJudge { .. } => Status::NothingSelected,
            Self::Rollout(RolloutError::Cluster(error)) if error.names_nothing() => Status::Usage,
            // In a file it would be that file's value.
            Self::Unknown { .. }
            | Self::Unusable(_)
            | Self::NoTimeToDrain { .. }
            | Self::UnknownRule { .. }
            | Self::NotJudged { .. }
            | Self::NotAlike { .. }
            | Self::Url { .. }
            | Self::Catalog(CatalogError::Glob { .. }) => Status::Usage,
            Self::NoServers { .. }
            | Self::Catalog(_)
            | Self::KnownMatchesNothing { .. }
            | Self::Io { .. }
            | Self::NotTestable { .. }
            | Self::Timeline { .. }
            | Self::Results(_)
            | Self::Guardian(_)
            | Self::Rollout(_)
            | Self::Runtime(_) => Status::Environment,
        }
    }
}
