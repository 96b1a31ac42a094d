//! What is learnt of a server before it is judged: it is started twice, side by side where that is possible, and asked
//! in peace.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::SERVER;

use super::normal::{Depth, Watched, normal, watch};
use super::peace::Peace;
use super::ports::{self, Open};
use super::{Identity, LameDuck, lame_duck, words};
use crate::catalog::Feature;
use crate::client::{Framing, Outcome};
use crate::recorder::Recorder;
use crate::scenario::{Manner, Normal, Route, Run, Stop, Stranger, Subject, Target, unconfirmed};
use crate::timeline::{Param, Role};

/// The least latency of a path on which a single request is certainly in flight when the signal arrives.
pub const SLOW_ENOUGH: Duration = Duration::from_millis(300);
/// Scenarios played side by side at most, where each can have a port of its own.
const SIDE_BY_SIDE: usize = 6;
/// What starting side by side may take of each processor.
const STARTS: Duration = Duration::from_secs(2);
/// Pause between two questions whether it is ready.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a connection is watched for being closed after its first response.
const CLOSES_WITHIN: Duration = Duration::from_millis(150);
/// Attempts at finding a status that stays: routes may come up one after the other.
const SETTLES: usize = 5;
/// Pause between the pieces of an upload whose answer is being learnt.
const PIECE: Duration = Duration::from_millis(2);

/// A route and what it gets.
pub type Known = (Route, Normal);

/// What was learnt.
#[derive(Debug)]
pub struct Learned {
    /// The port that it listens on.
    pub port: u16,
    /// Whether that is a port that it was given.
    pub own_port: bool,
    /// Other ports that it listens on.
    pub other_ports: BTreeSet<u16>,
    /// Why two of it cannot live side by side, where they cannot.
    pub alone: Option<String>,
    /// How long its start takes, until its first answer.
    pub start: Duration,
    /// The time of processors that it takes to start.
    pub starting: Duration,
    /// Whether a connection stays open after a response.
    pub keep_alive: bool,
    /// What it answers at once, and what comes.
    pub quick: Known,
    /// What is slow enough, and what comes.
    pub slow: Option<Known>,
    /// A response in pieces that has an end, and what comes.
    pub finite: Option<Known>,
    /// A response in pieces that has none.
    pub endless: Option<Route>,
    /// What takes an upload, and what comes.
    pub upload: Option<Known>,
    /// What a steady load gets while nobody stops it.
    pub peace: Peace,
    /// Its lame-duck.
    pub lame_duck: LameDuck,
    /// The path of its readiness probe.
    pub(super) ready: Option<String>,
    /// Who leads, who listens, and what they are.
    pub identity: Identity,
}

/// Why nothing can be learnt.
#[derive(Debug, thiserror::Error)]
pub enum NotLearned {
    /// It does not start, or does not answer.
    #[error(transparent)]
    Stop(#[from] Stop),
    /// It is known what it is, and that is not tested.
    #[error("{0}")]
    NotTested(String),
    /// An option names what cannot be used.
    #[error("{option} {path}: {why}")]
    Unusable {
        /// The option.
        option: &'static str,
        /// Its value.
        path: String,
        /// Why not, and what to do.
        why: String,
    },
}

/// What the routes of one instance gave.
struct Seen {
    keep_alive: bool,
    quick: Watched,
    slow: Option<Watched>,
    stream: Option<Watched>,
    upload: Option<Watched>,
}

/// Starts the subject twice, asks it, and stops the second one as it will be stopped. `given` says that it certainly listens on the port that it
/// is told; `second` is the same subject with another port, where it has a choice.
///
/// # Errors
/// When it does not start or does not answer, or what the options name cannot be used.
pub async fn learn(
    first: &Subject,
    second: &Subject,
    given: bool,
    recorders: [Recorder; 2],
) -> Result<Learned, NotLearned> {
    let stranger = known_stranger(first)?;
    let [recorder, recorder_two] = recorders;
    let mut run = run_for(recorder, first)?;
    let Open { target, start, others } = ports::open(&mut run, stranger, given).await?;
    let starting = target.process().tree().cpu();
    let (port, own_port) = (target.address.port(), Some(target.address.port()) == run.port());

    // A second one at once: whether it can live beside the first, and what changes from start to start.
    let may_live_beside = own_port && known_stranger(second)?.port != port;
    let mut run_two = run_for(recorder_two.clone(), second)?;
    let beside = async {
        match may_live_beside {
            true => Some(again(&mut run_two, second).await),
            false => None,
        }
    };
    let (seen, beside) = tokio::join!(look(&target, stranger, Depth::Spread), beside);
    let seen = seen?;
    let quick = ends(&seen.quick, "--path", &stranger.quick)?;
    let due = normal(quick, &[]).and_then(|normal| normal.due.status);
    let target = Arc::new(target);
    let peace = Peace::watch(&target, &stranger.ask(&stranger.quick, Role::Warmup), due, seen.keep_alive).await;
    target.kill().await;
    drop(target);

    let mut alone = (!own_port).then(|| format!("it listens on port {port}, whatever it is told"));
    let (mut two, seen_two, start_two) = match beside {
        Some(Ok((open, seen))) => {
            let shared: Vec<u16> = open.others.intersection(&others).copied().collect();
            if !shared.is_empty() || open.others.len() != others.len() {
                alone = Some(format!("it listens on {} as well, whatever it is told", words::list(&others)));
            }
            (open.target, seen, open.start)
        }
        other => {
            if let Some(Err(why)) = other {
                alone = Some(format!("a second one beside it does not get going: {why}"));
            } else if own_port {
                alone = Some(format!("it was named by --port {port}"));
            }
            let mut only = second.clone();
            if let Manner::Stranger(stranger) = &mut only.manner {
                stranger.port = port;
                stranger.takes_port &= own_port;
            }
            let mut run = run_for(recorder_two, &only)?;
            let (open, seen) = again(&mut run, &only).await?;
            (open.target, seen, open.start)
        }
    };
    let header = server_field(&two, stranger).await;
    // At the end: some install their handler only after they listen.
    let identity = Identity::of(&two, first.stop_signal(), header.as_deref());
    let quick = known(&stranger.quick, quick, ends(&seen_two.quick, "--path", &stranger.quick)?)?;
    if stranger.ready.is_some() {
        becomes_ready(&two, second, stranger.start_within).await?;
    }
    let lame_duck = match stranger.lame_duck {
        Some(said) => LameDuck::Said(said),
        None if identity.is_deaf() => LameDuck::Unknown,
        None => {
            let stranger = Stranger { quick: quick.0.clone(), ..stranger.clone() };
            lame_duck::watch(&mut two, second, &stranger).await
        }
    };
    two.kill().await;
    let start = if own_port { start.max(start_two) } else { start_two };

    let mut learned = Learned {
        port,
        own_port,
        other_ports: others,
        alone,
        start,
        starting,
        keep_alive: seen.keep_alive,
        quick,
        slow: None,
        finite: None,
        endless: None,
        upload: None,
        peace,
        lame_duck,
        ready: stranger.ready.clone(),
        identity,
    };
    learned.take_routes(stranger, &seen, &seen_two)?;
    Ok(learned)
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
                return Err(unconfirmed(&what, why));
            }
        }
    }
}

fn known_stranger(subject: &Subject) -> Result<&Stranger, Stop> {
    match &subject.manner {
        Manner::Stranger(stranger) => Ok(stranger),
        Manner::Contract => Err(unconfirmed("the subject is a stranger", "it keeps the contract")),
    }
}

fn run_for(recorder: Recorder, subject: &Subject) -> Result<Run<'_>, Stop> {
    Run::new(recorder, subject, Default::default()).map_err(|error| Stop::Io("making a folder", error))
}

/// Starts another one and asks it briefly.
async fn again(run: &mut Run<'_>, subject: &Subject) -> Result<(Open, Seen), NotLearned> {
    let stranger = known_stranger(subject)?;
    let open = ports::open(run, stranger, true).await?;
    let seen = look(&open.target, stranger, Depth::Brief).await?;
    Ok((open, seen))
}

/// Asks every route of one instance, one after the other: a server may do one thing at a time.
async fn look(target: &Target, stranger: &Stranger, depth: Depth) -> Result<Seen, NotLearned> {
    let keep_alive = keeps_open(target, stranger).await?;
    let asked = |route: &Route| format!("{} {}", route.method, route.path);
    let route = async |route: &Route| watch(target, &stranger.ask(route, Role::Warmup), &asked(route), depth).await;
    let mut quick = route(&stranger.quick).await?;
    for _ in 0..SETTLES {
        match &quick {
            Watched::Ends(samples)
                if depth == Depth::Spread && samples[0].status != samples[samples.len() - 1].status =>
            {
                quick = route(&stranger.quick).await?;
            }
            _ => break,
        }
    }
    let (mut slow, mut stream, mut upload) = (None, None, None);
    if let Some(path) = &stranger.slow {
        slow = Some(route(path).await?);
    }
    if let Some(path) = &stranger.finite {
        stream = Some(route(path).await?);
    }
    if let Some(path) = &stranger.upload {
        let ask = stranger.ask_upload(path, PIECE, Role::Warmup);
        upload = Some(watch(target, &ask, &asked(path), depth).await?);
    }
    Ok(Seen { keep_alive, quick, slow, stream, upload })
}

/// Whether a connection stays open after a response.
async fn keeps_open(target: &Target, stranger: &Stranger) -> Result<bool, Stop> {
    let mut connection = target.connect(Role::Warmup).await?;
    let answer = connection.ask(stranger.ask(&stranger.quick, Role::Warmup)).await;
    let until_end = answer.framing == Some(Framing::UntilEnd);
    Ok(answer.outcome == Outcome::Answered
        && !answer.close
        && !until_end
        && connection.ended(CLOSES_WITHIN).await.is_none())
}

fn ends<'w>(
    watched: &'w Watched,
    option: &'static str,
    route: &Route,
) -> Result<&'w [super::normal::Sample], NotLearned> {
    match watched {
        Watched::Ends(samples) => Ok(samples),
        Watched::Endless => Err(unusable(option, route, "its response has no end: name it with --stream".to_owned())),
    }
}

/// The `Server` field of a response.
async fn server_field(target: &Target, stranger: &Stranger) -> Option<String> {
    let mut connection = target.try_connect(Role::Warmup).await.ok()?;
    let answer = connection.ask(stranger.ask(&stranger.quick, Role::Warmup)).await;
    Some(answer.headers.get(SERVER)?.to_str().ok()?.to_owned())
}

fn unusable(option: &'static str, route: &Route, why: String) -> NotLearned {
    NotLearned::Unusable { option, path: route.path.clone(), why }
}

fn known(
    route: &Route,
    first: &[super::normal::Sample],
    second: &[super::normal::Sample],
) -> Result<Known, NotLearned> {
    let normal = normal(first, second).ok_or_else(|| unconfirmed("the server answers", route.path.clone()))?;
    Ok((Route { normal: Some(normal), ..route.clone() }, normal))
}

/// What a status says about a request that cannot be used.
fn way_out(status: Option<u16>, route: &Route) -> String {
    match status {
        Some(405 | 501) => format!("it does not take {}: name its method with --method", route.method),
        Some(401 | 403) => "it wants credentials: give them with -H 'Authorization: …'".to_owned(),
        Some(400 | 421) => "it may want another host (--host) or another body (--body)".to_owned(),
        Some(415 | 422) => "it wants another body: --body, and -H 'Content-Type: …'".to_owned(),
        Some(404) => "there is no such path".to_owned(),
        _ => "name another path".to_owned(),
    }
}

impl Learned {
    /// Sorts what the options named by what was seen of it.
    fn take_routes(&mut self, stranger: &Stranger, first: &Seen, second: &Seen) -> Result<(), NotLearned> {
        if let (Some(route), Some(slow), Some(again)) = (&stranger.slow, &first.slow, &second.slow) {
            match (slow, again) {
                (Watched::Ends(one), Watched::Ends(two)) => {
                    let slow = known(route, one, two)?;
                    long_enough("--slow", &slow)?;
                    self.slow = Some(slow);
                }
                _ => self.endless = Some(route.clone()),
            }
        } else if self.quick.1.takes >= SLOW_ENOUGH {
            self.slow = Some(self.quick.clone());
        }
        if let (Some(route), Some(stream), Some(again)) = (&stranger.finite, &first.stream, &second.stream) {
            match (stream, again) {
                (Watched::Ends(one), Watched::Ends(two)) => {
                    let (mut route, mut normal) = known(route, one, two)?;
                    // A last chunk may come early, and only a length that is known tells.
                    normal.due.cut_hidden = normal.due.bytes.is_none() && normal.framing != Framing::Length;
                    route.normal = Some(normal);
                    let finite = (route, normal);
                    long_enough("--stream", &finite)?;
                    self.finite = Some(finite);
                }
                _ => self.endless = Some(route.clone()),
            }
        }
        if let (Some(route), Some(Watched::Ends(one)), Some(Watched::Ends(two))) =
            (&stranger.upload, &first.upload, &second.upload)
        {
            let upload = known(route, one, two)?;
            let status = upload.1.due.status;
            if status.is_none_or(|status| status >= 400) {
                let answered = status.map_or("now this, now that".to_owned(), |status| status.to_string());
                let why = format!("POST is answered {answered}; {}", way_out(status, route));
                return Err(unusable("--upload", route, why));
            }
            self.upload = Some(upload);
        }
        Ok(())
    }

    /// What the rules have to know.
    pub fn params(&self) -> impl Iterator<Item = (Param, f64)> {
        let in_flight_for = self.slow.as_ref().map(|(_, slow)| (Param::InFlightFor, slow.takes.as_secs_f64()));
        let limited = self.peace.limit().map(|rate| (Param::Limited, rate));
        let lost = (Param::LostInPeace, self.peace.loses());
        [Some(lost), in_flight_for, limited].into_iter().flatten()
    }

    /// How many of it can be started side by side, and none of them be late for it.
    pub fn side_by_side(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.alone.is_none() { side_by_side(self.starting, cores) } else { 1 }
    }

    /// What the subject can do.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        let ready = self.ready.is_some();
        let lame_duck = self.lame_duck.is_due(ready).then_some(Feature::LameDuck);
        let health = ready.then_some(Feature::Health).into_iter().chain(lame_duck);
        let has = [
            (self.keep_alive, Feature::KeepAlive),
            (self.slow.is_some(), Feature::Slow),
            (self.finite.is_some(), Feature::FiniteStream),
            (self.endless.is_some(), Feature::EndlessStream),
            (self.upload.is_some(), Feature::Upload),
        ];
        has.into_iter().filter(|(has, _)| *has).map(|(_, feature)| feature).chain(health)
    }
}

fn side_by_side(starting: Duration, cores: usize) -> usize {
    let starts = STARTS.as_secs_f64() * cores as f64 / starting.as_secs_f64().max(f64::EPSILON);
    (starts as usize).clamp(1, SIDE_BY_SIDE)
}

fn long_enough(option: &'static str, (route, normal): &Known) -> Result<(), NotLearned> {
    if normal.takes >= SLOW_ENOUGH {
        return Ok(());
    }
    let answered = normal.due.status.map_or(String::new(), |status| format!(" answered {status} and"));
    let takes = normal.takes;
    Err(unusable(
        option,
        route,
        format!(
            "is{answered} over in {takes:.1?}, and at least {SLOW_ENOUGH:.0?} are needed to have it in flight when the \
             signal is sent; {}",
            way_out(normal.due.status, route)
        ),
    ))
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
