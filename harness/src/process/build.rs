//! Building a server: only when one of its inputs changed since the last time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use globset::GlobSetBuilder;

use crate::catalog::{CatalogError, Server, glob};

/// A server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The program that builds it is not installed.
    #[error("{server}: `{program}` is not installed; `drainspec doctor` says how to install it")]
    Missing {
        /// The server.
        server: String,
        /// The program that was not found.
        program: String,
    },
    /// The build failed.
    #[error("{server}: `{command}` failed with {status}:\n{output}")]
    Failed {
        /// The server.
        server: String,
        /// The command.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines that it printed.
        output: String,
    },
    /// Something else went wrong.
    #[error("{server}: {source}")]
    Io {
        /// The server.
        server: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// A glob in `inputs` is malformed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Builds a server where needed; returns whether anything was done.
///
/// # Errors
/// Says which command failed, and shows the end of its output.
pub async fn build(server: &Server) -> Result<bool, BuildError> {
    let io = |source| BuildError::Io { server: server.name.clone(), source };
    let stamp = stamp_path(server);
    let inputs = fingerprint(server)?;
    if server.spec.build.is_empty() || std::fs::read_to_string(&stamp).is_ok_and(|built| built == inputs) {
        return Ok(false);
    }
    for command in &server.spec.build {
        let output = tokio::process::Command::new(&command[0])
            .args(&command[1..])
            .current_dir(&server.folder)
            .envs(super::guardian::tag())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    BuildError::Missing { server: server.name.clone(), program: command[0].clone() }
                }
                _ => io(error),
            })?;
        if !output.status.success() {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            let lines: Vec<&str> = text.lines().collect();
            return Err(BuildError::Failed {
                server: server.name.clone(),
                command: command.join(" "),
                status: output.status,
                output: lines[lines.len().saturating_sub(20)..].join("\n"),
            });
        }
    }
    if let Some(folder) = stamp.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    std::fs::write(&stamp, inputs).map_err(io)?;
    Ok(true)
}

/// Beside what was built, so that whoever removes the one removes the other.
fn stamp_path(server: &Server) -> PathBuf {
    server.folder.join("build").join("drainspec-stamp")
}

/// Changes when an input, or how it is built, changes.
fn fingerprint(server: &Server) -> Result<String, BuildError> {
    let mut globs = GlobSetBuilder::new();
    for pattern in &server.spec.inputs {
        globs.add(glob(pattern)?.glob().clone());
    }
    let globs = globs
        .build()
        .map_err(|error| CatalogError::Glob { glob: server.spec.inputs.join(", "), reason: error.to_string() })?;
    let mut files = Vec::new();
    collect(&server.folder, &mut files).map_err(|source| BuildError::Io { server: server.name.clone(), source })?;
    // What several servers share lies beside them, and is named, not matched.
    let shared = server.spec.inputs.iter().filter(|pattern| pattern.starts_with("../"));
    files.extend(shared.map(|path| server.folder.join(path)));
    files.sort();
    let mut hasher = DefaultHasher::new();
    server.spec.build.hash(&mut hasher);
    for path in files {
        let relative = path.strip_prefix(&server.folder).unwrap_or(&path);
        if relative.starts_with("..") || globs.is_match(relative) {
            relative.hash(&mut hasher);
            std::fs::read(&path)
                .map_err(|source| BuildError::Io { server: server.name.clone(), source })?
                .hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let made = ["build", "target", "node_modules", "__pycache__"].iter().any(|made| name == *made);
        if entry.file_type()?.is_dir() {
            if !made {
                collect(&entry.path(), files)?;
            }
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
