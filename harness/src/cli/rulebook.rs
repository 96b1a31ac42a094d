//! What is known about a rule, gathered from the program and from the servers: the same for `explain` and for
//! the generated pages.

use std::path::Path;

use super::CliError;
use crate::catalog::markers::{self, Marker};
use crate::catalog::{self, Kind};
use crate::rules::{self, Basis, Level, Rule, Text};
use crate::scenario::{self, Scenario};
use crate::timeline::Param;

/// The languages of the reference servers: as texts.toml and server.toml name them, and as people do.
pub const LANGUAGES: [(&str, &str); 4] = [("python", "Python"), ("node", "Node.js"), ("go", "Go"), ("rust", "Rust")];

/// A rule, and everything that is known about it.
pub struct RuleFacts<'m> {
    /// The rule.
    pub rule: &'static Rule,
    /// Why, where from, how.
    pub text: Option<&'static Text>,
    /// The scenarios that prove it.
    pub scenarios: Vec<&'static Scenario>,
    /// Where the reference servers keep it.
    pub kept: Vec<Kept<'m>>,
}

/// Where one server keeps a rule.
pub struct Kept<'m> {
    /// The server.
    pub server: &'m ServerMarkers,
    /// The places.
    pub markers: Vec<&'m Marker>,
}

/// A server and all of its markers.
pub struct ServerMarkers {
    /// Its name.
    pub name: String,
    /// Its language, as server.toml names it.
    pub language: String,
    /// All of its markers.
    pub markers: Vec<Marker>,
    root: String,
}

impl ServerMarkers {
    /// The file of a marker, as seen from the folder in which `servers` is.
    pub fn path(&self, marker: &Marker) -> String {
        format!("{}/{}/{}", self.root, self.name, marker.file.display())
    }
}

impl<'m> RuleFacts<'m> {
    /// Gathers them.
    pub fn of(rule: &'static Rule, servers: &'m [ServerMarkers]) -> Self {
        let kept = |server: &'m ServerMarkers| {
            let markers: Vec<&Marker> = server.markers.iter().filter(|marker| marker.rule == rule.slug).collect();
            (!markers.is_empty()).then_some(Kept { server, markers })
        };
        Self {
            rule,
            text: rules::text(rule.slug),
            scenarios: scenario::all().filter(|scenario| scenario.rules.contains(&rule.slug)).collect(),
            kept: servers.iter().filter_map(kept).collect(),
        }
    }
}

/// The markers of every reference server below a folder.
pub fn reference_markers(folder: &Path) -> Result<Vec<ServerMarkers>, CliError> {
    let root = folder.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    let servers = catalog::discover(folder)?;
    let references = servers.into_iter().filter(|server| server.spec.kind == Kind::Reference);
    references
        .map(|server| {
            let markers = markers::read(&server.folder)?;
            Ok(ServerMarkers { name: server.name, language: server.spec.language, markers, root: root.clone() })
        })
        .collect()
}

/// Whom a rule binds, and how strictly.
pub fn demand(rule: &Rule) -> String {
    let basis = rule.basis.word();
    match (rule.level, rule.basis) {
        (Level::Info, _) => format!("INFO: measured, never counted (basis: {basis})."),
        (level, Basis::Wire) => format!("{} for every server (basis: {basis}).", level.word()),
        (level, Basis::Contract) => format!(
            "{} for a server that promises the contract, {} for any other (basis: {basis}).",
            level.word(),
            rule.level_for(false).word()
        ),
    }
}

/// The parameters of a scenario: its own, and the defaults that it leaves as they are.
pub fn parameters(scenario: &Scenario) -> Vec<(Param, f64)> {
    let own = |param: Param| scenario.params.iter().any(|(own, _)| *own == param);
    let defaults = scenario::DEFAULTS.iter().filter(|(param, _)| !own(*param));
    defaults.chain(scenario.params).copied().collect()
}
