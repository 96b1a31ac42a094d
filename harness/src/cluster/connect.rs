//! The way to a cluster: a kubeconfig and one of its contexts, or the service account of the pod that this runs in.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};

use super::access::Right;
use super::error::ClusterError;

/// How long connecting may take.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);
/// How long an answer may take; a watch has to begin within that.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Which cluster, and where in it.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// A context of the kubeconfig; by default its current one.
    pub context: Option<String>,
    /// A namespace; by default that of the context.
    pub namespace: Option<String>,
}

/// A cluster and a namespace in it; cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    url: String,
    namespace: String,
}

impl Cluster {
    /// Finds it. Nothing is asked yet.
    ///
    /// # Errors
    /// When there is no kubeconfig or none that is in order, and not where it is in a cluster either.
    pub async fn connect(choice: &Choice) -> Result<Self, ClusterError> {
        let bad = |why: String| ClusterError::Kubeconfig { why };
        let mut config = match Kubeconfig::read() {
            Ok(kubeconfig) => {
                let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
                if let Some(name) = choice.context.as_ref().filter(|name| !known.contains(name)) {
                    return Err(ClusterError::Context { name: name.clone(), known });
                }
                let options = KubeConfigOptions { context: choice.context.clone(), ..Default::default() };
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| bad(error.to_string()))?
            }
            // Without a context to be found in it, a kubeconfig that does not exist is none that is missing in a pod.
            Err(error) if choice.context.is_none() => Config::incluster().map_err(|_| bad(error.to_string()))?,
            Err(error) => return Err(bad(error.to_string())),
        };
        config.connect_timeout = Some(CONNECTS_WITHIN);
        config.default_retry = false; // what is asked again, and when, is decided where it is asked
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = choice.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| bad(error.to_string()))?;
        Ok(Self { client, url, namespace })
    }

    /// The address of its API server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same cluster, and another namespace.
    pub(super) fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// The resources in the namespace of a kind that is known by its name only.
    pub(super) fn api_with(&self, kind: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, kind)
    }

    /// The resources of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The resources of a kind that are in no namespace.
    pub fn api_of_all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Waits for an answer, which needs this right, and no longer than an answer may take.
    ///
    /// # Errors
    /// When none came, or it was no.
    pub async fn answer<T>(
        &self,
        right: Right,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ClusterError> {
        match tokio::time::timeout(ANSWERS_WITHIN, asked).await {
            Ok(answer) => answer.map_err(|error| ClusterError::of(error, &self.url, &self.namespace, right)),
            Err(_) => {
                let seconds = ANSWERS_WITHIN.as_secs();
                Err(ClusterError::Silent { url: self.url.clone(), what: right.to_string(), seconds })
            }
        }
    }
}
