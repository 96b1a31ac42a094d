//! What a cluster says of a workload and of its pods, as the timeline has it.

use serde::{Deserialize, Serialize};

/// A kind of workload whose pods are replaced one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// Any number of pods, all alike.
    Deployment,
    /// Pods with names and storage of their own.
    StatefulSet,
    /// A pod on each node.
    DaemonSet,
}

impl WorkloadKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Deployment, Self::StatefulSet, Self::DaemonSet];

    /// As on a command line: `deployment`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
        }
    }
}

/// A workload as it is written: what decides how its pods are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Its kind.
    pub kind: WorkloadKind,
    /// How many pods it is to have.
    pub replicas: u32,
    /// How they are replaced.
    pub strategy: Strategy,
    /// For how long a pod may take to stop, its preStop hook included, in seconds.
    pub grace_s: u64,
    /// For how long a pod has to be ready before it counts as available, in seconds.
    #[serde(default)]
    pub min_ready_s: u64,
    /// Its containers, init containers left out.
    pub containers: Vec<ContainerSpec>,
    /// Services that select its pods.
    pub services: Vec<String>,
}

/// How pods are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Strategy {
    /// Some at a time: so many may be missing, and so many more may be there than are wanted.
    Rolling {
        /// So many may be missing.
        max_unavailable: u32,
        /// So many more may be there.
        max_surge: u32,
    },
    /// All old ones are stopped before a new one is started.
    Recreate,
    /// Whenever somebody deletes one.
    OnDelete,
}

/// A container of a pod, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Its name.
    pub name: String,
    /// What runs in it before it gets the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Hook>,
    /// Whether somebody asks it whether it is ready.
    pub readiness: bool,
    /// Ports to which Services send, or else those that it names itself.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Whether a Service sends to it.
    #[serde(default)]
    pub serves: bool,
}

/// A preStop hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Hook {
    /// The kubelet waits.
    Sleep {
        /// For so long, in seconds.
        seconds: u64,
    },
    /// A program runs in the container.
    Exec {
        /// It and its arguments.
        command: Vec<String>,
    },
    /// The container is asked.
    Http {
        /// This path.
        path: String,
    },
    /// Anything else.
    Other,
}

impl Hook {
    /// In words.
    pub fn words(&self) -> String {
        match self {
            Self::Sleep { seconds } => format!("sleep {seconds}s"),
            Self::Exec { command } => format!("exec {}", command.join(" ")),
            Self::Http { path } => format!("httpGet {path}"),
            Self::Other => "some hook".to_owned(),
        }
    }

    /// For how long it holds the signal back, where that can be read.
    pub fn seconds(&self) -> Option<u64> {
        match self {
            Self::Sleep { seconds } => Some(*seconds),
            Self::Exec { command } => {
                let text = command.join(" ");
                let mut words = text.split_whitespace().skip_while(|word| !word.ends_with("sleep")).skip(1);
                let number = words.next()?.trim_end_matches(|c: char| !c.is_ascii_digit());
                number.parse::<f64>().ok().map(|seconds| seconds.ceil() as u64)
            }
            Self::Http { .. } | Self::Other => None,
        }
    }
}

/// How far a cluster is with what is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Which writing this is about.
    pub generation: i64,
    /// Which one the controller has seen.
    pub observed: i64,
    /// Pods that are wanted.
    pub desired: u32,
    /// Pods there are, those that stop left out.
    pub present: u32,
    /// Of these, those of the newest writing.
    pub updated: u32,
    /// Of all, those that are ready, and have been for long enough.
    pub available: u32,
    /// Why the controller has given up, where it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Progress {
    /// Whether nothing is left to be done but for old pods to stop.
    pub fn complete(&self) -> bool {
        self.observed >= self.generation
            && [self.present, self.updated, self.available].iter().all(|count| *count == self.desired)
    }
}

/// Where a rollout is that the harness waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// The harness has asked for new pods, by the annotation that `kubectl rollout restart` sets.
    Asked,
    /// All pods are new and available, and the last of the old ones is gone.
    Complete,
    /// It is not, and is waited for no longer.
    GivenUp,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PodFact {
    /// It exists.
    Created,
    /// It has a node.
    Scheduled {
        /// Its name.
        node: String,
    },
    /// A container's first process runs.
    Started {
        /// The container.
        container: String,
    },
    /// It gets requests, if the rest of the cluster knows already.
    Ready,
    /// It is not ready any more.
    NotReady,
    /// It is to stop, within so many seconds.
    Deleted {
        /// The grace period.
        grace_s: u64,
    },
    /// A container waits for something that it may never get, such as its image.
    Waiting {
        /// The container.
        container: String,
        /// Why.
        reason: String,
    },
    /// A container's first process has ended.
    Terminated {
        /// The container.
        container: String,
        /// Its exit status; above 128 that of a signal, mostly.
        code: i32,
        /// What the runtime says to that.
        reason: String,
    },
    /// It does not exist any more.
    Gone,
}
