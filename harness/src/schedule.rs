//! Which cells are played when: many side by side, and those that keep the cores busy alone.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::catalog::Server;
use crate::results::Outcome;
use crate::runner;
use crate::scenario::{Scenario, Subject};

/// Scenarios side by side for each core: most of their time is spent waiting.
const PER_CORE: usize = 8;

/// One repeat of one cell.
pub struct Job {
    /// Whom to play it against.
    pub server: Arc<Server>,
    /// What to play.
    pub scenario: &'static Scenario,
    /// Which repeat it is, from 1.
    pub repeat: u32,
}

/// Every scenario against every server, so many times: a first picture of all comes before the second repeat.
pub fn jobs(servers: &[Arc<Server>], scenarios: &[&'static Scenario], repeats: u32) -> Vec<Job> {
    let cells = scenarios.iter().flat_map(|scenario| servers.iter().map(move |server| (*scenario, server)));
    let again = move |repeat| cells.clone().map(move |(scenario, server)| (repeat, scenario, server));
    (1..=repeats)
        .flat_map(again)
        .map(|(repeat, scenario, server)| Job { server: server.clone(), scenario, repeat })
        .collect()
}

/// Cells that are waiting and cells that are being played. Dropping it stops these.
pub struct Schedule {
    light: VecDeque<Job>,
    heavy: VecDeque<Job>,
    running: JoinSet<(Job, Outcome)>,
    side_by_side: usize,
    out: PathBuf,
}

impl Schedule {
    /// Plays these with their timelines below `out`, so many side by side or as many as the cores can take.
    pub fn new(jobs: Vec<Job>, side_by_side: Option<usize>, out: PathBuf) -> Self {
        let (heavy, light) = jobs.into_iter().partition(|job: &Job| job.scenario.heavy);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let side_by_side = side_by_side.unwrap_or(PER_CORE * cores);
        Self { light, heavy, running: JoinSet::new(), side_by_side, out }
    }

    /// The next outcome; `None` when all have come. May be dropped while it waits, and called again.
    ///
    /// # Panics
    /// Where playing a cell panicked.
    pub async fn next(&mut self) -> Option<(Job, Outcome)> {
        while self.running.len() < self.side_by_side
            && let Some(job) = self.light.pop_front()
        {
            self.start(job);
        }
        // Load keeps the cores busy, and what others measure meanwhile would suffer: it comes last, one at a time.
        if self.running.is_empty()
            && let Some(job) = self.heavy.pop_front()
        {
            self.start(job);
        }
        match self.running.join_next().await? {
            Ok(played) => Some(played),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn start(&mut self, job: Job) {
        let out = self.out.clone();
        self.running.spawn(async move {
            let outcome = runner::play(&Subject::of(&job.server), job.scenario, job.repeat, &out).await;
            (job, outcome)
        });
    }
}
