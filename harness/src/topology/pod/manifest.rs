//! The manifests of a topology.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::catalog::Topology;
use crate::catalog::manifest::Manifest;
use crate::topology::{FrontError, kustomize};

/// What has been read. kustomize takes a tenth of a second, and nobody edits manifests while they are played.
static READ: Mutex<BTreeMap<PathBuf, Arc<Manifest>>> = Mutex::const_new(BTreeMap::new());

/// The manifest of a topology.
pub(super) async fn of(topology: &Topology) -> Result<Arc<Manifest>, FrontError> {
    let mut read = READ.lock().await;
    if let Some(manifest) = read.get(&topology.folder) {
        return Ok(manifest.clone());
    }
    let text = kustomize::build(&topology.folder).await?;
    let manifest = Arc::new(Manifest::read(&topology.folder, &text).map_err(FrontError::Files)?);
    read.insert(topology.folder.clone(), manifest.clone());
    Ok(manifest)
}
