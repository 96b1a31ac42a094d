//! What is put into a cluster to be tried there: a namespace of its own, and manifests in it.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, EvictParams, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::access::Right;
use super::connect::{Choice, Cluster};
use super::error::ClusterError;
use crate::process::guardian::Left;

/// Who writes, by the name that the API keeps.
const WRITER: &str = "drainspec";
/// How long a namespace may take to be gone. Its pods are not waited for: they get no grace.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// How long a budget may delay that a node is drained.
const DRAINED_WITHIN: Duration = Duration::from_secs(90);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

impl Cluster {
    /// Makes a namespace, in which pods must be "restricted" as Pod Security has it, and looks into it from then on.
    ///
    /// # Errors
    /// When the cluster does not make it.
    pub async fn with_namespace(&self, name: &str) -> Result<Self, ClusterError> {
        let labels = json!({
            "app.kubernetes.io/managed-by": WRITER,
            "pod-security.kubernetes.io/enforce": "restricted",
        });
        let namespace: Namespace = self.typed(json!({ "metadata": { "name": name, "labels": labels } }))?;
        let spaces = self.api_of_all::<Namespace>();
        self.answer(Right::to("create", "", "namespaces"), spaces.create(&PostParams::default(), &namespace)).await?;
        Ok(self.within(name))
    }

    /// Deletes the namespace, with all that is in it, and waits until it is gone.
    ///
    /// # Errors
    /// When the cluster does not do it.
    pub async fn delete_namespace(&self) -> Result<(), ClusterError> {
        let spaces = self.api_of_all::<Namespace>();
        let right = Right::to("delete", "", "namespaces");
        let deleted = self.answer(right, spaces.delete(self.namespace(), &DeleteParams::default())).await;
        let at_once = DeleteParams::default().grace_period(0);
        let pods = self.api::<Pod>();
        let all = ListParams::default();
        let _ = self.answer(Right::to("deletecollection", "", "pods"), pods.delete_collection(&at_once, &all)).await;
        deleted?;
        let gone = async {
            let right = Right::to("get", "", "namespaces");
            while self.answer(right, spaces.get_opt(self.namespace())).await?.is_some() {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        match tokio::time::timeout(GONE_WITHIN, gone).await {
            Ok(gone) => gone,
            Err(_) => Err(ClusterError::Refused {
                url: self.url().to_owned(),
                what: format!("delete namespace {}", self.namespace()),
                why: format!("it is still there after {} s", GONE_WITHIN.as_secs()),
            }),
        }
    }

    /// Writes these resources into the namespace, each as it is.
    ///
    /// # Errors
    /// When the cluster does not take one.
    pub async fn apply(&self, resources: &[Value]) -> Result<(), ClusterError> {
        for resource in resources {
            let mut object: DynamicObject = self.typed(resource.clone())?;
            object.metadata.namespace = Some(self.namespace().to_owned());
            let types = object.types.clone().unwrap_or_default();
            let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
            let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
            let api: Api<DynamicObject> = self.api_with(&kind);
            let params = PatchParams::apply(WRITER).force();
            let name = object.name_any();
            let written = Patch::Apply(&object);
            let applied = api.patch(&name, &params, &written);
            let right = Right { verb: "patch", group: "", resource: "what the manifests hold" };
            self.answer(right, applied).await.map_err(|error| error.about(&format!("{} {name}", types.kind)))?;
        }
        Ok(())
    }

    /// Deletes a pod of the namespace, with all its grace.
    ///
    /// # Errors
    /// When the cluster does not do it.
    pub async fn delete_pod(&self, name: &str) -> Result<(), ClusterError> {
        let pods = self.api::<Pod>();
        let params = DeleteParams::default();
        let deleted = pods.delete(name, &params);
        self.answer(Right::to("delete", "", "pods"), deleted).await.map(drop)
    }

    /// Has pods of the namespace leave a node, as `kubectl drain` does: no new ones come, and those that are there are
    /// evicted, which a PodDisruptionBudget delays. Waits until all are told to go.
    ///
    /// # Errors
    /// When the cluster does not do it in time.
    pub async fn drain(&self, node: &str) -> Result<(), ClusterError> {
        let nodes = self.api_of_all::<Node>();
        self.answer(Right::to("patch", "", "nodes"), nodes.cordon(node)).await?;
        let pods = self.api::<Pod>();
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let begun = tokio::time::Instant::now();
        let params = EvictParams::default();
        loop {
            let found = self.answer(Right::to("list", "", "pods"), pods.list(&there)).await?.items;
            let staying = found.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
            let Some(pod) = staying.map(ResourceExt::name_any).next() else { return Ok(()) };
            let evicted = pods.evict(&pod, &params);
            match self.answer(Right::to("create", "", "pods/eviction"), evicted).await {
                // The budget is used up (429): until another pod is ready.
                Err(ClusterError::Refused { .. }) if begun.elapsed() < DRAINED_WITHIN => {}
                Err(error) => return Err(error),
                Ok(_) => continue,
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Lets pods come to a node again.
    ///
    /// # Errors
    /// When the cluster does not do it.
    pub async fn uncordon(&self, node: &str) -> Result<(), ClusterError> {
        let nodes = self.api_of_all::<Node>();
        self.answer(Right::to("patch", "", "nodes"), nodes.uncordon(node)).await.map(drop)
    }

    /// Has a Deployment of the namespace have so many pods. The generation that says so comes back.
    ///
    /// # Errors
    /// When the cluster does not take it.
    pub async fn scale(&self, deployment: &str, replicas: usize) -> Result<i64, ClusterError> {
        let deployments = self.api::<Deployment>();
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        let params = PatchParams::default();
        let right = Right::to("patch", "apps", "deployments");
        let scaled = self.answer(right, deployments.patch(deployment, &params, &patch)).await?;
        Ok(scaled.metadata.generation.unwrap_or(0))
    }

    fn typed<T: serde::de::DeserializeOwned>(&self, resource: Value) -> Result<T, ClusterError> {
        serde_json::from_value(resource).map_err(|error| ClusterError::Refused {
            url: self.url().to_owned(),
            what: "read a resource".to_owned(),
            why: error.to_string(),
        })
    }

    /// The port at which every node takes connections for a Service of the namespace.
    ///
    /// # Errors
    /// When the cluster does not say.
    pub async fn node_port(&self, service: &str) -> Result<Option<u16>, ClusterError> {
        let found = self.answer(Right::to("get", "", "services"), self.api::<Service>().get(service)).await?;
        let ports = found.spec.and_then(|spec| spec.ports).unwrap_or_default();
        Ok(ports.first().and_then(|port| port.node_port).and_then(|port| u16::try_from(port).ok()))
    }

    /// Names and addresses of the nodes on which pods may run.
    ///
    /// # Errors
    /// When the cluster does not say.
    pub async fn workers(&self) -> Result<Vec<(String, String)>, ClusterError> {
        let nodes = self.api_of_all::<Node>();
        let nodes = self.answer(Right::to("list", "", "nodes"), nodes.list(&ListParams::default())).await?;
        let address = |node: Node| {
            let kept_free = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            if kept_free.is_some_and(|taints| taints.iter().any(|taint| taint.effect == "NoSchedule")) {
                return None;
            }
            let name = node.name_any();
            let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
            let internal = addresses.into_iter().find(|address| address.type_ == "InternalIP")?;
            Some((name, internal.address))
        };
        Ok(nodes.items.into_iter().filter_map(address).collect())
    }
}

/// Mends what a harness that was killed has left.
///
/// # Errors
/// When the cluster does not do its part.
pub async fn mend(left: Left) -> Result<(), ClusterError> {
    let (context, namespace, node) = match left {
        Left::Namespace(context, name) => (context, Some(name), None),
        Left::Cordon(context, node) => (context, None, Some(node)),
    };
    let deletes = namespace.is_some();
    let cluster = Cluster::connect(&Choice { context, namespace }).await?;
    match node {
        Some(node) => cluster.uncordon(&node).await,
        None if deletes => cluster.delete_namespace().await,
        None => Ok(()),
    }
}
