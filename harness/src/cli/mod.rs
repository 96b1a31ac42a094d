//! The command line: one module for each subcommand.

/// Prints a line to standard output, as [`print`] does.
macro_rules! say {
    ($($part:tt)*) => { $crate::cli::print(&format!("{}\n", format_args!($($part)*))) };
}

/// Prints a line to standard error. Where nobody reads it, nothing is lost that matters.
macro_rules! tell {
    ($($part:tt)*) => { $crate::report::tell(&format!("{}", format_args!($($part)*))) };
}

mod bench;
mod check;
mod compare;
mod completions;
mod docs;
mod doctor;
mod exit;
mod explain;
mod judge;
mod list;
mod matrix;
mod project;
mod report;
mod rollout;
mod rulebook;
mod session;

pub use exit::{Among, CliError, Status};

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A conformance suite for graceful shutdown: real signals, real sockets, one verdict for each rule.
#[derive(Debug, Parser)]
#[command(name = "drainspec", version, about, after_help = exit::HELP, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play scenarios against servers and compare them
    Matrix(matrix::Args),
    /// Check anybody's server: drainspec check -- CMD
    Check(check::Args),
    /// Count what anybody's deploy loses, or a workload's restart: drainspec rollout [deployment/NAME] --url URL [-- CMD]
    Rollout(rollout::Args),
    /// List servers, scenarios, rules or topologies
    List(list::Args),
    /// Explain a rule or a scenario, with the lines of the four reference servers, or a topology, with its file
    Explain(explain::Args),
    /// Say what is installed, what would be skipped, and how to install it
    Doctor(doctor::Args),
    /// Judge recorded timelines again
    Judge(judge::Args),
    /// Show what changed between two results
    Compare(compare::Args),
    /// Measure speed, as ratios in one run
    Bench(bench::Args),
    /// Render the results of a run as a page
    Report(report::Args),
    /// Clean up after a harness that has ended
    #[command(name = crate::process::guardian::SUBCOMMAND, hide = true)]
    Guardian {
        /// The run's temporary folder
        folder: std::path::PathBuf,
    },
    /// Write the pages about rules and scenarios
    #[command(hide = true)]
    Docs(docs::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// Parses, runs, and turns the result into an exit status.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Status::Usage.into() } else { Status::AsExpected.into() };
        }
    };
    let result = match cli.command {
        Command::Matrix(args) => matrix::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Rollout(args) => rollout::run(&args),
        Command::List(args) => list::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Judge(args) => judge::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Guardian { folder } => {
            crate::process::guardian::guard(&folder, session::mend);
            Ok(Status::AsExpected)
        }
        Command::Docs(args) => docs::run(&args),
        Command::Completions(args) => completions::run(&args),
    };
    match result {
        Ok(status) => status.into(),
        Err(error) => {
            tell!("{}", shortened(&format!("drainspec: {error}")));
            error.status().into()
        }
    }
}

/// What stands in a file may be shown in an error, and may be of any length: lines in part.
fn shortened(text: &str) -> String {
    const MOST: usize = 1000;
    let short = |line: &str| match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}… ({} bytes in all)", &line[..at], line.len()),
        None => line.to_owned(),
    };
    text.lines().map(short).collect::<Vec<_>>().join("\n")
}

/// Prints to standard output. A reader that has seen enough, such as `head`, is no error.
fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(source) if source.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::Io { path: "standard output".into(), source })
        }
        _ => Ok(()),
    }
}
