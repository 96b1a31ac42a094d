//! A real cluster before a fleet: the manifests in a namespace of their own, a Service at a port of every node, and what the
//! cluster says of pods and endpoints on the timeline.

mod pods;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{FrontError, Stage, kustomize};
use crate::catalog::Topology;
use crate::client::{Route, Table};
use crate::cluster::{Choice, Cluster, ClusterError, Name, Watched, Workload};
use crate::process::guardian;
use crate::recorder::Recorder;
use crate::timeline::{Event, Hook, RolloutState, StepKind, WorkloadKind};
use pods::Known;

/// What the manifests call the Deployment and its Service.
const NAME: &str = "drainspec-server";
/// How long a rollout may take: images are there, and a pod has its grace.
const ROLLED_WITHIN: Duration = Duration::from_secs(120);

/// How long a node may take to know of the first pods, and a connection to come about.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// What is to be deployed.
pub struct Wanted<'w> {
    /// The server's name, which chooses the image.
    pub server: &'w str,
    /// How many pods.
    pub instances: usize,
    /// Variables of the container on top of the manifest's.
    pub environment: BTreeMap<String, String>,
}

/// A Deployment in a namespace of its own. Dropping it leaves the namespace to the guardian.
pub struct Deployed {
    cluster: Cluster,
    context: Option<String>,
    workload: Workload,
    watched: Watched,
    known: Known,
    table: Arc<Table>,
    recorder: Recorder,
    charge: guardian::Charge,
}

impl Deployed {
    pub(crate) async fn start(topology: &Topology, stage: &Stage<'_>, wanted: &Wanted<'_>) -> Result<Self, FrontError> {
        let Some(place) = &topology.cluster else { return Err(FrontError::NoCluster) };
        let resources = resources(&kustomize::build(&topology.folder).await?, place.image(wanted.server), wanted)?;
        let choice = Choice { context: place.context.clone(), namespace: None };
        let cluster = Cluster::connect(&choice).await?;
        let name = format!("drainspec-{:x}", jiff::Timestamp::now().as_microsecond());
        let charge = guardian::Charge::namespace(place.context.as_deref(), &name);
        let cluster = cluster.with_namespace(&name).await?;
        let context = place.context.clone();
        let begun = Self::begin(cluster.clone(), context, stage, &resources, wanted.instances, charge).await;
        match begun {
            Ok(deployed) => Ok(deployed),
            Err(error) => {
                let _ = cluster.delete_namespace().await; // what went wrong before is what is said
                Err(error)
            }
        }
    }

    async fn begin(
        cluster: Cluster,
        context: Option<String>,
        stage: &Stage<'_>,
        resources: &[Value],
        instances: usize,
        charge: guardian::Charge,
    ) -> Result<Self, FrontError> {
        cluster.apply(resources).await?;
        let name = Name { kind: WorkloadKind::Deployment, name: NAME.to_owned() };
        let workload = Workload::find(&cluster, &name).await?;
        let hook = workload.spec().containers.iter().find_map(|container| container.pre_stop.as_ref());
        let known = Known::new(instances, hook.map(Hook::words));
        let watched = Watched::start(&workload, stage.recorder, stage.process, known.listen()).await?;
        let recorder = stage.recorder.clone();
        let table = Arc::<Table>::default();
        let mut deployed = Self { cluster, context, workload, watched, known, table, recorder, charge };
        deployed.complete(deployed.workload.generation().await?).await?;
        let port = deployed.cluster.node_port(NAME).await?;
        let nodes = deployed.cluster.workers().await?;
        let address = |ip: &String| Some(SocketAddr::new(ip.parse().ok()?, port?));
        let addresses: Vec<SocketAddr> = nodes.iter().filter_map(|(_, ip)| address(ip)).collect();
        if addresses.is_empty() {
            let what = "the Service has a port at a node on which pods may run".to_owned();
            return Err(FrontError::Late { what, within: ROLLED_WITHIN });
        }
        for address in &addresses {
            takes_connections(*address).await?;
        }
        deployed.table.set(addresses);
        Ok(deployed)
    }

    /// Each node in turn: whichever it is, its rules decide.
    pub(crate) fn route(&self) -> Route {
        Route::Table(self.table.clone())
    }

    /// What the pods call themselves that are there and are not told to go.
    pub(crate) fn names(&self) -> Vec<String> {
        self.known.names()
    }

    /// Has all pods replaced, as `kubectl rollout restart` does, and waits until they are.
    pub(crate) async fn roll(&mut self) -> Result<(), FrontError> {
        self.recorder.record(Event::Step { slot: 1, what: StepKind::Start });
        let workload = self.workload.name().to_string();
        self.recorder.record(Event::Rollout { workload, state: RolloutState::Asked });
        let generation = self.workload.restart().await?;
        self.complete(generation).await
    }

    /// Deletes the oldest pod, and waits until another one is ready in its place.
    pub(crate) async fn delete_one(&mut self) -> Result<(), FrontError> {
        if let Some(pod) = self.known.oldest() {
            self.cluster.delete_pod(&pod).await?;
        }
        self.complete(self.workload.generation().await?).await
    }

    /// Leaves so many pods, and waits until the others are gone.
    pub(crate) async fn scale(&mut self, instances: usize) -> Result<(), FrontError> {
        let generation = self.cluster.scale(NAME, instances).await?;
        self.complete(generation).await
    }

    /// Drains the node of the oldest pod, and waits until there are as many pods as before.
    pub(crate) async fn drain_node(&mut self) -> Result<(), FrontError> {
        let node = match (self.known.node_of_oldest(), self.cluster.workers().await?.len()) {
            (Some(node), 2..) => node,
            _ => return Err(FrontError::OneNode),
        };
        let charge = guardian::Charge::cordon(self.context.as_deref(), &node);
        let drained = self.cluster.drain(&node).await;
        let complete = match drained {
            Ok(()) => self.complete(self.workload.generation().await?).await,
            Err(error) => Err(error.into()),
        };
        self.cluster.uncordon(&node).await?;
        charge.done();
        complete
    }

    async fn complete(&mut self, generation: i64) -> Result<(), FrontError> {
        let complete = self.watched.complete(generation, |_| {});
        let done = tokio::time::timeout(ROLLED_WITHIN, complete).await;
        let state = if done == Ok(true) { RolloutState::Complete } else { RolloutState::GivenUp };
        self.recorder.record(Event::Rollout { workload: self.workload.name().to_string(), state });
        match done {
            Ok(true) => Ok(()),
            _ => Err(FrontError::Late { what: "all pods are ready".to_owned(), within: ROLLED_WITHIN }),
        }
    }

    pub(crate) async fn stop(self) {
        drop(self.watched); // what becomes of the pods now is no doing of theirs
        if let Err(error) = self.cluster.delete_namespace().await {
            let line = format!("its namespace is still there: {error}");
            self.recorder.record(Event::Unconfirmed { what: "nothing is left behind".to_owned(), why: line });
            return; // the guardian tries again
        }
        self.charge.done();
    }
}

/// Waits until a node sends connections on: that pods are ready is not to say that it knows.
async fn takes_connections(node: SocketAddr) -> Result<(), FrontError> {
    let answers = async {
        loop {
            let connecting = tokio::time::timeout(CONNECTS_WITHIN, TcpStream::connect(node)).await;
            if matches!(connecting, Ok(Ok(_))) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let late = |_| FrontError::Late { what: format!("the Service answers at {node}"), within: KNOWN_WITHIN };
    tokio::time::timeout(KNOWN_WITHIN, answers).await.map_err(late)
}

/// What kustomize has made, with this image, so many pods, these variables, and a port at every node.
fn resources(text: &str, image: String, wanted: &Wanted<'_>) -> Result<Vec<Value>, FrontError> {
    let mut resources: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| super::io("reading manifests".to_owned())(std::io::Error::other(error.to_string())))?;
    for resource in &mut resources {
        match resource["kind"].as_str() {
            Some("Deployment") => {
                resource["spec"]["replicas"] = json!(wanted.instances);
                let container = &mut resource["spec"]["template"]["spec"]["containers"][0];
                container["image"] = json!(image);
                set_variables(container, &wanted.environment);
            }
            Some("Service") => resource["spec"]["type"] = json!("NodePort"),
            _ => {}
        }
    }
    Ok(resources)
}

fn set_variables(container: &mut Value, variables: &BTreeMap<String, String>) {
    let mut all = container["env"].as_array().cloned().unwrap_or_default();
    all.retain(|one| !one["name"].as_str().is_some_and(|name| variables.contains_key(name)));
    all.extend(variables.iter().map(|(name, value)| json!({ "name": name, "value": value })));
    container["env"] = Value::Array(all);
}

impl From<ClusterError> for FrontError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(Box::new(error))
    }
}
