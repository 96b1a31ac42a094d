//! What there is to run: servers and topologies, and what each is known to fail; the settings of a load balancer. TOML
//! and Terraform in, types out.

mod known;
pub mod manifest;
pub mod markers;
mod server;
pub mod terraform;
mod topology;

pub use known::{Known, KnownFailures, KnownVerdict};
pub use server::{Feature, Kind, Server, Spec, discover, language_order};
pub use topology::{
    Advice, Balancer, ClusterPlace, Reload, Topology, TopologySpec, Withdrawal, discover as discover_topologies,
};

use std::path::PathBuf;

/// A file of the catalogue is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// It could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not the TOML that it should be.
    #[error("{}: {reason}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line, excerpt and reason.
        reason: String,
    },
    /// A value is not allowed.
    #[error("{}: `{key}`: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key at fault.
        key: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// A line of a file for Terraform is not what it should be.
    #[error("{}:{line}: {reason}", path.display())]
    Terraform {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The key, its value, and the way out.
        reason: String,
    },
    /// A marker in a source file is malformed.
    #[error("{}:{line}: {reason}", path.display())]
    Marker {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A glob is malformed.
    #[error("`{glob}` is not a glob: {reason}")]
    Glob {
        /// What was given.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Compiles a glob in which `*` stops at no separator.
///
/// # Errors
/// Names the glob and what is wrong with it.
pub fn glob(pattern: &str) -> Result<globset::GlobMatcher, CatalogError> {
    globset::GlobBuilder::new(pattern)
        .literal_separator(false)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| CatalogError::Glob { glob: pattern.to_owned(), reason: error.kind().to_string() })
}

fn read(path: &std::path::Path) -> Result<String, CatalogError> {
    std::fs::read_to_string(path).map_err(|source| CatalogError::Io { path: path.to_owned(), source })
}

fn parse_toml<T: serde::de::DeserializeOwned>(path: &std::path::Path, text: &str) -> Result<T, CatalogError> {
    toml::from_str(text)
        .map_err(|error| CatalogError::Toml { path: path.to_owned(), reason: error.to_string().trim().to_owned() })
}
