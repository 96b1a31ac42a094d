//! What can be learnt of a server by starting it once: its port, its latency, its ways.

use std::time::{Duration, Instant};

use super::Diagnosis;
use crate::catalog::Feature;
use crate::client::{Ask, Outcome};
use crate::recorder::Recorder;
use crate::scenario::{Manner, Run, Stop, Stranger, Subject, Target};
use crate::timeline::Role;

/// The least latency of a path on which a single request is certainly in flight when the signal arrives.
pub const SLOW_ENOUGH: Duration = Duration::from_millis(300);
/// Scenarios played side by side at most, where each can have a port of its own.
const SIDE_BY_SIDE: usize = 6;
/// What starting side by side may take of each processor.
const STARTS: Duration = Duration::from_secs(2);
/// Requests by which latency is measured.
const SAMPLES: usize = 5;
/// How long a connection is watched for being closed after its first response.
const CLOSES_WITHIN: Duration = Duration::from_millis(150);

/// What was learnt.
#[derive(Debug)]
pub struct Learned {
    /// The port that it listens on.
    pub port: u16,
    /// Whether that is the port that it was given.
    pub own_port: bool,
    /// The time of processors that it takes to start.
    pub starting: Duration,
    /// The status of its answers.
    pub status: u16,
    /// The median latency of its path.
    pub latency: Duration,
    /// Whether a connection stays open after a response.
    pub keep_alive: bool,
    /// The path that is slow enough, and its latency.
    pub slow: Option<(String, Duration)>,
    /// Why the slow path that was given is not used.
    pub not_slow: Option<String>,
    /// Its language, where the program tells.
    pub language: Option<&'static str>,
    /// What is odd about the way it is started or stopped.
    pub diagnoses: Vec<Diagnosis>,
}

/// Starts the subject, watches it, and stops it again.
///
/// # Errors
/// When it does not start or does not answer.
pub async fn learn(subject: &Subject, slow: Option<&str>, recorder: Recorder) -> Result<Learned, Stop> {
    let mut run =
        Run::new(recorder, subject, Default::default()).map_err(|error| Stop::Io("making a folder", error))?;
    let mut target = run.start().await?;
    let (starting, asked) = (target.process().tree().cpu(), run.port());
    let Manner::Stranger(Stranger { path, .. }) = &subject.manner else {
        return Err(crate::scenario::unconfirmed("the subject is a stranger", "it keeps the contract"));
    };
    let (status, keep_alive) = first_answer(&target, path).await?;
    let latency = latency(&target, path, keep_alive).await?;
    let (mut chosen, mut not_slow) = (None, None);
    let candidate = slow.unwrap_or(path);
    let takes = if slow.is_some() { self::latency(&target, candidate, keep_alive).await? } else { latency };
    if takes >= SLOW_ENOUGH {
        chosen = Some((candidate.to_owned(), takes));
    } else if slow.is_some() {
        not_slow = Some(format!("{candidate} takes {takes:.1?}; at least {SLOW_ENOUGH:.1?} are needed"));
    }
    let port = target.address.port();
    let language = Diagnosis::language(&target);
    let diagnoses = Diagnosis::watch_stop(&mut target, subject.stop_signal()).await;
    target.kill().await;
    Ok(Learned {
        port,
        own_port: Some(port) == asked,
        starting,
        status,
        latency,
        keep_alive,
        slow: chosen,
        not_slow,
        language,
        diagnoses,
    })
}

impl Learned {
    /// How many of it can be started side by side, and none of them be late for it.
    pub fn side_by_side(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.own_port { side_by_side(self.starting, cores) } else { 1 }
    }

    /// What the subject can do.
    pub fn features(&self, ready: bool) -> impl Iterator<Item = Feature> {
        let health = ready.then_some([Feature::Health, Feature::LameDuck]).into_iter().flatten();
        let slow = self.slow.is_some().then_some(Feature::Slow);
        self.keep_alive.then_some(Feature::KeepAlive).into_iter().chain(slow).chain(health)
    }
}

fn side_by_side(starting: Duration, cores: usize) -> usize {
    let starts = STARTS.as_secs_f64() * cores as f64 / starting.as_secs_f64().max(f64::EPSILON);
    (starts as usize).clamp(1, SIDE_BY_SIDE)
}

async fn first_answer(target: &Target, path: &str) -> Result<(u16, bool), Stop> {
    let mut connection = target.connect(Role::Warmup).await?;
    let answer = connection.ask(Ask::get(path, Role::Warmup)).await;
    let Some(status) = answer.status.filter(|_| answer.outcome == Outcome::Answered) else {
        return Err(crate::scenario::unconfirmed("the server answers", format!("GET {path}: {:?}", answer.outcome)));
    };
    let stays = !answer.close && connection.ended(CLOSES_WITHIN).await.is_none();
    Ok((status, stays))
}

/// The median of several requests, on one connection where that stays open.
async fn latency(target: &Target, path: &str, keep_alive: bool) -> Result<Duration, Stop> {
    let mut took = Vec::new();
    let mut connection = target.connect(Role::Warmup).await?;
    for _ in 0..SAMPLES {
        if !keep_alive {
            connection = target.connect(Role::Warmup).await?;
        }
        let began = Instant::now();
        let answer = connection.ask(Ask::get(path, Role::Warmup)).await;
        if answer.outcome != Outcome::Answered {
            return Err(crate::scenario::unconfirmed(
                "the server answers",
                format!("GET {path}: {:?}", answer.outcome),
            ));
        }
        took.push(began.elapsed());
        if took.len() >= 2 && took.iter().sum::<Duration>() > Duration::from_secs(4) {
            break;
        }
    }
    took.sort();
    Ok(took[took.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_long_to_start_is_started_less_often_at_once() {
        let of = |ms, cores| side_by_side(Duration::from_millis(ms), cores);
        assert_eq!((of(0, 2), of(100, 2), of(660, 2)), (6, 6, 6));
        assert_eq!((of(1_000, 2), of(2_000, 2), of(2_001, 2), of(60_000, 2)), (4, 2, 1, 1));
        assert_eq!(of(2_000, 8), 6);
    }
}
