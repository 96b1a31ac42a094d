//! `drainspec report`: the results of a run, rendered as a page.

use std::path::PathBuf;

use super::{CliError, Status, project};
use crate::check::CheckResults;
use crate::report;
use crate::results::Results;

/// Arguments of `drainspec report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A results.json or a check.json, or the folder of one
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Form of the page
    #[arg(long, value_enum, default_value_t = Format::Markdown)]
    format: Format,
    /// Folder with the servers, for the reasons of known failures [default: `servers`, here or above]
    #[arg(long, value_name = "DIR")]
    servers: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// A page in Markdown
    Markdown,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    if CheckResults::is_at(&args.run) {
        let results = CheckResults::read(&args.run)?;
        match args.format {
            Format::Markdown => super::print(&report::check_page(&results))?,
        }
        return Ok(Status::AsExpected);
    }
    let results = Results::read(&args.run)?;
    let servers = project::servers(&project::servers_folder(args.servers.as_deref())?)?;
    match args.format {
        Format::Markdown => super::print(&report::markdown(&results, &servers))?,
    }
    Ok(Status::AsExpected)
}
