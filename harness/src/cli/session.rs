//! What every command needs that starts something: nothing of it is left behind, whichever way the command ends.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Status};
use crate::process;
use crate::process::guardian::Guardian;

/// How long tasks may take to end when their work is no longer wanted.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Does this work, and stops everything that it has started: when it is done, on Ctrl-C, on SIGTERM, and by the guardian
/// where this process is killed.
///
/// # Errors
/// When guardian or runtime cannot be started, and what the work itself says.
pub fn run(work: impl AsyncFnOnce() -> Result<Status, CliError>) -> Result<Status, CliError> {
    let guardian = Guardian::start().map_err(CliError::Guardian)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)?;
    let status = runtime.block_on(async {
        tokio::select! {
            status = work() => status,
            () = interrupted() => Ok(Status::Interrupted),
        }
    });
    // Ends every task, and with it what it started; then whatever group is left.
    runtime.shutdown_timeout(ENDS_WITHIN);
    process::kill_all();
    drop(guardian);
    status
}

/// Resolves on Ctrl-C and on SIGTERM.
async fn interrupted() {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
    tell!("drainspec: interrupted; stopping everything that was started");
}
