//! What can be wrong with a cluster, in words that say what to do.

use std::error::Error;

use super::access::Right;

/// So many names fit into a message.
const FEW: usize = 8;

/// Why a cluster could not be asked, or did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no kubeconfig, or it is not in order.
    #[error("kubeconfig: {why}: name a file that is in order in KUBECONFIG, or run inside a cluster")]
    Kubeconfig {
        /// What is wrong.
        why: String,
    },
    /// The kubeconfig has no such context.
    #[error("--context {name}: the kubeconfig has no such context; {}", near(name, known))]
    Context {
        /// The name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Nobody answers there.
    #[error("the cluster at {url} cannot be reached: {why}")]
    Unreachable {
        /// The API server.
        url: String,
        /// Why not.
        why: String,
    },
    /// Somebody is there who does not answer.
    #[error("the cluster at {url} did not answer within {seconds} s, asked to {what}")]
    Silent {
        /// The API server.
        url: String,
        /// What it was asked.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The cluster does not know who asks.
    #[error(
        "the cluster at {url} does not accept these credentials (401): is the token or certificate of this context still valid?"
    )]
    Unauthorized {
        /// The API server.
        url: String,
    },
    /// Whoever asks may not.
    #[error(
        "not allowed to {what} in namespace `{namespace}`: k8s/rbac/rollout.yaml is a Role with all that is needed"
    )]
    Denied {
        /// The verb and the resource.
        what: String,
        /// The namespace.
        namespace: String,
    },
    /// There is no such namespace.
    #[error("there is no namespace `{name}`; {}", near(name, known))]
    NoNamespace {
        /// Its name.
        name: String,
        /// Those there are, as far as they may be listed.
        known: Vec<String>,
    },
    /// There is no such workload.
    #[error("there is no {what}/{name} in namespace `{namespace}`; {}", near(name, known))]
    NoWorkload {
        /// Its kind.
        what: &'static str,
        /// Its name.
        name: String,
        /// The namespace.
        namespace: String,
        /// Those there are, as far as they may be listed.
        known: Vec<String>,
    },
    /// A restart would do nothing.
    #[error("{name} would not be restarted: {why}")]
    NotRestartable {
        /// The workload.
        name: String,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// Anything else that the API says.
    #[error("the cluster at {url}, asked to {what}: {why}")]
    Refused {
        /// The API server.
        url: String,
        /// What it was asked.
        what: String,
        /// What it said.
        why: String,
    },
}

impl ClusterError {
    /// Whether it is the command line that names what does not exist.
    pub fn names_nothing(&self) -> bool {
        matches!(self, Self::Context { .. } | Self::NoNamespace { .. } | Self::NoWorkload { .. })
    }

    /// The same, about this.
    pub(super) fn about(self, subject: &str) -> Self {
        match self {
            Self::Refused { url, what, why } => Self::Refused { url, what, why: format!("{subject}: {why}") },
            other => other,
        }
    }

    /// What came instead of an answer to what was asked with this right.
    pub(super) fn of(error: kube::Error, url: &str, namespace: &str, right: Right) -> Self {
        let (url, what) = (url.to_owned(), right.to_string());
        match error {
            kube::Error::Api(status) if status.code == 401 => Self::Unauthorized { url },
            kube::Error::Api(status) if status.is_forbidden() => Self::Denied { what, namespace: namespace.to_owned() },
            kube::Error::Api(status) => Self::Refused { url, what, why: status.message },
            kube::Error::Service(error) => Self::Unreachable { url, why: cause(error.as_ref()) },
            kube::Error::HyperError(error) => Self::Unreachable { url, why: cause(&error) },
            kube::Error::Auth(error) => Self::Kubeconfig { why: cause(&error) },
            other => Self::Refused { url, what, why: cause(&other) },
        }
    }
}

/// What is at the bottom of an error.
fn cause(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// The names where they are few, else those that resemble this one.
fn near(name: &str, known: &[String]) -> String {
    if known.len() <= FEW {
        let all = if known.is_empty() { "none that may be listed".to_owned() } else { known.join(", ") };
        return format!("there are: {all}");
    }
    let mut known: Vec<&String> = known.iter().collect();
    known.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
    let near: Vec<&str> = known.iter().take(3).map(|name| name.as_str()).collect();
    format!("the nearest of {} are: {}", known.len(), near.join(", "))
}
