//! The scenarios: what clients do, and which signal is sent when.
//!
//! A scenario acts and records; it never judges. It speaks to a [`Target`], not to a server of ours.

mod connections;
mod discover;
mod fleet;
mod health;
mod in_flight;
mod patience;
mod races;
mod requests;
mod rollout;
mod run;
mod signals;
mod stop;
mod subject;
mod target;

pub use discover::{listening_on, reachable};
pub use fleet::Fleet;
pub use patience::Patience;
pub use run::Run;
pub use stop::{Stop, starved, unconfirmed};
pub use subject::{Manner, Normal, Route, Stranger, Subject};
pub use target::Target;

use std::future::Future;
use std::pin::Pin;

use crate::catalog::{Feature, Topology};
use crate::timeline::Param;

/// One scenario: its description and its body.
pub struct Scenario {
    /// Its name, for ever.
    pub slug: &'static str,
    /// The group it belongs to.
    pub group: &'static str,
    /// One sentence: what happens.
    pub summary: &'static str,
    /// What a server must be able to do.
    pub needs: &'static [Feature],
    /// The rules by which it is judged.
    pub rules: &'static [&'static str],
    /// Parameters that differ from [`DEFAULTS`]. Those that are a variable of the contract are passed to the server.
    pub params: &'static [(Param, f64)],
    /// When it is played.
    pub pace: Pace,
    /// Behind which topologies.
    pub setting: Setting,
    body: for<'r> fn(&'r mut Run<'_>) -> Body<'r>,
}

/// What a scenario does with the time that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// It waits for seconds: it comes first, and nobody waits for it in the end.
    Long,
    /// It waits a little.
    Short,
    /// It waits for seconds under a load that goes on: it comes after those that only wait, and disturbs none of them.
    Steady,
    /// It keeps the cores busy, and what others measure meanwhile would suffer: it comes last, one at a time.
    Heavy,
}

/// Behind what a scenario is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// One process, to which its clients connect.
    Alone,
    /// The same; and also one process behind any topology: it needs nothing but HTTP from what stands between.
    Anywhere,
    /// Several instances behind any topology.
    Fleet,
    /// Several instances, each of which is dealt with by itself: a cluster decides of all of them.
    Singly,
    /// Pods.
    Pods,
    /// Pods on several nodes of a real cluster.
    Nodes,
    /// Several instances, each of which has its own place: pods have none, and nobody keeps connections to them.
    Placed,
    /// Several instances behind a balancer that reads its configuration again.
    Reloading,
    /// Several instances to which their clients connect.
    Table,
    /// Several instances behind a topology that needs their lame-duck.
    LameDuck,
}

impl Setting {
    /// Whether it is about one process.
    pub fn is_single(self) -> bool {
        matches!(self, Self::Alone | Self::Anywhere)
    }

    /// Whether it can be had behind this topology.
    pub fn fits(self, topology: &Topology) -> bool {
        match self {
            Self::Alone | Self::Table => topology.is_direct(),
            Self::Fleet => true,
            Self::Singly => !topology.is_cluster(),
            Self::Pods => topology.is_pods(),
            Self::Nodes => topology.is_cluster(),
            Self::Placed | Self::Anywhere => !topology.is_pods(),
            Self::Reloading => topology.spec.reload.is_some(),
            Self::LameDuck => topology.lame_duck() > 0.0 && !topology.is_pods(),
        }
    }
}

type Body<'r> = Pin<Box<dyn Future<Output = Result<(), Stop>> + Send + 'r>>;

/// Parameters of every scenario, unless it says otherwise.
pub const DEFAULTS: &[(Param, f64)] =
    &[(Param::ShutdownDelay, 0.0), (Param::DrainTimeout, 15.0), (Param::IdleLinger, 1.0)];

/// All scenarios, group by group.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    let connections = [connections::SCENARIOS, races::SCENARIOS];
    let groups = [signals::SCENARIOS, requests::SCENARIOS].into_iter().chain(connections);
    groups.chain([health::SCENARIOS, rollout::SCENARIOS]).flatten()
}

/// The scenario with this slug.
pub fn find(slug: &str) -> Option<&'static Scenario> {
    all().find(|scenario| scenario.slug == slug)
}

impl Scenario {
    /// Plays it.
    ///
    /// # Errors
    /// When a precondition could not be established, or something failed that is not the server's doing.
    pub async fn play(&self, run: &mut Run<'_>) -> Result<(), Stop> {
        (self.body)(run).await
    }
}

/// Makes an async function fit [`Scenario::body`].
macro_rules! body {
    ($function:path) => {
        |run| Box::pin($function(run))
    };
}
use body;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_unique_and_rules_exist() {
        let mut seen = std::collections::BTreeSet::new();
        for scenario in all() {
            assert!(seen.insert(scenario.slug), "{} is there twice", scenario.slug);
            assert!(!scenario.rules.is_empty(), "{} is judged by nothing", scenario.slug);
            for rule in scenario.rules {
                assert!(crate::rules::find(rule).is_some(), "{}: no rule `{rule}`", scenario.slug);
            }
        }
    }

    #[test]
    fn every_rule_is_judged_somewhere() {
        for rule in crate::rules::all() {
            assert!(all().any(|scenario| scenario.rules.contains(&rule.slug)), "no scenario proves `{}`", rule.slug);
        }
    }
}
