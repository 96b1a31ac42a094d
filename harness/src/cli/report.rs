//! `drainspec report`: the results of a run, rendered as a page.

use std::path::PathBuf;

use super::{CliError, Status, project};
use crate::report;
use crate::results::Results;

/// Arguments of `drainspec report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A results.json, or its folder
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
    let results = Results::read(&args.run)?;
    let servers = project::servers(&project::servers_folder(args.servers.as_deref())?)?;
    match args.format {
        Format::Markdown => print!("{}", report::markdown(&results, &servers)),
    }
    Ok(Status::AsExpected)
}
