//! The manifests of a folder, as kustomize puts them together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::catalog::Topology;
use crate::catalog::manifest::Manifest;
use crate::topology::{FrontError, io};

const KUSTOMIZE: &str = "kustomize";
const INSTALL: &str = "scripts/setup.sh, or https://kubectl.docs.kubernetes.io/installation/kustomize/";

/// What has been read. kustomize takes a tenth of a second, and nobody edits manifests while they are played.
static READ: Mutex<BTreeMap<PathBuf, Arc<Manifest>>> = Mutex::const_new(BTreeMap::new());

/// The manifest of a topology.
pub(super) async fn of(topology: &Topology) -> Result<Arc<Manifest>, FrontError> {
    let mut read = READ.lock().await;
    if let Some(manifest) = read.get(&topology.folder) {
        return Ok(manifest.clone());
    }
    let text = build(&topology.folder).await?;
    let manifest = Arc::new(Manifest::read(&topology.folder, &text).map_err(FrontError::Files)?);
    read.insert(topology.folder.clone(), manifest.clone());
    Ok(manifest)
}

/// What kustomize makes of a folder: with the one on the path, with the one that the set-up has put into `target/tools`, or
/// with the one in kubectl.
async fn build(folder: &Path) -> Result<String, FrontError> {
    let tools = folder.ancestors().map(|above| above.join("target/tools").join(KUSTOMIZE));
    let tools = tools.filter(|tool| tool.is_file()).take(1).map(|tool| (tool, "build"));
    let programs = [(PathBuf::from(KUSTOMIZE), "build")].into_iter().chain(tools);
    for (program, verb) in programs.chain([(PathBuf::from("kubectl"), "kustomize")]) {
        match run(&program, verb, folder).await {
            Ok(output) if output.status.success() => return Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).lines().map(str::to_owned).collect();
                return Err(FrontError::Refused { program: KUSTOMIZE, file: folder.display().to_string(), said });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(format!("running {}", program.display()))(error)),
        }
    }
    Err(FrontError::Missing { program: KUSTOMIZE, install: INSTALL })
}

async fn run(program: &Path, verb: &str, folder: &Path) -> std::io::Result<Output> {
    tokio::process::Command::new(program).arg(verb).arg(folder).stdin(Stdio::null()).kill_on_drop(true).output().await
}
