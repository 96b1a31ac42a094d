//! The `drainspec` program: parses, runs, exits.

use std::process::ExitCode;

fn main() -> ExitCode {
    drainspec::cli::main()
}
