//! What Kubernetes manifests say of a pod, as the [model of a kubelet](crate::model::kubelet) takes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::CatalogError;
use crate::model::kubelet::{Get, Hook, Port, Probe, Settings};

/// Names of a container's ports.
const PORTS: [(&str, Port); 2] = [("http", Port::Traffic), ("admin", Port::Admin)];
/// Kubernetes takes these where a manifest says nothing, in seconds and counts.
const GRACE: i64 = 30;
const PERIOD: i32 = 10;
const TIMEOUT: i32 = 1;
const SUCCESSES: i32 = 1;
const FAILURES: i32 = 3;
/// How long the kubelet takes to hear of a deletion: what was measured on a cluster of two nodes.
const HEARD_AFTER: Duration = Duration::from_millis(27);

/// A Deployment of one container, as a folder of manifests has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the kubelet does with each of its pods.
    pub pod: Settings,
    /// Variables of the container, but for its addresses.
    pub environment: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads what `kustomize build` has made of a folder.
    ///
    /// # Errors
    /// Where it is no YAML, holds no Deployment or several, or says what the model does not know.
    pub fn read(folder: &Path, text: &str) -> Result<Self, CatalogError> {
        let reader = Reader { path: folder.join("kustomization.yaml") };
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(text).map_err(|error| reader.fault("kustomize build", error.to_string()))?;
        let mut deployments = documents.into_iter().filter(|document| document["kind"] == "Deployment");
        let deployment = match (deployments.next(), deployments.next()) {
            (Some(one), None) => one,
            (None, _) => return Err(reader.fault("kind", "there is no Deployment".to_owned())),
            (Some(_), Some(_)) => return Err(reader.fault("kind", "there are several Deployments".to_owned())),
        };
        let deployment: Deployment =
            serde_json::from_value(deployment).map_err(|error| reader.fault("Deployment", error.to_string()))?;
        reader.deployment(deployment)
    }
}

/// Whoever reads knows where a fault is.
struct Reader {
    path: PathBuf,
}

impl Reader {
    fn fault(&self, key: &str, reason: String) -> CatalogError {
        CatalogError::Value { path: self.path.clone(), key: key.to_owned(), reason }
    }

    fn deployment(&self, deployment: Deployment) -> Result<Manifest, CatalogError> {
        let pod = deployment.spec.and_then(|spec| spec.template.spec).unwrap_or_default();
        let [container] = &pod.containers[..] else {
            return Err(self.fault("containers", format!("expected one, found {}", pod.containers.len())));
        };
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let probe = |key: &str, probe: &Option<core::Probe>| {
            probe.as_ref().map(|probe| self.probe(key, container, probe)).transpose()
        };
        let pod = Settings {
            grace: self
                .seconds("terminationGracePeriodSeconds", pod.termination_grace_period_seconds.unwrap_or(GRACE))?,
            hook: hook.map(|hook| self.hook(container, hook)).transpose()?,
            startup: probe("startupProbe", &container.startup_probe)?,
            readiness: probe("readinessProbe", &container.readiness_probe)?,
            liveness: probe("livenessProbe", &container.liveness_probe)?,
            lag: HEARD_AFTER,
        };
        let variables = container.env.iter().flatten().filter_map(|one| Some((one.name.clone(), one.value.clone()?)));
        let is_address = |name: &str| name.ends_with("HOST") || name.ends_with("PORT");
        Ok(Manifest { pod, environment: variables.filter(|(name, _)| !is_address(name)).collect() })
    }

    fn hook(&self, container: &core::Container, hook: &core::LifecycleHandler) -> Result<Hook, CatalogError> {
        match (&hook.sleep, &hook.exec, &hook.http_get) {
            (Some(sleep), None, None) => Ok(Hook::Sleep(self.seconds("preStop.sleep.seconds", sleep.seconds)?)),
            (None, Some(exec), None) => match exec.command.clone().unwrap_or_default() {
                command if command.is_empty() => Err(self.fault("preStop.exec.command", "it is empty".to_owned())),
                command => Ok(Hook::Exec(command)),
            },
            (None, None, Some(get)) => Ok(Hook::Get(self.get("preStop.httpGet", container, get)?)),
            _ => Err(self.fault("preStop", "expected one of `sleep`, `exec` and `httpGet`".to_owned())),
        }
    }

    fn probe(&self, key: &str, container: &core::Container, probe: &core::Probe) -> Result<Probe, CatalogError> {
        let Some(get) = &probe.http_get else {
            return Err(self.fault(key, "the model knows `httpGet` alone".to_owned()));
        };
        let seconds = |name: &str, value: Option<i32>, default: i32| {
            self.seconds(&format!("{key}.{name}"), i64::from(value.unwrap_or(default)))
        };
        let count = |value: Option<i32>, default: i32| u32::try_from(value.unwrap_or(default)).unwrap_or(1).max(1);
        Ok(Probe {
            get: self.get(key, container, get)?,
            delay: seconds("initialDelaySeconds", probe.initial_delay_seconds, 0)?,
            period: seconds("periodSeconds", probe.period_seconds, PERIOD)?,
            timeout: seconds("timeoutSeconds", probe.timeout_seconds, TIMEOUT)?,
            successes: count(probe.success_threshold, SUCCESSES),
            failures: count(probe.failure_threshold, FAILURES),
        })
    }

    fn get(&self, key: &str, container: &core::Container, get: &core::HTTPGetAction) -> Result<Get, CatalogError> {
        let named = |port: &core::ContainerPort| match &get.port {
            IntOrString::Int(number) => port.container_port == *number,
            IntOrString::String(name) => port.name.as_ref() == Some(name),
        };
        let port = container.ports.iter().flatten().find(|port| named(port)).and_then(|port| port.name.as_deref());
        let port = PORTS.iter().find(|(name, _)| port == Some(*name)).map(|(_, port)| *port);
        let Some(port) = port else {
            let asked = match &get.port {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => format!("`{name}`"),
            };
            let reason = format!("port {asked} is none of the container's ports `http` and `admin`");
            return Err(self.fault(&format!("{key}.port"), reason));
        };
        Ok(Get { path: get.path.clone().unwrap_or_else(|| "/".to_owned()), port })
    }

    fn seconds(&self, key: &str, seconds: i64) -> Result<Duration, CatalogError> {
        let known = u64::try_from(seconds).ok().filter(|seconds| *seconds <= 86_400);
        known.map(Duration::from_secs).ok_or_else(|| self.fault(key, format!("{seconds} is no number of seconds")))
    }
}
