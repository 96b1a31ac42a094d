//! Changes of a workload as strategic-merge patches, and the command that applies one. Pure.

use super::pods::Roll;
use crate::timeline::{Hook, WorkloadKind};

/// A change that is advised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A preStop sleep, and the grace that has room for it.
    Hook {
        /// Its length, in seconds.
        sleep_s: u64,
        /// The grace, in seconds.
        grace_s: u64,
        /// The hook that goes.
        instead_of: Option<Hook>,
    },
    /// Another grace.
    Grace {
        /// In seconds.
        grace_s: u64,
    },
    /// A readiness probe.
    Readiness {
        /// What it asks for.
        path: String,
        /// Where.
        port: u16,
    },
    /// New pods before old ones are stopped.
    Surge {
        /// Of what: the field has two names.
        kind: WorkloadKind,
    },
    /// Another number of pods.
    Replicas {
        /// How many.
        replicas: u32,
    },
}

impl Change {
    /// The patch, for the container of this name.
    pub fn yaml(&self, container: &str) -> String {
        let pod = |pod: &str, inside: &str| {
            let mut out = "spec:\n  template:\n    spec:\n".to_owned();
            out += pod;
            if !inside.is_empty() {
                out += &format!("      containers:\n      - name: {container}\n{inside}");
            }
            out
        };
        match self {
            Self::Hook { sleep_s, grace_s, instead_of } => {
                // A hook is one of several: the old one does not go by itself.
                let old = match instead_of {
                    Some(Hook::Exec { .. }) => "            exec: null\n",
                    Some(Hook::Http { .. }) => "            httpGet: null\n",
                    Some(Hook::Other) => "            tcpSocket: null\n",
                    Some(Hook::Sleep { .. }) | None => "",
                };
                let hook = format!(
                    "        lifecycle:\n          preStop:\n{old}            sleep:\n              seconds: {sleep_s}\n"
                );
                pod(&format!("      terminationGracePeriodSeconds: {grace_s}\n"), &hook)
            }
            Self::Grace { grace_s } => pod(&format!("      terminationGracePeriodSeconds: {grace_s}\n"), ""),
            Self::Readiness { path, port } => {
                // A path may hold what means something else in YAML.
                let path = path.replace('\\', "\\\\").replace('"', "\\\"");
                let probe = format!(
                    "        readinessProbe:\n          httpGet:\n            path: \"{path}\"\n            port: {port}\n          periodSeconds: 1\n"
                );
                pod("", &probe)
            }
            Self::Surge { kind } => {
                let field = if *kind == WorkloadKind::Deployment { "strategy" } else { "updateStrategy" };
                format!(
                    "spec:\n  {field}:\n    type: RollingUpdate\n    rollingUpdate:\n      maxSurge: 1\n      maxUnavailable: 0\n"
                )
            }
            Self::Replicas { replicas } => format!("spec:\n  replicas: {replicas}\n"),
        }
    }
}

/// The command that applies a patch, which it holds: to be copied whole.
pub fn command(roll: &Roll, context: Option<&str>, patch: &str) -> String {
    let context = context.map_or(String::new(), |name| format!(" --context '{}'", name.replace('\'', r"'\''")));
    let (namespace, workload) = (&roll.namespace, &roll.workload);
    format!("kubectl{context} -n {namespace} patch {workload} --patch-file /dev/stdin <<'EOF'\n{patch}EOF")
}
