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
    let all = Cli::command();
    // Hidden ones would be offered with the others.
    let offered = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut offered = clap::Command::new("drainspec").version(env!("CARGO_PKG_VERSION")).subcommands(offered);
    let mut script = Vec::new(); // clap_complete panics where standard output is closed
    clap_complete::generate(args.shell, &mut offered, "drainspec", &mut script);
    super::print(&String::from_utf8_lossy(&script))?;
    Ok(Status::AsExpected)
}
