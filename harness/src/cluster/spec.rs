//! Workloads as they are written: three kinds of resource, one description.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, PodTemplateSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::follow::Followed;
use crate::timeline::{ContainerSpec, Hook, Progress, Strategy, WorkloadKind, WorkloadSpec};

/// What the API takes where nothing is written.
const GRACE_S: i64 = 30;

/// The name of a workload, such as `deployment/app`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

/// What names no workload.
#[derive(Debug, thiserror::Error)]
#[error("expected deployment/NAME, statefulset/NAME or daemonset/NAME; a command stands after --")]
pub struct BadName;

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (kind, name) = text.split_once('/').ok_or(BadName)?;
        let kind = match kind.to_ascii_lowercase().trim_end_matches(".apps") {
            "deployment" | "deployments" | "deploy" => WorkloadKind::Deployment,
            "statefulset" | "statefulsets" | "sts" => WorkloadKind::StatefulSet,
            "daemonset" | "daemonsets" | "ds" => WorkloadKind::DaemonSet,
            _ => return Err(BadName),
        };
        let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        (!name.is_empty() && name.len() <= 253 && name.chars().all(valid)).then_some(()).ok_or(BadName)?;
        Ok(Self { kind, name: name.to_owned() })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.word(), self.name)
    }
}

/// A resource whose pods are replaced when its template changes.
pub trait Rolls: Followed {
    /// What it is.
    const KIND: WorkloadKind;
    /// Which pods are its own.
    fn selector(&self) -> Option<&LabelSelector>;
    /// How its pods are made.
    fn template(&self) -> Option<&PodTemplateSpec>;
    /// How many it wants, how they are replaced, and for how many seconds each has to be ready.
    fn replaces(&self) -> (u32, Strategy, u64);
    /// How far it is.
    fn progress(&self) -> Progress;
    /// Why a restart would do nothing now, and what to do.
    fn stuck(&self) -> Option<&'static str> {
        const ON_DELETE: &str = "its strategy is OnDelete: name the command that replaces its pods after --";
        (self.replaces().1 == Strategy::OnDelete).then_some(ON_DELETE)
    }
}

fn count(number: Option<i32>) -> u32 {
    number.unwrap_or(0).max(0).cast_unsigned()
}

fn seconds(number: Option<i32>) -> u64 {
    u64::from(count(number))
}

/// A number of pods that is written as such, or as a share of them; shares of a pod that may be missing are none.
fn pods(written: Option<&IntOrString>, default: &str, of: u32, up: bool) -> u32 {
    let text = match written {
        Some(IntOrString::Int(number)) => return count(Some(*number)),
        Some(IntOrString::String(text)) => text.as_str(),
        None => default,
    };
    let share = text.trim_end_matches('%').parse::<f64>().unwrap_or(0.0) * f64::from(of) / 100.0;
    (if up { share.ceil() } else { share.floor() }) as u32
}

impl Rolls for Deployment {
    const KIND: WorkloadKind = WorkloadKind::Deployment;

    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }

    fn replaces(&self) -> (u32, Strategy, u64) {
        let Some(spec) = &self.spec else { return (0, Strategy::Recreate, 0) };
        let replicas = count(spec.replicas.or(Some(1)));
        let strategy = spec.strategy.as_ref();
        let strategy = match strategy.and_then(|strategy| strategy.type_.as_deref()) {
            Some("Recreate") => Strategy::Recreate,
            _ => {
                let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
                let missing = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
                let more = rolling.and_then(|rolling| rolling.max_surge.as_ref());
                let max_surge = pods(more, "25%", replicas, true);
                // As the controller does: where neither more nor fewer would be allowed, one may be missing.
                let max_unavailable = pods(missing, "25%", replicas, false).max(u32::from(max_surge == 0));
                Strategy::Rolling { max_unavailable, max_surge }
            }
        };
        (replicas, strategy, seconds(spec.min_ready_seconds))
    }

    fn progress(&self) -> Progress {
        let status = self.status.clone().unwrap_or_default();
        let failed = status.conditions.iter().flatten().find(|condition| {
            condition.type_ == "Progressing" && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
        });
        Progress {
            generation: self.metadata.generation.unwrap_or(0),
            observed: status.observed_generation.unwrap_or(0),
            desired: self.replaces().0,
            present: count(status.replicas),
            updated: count(status.updated_replicas),
            available: count(status.available_replicas),
            failed: failed.map(|condition| condition.message.clone().unwrap_or_else(|| condition.type_.clone())),
        }
    }

    fn stuck(&self) -> Option<&'static str> {
        let paused = self.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
        paused.then_some("it is paused: `kubectl rollout resume` goes on with it")
    }
}

impl Rolls for StatefulSet {
    const KIND: WorkloadKind = WorkloadKind::StatefulSet;

    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }

    fn replaces(&self) -> (u32, Strategy, u64) {
        let Some(spec) = &self.spec else { return (0, Strategy::Recreate, 0) };
        let replicas = count(spec.replicas.or(Some(1)));
        let update = spec.update_strategy.as_ref();
        let strategy = match update.and_then(|update| update.type_.as_deref()) {
            Some("OnDelete") => Strategy::OnDelete,
            _ => {
                let missing = update.and_then(|update| update.rolling_update.as_ref()?.max_unavailable.as_ref());
                let max_unavailable = pods(missing.or(Some(&IntOrString::Int(1))), "", replicas, true);
                Strategy::Rolling { max_unavailable, max_surge: 0 }
            }
        };
        (replicas, strategy, seconds(spec.min_ready_seconds))
    }

    fn progress(&self) -> Progress {
        let status = self.status.clone().unwrap_or_default();
        let desired = self.replaces().0;
        let update = self.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.rolling_update.as_ref());
        // Those below the partition are meant to stay as they are.
        let kept = count(update.and_then(|update| update.partition)).min(desired);
        Progress {
            generation: self.metadata.generation.unwrap_or(0),
            observed: status.observed_generation.unwrap_or(0),
            desired,
            present: count(Some(status.replicas)),
            updated: (count(status.updated_replicas) + kept).min(desired),
            available: count(status.available_replicas),
            failed: None,
        }
    }
}

impl Rolls for DaemonSet {
    const KIND: WorkloadKind = WorkloadKind::DaemonSet;

    fn selector(&self) -> Option<&LabelSelector> {
        self.spec.as_ref().map(|spec| &spec.selector)
    }

    fn template(&self) -> Option<&PodTemplateSpec> {
        self.spec.as_ref().map(|spec| &spec.template)
    }

    fn replaces(&self) -> (u32, Strategy, u64) {
        let Some(spec) = &self.spec else { return (0, Strategy::Recreate, 0) };
        let wanted = count(self.status.as_ref().map(|status| status.desired_number_scheduled));
        let update = spec.update_strategy.as_ref();
        let strategy = match update.and_then(|update| update.type_.as_deref()) {
            Some("OnDelete") => Strategy::OnDelete,
            _ => {
                let rolling = update.and_then(|update| update.rolling_update.as_ref());
                let missing = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
                let more = rolling.and_then(|rolling| rolling.max_surge.as_ref());
                let max_unavailable = pods(missing.or(Some(&IntOrString::Int(1))), "", wanted, true);
                Strategy::Rolling { max_unavailable, max_surge: pods(more, "0%", wanted, true) }
            }
        };
        (wanted, strategy, seconds(spec.min_ready_seconds))
    }

    fn progress(&self) -> Progress {
        let status = self.status.clone().unwrap_or_default();
        Progress {
            generation: self.metadata.generation.unwrap_or(0),
            observed: status.observed_generation.unwrap_or(0),
            desired: count(Some(status.desired_number_scheduled)),
            present: count(Some(status.current_number_scheduled)),
            updated: count(status.updated_number_scheduled),
            available: count(status.number_available),
            failed: None,
        }
    }
}

/// A selector as the API takes it in a query.
pub(super) fn query(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(name, value)| format!("{name}={value}"));
    let others = selector.match_expressions.iter().flatten().map(|rule| {
        let (key, values) = (&rule.key, rule.values.clone().unwrap_or_default().join(","));
        match rule.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    equal.chain(others).collect::<Vec<_>>().join(",")
}

/// Those of these Services that select the pods of this template.
pub(super) fn selecting<'s>(services: &'s [Service], template: &PodTemplateSpec) -> Vec<&'s Service> {
    let labels: BTreeMap<String, String> =
        template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let selects = |service: &&Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v)))
    };
    services.iter().filter(selects).collect()
}

/// The description of a workload whose pods these Services select.
pub(super) fn describe(workload: &impl Rolls, services: &[&Service]) -> WorkloadSpec {
    fn kind<W: Rolls>(_: &W) -> WorkloadKind {
        W::KIND
    }
    let (replicas, strategy, min_ready_s) = workload.replaces();
    let pod = workload.template().and_then(|template| template.spec.clone()).unwrap_or_default();
    WorkloadSpec {
        kind: kind(workload),
        replicas,
        strategy,
        grace_s: pod.termination_grace_period_seconds.unwrap_or(GRACE_S).max(0).cast_unsigned(),
        min_ready_s,
        containers: containers(&pod.containers, services),
        services: services.iter().filter_map(|service| service.metadata.name.clone()).collect(),
    }
}

fn containers(written: &[Container], services: &[&Service]) -> Vec<ContainerSpec> {
    let own = |container: &Container| -> Vec<u16> {
        container.ports.iter().flatten().filter_map(|port| u16::try_from(port.container_port).ok()).collect()
    };
    let ports = services.iter().filter_map(|service| service.spec.as_ref()?.ports.as_ref()).flatten();
    let targets: Vec<IntOrString> =
        ports.map(|port| port.target_port.clone().unwrap_or(IntOrString::Int(port.port))).collect();
    let sent_to = |container: &Container| -> Vec<u16> {
        let named = |name: &str| container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
        let port = |target: &IntOrString| match target {
            IntOrString::Int(port) => u16::try_from(*port).ok().filter(|port| own(container).contains(port)),
            IntOrString::String(name) => named(name).and_then(|port| u16::try_from(port.container_port).ok()),
        };
        targets.iter().filter_map(port).collect()
    };
    let mut found: Vec<ContainerSpec> = written
        .iter()
        .map(|container| {
            let sent = sent_to(container);
            ContainerSpec {
                name: container.name.clone(),
                pre_stop: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()).map(hook),
                readiness: container.readiness_probe.is_some(),
                serves: !sent.is_empty(),
                ports: if sent.is_empty() { own(container) } else { sent },
            }
        })
        .collect();
    if !found.iter().any(|container| container.serves) {
        // Containers need not say which ports they use: the first one that names any, or else the first.
        let first = found.iter().position(|container| !container.ports.is_empty()).unwrap_or(0);
        if let Some(container) = found.get_mut(first) {
            container.serves = true;
            let number = |target: &IntOrString| match target {
                IntOrString::Int(port) => u16::try_from(*port).ok(),
                IntOrString::String(_) => None,
            };
            if container.ports.is_empty() {
                container.ports = targets.iter().filter_map(number).collect();
            }
        }
    }
    found
}

fn hook(written: &LifecycleHandler) -> Hook {
    if let Some(sleep) = &written.sleep {
        return Hook::Sleep { seconds: sleep.seconds.max(0).cast_unsigned() };
    }
    if let Some(exec) = &written.exec {
        return Hook::Exec { command: exec.command.clone().unwrap_or_default() };
    }
    match &written.http_get {
        Some(get) => Hook::Http { path: get.path.clone().unwrap_or_else(|| "/".to_owned()) },
        None => Hook::Other,
    }
}
