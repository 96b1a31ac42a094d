//! `rollout`: anybody's deploy, under load. It asks one question: what did the users miss?

mod command;
mod tally;

pub use command::Ended;
pub use tally::{Column, Count, Step, Tally, tally, unfit};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::client::{Asking, Client, Seen, Steady};
use crate::expectation::DIRECT;
use crate::recorder::Recorder;
use crate::runner;
use crate::timeline::{self, Event, Header, Timeline};

/// What is to be done.
pub struct Plan {
    /// What is deployed, in words: its address.
    pub target: String,
    /// The load.
    pub asking: Asking,
    /// How long it is on before the command is started: nothing may be missed by then.
    pub warm_up: Duration,
    /// How long it goes on when the command has ended.
    pub cool_down: Duration,
    /// How long the command may take.
    pub within: Duration,
    /// The command and its arguments.
    pub command: Vec<String>,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The load is on, and nothing else happens.
    WarmUp,
    /// The command runs.
    Deploy,
    /// It has ended.
    CoolDown,
}

/// Why a rollout could not be played.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The timeline could not be written.
    #[error("{}: {why}", path.display())]
    Timeline {
        /// Its file.
        path: PathBuf,
        /// Why not.
        why: std::io::Error,
    },
    /// The command could not be started.
    #[error("`{command}` cannot be started: {why}")]
    Command {
        /// The command.
        command: String,
        /// Why not.
        why: std::io::Error,
    },
}

/// Plays it, with a timeline in this file, where one is named. `watch` is told where it is, several times a second; `told` each line of the command.
///
/// # Errors
/// When the command cannot be started, or the timeline not be written.
pub async fn play(
    plan: &Plan,
    out: Option<&Path>,
    mut watch: impl FnMut(Stage, &Seen),
    told: fn(&str),
) -> Result<Timeline, RolloutError> {
    let unwritten = |why| RolloutError::Timeline { path: out.unwrap_or(Path::new("")).to_owned(), why };
    let recorder = match out {
        Some(out) => Recorder::create(header(plan), out).map_err(unwritten)?,
        None => Recorder::in_memory(header(plan)),
    };
    let heartbeat = recorder.heartbeat();
    let load = Steady::start(&Client::new(recorder.clone()), plan.asking.clone());
    watched(Stage::WarmUp, &mut watch, load.seen(), tokio::time::sleep(plan.warm_up)).await;
    // Nobody deploys for nothing: where the target is not in order by then, it is left alone.
    let fit = unfit(&recorder.so_far());
    match fit {
        Some(why) => recorder.record(Event::Unconfirmed { what: "the command was not started".to_owned(), why }),
        None => {
            let failed = |why| RolloutError::Command { command: plan.command.join(" "), why };
            let deploy = command::Deploy::start(&plan.command, &recorder, told).map_err(failed)?;
            let ended = deploy.ended(plan.within);
            if watched(Stage::Deploy, &mut watch, load.seen(), ended).await.map_err(failed)? == Ended::TooLate {
                let why = format!("it was told to stop after {} s", plan.within.as_secs());
                recorder.record(Event::Unconfirmed { what: "the command ends".to_owned(), why });
            }
            watched(Stage::CoolDown, &mut watch, load.seen(), tokio::time::sleep(plan.cool_down)).await;
        }
    }
    load.stop().await;
    drop(heartbeat);
    recorder.finish().map_err(unwritten)
}

/// Waits for something, and says meanwhile how the load goes.
async fn watched<T>(
    stage: Stage,
    watch: &mut impl FnMut(Stage, &Seen),
    seen: &Seen,
    what: impl Future<Output = T>,
) -> T {
    const LOOK: Duration = Duration::from_millis(250);
    let mut what = std::pin::pin!(what);
    let began = Instant::now();
    for look in 1u32.. {
        watch(stage, seen);
        tokio::select! {
            done = &mut what => return done,
            () = tokio::time::sleep_until((began + look * LOOK).into()) => {}
        }
    }
    what.await
}

fn header(plan: &Plan) -> Header {
    Header {
        format: timeline::FORMAT,
        scenario: "rollout".to_owned(),
        rules: Vec::new(),
        server: plan.target.clone(),
        topology: DIRECT.to_owned(),
        repeat: 1,
        promises_contract: false,
        features: Vec::new(),
        params: BTreeMap::new(),
        environment: runner::machine(),
        learned: Vec::new(),
    }
}
