//! What a server is known to fail: `known.toml` beside its `server.toml`.

use std::path::Path;

use globset::GlobMatcher;
use serde::Deserialize;

use super::{CatalogError, glob, parse_toml, read};

/// Known failures of one server.
#[derive(Debug, Clone, Default)]
pub struct KnownFailures {
    /// In the order of the file.
    pub entries: Vec<Known>,
}

/// What is known to come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownVerdict {
    /// The rule is violated.
    #[default]
    Fail,
    /// It is violated in some runs and not in others: the server races.
    Sometimes,
    /// The server never comes to where the rule could be judged.
    Inconclusive,
}

/// One known failure.
#[derive(Debug, Clone)]
pub struct Known {
    /// As written: `scenario/rule`, either of them a glob.
    pub pattern: String,
    /// Behind which topologies, as written: a glob. `None` is behind each.
    pub topology: Option<String>,
    /// Of which servers, as written: a glob. `None` is each. Only what is known of a topology needs it.
    pub server: Option<String>,
    /// Why it fails.
    pub reason: String,
    /// Where to read more.
    pub link: Option<String>,
    /// What comes of it.
    pub verdict: KnownVerdict,
    matcher: GlobMatcher,
    topologies: Option<GlobMatcher>,
    servers: Option<GlobMatcher>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    known: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    pattern: String,
    topology: Option<String>,
    server: Option<String>,
    reason: String,
    link: Option<String>,
    #[serde(default)]
    verdict: KnownVerdict,
}

impl KnownFailures {
    /// Reads `known.toml` in a folder; without one nothing is known to fail.
    ///
    /// # Errors
    /// Names the file, the line or key, and what is wrong.
    pub fn load(folder: &Path) -> Result<Self, CatalogError> {
        let path = folder.join("known.toml");
        if !path.exists() {
            return Ok(Self::default());
        }
        Self::read(&path)
    }

    /// Reads a file in the format of `known.toml`.
    ///
    /// # Errors
    /// As [`Self::load`], and when there is no such file.
    pub fn read(path: &Path) -> Result<Self, CatalogError> {
        Self::parse(path, &read(path)?)
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, CatalogError> {
        let file: File = parse_toml(path, text)?;
        let value =
            |key: String, reason: &str| CatalogError::Value { path: path.to_owned(), key, reason: reason.to_owned() };
        let mut entries = Vec::new();
        for entry in file.known {
            if entry.pattern.split('/').count() != 2 {
                return Err(value(
                    format!("pattern = \"{}\"", entry.pattern),
                    "expected `scenario/rule`, either a glob",
                ));
            }
            if entry.reason.trim().is_empty() {
                return Err(value(format!("pattern = \"{}\"", entry.pattern), "needs a reason"));
            }
            let matcher = glob(&entry.pattern)
                .map_err(|error| value(format!("pattern = \"{}\"", entry.pattern), &error.to_string()))?;
            let of = |key: &str, names: &Option<String>| {
                let fault = |error: CatalogError| value(key.to_owned(), &error.to_string());
                names.as_deref().map(|names| glob(names).map_err(fault)).transpose()
            };
            let (topologies, servers) = (of("topology", &entry.topology)?, of("server", &entry.server)?);
            let Entry { pattern, topology, server, reason, link, verdict } = entry;
            entries.push(Known { pattern, topology, server, reason, link, verdict, matcher, topologies, servers });
        }
        Ok(Self { entries })
    }

    /// These patterns, each known to fail.
    ///
    /// # Errors
    /// Where one is no glob.
    pub fn of_patterns(patterns: &[String]) -> Result<Self, CatalogError> {
        let entry = |pattern: &String| {
            let (reason, link, verdict) = (String::new(), None, KnownVerdict::Fail);
            let (matcher, pattern) = (glob(pattern)?, pattern.clone());
            let (topologies, servers) = (None, None);
            Ok(Known { pattern, topology: None, server: None, reason, link, verdict, matcher, topologies, servers })
        };
        Ok(Self { entries: patterns.iter().map(entry).collect::<Result<_, _>>()? })
    }

    /// What of it is said of this server behind this topology.
    pub fn of(&self, server: &str, topology: &str) -> Self {
        let entries = self.entries.iter().filter(|entry| entry.is_of(server, topology));
        Self { entries: entries.cloned().collect() }
    }

    /// Whether nothing is known to fail.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first entry that covers one of these rules in this scenario.
    pub fn find_any(&self, scenario: &str, rules: &[&str]) -> Option<&Known> {
        rules.iter().find_map(|rule| self.find(scenario, rule))
    }

    /// The first entry that covers this rule in this scenario.
    pub fn find(&self, scenario: &str, rule: &str) -> Option<&Known> {
        let name = format!("{scenario}/{rule}");
        self.entries.iter().find(|entry| entry.matcher.is_match(&name))
    }
}

impl Known {
    /// Whether it is said of this server behind this topology.
    pub fn is_of(&self, server: &str, topology: &str) -> bool {
        let of = |names: &Option<GlobMatcher>, name: &str| names.as_ref().is_none_or(|names| names.is_match(name));
        of(&self.topologies, topology) && of(&self.servers, server)
    }

    /// Whether it covers this rule in this scenario.
    pub fn covers(&self, scenario: &str, rule: &str) -> bool {
        self.matcher.is_match(format!("{scenario}/{rule}"))
    }
}
