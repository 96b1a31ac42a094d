//! `rollout`: anybody's deploy, under load. It asks one question: what did the users miss?

mod advice;
mod causes;
mod command;
mod patch;
mod pods;
mod tally;

pub use advice::{Advice, Asked, Topic, advise};
pub use causes::{Cause, causes};
pub use command::Ended;
pub use pods::{Exit, PodRow, Roll, Signalled, Source, roll};
pub use tally::{Column, Count, Miss, Missed, Step, Tally, tally, unfit};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::client::{Asking, Client, Seen, Steady};
use crate::cluster::{ClusterError, Watched, Workload};
use crate::expectation::DIRECT;
use crate::recorder::Recorder;
use crate::runner;
use crate::timeline::{self, Event, Header, RolloutState, Timeline};

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
    /// How long the deploy may take.
    pub within: Duration,
    /// The command and its arguments; without one the workload is restarted.
    pub command: Vec<String>,
    /// The workload that is watched, where one was named.
    pub workload: Option<Workload>,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The load is on, and nothing else happens.
    WarmUp,
    /// The command runs, or the cluster replaces pods.
    Deploy,
    /// That is over.
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
    /// The cluster does not do what it is asked.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Plays it, with a timeline in this file, where one is named. `watch` is told where it is, several times a second; `told` each line of the command.
///
/// # Errors
/// When the command cannot be started, the cluster not be watched, or the timeline not be written.
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
    let mut watched_workload = match &plan.workload {
        Some(workload) => {
            Some(Watched::start(workload, &recorder, tally::COMMAND + 1, Box::new(|_, _| Vec::new())).await?)
        }
        None => None,
    };
    let load = Steady::start(&Client::new(recorder.clone()), plan.asking.clone());
    watched(Stage::WarmUp, &mut watch, load.seen(), tokio::time::sleep(plan.warm_up)).await;
    // Nobody deploys for nothing: where the target is not in order by then, it is left alone.
    let fit = unfit(&recorder.so_far());
    match fit {
        Some(why) => recorder.record(Event::Unconfirmed { what: "nothing was deployed".to_owned(), why }),
        None => {
            let deploy = deploy(plan, watched_workload.as_mut(), &recorder, told);
            watched(Stage::Deploy, &mut watch, load.seen(), deploy).await?;
            watched(Stage::CoolDown, &mut watch, load.seen(), tokio::time::sleep(plan.cool_down)).await;
        }
    }
    load.stop().await;
    drop((heartbeat, watched_workload));
    recorder.finish().map_err(unwritten)
}

/// Deploys: by the command, or by a restart where there is none; and waits until that is over.
async fn deploy(
    plan: &Plan,
    watched: Option<&mut Watched>,
    recorder: &Recorder,
    told: fn(&str),
) -> Result<(), RolloutError> {
    let until = Instant::now() + plan.within;
    if !plan.command.is_empty() {
        let failed = |why| RolloutError::Command { command: plan.command.join(" "), why };
        let command = command::Deploy::start(&plan.command, recorder, told).map_err(failed)?;
        match command.ended(plan.within).await.map_err(failed)? {
            Ended::ByItself { succeeded: true } => {}
            Ended::ByItself { succeeded: false } => return Ok(()), // nobody knows what there is to wait for
            Ended::TooLate => {
                let why = format!("it was told to stop after {} s", plan.within.as_secs());
                recorder.record(Event::Unconfirmed { what: "the command ends".to_owned(), why });
                return Ok(());
            }
        }
    }
    let (Some(workload), Some(watched)) = (&plan.workload, watched) else { return Ok(()) };
    let name = workload.name().to_string();
    let generation = if plan.command.is_empty() {
        // Before the request: the cluster may act on it before it answers.
        recorder.record(Event::Rollout { workload: name.clone(), state: RolloutState::Asked });
        workload.restart().await?
    } else {
        workload.generation().await?
    };
    let complete = tokio::time::timeout_at(until.into(), watched.complete(generation, told)).await;
    let state = if complete.unwrap_or(false) { RolloutState::Complete } else { RolloutState::GivenUp };
    recorder.record(Event::Rollout { workload: name, state });
    Ok(())
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
