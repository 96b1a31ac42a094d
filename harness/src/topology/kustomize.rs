//! Manifests as kustomize puts them together.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use super::{FrontError, io};

const KUSTOMIZE: &str = "kustomize";
const INSTALL: &str = "scripts/setup.sh, or https://kubectl.docs.kubernetes.io/installation/kustomize/";

/// What kustomize makes of a folder: with the one on the path, with the one that the set-up has put into `target/tools`, or
/// with the one in kubectl.
pub async fn build(folder: &Path) -> Result<String, FrontError> {
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
