//! Which cells are played when: many side by side, and those that keep the cores busy alone.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::catalog::{KnownVerdict, Server, Topology};
use crate::expectation::{CellId, known};
use crate::quiet::quiet;
use crate::results::Outcome;
use crate::runner;
use crate::scenario::{Pace, Scenario, Subject};
use crate::timeline::Param;

/// Scenarios side by side for each core: most of their time is spent waiting.
const PER_CORE: usize = 10;

/// One repeat of one cell.
pub struct Job {
    /// Whom to play it against.
    pub server: Arc<Server>,
    /// Behind what.
    pub topology: Arc<Topology>,
    /// What to play.
    pub scenario: &'static Scenario,
    /// Which repeat it is, from 1.
    pub repeat: u32,
    /// Parameters that differ from the scenario's.
    pub params: Vec<(Param, f64)>,
    /// Timelines of earlier plays of the same repeat, which stalls have left without a verdict.
    replaced: Vec<PathBuf>,
}

impl Job {
    /// The key of its cell.
    pub fn id(&self) -> CellId {
        CellId::new(&self.server.name, &self.topology.name, self.scenario.slug)
    }

    /// Whether it is to be played again: never what has failed, and not what is known to be inconclusive.
    fn again(&self, outcome: &Outcome) -> bool {
        let known = known(&self.server, &self.topology);
        let known = known.find_any(self.scenario.slug, self.scenario.rules);
        let unclear = known.is_some_and(|known| known.verdict == KnownVerdict::Inconclusive);
        outcome.disturbed && !unclear && self.replaced.len() < runner::AGAIN as usize
    }
}

/// Every scenario against every server, behind every topology that it can be played behind, so many times, and those that
/// take long first: the second repeat begins when the first is all but done.
pub fn jobs(
    servers: &[Arc<Server>],
    topologies: &[Arc<Topology>],
    scenarios: &[&'static Scenario],
    repeats: u32,
) -> Vec<Job> {
    let mut in_order = scenarios.to_vec();
    in_order.sort_by_key(|scenario| scenario.pace);
    let behind = |scenario: &&'static Scenario| {
        let scenario = *scenario;
        let fit = topologies.iter().filter(move |topology| scenario.setting.fits(topology));
        fit.map(move |topology| (scenario, topology))
    };
    let cells = in_order.iter().flat_map(behind);
    let cells = cells.flat_map(|(scenario, topology)| servers.iter().map(move |server| (scenario, topology, server)));
    let again = move |repeat| {
        cells.clone().map(move |(scenario, topology, server)| Job {
            server: server.clone(),
            topology: topology.clone(),
            scenario,
            repeat,
            params: Vec::new(),
            replaced: Vec::new(),
        })
    };
    (1..=repeats).flat_map(again).collect()
}

/// One of several parts of all cells, each about as large as the others. A cell belongs to the same part whatever else
/// is selected, and wherever that is: its name alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u64,
    of: u64,
}

impl Shard {
    /// Whether a cell belongs to it.
    pub fn has(self, id: &CellId) -> bool {
        // FNV-1a. The hasher of the standard library may change with its version.
        let hash = format!("{} {}", id.server, id.scenario)
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        // The low bits of it depend on the low bits of the bytes alone.
        (hash ^ (hash >> 32)) % self.of + 1 == self.number
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err("expected I/N, the part I of N, from 1/N to N/N".to_owned()),
        }
    }
}

/// Cells that are waiting and cells that are being played. Dropping it stops these.
pub struct Schedule {
    light: VecDeque<Job>,
    heavy: VecDeque<Job>,
    /// What is to be played again, when everything else has been played.
    again: Vec<Job>,
    /// Until when a quiet machine is waited for, once something is played again.
    quiet_until: Option<Instant>,
    tasks: JoinSet<(Job, Outcome)>,
    running: Vec<CellId>,
    side_by_side: usize,
    out: PathBuf,
}

impl Schedule {
    /// Plays these with their timelines below `out`, so many side by side or as many as the cores can take.
    pub fn new(jobs: Vec<Job>, side_by_side: Option<usize>, out: PathBuf) -> Self {
        let side_by_side = side_by_side.unwrap_or(PER_CORE * cores());
        let mut schedule = Self {
            light: VecDeque::new(),
            heavy: VecDeque::new(),
            again: Vec::new(),
            quiet_until: None,
            tasks: JoinSet::new(),
            running: Vec::new(),
            side_by_side,
            out,
        };
        schedule.queue(jobs);
        schedule
    }

    fn queue(&mut self, jobs: Vec<Job>) {
        let (heavy, light) = jobs.into_iter().partition(|job: &Job| job.scenario.pace == Pace::Heavy);
        (self.heavy, self.light) = (heavy, light);
    }

    /// Begins as many cells as may be played by now.
    pub fn start(&mut self) {
        if self.tasks.is_empty() && self.light.is_empty() && self.heavy.is_empty() && !self.again.is_empty() {
            // What others did meanwhile is no excuse this time.
            self.side_by_side = self.side_by_side.min(cores());
            self.quiet_until.get_or_insert_with(|| Instant::now() + runner::QUIET_WITHIN);
            let again = std::mem::take(&mut self.again);
            self.queue(again);
        }
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

    /// What is being played.
    pub fn running(&self) -> &[CellId] {
        &self.running
    }

    /// The next outcome; `None` when nothing is being played. What stalls have left without a verdict comes when it
    /// has been played again. May be dropped while it waits, and called again.
    ///
    /// # Panics
    /// Where playing a cell panicked.
    pub async fn next(&mut self) -> Option<(Job, Outcome)> {
        loop {
            let (mut job, mut outcome) = self.played().await?;
            if !job.again(&outcome) {
                outcome.replaced.clone_from(&job.replaced);
                return Some((job, outcome));
            }
            job.replaced.extend(outcome.timeline);
            self.again.push(job);
        }
    }

    async fn played(&mut self) -> Option<(Job, Outcome)> {
        self.start();
        match self.tasks.join_next().await? {
            Ok((job, outcome)) => {
                if let Some(at) = self.running.iter().position(|id| *id == job.id()) {
                    self.running.remove(at);
                }
                Some((job, outcome))
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn play(&mut self, job: Job) {
        self.running.push(job.id());
        let (out, again, quiet_until) = (self.out.clone(), job.replaced.len() as u32, self.quiet_until);
        self.tasks.spawn(async move {
            if let Some(until) = quiet_until.filter(|_| again > 0) {
                quiet(until).await;
            }
            let (mut subject, topology) = (Subject::of(&job.server), &job.topology);
            subject.params.clone_from(&job.params);
            let outcome = runner::play(&subject, topology, job.scenario, job.repeat, again, &out).await;
            (job, outcome)
        });
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;

    #[test]
    fn only_what_stalls_have_left_without_a_verdict_is_played_again_and_not_for_ever() {
        let mut job = job("");
        let outcome = |verdict, disturbed| Outcome { disturbed, ..Outcome::without_run(verdict, "") };
        assert!(job.again(&outcome(Verdict::Inconclusive, true)));
        assert!(!job.again(&outcome(Verdict::Inconclusive, false)));
        assert!(!job.again(&outcome(Verdict::Fail, false)));
        job.replaced.push(PathBuf::from("first.ndjson"));
        assert!(job.again(&outcome(Verdict::Inconclusive, true)));
        job.replaced.push(PathBuf::from("second.ndjson"));
        assert!(!job.again(&outcome(Verdict::Inconclusive, true)));
        let unclear = self::job("[[known]]\npattern = \"*/*\"\nverdict = \"inconclusive\"\nreason = \"one at a time\"");
        assert!(!unclear.again(&outcome(Verdict::Inconclusive, true)));
    }

    fn job(known: &str) -> Job {
        let scenario = crate::scenario::find("idle-exit").unwrap();
        let topology = Arc::new(Topology::direct());
        Job { server: Arc::new(server(known)), topology, scenario, repeat: 1, params: Vec::new(), replaced: Vec::new() }
    }

    fn server(known: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let spec = "kind = \"framework\"\nlanguage = \"go\"\nsummary = \"\"\nfeatures = []\nrun = [\"true\"]";
        std::fs::write(folder.path().join("server.toml"), spec).unwrap();
        std::fs::write(folder.path().join("known.toml"), known).unwrap();
        Server::load(folder.path(), folder.path()).unwrap()
    }

    #[test]
    fn what_takes_long_comes_first_and_what_is_heavy_last_in_every_repeat() {
        let server = Arc::new(server(""));
        let scenarios: Vec<&Scenario> = crate::scenario::all().collect();
        let direct = Arc::new(Topology::direct());
        let jobs = jobs(&[server.clone(), server], &[direct.clone(), direct.clone()], &scenarios, 3);
        let fit = scenarios.iter().filter(|scenario| scenario.setting.fits(&direct)).count();
        assert!(fit < scenarios.len(), "some need a balancer");
        assert_eq!(jobs.len(), 2 * 2 * 3 * fit);
        assert!(jobs.is_sorted_by_key(|job| (job.repeat, job.scenario.pace)));
        for pace in [Pace::Long, Pace::Short, Pace::Steady, Pace::Heavy] {
            assert!(jobs.iter().any(|job| job.scenario.pace == pace), "{pace:?}");
        }
    }

    #[test]
    fn a_cell_belongs_to_one_part_of_all_and_for_ever_to_the_same() {
        let scenarios: Vec<&str> = crate::scenario::all().map(|scenario| scenario.slug).collect();
        let servers = ["go", "naive/go", "faulty/none", "faulty/no-drain", "faulty/one-signal", "frameworks/express"];
        let of = |server: &&str, scenario: &&str| CellId::new(server, "direct", scenario);
        let cells: Vec<CellId> =
            servers.iter().flat_map(|server| scenarios.iter().map(move |scenario| of(server, scenario))).collect();
        for of in [1, 2, 3, 8] {
            let parts: Vec<Shard> = (1..=of).map(|number| format!("{number}/{of}").parse().unwrap()).collect();
            for id in &cells {
                assert_eq!(parts.iter().filter(|part| part.has(id)).count(), 1, "{id}");
            }
            let all = cells.len();
            for part in parts {
                let size = cells.iter().filter(|id| part.has(id)).count();
                assert!(size * of >= all / 2 && size * of <= all * 2, "{size} of {all} in {part:?}");
            }
        }
        // Another hash would deal out other cells for the same date.
        let third: Shard = "3/8".parse().unwrap();
        for scenario in ["sighup-keeps-serving", "sigterm-during-startup", "slow-headers-bounded"] {
            assert!(third.has(&of(&"go", &scenario)), "{scenario}");
        }
    }

    #[test]
    fn a_part_that_is_none_is_refused() {
        for text in ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
