//! What is needed to watch a rollout, and whether whoever asks may do it.

use std::fmt::{Display, Formatter};

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::PostParams;

use super::connect::Cluster;
use super::error::ClusterError;
use crate::timeline::WorkloadKind;

/// A verb on a kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// Such as `watch`.
    pub verb: &'static str,
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The resource, in the plural, with its subresource.
    pub resource: &'static str,
}

impl Right {
    /// This verb on this resource.
    pub const fn to(verb: &'static str, group: &'static str, resource: &'static str) -> Self {
        Self { verb, group, resource }
    }

    /// This verb on workloads of this kind.
    pub const fn on(verb: &'static str, kind: WorkloadKind) -> Self {
        let resource = match kind {
            WorkloadKind::Deployment => "deployments",
            WorkloadKind::StatefulSet => "statefulsets",
            WorkloadKind::DaemonSet => "daemonsets",
        };
        Self { verb, group: "apps", resource }
    }
}

impl Display for Right {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let (resource, sub) = self.resource.split_once('/').map_or((self.resource, ""), |(name, sub)| (name, sub));
        let slash = if sub.is_empty() { "" } else { "/" };
        write!(f, "{} {resource}{group}{slash}{sub}", self.verb)
    }
}

/// A right, and whether it is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The right.
    pub right: Right,
    /// Whether the cluster says that it is granted.
    pub allowed: bool,
}

/// What watching a rollout of this kind takes; `restart` where it is to be begun, too.
pub fn needed(kind: WorkloadKind, restart: bool) -> Vec<Right> {
    let mut rights = vec![Right::on("get", kind), Right::on("list", kind), Right::on("watch", kind)];
    if restart {
        rights.push(Right::on("patch", kind));
    }
    rights.extend([
        Right::to("list", "", "pods"),
        Right::to("watch", "", "pods"),
        Right::to("get", "", "pods/log"),
        Right::to("list", "", "events"),
        Right::to("watch", "", "events"),
        Right::to("list", "", "services"),
        Right::to("list", "discovery.k8s.io", "endpointslices"),
        Right::to("watch", "discovery.k8s.io", "endpointslices"),
    ]);
    rights
}

/// Asks the cluster which of these rights are granted.
///
/// # Errors
/// When it does not say.
pub async fn access(cluster: &Cluster, rights: &[Right]) -> Result<Vec<Access>, ClusterError> {
    const REVIEW: Right = Right::to("create", "authorization.k8s.io", "selfsubjectaccessreviews");
    let api = cluster.api_of_all::<SelfSubjectAccessReview>();
    let ask = async |right: &Right| {
        let (resource, sub) =
            right.resource.split_once('/').map_or((right.resource, None), |(name, sub)| (name, Some(sub)));
        let attributes = ResourceAttributes {
            group: Some(right.group.to_owned()),
            namespace: Some(cluster.namespace().to_owned()),
            resource: Some(resource.to_owned()),
            subresource: sub.map(str::to_owned),
            verb: Some(right.verb.to_owned()),
            ..Default::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let said = cluster.answer(REVIEW, api.create(&PostParams::default(), &review)).await?;
        Ok(Access { right: *right, allowed: said.status.is_some_and(|status| status.allowed) })
    };
    futures_util::future::try_join_all(rights.iter().map(ask)).await
}
