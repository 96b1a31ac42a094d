//! Which cells are played when: many side by side, and those that keep the cores busy alone.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::catalog::Server;
use crate::results::Outcome;
use crate::runner;
use crate::scenario::{Pace, Scenario, Subject};

/// Scenarios side by side for each core: most of their time is spent waiting.
const PER_CORE: usize = 10;

/// One repeat of one cell.
pub struct Job {
    /// Whom to play it against.
    pub server: Arc<Server>,
    /// What to play.
    pub scenario: &'static Scenario,
    /// Which repeat it is, from 1.
    pub repeat: u32,
}

/// Every scenario against every server, so many times, and those that take long first: the second repeat begins when
/// the first is all but done.
pub fn jobs(servers: &[Arc<Server>], scenarios: &[&'static Scenario], repeats: u32) -> Vec<Job> {
    let mut in_order = scenarios.to_vec();
    in_order.sort_by_key(|scenario| scenario.pace);
    let cells = in_order.iter().flat_map(|scenario| servers.iter().map(move |server| (*scenario, server)));
    let again =
        move |repeat| cells.clone().map(move |(scenario, server)| Job { server: server.clone(), scenario, repeat });
    (1..=repeats).flat_map(again).collect()
}

/// Cells that are waiting and cells that are being played. Dropping it stops these.
pub struct Schedule {
    light: VecDeque<Job>,
    heavy: VecDeque<Job>,
    tasks: JoinSet<(Job, Outcome)>,
    running: Vec<(Arc<Server>, &'static str)>,
    side_by_side: usize,
    out: PathBuf,
}

impl Schedule {
    /// Plays these with their timelines below `out`, so many side by side or as many as the cores can take.
    pub fn new(jobs: Vec<Job>, side_by_side: Option<usize>, out: PathBuf) -> Self {
        let (heavy, light) = jobs.into_iter().partition(|job: &Job| job.scenario.pace == Pace::Heavy);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let side_by_side = side_by_side.unwrap_or(PER_CORE * cores);
        Self { light, heavy, tasks: JoinSet::new(), running: Vec::new(), side_by_side, out }
    }

    /// Begins as many cells as may be played by now.
    pub fn start(&mut self) {
        while self.tasks.len() < self.side_by_side
            && let Some(job) = self.light.pop_front()
        {
            self.play(job);
        }
        if self.tasks.is_empty()
            && let Some(job) = self.heavy.pop_front()
        {
            self.play(job);
        }
    }

    /// What is being played: server and scenario.
    pub fn running(&self) -> impl Iterator<Item = (&str, &str)> {
        self.running.iter().map(|(server, scenario)| (server.name.as_str(), *scenario))
    }

    /// The next outcome; `None` when nothing is being played. May be dropped while it waits, and called again.
    ///
    /// # Panics
    /// Where playing a cell panicked.
    pub async fn next(&mut self) -> Option<(Job, Outcome)> {
        self.start();
        match self.tasks.join_next().await? {
            Ok((job, outcome)) => {
                let same = |(server, scenario): &(Arc<Server>, &str)| {
                    server.name == job.server.name && *scenario == job.scenario.slug
                };
                if let Some(at) = self.running.iter().position(same) {
                    self.running.remove(at);
                }
                Some((job, outcome))
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn play(&mut self, job: Job) {
        self.running.push((Arc::clone(&job.server), job.scenario.slug));
        let out = self.out.clone();
        self.tasks.spawn(async move {
            let outcome = runner::play(&Subject::of(&job.server), job.scenario, job.repeat, &out).await;
            (job, outcome)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_comes_first_and_what_is_heavy_last_in_every_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let spec = "kind = \"framework\"\nlanguage = \"go\"\nsummary = \"\"\nfeatures = []\nrun = [\"true\"]";
        std::fs::write(folder.path().join("server.toml"), spec).unwrap();
        let server = Arc::new(Server::load(folder.path(), folder.path()).unwrap());
        let scenarios: Vec<&Scenario> = crate::scenario::all().collect();
        let jobs = jobs(&[server.clone(), server], &scenarios, 3);
        assert_eq!(jobs.len(), 2 * 3 * scenarios.len());
        assert!(jobs.is_sorted_by_key(|job| (job.repeat, job.scenario.pace)));
        for pace in [Pace::Long, Pace::Short, Pace::Heavy] {
            assert!(jobs.iter().any(|job| job.scenario.pace == pace), "{pace:?}");
        }
    }
}
