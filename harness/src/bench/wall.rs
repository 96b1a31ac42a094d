//! The wall time of a matrix over the least that it could take.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Usage, UsageWho, getrusage};

use super::{Bar, BenchError, Figure};
use crate::catalog::{Server, Topology};
use crate::process::guardian;
use crate::scenario::{self, Pace, Scenario};
use crate::schedule::{self, Schedule};

/// Every scenario against these servers, which are built. The least is the longest chain (what keeps the cores busy,
/// one after the other, behind the longest of all others), or the CPU time of harness and servers over the cores.
///
/// # Errors
/// When no temporary folder can be made, or the system does not tell the CPU time.
pub async fn against_lower_bound(servers: &[Arc<Server>], rounds: usize) -> Result<Vec<Figure>, BenchError> {
    let (mut ratios, mut seconds) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let folder = tempfile::tempdir_in(guardian::run_folder())?;
        let (wall, least) = play(servers, folder.path()).await?;
        ratios.push(wall.as_secs_f64() / least.as_secs_f64());
        seconds.push(wall.as_secs_f64());
    }
    let cells = servers.len() * alone().count();
    let ratio =
        Figure::of(format!("wall time of {cells} cells over its lower bound"), "ratio", Bar::AtMost(1.3), &ratios);
    let wall = Figure::of(format!("wall time of {cells} cells, everything built"), "s", Bar::AtMost(120.0), &seconds);
    Ok([ratio, wall].into_iter().flatten().collect())
}

/// The scenarios that need one process only.
fn alone() -> impl Iterator<Item = &'static Scenario> {
    scenario::all().filter(|scenario| scenario.setting.is_single())
}

async fn play(servers: &[Arc<Server>], out: &Path) -> Result<(Duration, Duration), BenchError> {
    let (scenarios, direct): (Vec<&Scenario>, _) = (alone().collect(), [Arc::new(Topology::direct())]);
    let (began, spent) = (Instant::now(), cpu_time()?);
    let (mut heavy, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut schedule = Schedule::new(schedule::jobs(servers, &direct, &scenarios, 1), None, out.to_owned());
    while let Some((job, outcome)) = schedule.next().await {
        let took = Duration::from_secs_f64(outcome.duration_ms / 1e3);
        if job.scenario.pace == Pace::Heavy {
            heavy += took;
        } else {
            longest = longest.max(took);
        }
    }
    let wall = began.elapsed();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u32;
    Ok((wall, (heavy + longest).max((cpu_time()? - spent) / cores)))
}

/// What this process and those that it has waited for have used.
fn cpu_time() -> Result<Duration, BenchError> {
    let time = |usage: Usage| {
        let micros = |value: nix::sys::time::TimeVal| value.tv_sec() as u64 * 1_000_000 + value.tv_usec() as u64;
        Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
    };
    let of = |who| getrusage(who).map(time).map_err(std::io::Error::from);
    Ok(of(UsageWho::RUSAGE_SELF)? + of(UsageWho::RUSAGE_CHILDREN)?)
}
