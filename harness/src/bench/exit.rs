//! How long a reference takes to exit after its last byte, over the bare program of its runtime.

use super::bare::Language;
use super::{Bar, BenchError, Figure};
use crate::catalog::{Server, Topology};
use crate::process::guardian;
use crate::runner;
use crate::scenario::{self, Subject};
use crate::timeline::Param;

/// Plays `in-flight-completes` without a linger, and the bare program, in turn.
///
/// # Errors
/// When a program or server does not run.
pub async fn exit_after_last_byte(
    server: &Server,
    language: &Language,
    rounds: usize,
) -> Result<Option<Figure>, BenchError> {
    let folder = tempfile::tempdir_in(guardian::run_folder())?;
    language.build(folder.path()).await?;
    let mut subject = Subject::of(server);
    subject.params.push((Param::IdleLinger, 0.0));
    let scenario = scenario::find("in-flight-completes").ok_or_else(|| failed(server, "there is no such scenario"))?;
    let mut over = Vec::new();
    for round in 1..=rounds {
        let bare = language.exit_after_byte_ms(folder.path()).await?;
        let outcome = runner::play(&subject, &Topology::direct(), scenario, round as u32, 0, folder.path()).await;
        let Some(exit) = outcome.measures.get("exit_after_last_byte_ms") else {
            return Err(failed(server, &outcome.reason.unwrap_or_else(|| "the run shows no exit".to_owned())));
        };
        over.push(exit - bare);
    }
    let name = format!("{}: exit after the last byte, over a bare program", language.name);
    Ok(Figure::of(name, "ms", Bar::AtMost(language.exit_bar_ms), &over))
}

fn failed(server: &Server, why: &str) -> BenchError {
    BenchError::Server { server: server.name.clone(), why: why.to_owned() }
}
