//! Requests per second: references against their naive twins, our load generator against another one.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::process::Command;

use super::{Bar, BenchError, Figure};
use crate::catalog::Server;
use crate::client::back_to_back;
use crate::process::guardian;
use crate::recorder::Recorder;
use crate::runner;
use crate::scenario::{Run, Subject, Target};
use crate::timeline::{End, Param, Role, View};

/// Clients of a throughput measurement.
const CLIENTS: usize = 16;
/// Time to get going, before anything is counted.
const WARM_UP: Duration = Duration::from_millis(200);
/// Time of one slice of load.
const SLICE: Duration = Duration::from_millis(500);
/// Slices of a round, for each side, in turn: a neighbour that takes a core for a second takes it from both.
const SLICES: usize = 7;
/// Time of one round against `oha`.
const AGAINST_OHA: Duration = Duration::from_secs(2);

/// The throughput of a reference over that of its naive twin, which is the runtime's own server and nothing else.
///
/// # Errors
/// When a server does not run.
pub async fn against_naive(reference: &Server, naive: &Server, rounds: usize) -> Result<Option<Figure>, BenchError> {
    let (own, bare) = (subject(reference), subject(naive));
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let (mut own, mut bare) = (unrecorded(&own)?, unrecorded(&bare)?);
        let own_target = own.start().await.map_err(|stop| failed(reference, &stop.to_string()))?;
        let bare_target = bare.start().await.map_err(|stop| failed(naive, &stop.to_string()))?;
        let mut slices = Vec::new();
        for _ in 0..SLICES {
            let reached = requests_per_second(&own, &own_target, SLICE).await;
            slices.push(reached / requests_per_second(&bare, &bare_target, SLICE).await);
        }
        own_target.kill().await;
        bare_target.kill().await;
        slices.sort_by(f64::total_cmp);
        match slices[SLICES / 2] {
            ratio if ratio.is_normal() => ratios.push(ratio),
            _ => return Err(failed(reference, "it or its naive twin did not answer a request")),
        }
    }
    let name = format!("{}: throughput of the reference over its bare runtime", reference.spec.language);
    Ok(Figure::of(name, "ratio", Bar::AtLeast(0.95), &ratios))
}

/// Our load generator, which accounts for every request, against `oha` on the same server.
///
/// # Errors
/// When `oha` is not installed, or the server does not run.
pub async fn against_oha(server: &Server, rounds: usize) -> Result<Option<Figure>, BenchError> {
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let own = recorded(server).await?;
        let other = oha(server).await?;
        ratios.push(own / other);
    }
    Ok(Figure::of("load generator over oha, requests per second", "ratio", Bar::AtLeast(0.9), &ratios))
}

/// The share of requests in flight across SIGTERM that are accounted for one by one, and answered.
///
/// # Errors
/// When the server does not run.
pub async fn in_flight_accounted(server: &Server, requests: usize) -> Result<Option<Figure>, BenchError> {
    let mut subject = subject(server);
    subject.params.push((Param::Clients, requests as f64));
    let folder = tempfile::tempdir_in(guardian::run_folder())?;
    let header = runner::plain_header(&subject, "in-flight-accounted");
    let recorder = Recorder::create(header, &folder.path().join("timeline.ndjson"))?;
    let mut run = Run::new(recorder.clone(), &subject, subject.params.iter().copied().collect())?;
    let mut target = run.start().await.map_err(|stop| failed(server, &stop.to_string()))?;
    let mut pending = Vec::new();
    for _ in 0..requests {
        let connection = target.connect(Role::InFlight).await.map_err(|stop| failed(server, &stop.to_string()))?;
        pending.push(connection.begin(run.subject.ask_slow(20.0, Role::InFlight)).await);
    }
    let ports: Vec<u16> = pending.iter().map(|request| request.client_port).collect();
    run.settle(&target, &ports, requests).await.map_err(|stop| failed(server, &stop.to_string()))?;
    target.signal(Signal::SIGTERM);
    for request in pending {
        request.finish().await;
    }
    target.exited_within(Duration::from_secs(30)).await;
    let timeline = recorder.finish()?;
    let view = View::new(&timeline);
    let ended = |request: &&crate::timeline::Request| request.end == End::Answered && request.executed();
    let share = view.requests(Role::InFlight).filter(ended).count() as f64 / requests as f64;
    let name = format!("{}: of {requests} requests in flight across SIGTERM, answered and executed", server.name);
    Ok(Figure::of(name, "ratio", Bar::AtLeast(1.0), &[share]))
}

/// Loads a server for a while.
async fn requests_per_second(run: &Run<'_>, target: &Target, lasts: Duration) -> f64 {
    // The line that a reference logs for each id is the harness's wish, and no part of serving.
    let ask = run.subject.ask(Role::KeepAlive).without_id();
    let load = back_to_back(&run.client, target.address, &ask, CLIENTS, Duration::ZERO);
    tokio::time::sleep(WARM_UP).await;
    let (before, began) = (load.answered(), Instant::now());
    tokio::time::sleep(lasts).await;
    let rate = (load.answered() - before) as f64 / began.elapsed().as_secs_f64();
    load.stop().await;
    rate
}

fn unrecorded(subject: &Subject) -> Result<Run<'_>, BenchError> {
    let recorder = Recorder::discard(runner::plain_header(subject, "throughput"));
    Ok(Run::new(recorder, subject, subject.params.iter().copied().collect())?)
}

/// Our load on a server, with a record, as in a scenario.
async fn recorded(server: &Server) -> Result<f64, BenchError> {
    let subject = subject(server);
    let folder = tempfile::tempdir_in(guardian::run_folder())?;
    let header = runner::plain_header(&subject, "throughput");
    let recorder = Recorder::create(header, &folder.path().join("timeline.ndjson"))?;
    let mut run = Run::new(recorder, &subject, subject.params.iter().copied().collect())?;
    let target = run.start().await.map_err(|stop| failed(server, &stop.to_string()))?;
    let rate = requests_per_second(&run, &target, AGAINST_OHA).await;
    target.kill().await;
    Ok(rate)
}

async fn oha(server: &Server) -> Result<f64, BenchError> {
    let subject = subject(server);
    let mut run = unrecorded(&subject)?;
    let target = run.start().await.map_err(|stop| failed(server, &stop.to_string()))?;
    let rate = run_oha(&target).await;
    target.kill().await;
    rate
}

async fn run_oha(target: &Target) -> Result<f64, BenchError> {
    let program = |why: String| BenchError::Program { program: "oha".to_owned(), why };
    let seconds = (WARM_UP + AGAINST_OHA).as_secs_f64();
    let output = Command::new("oha")
        .args(["--no-tui", "--output-format", "json", "-c", &CLIENTS.to_string(), "-z", &format!("{seconds}s")])
        .arg(format!("http://{}/", target.address))
        .envs(guardian::tag())
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| program(format!("{error}; install it with `cargo install oha --locked`")))?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| program(format!("{error}: {}", String::from_utf8_lossy(&output.stderr).trim())))?;
    report["summary"]["requestsPerSec"].as_f64().ok_or_else(|| program("no summary.requestsPerSec".to_owned()))
}

/// Limits out of the way: they are not what is measured.
fn subject(server: &Server) -> Subject {
    let mut subject = Subject::of(server);
    subject.launch.env.insert("MAX_CONNECTIONS".to_owned(), "20000".to_owned());
    subject.params.push((Param::MaxInFlight, 20_000.0));
    subject.params.push((Param::DrainTimeout, 60.0));
    subject
}

fn failed(server: &Server, why: &str) -> BenchError {
    BenchError::Server { server: server.name.clone(), why: why.to_owned() }
}
