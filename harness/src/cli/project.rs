//! The checkout that drainspec runs in: its servers, selected by globs.

use std::path::{Path, PathBuf};

use super::{Among, CliError};
use crate::catalog::{self, Kind, KnownFailures, Server, Topology};
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

/// All topologies: those of this folder, or of the folders `lb-configs` and `k8s` beside that of the servers.
pub fn topologies(servers: &Path, given: Option<&Path>) -> Result<Vec<Topology>, CliError> {
    let beside = |name| servers.parent().unwrap_or(servers).join(name);
    let folders = match given {
        Some(given) => vec![given.canonicalize().map_err(|source| CliError::Io { path: given.to_owned(), source })?],
        None => vec![beside("lb-configs"), beside("k8s")],
    };
    let topologies = catalog::discover_topologies(&folders)?;
    for topology in &topologies {
        check_covers(&topology.folder, &topology.known)?;
    }
    Ok(topologies)
}

/// Those of them that globs select; without one those that are played by default.
pub fn select_topologies(topologies: Vec<Topology>, globs: &[String]) -> Result<Vec<Topology>, CliError> {
    let names: Vec<&str> = topologies.iter().map(|topology| topology.name.as_str()).collect();
    let chosen: Vec<String> = select("topology", &names, globs)?.into_iter().map(str::to_owned).collect();
    let by_default = !globs.iter().any(|glob| !glob.starts_with('!'));
    let taken =
        |topology: &Topology| chosen.contains(&topology.name) && (!by_default || topology.is_played_by_default());
    Ok(topologies.into_iter().filter(taken).collect())
}

/// All servers.
pub fn servers(folder: &Path) -> Result<Vec<Server>, CliError> {
    Ok(catalog::discover(folder)?)
}

/// Every known failure must be one of a rule that some scenario proves.
fn check_covers(folder: &Path, known: &KnownFailures) -> Result<(), CliError> {
    for known in &known.entries {
        let covers = |scenario: &Scenario| scenario.rules.iter().any(|rule| known.covers(scenario.slug, rule));
        if !scenario::all().any(covers) {
            let path = folder.join("known.toml");
            return Err(CliError::KnownMatchesNothing { path, pattern: known.pattern.clone() });
        }
    }
    Ok(())
}

/// The servers that globs and kinds select, their known failures checked; without either references and naive twins.
pub fn select_servers(servers: Vec<Server>, globs: &[String], kinds: &[Kind]) -> Result<Vec<Server>, CliError> {
    let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    let chosen: Vec<String> = select("server", &names, globs)?.into_iter().map(str::to_owned).collect();
    let by_default = kinds.is_empty() && !globs.iter().any(|glob| !glob.starts_with('!'));
    let kinds = if by_default { &[Kind::Reference, Kind::Naive] } else { kinds };
    let of_kind = |server: &Server| kinds.is_empty() || kinds.contains(&server.spec.kind);
    let known: Vec<String> = servers.iter().map(|server| server.name.clone()).collect();
    let selected: Vec<Server> =
        servers.into_iter().filter(|server| chosen.contains(&server.name) && of_kind(server)).collect();
    if selected.is_empty() {
        let kinds = kinds.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(" or ");
        return Err(CliError::NoneOfKind { kinds, known: Among(known) });
    }
    for server in &selected {
        check_covers(&server.folder, &server.known)?;
    }
    Ok(selected)
}

/// The scenarios that globs and groups select; without either all.
pub fn select_scenarios(globs: &[String], groups: &[String]) -> Result<Vec<&'static Scenario>, CliError> {
    let names: Vec<&str> = scenario::all().map(|scenario| scenario.slug).collect();
    let mut known: Vec<&str> = scenario::all().map(|scenario| scenario.group).collect();
    known.dedup();
    let chosen = select("scenario", &names, globs)?;
    let groups = select("group", &known, groups)?;
    let selected: Vec<_> = scenario::all()
        .filter(|scenario| chosen.contains(&scenario.slug) && groups.contains(&scenario.group))
        .collect();
    if selected.is_empty() {
        let glob = globs.join("` and `");
        return Err(CliError::NothingSelected { what: "scenario of these groups", glob, known: Among::of(&chosen) });
    }
    Ok(selected)
}

/// The names that a glob matches and that none with `!` in front does; without one that selects, all. A glob that
/// matches none is an error, never silence.
fn select<'n>(what: &'static str, names: &[&'n str], globs: &[String]) -> Result<Vec<&'n str>, CliError> {
    let mut taken = Vec::new();
    let mut left_out = Vec::new();
    for pattern in globs {
        let (list, text) = match pattern.strip_prefix('!') {
            Some(text) => (&mut left_out, text),
            None => (&mut taken, pattern.as_str()),
        };
        let glob = catalog::glob(text)?;
        let before = list.len();
        list.extend(names.iter().copied().filter(|name| glob.is_match(name)));
        if list.len() == before {
            return Err(CliError::NothingSelected { what, glob: text.to_owned(), known: Among::of(names) });
        }
    }
    let all = !globs.iter().any(|glob| !glob.starts_with('!'));
    let chosen = names.iter().copied().filter(|name| all || taken.contains(name));
    Ok(chosen.filter(|name| !left_out.contains(name)).collect())
}
