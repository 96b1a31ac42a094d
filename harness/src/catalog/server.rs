//! A server under test: one folder with a `server.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CatalogError, KnownFailures, parse_toml, read};

/// What a server is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Must pass everything.
    Reference,
    /// The same server without shutdown handling.
    Naive,
    /// A popular stack, well configured.
    Framework,
    /// A popular stack around the `lifecycle` of a reference.
    Adopted,
    /// Breaks one rule on purpose.
    Faulty,
}

impl Kind {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Naive => "naive",
            Self::Framework => "framework",
            Self::Adopted => "adopted",
            Self::Faulty => "faulty",
        }
    }
}

/// What a server can do, beyond answering `GET /`. A scenario that needs more is `unsupported`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// HTTP/1.1 keep-alive: a connection answers more than once.
    KeepAlive,
    /// `/slow?delay=S`: an answer that takes as long as asked.
    Slow,
    /// `/health/ready` and `/health/live`.
    Health,
    /// `/bytes`, `/stream` and `/events`.
    Streams,
    /// A response in pieces that has an end. `Streams` has one; somebody's server has whichever `--stream` names.
    #[serde(skip_deserializing)]
    FiniteStream,
    /// A response in pieces that has none.
    #[serde(skip_deserializing)]
    EndlessStream,
    /// `POST /echo`.
    Upload,
    /// The limits and time-outs of the contract, `DRAIN_TIMEOUT` among them.
    Limits,
    /// `SHUTDOWN_DELAY`.
    LameDuck,
    /// An admin port with `/metrics` and `/prestop`.
    Admin,
    /// `executed` lines for requests with an id.
    Accounting,
    /// `CONFIG_FILE`, read again on SIGHUP.
    Reload,
}

impl Feature {
    /// Its name in `server.toml`.
    pub fn word(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Slow => "slow",
            Self::Health => "health",
            Self::Streams => "streams",
            Self::FiniteStream => "finite-stream",
            Self::EndlessStream => "endless-stream",
            Self::Upload => "upload",
            Self::Limits => "limits",
            Self::LameDuck => "lame-duck",
            Self::Admin => "admin",
            Self::Accounting => "accounting",
            Self::Reload => "reload",
        }
    }

    /// Whether a server with this feature has the other one as well.
    pub fn includes(self, other: Self) -> bool {
        self == other || (self == Self::Streams && matches!(other, Self::FiniteStream | Self::EndlessStream))
    }

    /// What it is, in one sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP/1.1 keep-alive: a connection answers more than once",
            Self::Slow => "`GET /slow?delay=S`: an answer that takes as long as asked",
            Self::Health => "`GET /health/ready` and `GET /health/live`",
            Self::Streams => "`GET /bytes`, `GET /stream` and `GET /events`",
            Self::FiniteStream => "`GET /stream`, which is part of `streams`: a response in pieces that has an end",
            Self::EndlessStream => "`GET /events`, which is part of `streams`: a response in pieces that has none",
            Self::Upload => "`POST /echo`",
            Self::Limits => "the limits and time-outs of the contract, `DRAIN_TIMEOUT` among them",
            Self::LameDuck => "`SHUTDOWN_DELAY`",
            Self::Admin => "an admin port with `/metrics` and `/prestop`",
            Self::Accounting => "`executed` lines for requests with an id",
            Self::Reload => "`CONFIG_FILE`, read again on SIGHUP",
        }
    }
}

/// A server, as its folder describes it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its folder below `servers`, such as `go` or `naive/python`.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// What its `server.toml` says.
    pub spec: Spec,
    /// What its `known.toml` says.
    pub known: KnownFailures,
}

/// The contents of a `server.toml`. Paths and commands are relative to its folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What it is there for.
    pub kind: Kind,
    /// Its language: `python`, `node`, `go`, `rust` or another.
    pub language: String,
    /// One line about it.
    pub summary: String,
    /// What it can do.
    pub features: Vec<Feature>,
    /// Commands that build it, as argument lists.
    #[serde(default)]
    pub build: Vec<Vec<String>>,
    /// The command that runs it, as an argument list.
    pub run: Vec<String>,
    /// Globs of the files whose change means building again.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Environment of the server.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

impl Spec {
    /// Reads the text of a `server.toml`.
    ///
    /// # Errors
    /// Names the line or key, and what is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, CatalogError> {
        let spec: Self = parse_toml(path, text)?;
        let value = |key: &str, reason: &str| CatalogError::Value {
            path: path.to_owned(),
            key: key.to_owned(),
            reason: reason.to_owned(),
        };
        if spec.run.is_empty() {
            return Err(value("run", "is empty: expected a command as a list of arguments"));
        }
        if spec.build.iter().any(Vec::is_empty) {
            return Err(value("build", "holds an empty command: expected lists of arguments"));
        }
        for pattern in &spec.inputs {
            super::glob(pattern).map_err(|error| value("inputs", &error.to_string()))?;
        }
        Ok(spec)
    }
}

impl Server {
    /// Reads the server in a folder.
    ///
    /// # Errors
    /// Names the file, the line or key, and what is wrong.
    pub fn load(root: &Path, folder: &Path) -> Result<Self, CatalogError> {
        let path = folder.join("server.toml");
        let spec = Spec::parse(&path, &read(&path)?)?;
        let name = folder.strip_prefix(root).unwrap_or(folder).to_string_lossy().into_owned();
        let known = KnownFailures::load(folder)?;
        if spec.kind == Kind::Reference && !known.is_empty() {
            let reason = "a reference has no known failures: remove its known.toml, or call it a framework".to_owned();
            return Err(CatalogError::Value { path, key: "kind".to_owned(), reason });
        }
        Ok(Self { name, folder: folder.to_owned(), known, spec })
    }

    /// Whether the server can do this.
    pub fn has(&self, feature: Feature) -> bool {
        self.spec.features.iter().any(|own| own.includes(feature))
    }

    /// Whether breaking a contract rule is a failure for it: references promise the contract, and faulty servers
    /// are references with a fault.
    pub fn promises_contract(&self) -> bool {
        matches!(self.spec.kind, Kind::Reference | Kind::Faulty)
    }
}

/// All servers below a folder, sorted by kind and language: references first.
///
/// # Errors
/// The first `server.toml` or `known.toml` that is not in order.
pub fn discover(root: &Path) -> Result<Vec<Server>, CatalogError> {
    let mut servers = Vec::new();
    visit(root, root, 3, &mut servers)?;
    let language = |server: &Server| language_order(&server.spec.language);
    servers.sort_by(|a, b| (a.spec.kind, language(a), &a.name).cmp(&(b.spec.kind, language(b), &b.name)));
    Ok(servers)
}

/// The place of a language in lists and tables.
pub fn language_order(language: &str) -> usize {
    ["python", "node", "go", "rust"].iter().position(|known| *known == language).unwrap_or(usize::MAX)
}

fn visit(root: &Path, folder: &Path, depth: usize, servers: &mut Vec<Server>) -> Result<(), CatalogError> {
    if folder.join("server.toml").is_file() {
        servers.push(Server::load(root, folder)?);
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let io = |source| CatalogError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() {
            visit(root, &path, depth - 1, servers)?;
        }
    }
    Ok(())
}
