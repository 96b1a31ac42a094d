//! `drainspec bench`: speed, as ratios in one run.
//!
//! A subcommand and not `cargo bench`: it measures whole processes, needs the built servers and the guardian, and a
//! user can run it on the machine that matters to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::{CliError, Status, project, session};
use crate::bench::{self, Bar, BenchError, Figure, LANGUAGES};
use crate::catalog::{Kind, Server};
use crate::process;
use crate::report;
use crate::verdict::Verdict;

/// Arguments of `drainspec bench`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Run it from a release build: cargo run --release -- bench. Exit status 1 where a bar is missed, 4 where a figure
could not be measured."
)]
pub struct Args {
    /// Rounds of each measurement
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests in flight across SIGTERM (Python: a tenth)
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=15_000))]
    in_flight: u32,
    /// Rounds of the whole matrix, half a minute each
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    matrix_rounds: u32,
    /// Folder with the servers [default: `servers`, here or above]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let folder = project::servers_folder(args.servers.as_deref())?;
    let servers = project::servers(&folder)?;
    session::guarded(async || measure(args, &servers).await)
}

async fn measure(args: &Args, servers: &[Server]) -> Result<Status, CliError> {
    let began = Instant::now();
    let mut board = Board { missed: 0, unmeasured: 0 };
    let rounds = args.rounds as usize;
    say!("median of the rounds [least … greatest], and the bar")?;
    let compared = servers.iter().filter(|server| matches!(server.spec.kind, Kind::Reference | Kind::Naive));
    let compared: Vec<Arc<Server>> = compared.cloned().map(Arc::new).collect();
    for server in &compared {
        if let Err(error) = process::build(server).await {
            board.failed(&error.to_string())?;
        }
    }
    // First: what follows leaves thousands of closed connections in the kernel's table, which is looked at all the time.
    match bench::against_lower_bound(&compared, args.matrix_rounds as usize).await {
        Ok(figures) => figures.into_iter().try_for_each(|figure| board.add(Ok(Some(figure))))?,
        Err(error) => board.failed(&error.to_string())?,
    }
    for language in &LANGUAGES {
        let of = |kind: Kind| servers.iter().find(|s| s.spec.kind == kind && s.spec.language == language.name);
        let (Some(reference), Some(naive)) = (of(Kind::Reference), of(Kind::Naive)) else { continue };
        board.add(bench::exit_after_last_byte(reference, language, rounds).await)?;
        board.add(bench::against_naive(reference, naive, rounds).await)?;
        let requests = if language.name == "python" { args.in_flight / 10 } else { args.in_flight };
        board.add(bench::in_flight_accounted(reference, requests as usize).await)?;
        if language.name == "go" {
            board.add(bench::against_oha(reference, rounds).await)?;
        }
    }
    say!(
        "{} bars missed, {} figures not measured, {:.0} s",
        board.missed,
        board.unmeasured,
        began.elapsed().as_secs_f64()
    )?;
    Ok(match board {
        Board { missed: 1.., .. } => Status::Unexpected,
        Board { unmeasured: 1.., .. } => Status::Environment,
        _ => Status::AsExpected,
    })
}

struct Board {
    missed: u32,
    unmeasured: u32,
}

impl Board {
    fn add(&mut self, figure: Result<Option<Figure>, BenchError>) -> Result<(), CliError> {
        match figure {
            Ok(Some(figure)) => {
                let verdict = if figure.reached() { Verdict::Pass } else { Verdict::Fail };
                self.missed += u32::from(!figure.reached());
                let bar = match figure.bar {
                    Bar::AtLeast(bar) => format!("≥ {bar}"),
                    Bar::AtMost(bar) => format!("≤ {bar}"),
                };
                say!(
                    "{} {:<72} {:>7.2} {} [{:.2} … {:.2}] of {}, bar {bar}",
                    report::paint(report::verdict_style(verdict), verdict.word()),
                    figure.name,
                    figure.median,
                    figure.unit,
                    figure.range.0,
                    figure.range.1,
                    figure.rounds
                )
            }
            Ok(None) => self.failed("no round was measured"),
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn failed(&mut self, why: &str) -> Result<(), CliError> {
        self.unmeasured += 1;
        say!("{} {why}", report::paint(report::verdict_style(Verdict::Error), "not measured"))
    }
}
