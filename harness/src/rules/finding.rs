//! What a rule finds, and what others may conclude from it.

use serde::{Deserialize, Serialize};

/// What a rule finds in a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether the rule holds.
    pub outcome: Outcome,
    /// What was seen, in words.
    pub actual: String,
    /// Times (µs) of the records that show it.
    pub evidence: Vec<u64>,
    /// What it comes from, where others have to know.
    pub reason: Option<Reason>,
    /// How many requests were not as they should be, where that is what was seen.
    pub share: Option<Share>,
}

/// Whether a rule holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Holds,
    /// It does not.
    Violated,
    /// The timeline does not tell.
    Inconclusive,
}

/// What a finding comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// What got the signal was not the server: nothing else can be told.
    Missed,
    /// This machine was busy: the one case in which it helps to try again.
    Stalled,
    /// What was to be in flight was over too soon: it takes a path that lasts longer.
    TooShort,
    /// It had not come to it when the run was over.
    Never,
}

/// How many of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// So many were not as they should be.
    pub bad: u64,
    /// So many there were.
    pub of: u64,
}

impl Finding {
    /// The rule holds.
    pub fn holds(actual: impl Into<String>) -> Self {
        Self { outcome: Outcome::Holds, actual: actual.into(), evidence: Vec::new(), reason: None, share: None }
    }

    /// The rule is violated, as the records at these times show.
    pub fn violated(actual: impl Into<String>, evidence: impl IntoIterator<Item = u64>) -> Self {
        Self { outcome: Outcome::Violated, evidence: evidence.into_iter().collect(), ..Self::holds(actual) }
    }

    /// The timeline does not tell.
    pub fn inconclusive(actual: impl Into<String>) -> Self {
        Self { outcome: Outcome::Inconclusive, ..Self::holds(actual) }
    }

    /// The timeline does not tell, because what was in flight was over too soon.
    pub fn too_short(actual: &str) -> Self {
        let way_out = "it takes a path that lasts longer, such as five seconds (--slow PATH)";
        Self::inconclusive(format!("{actual}: {way_out}")).because(Reason::TooShort)
    }

    /// What it comes from.
    pub fn because(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// So many of so many requests were not as they should be.
    pub fn share(self, bad: usize, of: usize) -> Self {
        Self { share: Some(Share { bad: bad as u64, of: of as u64 }), ..self }
    }
}
