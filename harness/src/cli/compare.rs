//! `drainspec compare`: what changed between two results.

use std::path::PathBuf;

use super::{CliError, Status};
use crate::check::CheckResults;
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
    /// The older results.json or check.json, or the folder of one
    before: PathBuf,
    /// The newer one
    after: PathBuf,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    let changes = match (CheckResults::is_at(&args.before), CheckResults::is_at(&args.after)) {
        (false, false) => changes(&Results::read(&args.before)?, &Results::read(&args.after)?),
        (true, true) => {
            changes(&CheckResults::read(&args.before)?.by_rule(), &CheckResults::read(&args.after)?.by_rule())
        }
        (true, false) => return Err(CliError::NotAlike { check: args.before.clone(), matrix: args.after.clone() }),
        (false, true) => return Err(CliError::NotAlike { check: args.after.clone(), matrix: args.before.clone() }),
    };
    let regressions = changes.iter().filter(|change| change.regression).count();
    for change in &changes {
        let style = report::verdict_style(if change.regression { Verdict::Fail } else { Verdict::Unsupported });
        let word = if change.regression { "worse" } else { "     " };
        say!("{} {}: {}", report::paint(style, word), change.cell, change.what)?;
    }
    say!("{} changes, {regressions} for the worse", changes.len())?;
    Ok(if regressions == 0 { Status::AsExpected } else { Status::Unexpected })
}
