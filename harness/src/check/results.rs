//! What is read again of the results of a check, `check.json` in its folder. `docs/check.schema.json` has all of it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Played, Profile};
use crate::catalog::KnownFailures;
use crate::results::ReadError;
use crate::verdict::Verdict;

/// The format that this version writes and reads.
const FORMAT: u32 = 1;
/// The file's name.
pub const FILE: &str = "check.json";

/// What a check came to, as far as it can be judged again.
#[derive(Debug, Deserialize)]
pub struct CheckResults {
    format: u32,
    /// Where the server runs.
    pub profile: Profile,
    /// What was known to fail: `scenario/rule`, either of them a glob.
    pub known: Vec<String>,
    /// One for each rule.
    pub rules: Vec<CheckedRule>,
    /// Recorded timelines, relative to the folder of this file, in the order in which they came to an end.
    pub timelines: Vec<PathBuf>,
}

/// What one rule came to.
#[derive(Debug, Deserialize)]
pub struct CheckedRule {
    /// Its slug.
    pub rule: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// Whether that is known.
    pub known: bool,
}

/// Adds to what a check says all that is needed to judge its timelines again.
pub fn to_be_judged_again(mut said: Value, profile: Profile, known: &KnownFailures, played: &[Played]) -> Value {
    said["format"] = FORMAT.into();
    said["version"] = env!("CARGO_PKG_VERSION").into();
    said["profile"] = json!(profile);
    said["known"] = known.entries.iter().map(|known| known.pattern.as_str()).collect();
    said["timelines"] = json!(played.iter().filter_map(|played| played.outcome.timeline.as_ref()).collect::<Vec<_>>());
    said
}

impl CheckResults {
    /// Reads the file in a folder.
    ///
    /// # Errors
    /// Names the file, and the line and column at fault, or the format of another version.
    pub fn read(folder: &Path) -> Result<Self, ReadError> {
        let path = folder.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| ReadError::Io { path: path.clone(), source })?;
        let read: Self =
            serde_json::from_str(&text).map_err(|source| ReadError::Json { path: path.clone(), source })?;
        match read.format {
            FORMAT => Ok(read),
            found => Err(ReadError::Format { path, found: found.into() }),
        }
    }
}
