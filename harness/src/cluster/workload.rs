//! A workload that was found: what it is, its restart, and the watch on it.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::access::Right;
use super::connect::Cluster;
use super::error::ClusterError;
use super::spec::{Name, Rolls, describe, query, selecting};
use super::watch::Watch;
use crate::timeline::{WorkloadKind, WorkloadSpec};

/// The annotation of the pod template that `kubectl rollout restart` sets: a template that differs makes new pods.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// A workload of a cluster.
#[derive(Clone)]
pub struct Workload {
    cluster: Cluster,
    name: Name,
    spec: WorkloadSpec,
    pods: String,
    stuck: Option<&'static str>,
}

impl Workload {
    /// Looks for it, and for the Services that select its pods.
    ///
    /// # Errors
    /// When it, or its namespace, does not exist, or the cluster does not say.
    pub async fn find(cluster: &Cluster, name: &Name) -> Result<Self, ClusterError> {
        match name.kind {
            WorkloadKind::Deployment => Self::found::<Deployment>(cluster, name).await,
            WorkloadKind::StatefulSet => Self::found::<StatefulSet>(cluster, name).await,
            WorkloadKind::DaemonSet => Self::found::<DaemonSet>(cluster, name).await,
        }
    }

    async fn found<K: Rolls>(cluster: &Cluster, name: &Name) -> Result<Self, ClusterError> {
        let get = Right::on("get", name.kind);
        let Some(found) = cluster.answer(get, cluster.api::<K>().get_opt(&name.name)).await? else {
            return Err(missing::<K>(cluster, name).await);
        };
        let list = Right::to("list", "", "services");
        let services = cluster.answer(list, cluster.api::<Service>().list(&ListParams::default())).await?.items;
        let theirs = found.template().map(|template| selecting(&services, template)).unwrap_or_default();
        Ok(Self {
            cluster: cluster.clone(),
            name: name.clone(),
            spec: describe(&found, &theirs),
            pods: found.selector().map(query).unwrap_or_default(),
            stuck: found.stuck(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// How it is written.
    pub fn spec(&self) -> &WorkloadSpec {
        &self.spec
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether a restart would do something.
    ///
    /// # Errors
    /// When it would not.
    pub fn restartable(&self) -> Result<(), ClusterError> {
        match self.stuck {
            Some(why) => Err(ClusterError::NotRestartable { name: self.name.to_string(), why }),
            None => Ok(()),
        }
    }

    /// Asks for new pods: the only thing that is ever written. The generation that asks for them comes back.
    ///
    /// # Errors
    /// When the cluster does not take it.
    pub async fn restart(&self) -> Result<i64, ClusterError> {
        match self.name.kind {
            WorkloadKind::Deployment => self.patched(&self.cluster.api::<Deployment>()).await,
            WorkloadKind::StatefulSet => self.patched(&self.cluster.api::<StatefulSet>()).await,
            WorkloadKind::DaemonSet => self.patched(&self.cluster.api::<DaemonSet>()).await,
        }
    }

    async fn patched<K: Rolls>(&self, api: &Api<K>) -> Result<i64, ClusterError> {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = json!({ "spec": { "template": { "metadata": { "annotations": { RESTARTED_AT: now } } } } });
        let params = PatchParams { field_manager: Some("drainspec".to_owned()), ..PatchParams::default() };
        let patch = Patch::Strategic(patch);
        let patched = api.patch(&self.name.name, &params, &patch);
        let workload = self.cluster.answer(Right::on("patch", self.name.kind), patched).await?;
        Ok(workload.meta().generation.unwrap_or(0))
    }

    /// The generation that it has now.
    ///
    /// # Errors
    /// When the cluster does not say.
    pub async fn generation(&self) -> Result<i64, ClusterError> {
        match self.name.kind {
            WorkloadKind::Deployment => self.written(&self.cluster.api::<Deployment>()).await,
            WorkloadKind::StatefulSet => self.written(&self.cluster.api::<StatefulSet>()).await,
            WorkloadKind::DaemonSet => self.written(&self.cluster.api::<DaemonSet>()).await,
        }
    }

    async fn written<K: Rolls>(&self, api: &Api<K>) -> Result<i64, ClusterError> {
        let found = self.cluster.answer(Right::on("get", self.name.kind), api.get(&self.name.name)).await?;
        Ok(found.meta().generation.unwrap_or(0))
    }

    /// Watches it and its pods.
    ///
    /// # Errors
    /// When one of it cannot be listed.
    pub async fn watch(&self) -> Result<Watch, ClusterError> {
        let serving = self.spec.containers.iter().find(|container| container.serves);
        let container = serving.map_or("", |container| container.name.as_str());
        let (of, with) = (&self.cluster, (&self.spec.services[..], container));
        let (name, pods) = (self.name.name.as_str(), self.pods.as_str());
        match self.name.kind {
            WorkloadKind::Deployment => Watch::start::<Deployment>(of, ("deployments", name), pods, with).await,
            WorkloadKind::StatefulSet => Watch::start::<StatefulSet>(of, ("statefulsets", name), pods, with).await,
            WorkloadKind::DaemonSet => Watch::start::<DaemonSet>(of, ("daemonsets", name), pods, with).await,
        }
    }
}

/// What there is instead. What may not be listed is not said.
async fn missing<K: Rolls>(cluster: &Cluster, name: &Name) -> ClusterError {
    let all = ListParams::default();
    let space = cluster.namespace().to_owned();
    let spaces = cluster.api_of_all::<Namespace>();
    let look = Right::to("get", "", "namespaces");
    if let Ok(None) = cluster.answer(look, spaces.get_opt(&space)).await {
        let known = cluster.answer(Right::to("list", "", "namespaces"), spaces.list(&all)).await;
        let known = known.map(|list| list.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default();
        return ClusterError::NoNamespace { name: space, known };
    }
    let known = cluster.answer(Right::on("list", name.kind), cluster.api::<K>().list(&all)).await;
    let known = known.map(|list| list.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default();
    ClusterError::NoWorkload { what: name.kind.word(), name: name.name.clone(), namespace: space, known }
}
