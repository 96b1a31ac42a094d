//! `drainspec report`: the results of a run as a page, or one of its timelines as a picture.

use std::path::PathBuf;

use super::{CliError, Status, project};
use crate::check::CheckResults;
use crate::report;
use crate::results::Results;
use crate::timeline::View;

/// Arguments of `drainspec report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A results.json or a check.json, or the folder of one
    #[arg(value_name = "RUN", required_unless_present = "timeline")]
    run: Option<PathBuf>,
    /// One timeline instead, drawn in text: each replacement of an instance, who knew of it when, and what was missed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "format"])]
    timeline: Option<PathBuf>,
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
    if let Some(path) = &args.timeline {
        let timeline = super::judge::read(path)?;
        match report::lanes(&View::new(&timeline)) {
            picture if picture.is_empty() => return Err(CliError::NothingReplaced { path: path.clone() }),
            picture => super::print(&picture)?,
        }
        return Ok(Status::AsExpected);
    }
    let Some(run) = &args.run else { return Ok(Status::Usage) };
    if CheckResults::is_at(run) {
        let results = CheckResults::read(run)?;
        match args.format {
            Format::Markdown => super::print(&report::check_page(&results))?,
        }
        return Ok(Status::AsExpected);
    }
    let results = Results::read(run)?;
    let servers = project::servers(&project::servers_folder(args.servers.as_deref())?)?;
    match args.format {
        Format::Markdown => super::print(&report::markdown(&results, &servers))?,
    }
    Ok(Status::AsExpected)
}
