//! The results of a matrix: what `results.json` holds.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::catalog::{Kind, KnownFailures, Server, Topology};
use crate::expectation::{self, CellId};
use crate::scenario::Scenario;
use crate::verdict::{RuleVerdict, Verdict};

/// The format that this version writes.
pub const FORMAT: u32 = 1;
/// The file's name.
pub const FILE: &str = "results.json";
/// Its name while it is being written: always the same, so that a killed harness leaves at most one.
const PARTIAL: &str = ".results.json.partial";

#[derive(Deserialize)]
struct Format {
    format: u64,
}

/// A results file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not the JSON that it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// Another version wrote it.
    #[error("{}: format {found} is not known to this version, which reads format {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u64,
    },
}

/// Everything that a matrix came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// Format version, see [`FORMAT`].
    pub format: u32,
    /// Version of drainspec.
    pub version: String,
    /// When the run started, UTC, RFC 3339.
    pub started: String,
    /// The machine: operating system, kernel, cores.
    pub machine: BTreeMap<String, String>,
    /// One for each server, topology and scenario.
    pub cells: Vec<Cell>,
}

/// One server in one scenario behind one topology, over all repeats.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Name of the server.
    pub server: String,
    /// What the server is there for.
    pub kind: Kind,
    /// Its language.
    pub language: String,
    /// What stood between client and server.
    pub topology: String,
    /// Slug of the scenario.
    pub scenario: String,
    /// The worst verdict of all rules and repeats.
    pub verdict: Verdict,
    /// What is known of it.
    pub expected_verdict: Verdict,
    /// Whether exactly the rules that are known to fail failed, in every repeat.
    pub as_expected: bool,
    /// Whether the machine was too busy to tell it of every repeat, also when that was played again: what was told is
    /// as expected, or not.
    #[serde(default)]
    pub untold: bool,
    /// Why it is neither pass nor fail, or what failed.
    pub reason: Option<String>,
    /// Time taken by all repeats.
    pub duration_ms: f64,
    /// How many repeats passed.
    pub repeats: Repeats,
    /// Measures: one number for each repeat that shows it.
    pub measures: BTreeMap<String, Vec<f64>>,
    /// The worst verdict of each rule.
    pub rules: Vec<RuleVerdict>,
    /// Recorded timelines, relative to the folder of this file.
    pub timelines: Vec<PathBuf>,
    /// Timelines of what was played again, because stalls had left it without a verdict. They do not count.
    #[serde(default)]
    pub replaced: Vec<PathBuf>,
}

/// How many repeats passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeats {
    /// So many passed, or warned.
    pub pass: u32,
    /// So many were run.
    pub of: u32,
}

/// What one repeat of one cell came to.
#[derive(Debug)]
pub struct Outcome {
    /// Its verdict.
    pub verdict: Verdict,
    /// Verdicts of its rules; none where it was not played to the end.
    pub rules: Vec<RuleVerdict>,
    /// Why there is no verdict, where there is none.
    pub reason: Option<String>,
    /// Its measures.
    pub measures: BTreeMap<String, f64>,
    /// Time taken.
    pub duration_ms: f64,
    /// Its timeline, relative to the folder of the results.
    pub timeline: Option<PathBuf>,
    /// The part of the timeline that shows each violation, by rule.
    pub excerpts: BTreeMap<String, Vec<String>>,
    /// Whether stalls may be the reason why it is inconclusive.
    pub disturbed: bool,
    /// Timelines of earlier plays, which were inconclusive because of stalls, and in whose place this one is.
    pub replaced: Vec<PathBuf>,
}

impl Outcome {
    /// An outcome without a run.
    pub fn without_run(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self {
            verdict,
            rules: Vec::new(),
            reason: Some(reason.into()),
            measures: BTreeMap::new(),
            duration_ms: 0.0,
            timeline: None,
            excerpts: BTreeMap::new(),
            disturbed: false,
            replaced: Vec::new(),
        }
    }
}

impl Results {
    /// Results without a cell yet.
    pub fn new(machine: BTreeMap<String, String>) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            machine,
            cells: Vec::new(),
        }
    }

    /// Reads a results file, or the one in a folder.
    ///
    /// # Errors
    /// Names the file, and the line and column at fault, or the format of another version.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let text = std::fs::read_to_string(&path).map_err(|source| ReadError::Io { path: path.clone(), source })?;
        let json = |source| ReadError::Json { path: path.clone(), source };
        let format: Format = serde_json::from_str(&text).map_err(json)?;
        if format.format != u64::from(FORMAT) {
            return Err(ReadError::Format { path, found: format.format });
        }
        serde_json::from_str(&text).map_err(|source| ReadError::Json { path, source })
    }

    /// Adds one repeat to its cell.
    pub fn add(&mut self, server: &Server, topology: &Topology, scenario: &Scenario, outcome: &Outcome) -> &Cell {
        let id = CellId::new(&server.name, &topology.name, scenario.slug);
        let known = expectation::known(server, topology);
        let index = self.cells.iter().position(|cell| cell.id() == id).unwrap_or_else(|| {
            self.cells.push(Cell::new(id, server, scenario, &known));
            self.cells.len() - 1
        });
        let cell = &mut self.cells[index];
        cell.add(&known, outcome);
        cell
    }

    /// Whether a cell of these results was not as expected, or not told.
    pub fn is_unexpected(&self, id: &CellId) -> bool {
        self.cells.iter().any(|cell| cell.id() == *id && (!cell.as_expected || cell.untold))
    }

    /// How many cells the machine was too busy to tell.
    pub fn untold(&self) -> usize {
        self.cells.iter().filter(|cell| cell.untold).count()
    }

    /// Writes the file: a new one beside the old one, then renamed over it, so that no reader sees half of it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let partial = folder.join(PARTIAL);
        let mut file = std::io::BufWriter::new(std::fs::File::create(&partial)?);
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.flush()?;
        std::fs::rename(partial, folder.join(FILE))?;
        Ok(())
    }
}

impl Cell {
    /// Its key.
    pub fn id(&self) -> CellId {
        CellId::new(&self.server, &self.topology, &self.scenario)
    }

    fn new(id: CellId, server: &Server, scenario: &Scenario, known: &KnownFailures) -> Self {
        Self {
            server: id.server,
            kind: server.spec.kind,
            language: server.spec.language.clone(),
            topology: id.topology,
            scenario: id.scenario,
            verdict: Verdict::Skipped,
            expected_verdict: expectation::verdict(known, scenario.slug, scenario.rules),
            as_expected: true,
            untold: false,
            reason: None,
            duration_ms: 0.0,
            repeats: Repeats { pass: 0, of: 0 },
            measures: BTreeMap::new(),
            rules: Vec::new(),
            timelines: Vec::new(),
            replaced: Vec::new(),
        }
    }

    fn add(&mut self, known: &KnownFailures, outcome: &Outcome) {
        self.repeats.of += 1;
        self.repeats.pass += u32::from(matches!(outcome.verdict, Verdict::Pass | Verdict::Warn));
        let worst = Verdict::worst([self.verdict, outcome.verdict]).unwrap_or(outcome.verdict);
        if self.repeats.of == 1 || worst != self.verdict {
            self.verdict = worst;
            self.reason.clone_from(&outcome.reason);
        }
        self.duration_ms += outcome.duration_ms;
        for (name, value) in &outcome.measures {
            self.measures.entry(name.clone()).or_default().push(*value);
        }
        for rule in &outcome.rules {
            match self.rules.iter_mut().find(|known| known.rule == rule.rule) {
                None => self.rules.push(rule.clone()),
                Some(known) if Verdict::worst([known.verdict, rule.verdict]) != Some(known.verdict) => {
                    *known = rule.clone()
                }
                Some(_) => {}
            }
        }
        self.timelines.extend(outcome.timeline.clone());
        self.replaced.extend_from_slice(&outcome.replaced);
        let expected = expectation::is_met(known, self.kind, &self.scenario, outcome.verdict, &outcome.rules);
        let untold = !expected && outcome.disturbed;
        self.untold |= untold;
        self.as_expected &= expected || untold;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Basis, Level};

    fn server(known: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let spec = "kind = \"framework\"\nlanguage = \"go\"\nsummary = \"\"\nfeatures = []\nrun = [\"true\"]";
        std::fs::write(folder.path().join("server.toml"), spec).unwrap();
        std::fs::write(folder.path().join("known.toml"), known).unwrap();
        Server::load(folder.path(), folder.path()).unwrap()
    }

    fn rule(slug: &str, verdict: Verdict) -> RuleVerdict {
        RuleVerdict {
            rule: slug.to_owned(),
            level: Level::Must,
            basis: Basis::Wire,
            verdict,
            expected: String::new(),
            actual: String::new(),
            evidence: Vec::new(),
            reason: None,
            share: None,
        }
    }

    #[test]
    fn what_a_busy_machine_has_left_open_is_neither_expected_nor_unexpected() {
        let scenario = crate::scenario::find("many-in-flight").unwrap();
        let outcome = |verdict, disturbed| {
            let rules = vec![rule("in-flight-answered", verdict)];
            Outcome { rules, disturbed, ..Outcome::without_run(verdict, "") }
        };
        let after = |outcomes: &[Outcome]| {
            let mut results = Results::new(BTreeMap::new());
            for outcome in outcomes {
                results.add(&server(""), &Topology::direct(), scenario, outcome);
            }
            (results.cells[0].as_expected, results.untold(), results.is_unexpected(&results.cells[0].id()))
        };
        use Verdict::*;
        assert_eq!(after(&[outcome(Inconclusive, true)]), (true, 1, true));
        assert_eq!(after(&[outcome(Inconclusive, false)]), (false, 0, true));
        assert_eq!(after(&[outcome(Pass, true)]), (true, 0, false));
        assert_eq!(after(&[outcome(Pass, false), outcome(Inconclusive, true)]), (true, 1, true));
        assert_eq!(after(&[outcome(Fail, false), outcome(Inconclusive, true)]), (false, 1, true));
    }
}
