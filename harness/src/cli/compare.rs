//! `drainspec compare`: what changed between two results.

use std::path::PathBuf;

use super::{CliError, Status};
use crate::compare::changes;
use crate::report;
use crate::results::Results;
use crate::verdict::Verdict;

/// Arguments of `drainspec compare`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A worse verdict, a cell that is gone and more losses are regressions: exit status 1. Times are shown, not judged."
)]
pub struct Args {
    /// The older results.json, or its folder
    before: PathBuf,
    /// The newer results.json, or its folder
    after: PathBuf,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let changes = changes(&Results::read(&args.before)?, &Results::read(&args.after)?);
    let regressions = changes.iter().filter(|change| change.regression).count();
    for change in &changes {
        let style = report::verdict_style(if change.regression { Verdict::Fail } else { Verdict::Unsupported });
        let word = if change.regression { "worse" } else { "     " };
        say!("{} {}: {}", report::paint(style, word), change.cell, change.what)?;
    }
    say!("{} changes, {regressions} for the worse", changes.len())?;
    Ok(if regressions == 0 { Status::AsExpected } else { Status::Unexpected })
}
