//! The Service and the nodes: a table for each node, from which clients take the address of their next connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::client::{Route, Table};
use crate::model::service::{Conditions, Input, Lags, NodeId, Output, PodId, Service};
use crate::recorder::Recorder;
use crate::timeline::{EndpointState, Event, ProcessId};
use crate::topology::Member;
use crate::topology::driven::{Clock, Driven};

/// Who sees what the EndpointSlice says.
const API: &str = "api";

/// The Service and the nodes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Proxies {
    service: Arc<Driven<Service>>,
    nodes: Arc<Nodes>,
}

/// What is so on each node.
struct Nodes {
    tables: Vec<Arc<Table>>,
    addresses: Mutex<BTreeMap<PodId, SocketAddr>>,
    /// Those to which each node sends new connections.
    rules: watch::Sender<Vec<Vec<PodId>>>,
    recorder: Recorder,
}

impl Proxies {
    pub fn start(clock: &Clock, recorder: &Recorder, lags: Lags, nodes: usize, seed: u64) -> Self {
        let nodes = Arc::new(Nodes {
            tables: std::iter::repeat_with(Arc::default).take(nodes).collect(),
            addresses: Mutex::default(),
            rules: watch::Sender::new(vec![Vec::new(); nodes]),
            recorder: recorder.clone(),
        });
        let own = nodes.clone();
        let count = nodes.tables.len();
        let model = |_| Service::new(lags, count, seed);
        let service = Driven::start(clock, model, move |_| Box::new(move |output| own.carry_out(output)));
        Self { service, nodes }
    }

    pub fn route(&self) -> Route {
        Route::nodes(self.nodes.tables.clone())
    }

    /// Waits until every node sends connections to all of these; `false` where one does not within this time.
    pub async fn known(&self, members: &[Member], within: Duration) -> bool {
        let mut rules = self.nodes.rules.subscribe();
        let on_all = |rules: &Vec<Vec<PodId>>| {
            rules.iter().all(|pods| members.iter().all(|member| pods.contains(&PodId(member.process))))
        };
        tokio::time::timeout(within, rules.wait_for(on_all)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// A pod has an address.
    pub fn created(&self, member: Member) {
        let pod = PodId(member.process);
        self.nodes.addresses.lock().unwrap_or_else(PoisonError::into_inner).insert(pod, member.address);
        self.service.apply(Input::Created(pod));
    }

    /// A pod is ready, or is not any more.
    pub fn ready(&self, process: ProcessId, ready: bool) {
        self.service.apply(Input::Ready(PodId(process), ready));
    }

    /// A pod is deleted.
    pub fn deleted(&self, process: ProcessId) {
        self.service.apply(Input::Deleted(PodId(process)));
    }

    /// A pod is no more.
    pub fn gone(&self, process: ProcessId) {
        self.service.apply(Input::Gone(PodId(process)));
    }
}

impl Nodes {
    fn carry_out(&self, output: Output) {
        match output {
            Output::Slice(pod, conditions) => self.note(API.to_owned(), pod, state(conditions)),
            Output::Rules(node, pods) => self.write(node, pods),
        }
    }

    fn write(&self, node: NodeId, pods: Vec<PodId>) {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(table) = self.tables.get(node.0) else { return };
        table.set(pods.iter().filter_map(|pod| addresses.get(pod).copied()).collect());
        self.rules.send_modify(|rules| {
            let before = std::mem::replace(&mut rules[node.0], pods.clone());
            let gone = before.iter().filter(|pod| !pods.contains(pod)).map(|pod| (*pod, EndpointState::Gone));
            let come = pods.iter().filter(|pod| !before.contains(pod)).map(|pod| (*pod, EndpointState::Up));
            let observer = format!("node {}", node.0 + 1);
            gone.chain(come).for_each(|(pod, state)| self.note(observer.clone(), pod, state));
        });
    }

    fn note(&self, observer: String, pod: PodId, state: EndpointState) {
        self.recorder.record(Event::Endpoint { observer, process: pod.0, state });
    }
}

/// What the conditions of an endpoint come to.
fn state(conditions: Option<Conditions>) -> EndpointState {
    match conditions {
        None => EndpointState::Gone,
        Some(Conditions { serving: true, terminating: false }) => EndpointState::Up,
        Some(Conditions { serving: true, terminating: true }) => EndpointState::Draining,
        Some(Conditions { serving: false, terminating: false }) => EndpointState::Starting,
        Some(Conditions { serving: false, terminating: true }) => EndpointState::Down,
    }
}
