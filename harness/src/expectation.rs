//! Which cell it is, and whether what came of it is what is known of its server. Pure.

use std::path::{Path, PathBuf};

use crate::catalog::{Kind, KnownFailures, KnownVerdict, Server, Topology};
use crate::rules::Level;
use crate::verdict::{RuleVerdict, Verdict};

/// The topology in which nothing stands between client and server.
pub const DIRECT: &str = "direct";

/// The key of a cell: one server, behind one topology, in one scenario.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellId {
    /// Name of the server.
    pub server: String,
    /// What stands between client and server.
    pub topology: String,
    /// Slug of the scenario.
    pub scenario: String,
}

impl CellId {
    /// This server, behind this topology, in this scenario.
    pub fn new(server: &str, topology: &str, scenario: &str) -> Self {
        Self { server: server.to_owned(), topology: topology.to_owned(), scenario: scenario.to_owned() }
    }

    /// Where the timeline of one play is, relative to the folder of the results: the first (`again` is 0) or a later one
    /// of this repeat, from 1.
    pub fn timeline(&self, repeat: u32, again: u32) -> PathBuf {
        let folder = |name: &str| name.replace('/', "-");
        let again = if again > 0 { format!("-again-{again}") } else { String::new() };
        let mut path = Path::new("timelines").join(folder(&self.server));
        if self.topology != DIRECT {
            path.push(folder(&self.topology));
        }
        path.join(format!("{}-{repeat}{again}.ndjson", self.scenario))
    }
}

impl std::fmt::Display for CellId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.topology.as_str() {
            DIRECT => write!(f, "{} · {}", self.server, self.scenario),
            topology => write!(f, "{} · {topology} · {}", self.server, self.scenario),
        }
    }
}

/// What is known to fail where this server is behind this topology: what is known of the one, and of the other.
pub fn known(server: &Server, topology: &Topology) -> KnownFailures {
    let mut known = server.known.of(&server.name, &topology.name);
    known.entries.extend(topology.known.of(&server.name, &topology.name).entries);
    known
}

/// The verdict of a scenario that is known, by its rules.
pub fn verdict(known: &KnownFailures, scenario: &str, rules: &[&str]) -> Verdict {
    match known.find_any(scenario, rules).map(|known| known.verdict) {
        None => Verdict::Pass,
        Some(KnownVerdict::Fail | KnownVerdict::Sometimes) => Verdict::Fail,
        Some(KnownVerdict::Inconclusive) => Verdict::Inconclusive,
    }
}

/// Whether exactly what is known came of a scenario, as a whole and rule by rule.
pub fn is_met(known: &KnownFailures, kind: Kind, scenario: &str, came: Verdict, rules: &[RuleVerdict]) -> bool {
    match came {
        // A reference supports everything; whoever lacks a feature has nothing to break.
        Verdict::Unsupported => kind != Kind::Reference,
        Verdict::Skipped => true,
        Verdict::Error => false,
        Verdict::Pass | Verdict::Warn | Verdict::Fail | Verdict::Inconclusive => rules.iter().all(|rule| {
            match (known.find(scenario, &rule.rule).map(|known| known.verdict), rule.verdict) {
                (Some(KnownVerdict::Inconclusive), verdict) => verdict == Verdict::Inconclusive,
                (Some(KnownVerdict::Sometimes), Verdict::Pass | Verdict::Fail) => true,
                (Some(KnownVerdict::Fail), verdict) if rule.level == Level::Must => verdict == Verdict::Fail,
                // What failed may leave other rules without anything to judge.
                (_, Verdict::Inconclusive) => came == Verdict::Fail,
                (_, verdict) => verdict != Verdict::Fail,
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Basis;

    /// Whether these verdicts of two MUST rules are what is known.
    fn met(known: &str, first: Verdict, second: Verdict) -> bool {
        let known = KnownFailures::parse(Path::new("known.toml"), known).unwrap();
        let rules = [("in-flight-answered", first), ("response-untruncated", second)];
        let rules = rules.map(|(slug, verdict)| RuleVerdict {
            rule: slug.to_owned(),
            level: Level::Must,
            basis: Basis::Wire,
            verdict,
            expected: String::new(),
            actual: String::new(),
            evidence: Vec::new(),
            reason: None,
            share: None,
        });
        let came = Verdict::worst([first, second]).unwrap();
        is_met(&known, Kind::Framework, "many-in-flight", came, &rules)
    }

    #[test]
    fn only_what_is_known_is_expected() {
        use Verdict::*;
        let fails = "[[known]]\npattern = \"*/in-flight-answered\"\nreason = \"lost\"";
        let unclear = "[[known]]\npattern = \"*/*\"\nverdict = \"inconclusive\"\nreason = \"one at a time\"";
        let races = "[[known]]\npattern = \"*/in-flight-answered\"\nverdict = \"sometimes\"\nreason = \"a race\"";
        for (known, first, second, as_expected) in [
            ("", Pass, Warn, true),
            ("", Fail, Pass, false),
            ("", Inconclusive, Pass, false),
            (fails, Fail, Pass, true),
            (fails, Fail, Inconclusive, true),
            (fails, Fail, Fail, false),
            (fails, Pass, Pass, false),
            (fails, Inconclusive, Inconclusive, false),
            (races, Fail, Pass, true),
            (races, Pass, Pass, true),
            (races, Inconclusive, Pass, false),
            (races, Pass, Fail, false),
            (unclear, Inconclusive, Inconclusive, true),
            (unclear, Inconclusive, Pass, false),
            (unclear, Fail, Inconclusive, false),
            (unclear, Pass, Pass, false),
        ] {
            assert_eq!(met(known, first, second), as_expected, "{known:?}: {first:?}, {second:?}");
        }
    }

    #[test]
    fn a_reference_supports_everything_and_an_error_is_nobodys_to_expect() {
        let met = |kind, came| is_met(&KnownFailures::default(), kind, "many-in-flight", came, &[]);
        assert!(!met(Kind::Reference, Verdict::Unsupported) && met(Kind::Naive, Verdict::Unsupported));
        assert!(met(Kind::Reference, Verdict::Skipped) && !met(Kind::Framework, Verdict::Error));
    }

    #[test]
    fn a_cell_has_a_name_and_a_file_for_each_play() {
        let direct = CellId::new("naive/go", DIRECT, "idle-exit");
        assert_eq!(direct.to_string(), "naive/go · idle-exit");
        assert_eq!(direct.timeline(1, 0), Path::new("timelines/naive-go/idle-exit-1.ndjson"));
        let fleet = CellId::new("go", "nginx/withdraw", "rolling-restart");
        assert_eq!(fleet.to_string(), "go · nginx/withdraw · rolling-restart");
        assert_eq!(fleet.timeline(2, 1), Path::new("timelines/go/nginx-withdraw/rolling-restart-2-again-1.ndjson"));
    }
}
