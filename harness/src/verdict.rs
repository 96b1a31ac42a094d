//! From findings to verdicts, and from the verdicts of rules to the verdict of a cell.

use serde::{Deserialize, Serialize};

use crate::rules::{self, Basis, Finding, Level, Outcome, Reason, Rule, Share};
use crate::timeline::{Timeline, View};

/// What a rule, or a cell, comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The rule holds.
    Pass,
    /// A SHOULD is violated.
    Warn,
    /// The rule is violated.
    Fail,
    /// The precondition could not be established, or the harness itself stalled.
    Inconclusive,
    /// The server lacks a feature that the scenario needs.
    Unsupported,
    /// This machine lacks something.
    Skipped,
    /// The harness or its environment failed.
    Error,
}

impl Verdict {
    /// All verdicts, the worst last; a cell shows the worst of its rules.
    pub const BY_SEVERITY: [Self; 7] =
        [Self::Skipped, Self::Unsupported, Self::Pass, Self::Warn, Self::Inconclusive, Self::Fail, Self::Error];

    /// The worst of several verdicts; `None` of none.
    pub fn worst(verdicts: impl IntoIterator<Item = Self>) -> Option<Self> {
        verdicts.into_iter().max_by_key(|verdict| verdict.severity())
    }

    fn severity(self) -> usize {
        Self::BY_SEVERITY.iter().position(|verdict| *verdict == self).unwrap_or(usize::MAX)
    }

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Unsupported => "unsupported",
            Self::Skipped => "skipped",
            Self::Error => "error",
        }
    }
}

/// What one rule came to in one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleVerdict {
    /// Slug of the rule.
    pub rule: String,
    /// Level at which it was judged, which for a contract rule depends on what the server promises.
    pub level: Level,
    /// What the rule stands on.
    pub basis: Basis,
    /// The verdict.
    pub verdict: Verdict,
    /// What the rule wants.
    pub expected: String,
    /// What was seen.
    pub actual: String,
    /// Times (µs) of the records that show it.
    #[serde(skip)]
    pub evidence: Vec<u64>,
    /// What it comes from, where others have to know.
    #[serde(skip)]
    pub reason: Option<Reason>,
    /// How many requests were not as they should be, where that is what was seen.
    #[serde(skip)]
    pub share: Option<Share>,
}

/// Judges a run by the rules that its header names. Pure: the same timeline, the same verdicts.
///
/// # Errors
/// Says why there is no verdict: the run was skipped or aborted, or names a rule that this version does not know.
pub fn judge(timeline: &Timeline) -> Result<Vec<RuleVerdict>, NoVerdict> {
    let view = View::new(timeline);
    if let Some(why) = view.aborted {
        return Err(NoVerdict::Aborted(why.to_owned()));
    }
    if let Some(why) = view.skipped {
        return Err(NoVerdict::Skipped(why.to_owned()));
    }
    let known = |slug: &String| rules::find(slug).ok_or_else(|| NoVerdict::UnknownRule(slug.clone()));
    let rules: Vec<&Rule> = timeline.header.rules.iter().map(known).collect::<Result<_, _>>()?;
    let rounds = View::rounds(timeline);
    Ok(rules.into_iter().map(|rule| judge_rule(rule, &view, &rounds)).collect())
}

/// Why a timeline has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum NoVerdict {
    /// The run went no further.
    #[error("{0}")]
    Aborted(String),
    /// This machine lacks what the scenario needs.
    #[error("{0}")]
    Skipped(String),
    /// The timeline names a rule that does not exist.
    #[error("rule `{0}` is not known to this version; `drainspec list rules` shows the ones that are")]
    UnknownRule(String),
}

fn judge_rule(rule: &Rule, view: &View, rounds: &[View]) -> RuleVerdict {
    let finding = match view.unconfirmed.first() {
        Some((what, why)) => Finding::inconclusive(format!("could not be established: {what}: {why}")),
        None => over_rounds(rule, rounds),
    };
    let level = rule.level_for(view.header.promises_contract);
    let unsupported = rules::unsupported(rule, &view.header.features);
    let verdict = match (finding.outcome, level) {
        _ if unsupported.is_some() => Verdict::Unsupported,
        (Outcome::Inconclusive, _) => Verdict::Inconclusive,
        (Outcome::Holds, _) | (Outcome::Violated, Level::Info) => Verdict::Pass,
        (Outcome::Violated, Level::Must) => Verdict::Fail,
        (Outcome::Violated, Level::Should) => Verdict::Warn,
    };
    RuleVerdict {
        rule: rule.slug.to_owned(),
        level,
        basis: rule.basis,
        verdict,
        expected: rule.sentence.to_owned(),
        actual: unsupported.map_or(finding.actual, str::to_owned),
        evidence: finding.evidence,
        reason: finding.reason,
        share: finding.share,
    }
}

/// What comes of a race that was played several times: the worst, and how often.
fn over_rounds(rule: &Rule, rounds: &[View]) -> Finding {
    let judged = |view: &View| rules::untold(rule, view).unwrap_or_else(|| (rule.judge)(view));
    let found: Vec<Finding> = rounds.iter().map(judged).collect();
    let of = found.len();
    let worst = [Outcome::Violated, Outcome::Inconclusive, Outcome::Holds];
    let worst = worst.into_iter().find(|worst| found.iter().any(|finding| finding.outcome == *worst));
    let mut these = found.into_iter().filter(|finding| Some(finding.outcome) == worst);
    match these.next() {
        None => Finding::inconclusive("nothing was played"),
        Some(first) if of == 1 => first,
        Some(first) => {
            let actual = format!("in {} of {of} starts: {}", 1 + these.count(), first.actual);
            Finding { actual, ..first }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_verdict_wins() {
        use Verdict::*;
        assert_eq!(Verdict::worst([Pass, Fail, Inconclusive]), Some(Fail));
        assert_eq!(Verdict::worst([Pass, Inconclusive, Warn]), Some(Inconclusive));
        assert_eq!(Verdict::worst([Fail, Error]), Some(Error));
        assert_eq!(Verdict::worst([Unsupported, Pass]), Some(Pass));
        assert_eq!(Verdict::worst([Unsupported, Unsupported]), Some(Unsupported));
        assert_eq!(Verdict::worst([]), None);
    }
}
