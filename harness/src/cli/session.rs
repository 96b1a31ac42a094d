//! How a command ends that takes its time: when its work is done, or when it is interrupted; and of what it has started
//! nothing is left behind.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Status};
use crate::process;
use crate::process::guardian::Guardian;
use crate::process::guardian::Left;

/// How long tasks may take to end when their work is no longer wanted.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Does this work, and kills everything that it has started: when it is done, on Ctrl-C, on SIGTERM, and by the guardian
/// where this process is killed.
///
/// # Errors
/// When guardian or runtime cannot be started, and what the work itself says.
pub fn guarded(work: impl AsyncFnOnce() -> Result<Status, CliError>) -> Result<Status, CliError> {
    let guardian = Guardian::start().map_err(CliError::Guardian)?;
    let status = run(work);
    process::kill_all();
    drop(guardian);
    status
}

/// Does this work until it is done, or interrupted by Ctrl-C or SIGTERM: then it is dropped.
///
/// # Errors
/// When the runtime cannot be started, and what the work itself says.
pub fn run(work: impl AsyncFnOnce() -> Result<Status, CliError>) -> Result<Status, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::Runtime)?;
    let status = runtime.block_on(async {
        tokio::select! {
            status = work() => status,
            () = interrupted() => Ok(Status::Interrupted),
        }
    });
    // Ends every task, and with it what it started.
    runtime.shutdown_timeout(ENDS_WITHIN);
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

/// Mends what a harness has left in a cluster. Nobody is there any more to be told where it cannot be done.
pub fn mend(left: Left) {
    if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
        let _ = runtime.block_on(crate::cluster::mend(left));
    }
}
