//! What can be learnt of a server by starting it once: its port, its latency, its ways.

use std::time::{Duration, Instant};

use hyper::Method;
use hyper::header::SERVER;

use super::{Identity, LameDuck, lame_duck};
use crate::catalog::Feature;
use crate::client::Outcome;
use crate::recorder::Recorder;
use crate::scenario::{Manner, Normal, Route, Run, Stop, Stranger, Subject, Target};
use crate::timeline::Role;

/// The least latency of a path on which a single request is certainly in flight when the signal arrives.
pub const SLOW_ENOUGH: Duration = Duration::from_millis(300);
/// Scenarios played side by side at most, where each can have a port of its own.
const SIDE_BY_SIDE: usize = 6;
/// What starting side by side may take of each processor.
const STARTS: Duration = Duration::from_secs(2);
/// Requests by which it is learnt what a route gets.
const SAMPLES: usize = 5;
/// How long they may take together; there are two at least.
const SAMPLING: Duration = Duration::from_secs(4);
/// Pause between two questions whether it is ready.
const AGAIN: Duration = Duration::from_millis(100);
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
    /// Whether a connection stays open after a response.
    pub keep_alive: bool,
    /// What it answers at once, and what comes.
    pub quick: Route,
    /// What is slow enough, and what comes.
    pub slow: Option<Route>,
    /// Its lame-duck.
    pub lame_duck: LameDuck,
    /// The path of its readiness probe.
    ready: Option<String>,
    /// Who leads, who listens, and what they are.
    pub identity: Identity,
}

/// Starts the subject, watches it, and stops it again.
///
/// # Errors
/// When it does not start or does not answer.
pub async fn learn(subject: &Subject, recorder: Recorder) -> Result<Learned, Stop> {
    let Manner::Stranger(stranger) = &subject.manner else {
        return Err(crate::scenario::unconfirmed("the subject is a stranger", "it keeps the contract"));
    };
    let mut run =
        Run::new(recorder, subject, Default::default()).map_err(|error| Stop::Io("making a folder", error))?;
    let mut target = run.start().await?;
    let starting = target.process().tree().cpu();
    let asked = run.port();
    let keep_alive = keeps_open(&target, stranger).await?;
    let quick = known(&target, stranger, &stranger.quick, keep_alive).await?;
    let mut slow = None;
    match &stranger.slow {
        Some(route) => {
            let route = known(&target, stranger, route, keep_alive).await?;
            if route.takes() < SLOW_ENOUGH {
                return Err(too_quick(&route));
            }
            slow = Some(route);
        }
        None if quick.takes() >= SLOW_ENOUGH => slow = Some(quick.clone()),
        None => {}
    }
    let port = target.address.port();
    let header = server_field(&target, stranger).await;
    // At the end: some install their handler only after they listen.
    let identity = Identity::of(&target, subject.stop_signal(), header.as_deref());
    if stranger.ready.is_some() {
        becomes_ready(&target, subject, stranger.start_within).await?;
    }
    let stranger = Stranger { quick: quick.clone(), ..(**stranger).clone() };
    let lame_duck = match stranger.lame_duck {
        Some(said) => LameDuck::Said(said),
        None if identity.is_deaf() => LameDuck::Unknown,
        None => lame_duck::watch(&mut target, subject, &stranger).await,
    };
    target.kill().await;
    let (own_port, ready) = (Some(port) == asked, stranger.ready);
    Ok(Learned { port, own_port, starting, keep_alive, quick, slow, lame_duck, ready, identity })
}

impl Learned {
    /// How many of it can be started side by side, and none of them be late for it.
    pub fn side_by_side(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.own_port { side_by_side(self.starting, cores) } else { 1 }
    }

    /// What the subject can do.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        let lame_duck = self.lame_duck.is_due(self.ready.is_some()).then_some(Feature::LameDuck);
        let health = self.ready.is_some().then_some(Feature::Health).into_iter().chain(lame_duck);
        let slow = self.slow.is_some().then_some(Feature::Slow);
        self.keep_alive.then_some(Feature::KeepAlive).into_iter().chain(slow).chain(health)
    }

    /// The same in words, a sentence each.
    pub fn words(&self) -> Vec<String> {
        let port = if self.own_port { "as it was told" } else { "found: it takes neither {port} nor PORT" };
        let mut words = vec![format!("port {} ({port})", self.port), described(&self.quick)];
        if let Some(slow) = self.slow.as_ref().filter(|slow| slow.path != self.quick.path) {
            words.push(described(slow));
        }
        words.push(match self.keep_alive {
            true => "it keeps connections open".to_owned(),
            false => "it closes the connection after each response".to_owned(),
        });
        words.extend(self.lame_duck.words(self.ready.as_deref()));
        words.extend(self.identity.words());
        words
    }
}

fn side_by_side(starting: Duration, cores: usize) -> usize {
    let starts = STARTS.as_secs_f64() * cores as f64 / starting.as_secs_f64().max(f64::EPSILON);
    (starts as usize).clamp(1, SIDE_BY_SIDE)
}

fn described(route: &Route) -> String {
    let status = route.normal.map_or(String::new(), |normal| format!(" {}", normal.status));
    format!("{} {} is answered{status} in {:.1?}", route.method, route.path, route.takes())
}

/// Whether a connection stays open after a response.
async fn keeps_open(target: &Target, stranger: &Stranger) -> Result<bool, Stop> {
    let mut connection = target.connect(Role::Warmup).await?;
    let answer = connection.ask(stranger.ask(&stranger.quick, Role::Warmup)).await;
    if answer.outcome != Outcome::Answered {
        return Err(unanswered(&stranger.quick, answer.outcome));
    }
    Ok(!answer.close && connection.ended(CLOSES_WITHIN).await.is_none())
}

/// The `Server` field of a response.
async fn server_field(target: &Target, stranger: &Stranger) -> Option<String> {
    let mut connection = target.try_connect(Role::Warmup).await.ok()?;
    let answer = connection.ask(stranger.ask(&stranger.quick, Role::Warmup)).await;
    Some(answer.headers.get(SERVER)?.to_str().ok()?.to_owned())
}

/// The route with what it gets, by several requests: on one connection where that stays open.
async fn known(target: &Target, stranger: &Stranger, route: &Route, keep_alive: bool) -> Result<Route, Stop> {
    let mut answers = Vec::new();
    let mut connection = target.connect(Role::Warmup).await?;
    let began = Instant::now();
    while answers.len() < SAMPLES && (answers.len() < 2 || began.elapsed() < SAMPLING) {
        if !keep_alive && !answers.is_empty() {
            connection = target.connect(Role::Warmup).await?;
        }
        let asked = Instant::now();
        let answer = connection.ask(stranger.ask(route, Role::Warmup)).await;
        match (answer.outcome, answer.status) {
            (Outcome::Answered, Some(status)) => answers.push(Normal { status, takes: asked.elapsed() }),
            (outcome, _) => return Err(unanswered(route, outcome)),
        }
    }
    answers.sort_by_key(|answer| answer.takes);
    Ok(Route { normal: Some(answers[answers.len() / 2]), ..route.clone() })
}

/// Why the slow path that was named is of no use, with what was seen.
fn too_quick(route: &Route) -> Stop {
    let Route { method, path, normal, .. } = route;
    let status = normal.map_or(String::new(), |normal| format!(" {}", normal.status));
    let (takes, least) = (route.takes().as_secs_f64() * 1e3, SLOW_ENOUGH.as_millis());
    let post = if method == Method::GET { "; where it is no GET, say --method and --body" } else { "" };
    let why = format!("{method} is answered{status} in {takes:.1} ms, where {least} ms at least are needed{post}");
    crate::scenario::unconfirmed(&format!("--slow {path}"), why)
}

/// Waits until the readiness probe succeeds.
async fn becomes_ready(target: &Target, subject: &Subject, within: Duration) -> Result<(), Stop> {
    let deadline = Instant::now() + within;
    loop {
        let mut connection = target.connect(Role::Warmup).await?;
        let answer = connection.ask(subject.ask_ready()).await;
        match answer.status {
            Some(status) if !subject.is_unready(status) => return Ok(()),
            Some(500..) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
            status => {
                let what = format!("--ready {}", subject.ready_path());
                let why = status.map_or(answer.outcome.to_string(), |status| {
                    format!("it is answered {status}, and has to succeed before the signal")
                });
                return Err(crate::scenario::unconfirmed(&what, why));
            }
        }
    }
}

fn unanswered(route: &Route, outcome: Outcome) -> Stop {
    crate::scenario::unconfirmed("the server answers", format!("{} {}: {outcome}", route.method, route.path))
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
