//! `drainspec completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, CliError, Status};

/// Arguments of `drainspec completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs it.
pub fn run(args: &Args) -> Result<Status, CliError> {
    clap_complete::generate(args.shell, &mut Cli::command(), "drainspec", &mut std::io::stdout());
    Ok(Status::AsExpected)
}
