//! What can be learnt of a server by starting it once: its port, its latency, its ways.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use hyper::header::SERVER;

use super::Identity;
use crate::catalog::Feature;
use crate::client::{Answer, Expected, Outcome};
use crate::recorder::Recorder;
use crate::scenario::{Manner, Normal, Route, Run, Stop, Stranger, Subject, Target};
use crate::timeline::Role;

/// The least latency of a path on which a single request is certainly in flight when the signal arrives.
pub const SLOW_ENOUGH: Duration = Duration::from_millis(300);
/// Requests by which it is learnt what a route gets.
const SAMPLES: usize = 5;
/// How long they may take together; there are two at least.
const SAMPLING: Duration = Duration::from_secs(4);
/// How long a connection is watched for being closed after its first response.
const CLOSES_WITHIN: Duration = Duration::from_millis(150);

/// What was learnt.
#[derive(Debug)]
pub struct Learned {
    /// The port that it listens on.
    pub port: u16,
    /// Whether that is the port that it was given.
    pub own_port: bool,
    /// Whether a connection stays open after a response.
    pub keep_alive: bool,
    /// What it answers at once, and what comes.
    pub quick: (Route, Normal),
    /// What is slow enough, and what comes.
    pub slow: Option<(Route, Normal)>,
    /// Why the slow path that was given is not used.
    pub not_slow: Option<String>,
    /// Who leads, who listens, and what they are.
    pub identity: Identity,
}

/// A port that nobody uses at this moment.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
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
    let target = run.start().await?;
    let keep_alive = keeps_open(&target, stranger).await?;
    let quick = known(&target, stranger, &stranger.quick, keep_alive).await?;
    let (mut slow, mut not_slow) = (None, None);
    match &stranger.slow {
        Some(route) => {
            let (route, normal) = known(&target, stranger, route, keep_alive).await?;
            if normal.takes >= SLOW_ENOUGH {
                slow = Some((route, normal));
            } else {
                let (path, takes) = (&route.path, normal.takes);
                not_slow = Some(format!("{path} takes {takes:.1?}; at least {SLOW_ENOUGH:.1?} are needed"));
            }
        }
        None if quick.1.takes >= SLOW_ENOUGH => slow = Some(quick.clone()),
        None => {}
    }
    let port = target.address.port();
    let header = server_field(&target, stranger).await;
    // At the end: some install their handler only after they listen.
    let identity = Identity::of(&target, subject.stop_signal(), header.as_deref());
    target.kill().await;
    Ok(Learned { port, own_port: port == stranger.port, keep_alive, quick, slow, not_slow, identity })
}

impl Learned {
    /// What the subject can do.
    pub fn features(&self, ready: bool) -> impl Iterator<Item = Feature> {
        let health = ready.then_some([Feature::Health, Feature::LameDuck]).into_iter().flatten();
        let slow = self.slow.is_some().then_some(Feature::Slow);
        self.keep_alive.then_some(Feature::KeepAlive).into_iter().chain(slow).chain(health)
    }

    /// The same in words, a sentence each.
    pub fn words(&self) -> Vec<String> {
        let port = if self.own_port { "as it was told" } else { "found: it takes neither {port} nor PORT" };
        let mut words = vec![format!("port {} ({port})", self.port), described(&self.quick)];
        if let Some(slow) = self.slow.as_ref().filter(|slow| slow.0.path != self.quick.0.path) {
            words.push(described(slow));
        }
        words.extend(self.not_slow.clone());
        words.push(match self.keep_alive {
            true => "it keeps connections open".to_owned(),
            false => "it closes the connection after each response".to_owned(),
        });
        words.extend(self.identity.words());
        words
    }
}

fn described((route, normal): &(Route, Normal)) -> String {
    let status = normal.due.status.map_or(String::new(), |status| format!("{status} "));
    let length = normal.due.bytes.map_or("a body that changes".to_owned(), |bytes| format!("{bytes} bytes"));
    format!("{} {} is answered {status}with {length} in {:.1?}", route.method, route.path, normal.takes)
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

/// What a route gets, by several requests: on one connection where that stays open.
async fn known(target: &Target, stranger: &Stranger, route: &Route, keep_alive: bool) -> Result<(Route, Normal), Stop> {
    let mut answers = Vec::new();
    let mut connection = target.connect(Role::Warmup).await?;
    let began = Instant::now();
    while answers.len() < SAMPLES && (answers.len() < 2 || began.elapsed() < SAMPLING) {
        if !keep_alive && !answers.is_empty() {
            connection = target.connect(Role::Warmup).await?;
        }
        let asked = Instant::now();
        let answer = connection.ask(stranger.ask(route, Role::Warmup)).await;
        match (answer.outcome, answer.framing) {
            (Outcome::Answered, Some(framing)) => answers.push((asked.elapsed(), answer, framing)),
            (outcome, _) => return Err(unanswered(route, outcome)),
        }
    }
    answers.sort_by_key(|(took, ..)| *took);
    let (takes, first, framing) = &answers[answers.len() / 2];
    let same = |of: fn(&Answer) -> u64| answers.iter().all(|(_, answer, _)| of(answer) == of(first));
    let due = Expected {
        status: first.status,
        bytes: same(|answer| answer.bytes).then_some(first.bytes),
        digest: same(Answer::digest).then(|| first.digest()),
    };
    let normal = Normal { due, framing: *framing, takes: *takes };
    Ok((Route { normal: Some(normal), ..route.clone() }, normal))
}

fn unanswered(route: &Route, outcome: Outcome) -> Stop {
    crate::scenario::unconfirmed("the server answers", format!("{} {}: {outcome}", route.method, route.path))
}
