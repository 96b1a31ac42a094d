//! The checkout that drainspec runs in: its servers, selected by globs.

use std::path::{Path, PathBuf};

use super::CliError;
use crate::catalog::{self, Kind, Server};
use crate::scenario::{self, Scenario};

/// Finds the folder `servers`: as given, or here, or in a folder above.
pub fn servers_folder(given: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(folder) = given {
        return folder.canonicalize().map_err(|source| CliError::Io { path: folder.to_owned(), source });
    }
    let start = std::env::current_dir().map_err(|source| CliError::Io { path: PathBuf::from("."), source })?;
    let found = start.ancestors().map(|folder| folder.join("servers")).find(|path| path.join("CONTRACT.md").is_file());
    found.ok_or(CliError::NoServers { start })
}

/// All servers.
pub fn servers(folder: &Path) -> Result<Vec<Server>, CliError> {
    Ok(catalog::discover(folder)?)
}

/// Every known failure must be one of a rule that some scenario proves.
fn check_known(servers: Vec<Server>) -> Result<Vec<Server>, CliError> {
    for server in &servers {
        for known in &server.known.entries {
            let covers = |scenario: &Scenario| scenario.rules.iter().any(|rule| known.covers(scenario.slug, rule));
            if !scenario::all().any(covers) {
                let path = server.folder.join("known.toml");
                return Err(CliError::KnownMatchesNothing { path, pattern: known.pattern.clone() });
            }
        }
    }
    Ok(servers)
}

/// The servers that the globs select, their known failures checked; without a glob references and naive twins.
pub fn select_servers(servers: Vec<Server>, globs: &[String]) -> Result<Vec<Server>, CliError> {
    let names: Vec<String> = servers.iter().map(|server| server.name.clone()).collect();
    if globs.is_empty() {
        let default = |server: &Server| matches!(server.spec.kind, Kind::Reference | Kind::Naive);
        let chosen: Vec<Server> = servers.into_iter().filter(default).collect();
        if chosen.is_empty() {
            let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(CliError::NothingByDefault { known });
        }
        return check_known(chosen);
    }
    let chosen = select("server", &names, globs)?;
    check_known(servers.into_iter().filter(|server| chosen.contains(&server.name)).collect())
}

/// The scenarios that the globs select; without a glob all.
pub fn select_scenarios(globs: &[String]) -> Result<Vec<&'static Scenario>, CliError> {
    let names: Vec<String> = scenario::all().map(|scenario| scenario.slug.to_owned()).collect();
    if globs.is_empty() {
        return Ok(scenario::all().collect());
    }
    let chosen = select("scenario", &names, globs)?;
    Ok(scenario::all().filter(|scenario| chosen.iter().any(|name| name == scenario.slug)).collect())
}

/// The names that at least one glob matches; a glob that matches none is an error, never silence.
fn select(what: &'static str, names: &[String], globs: &[String]) -> Result<Vec<String>, CliError> {
    let mut chosen = Vec::new();
    for pattern in globs {
        let glob = catalog::glob(pattern)?;
        let before = chosen.len();
        chosen.extend(names.iter().filter(|name| glob.is_match(name)).cloned());
        if chosen.len() == before {
            return Err(CliError::NothingSelected { what, glob: pattern.clone(), known: names.join(", ") });
        }
    }
    Ok(chosen)
}
