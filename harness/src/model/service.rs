//! What a Kubernetes Service makes of its pods: the EndpointSlice says which of them are ready, and on each node
//! kube-proxy turns that into rules, a while later. New connections follow the rules of the node where they come in; those
//! that are open stay where they are.
//!
//! Driven from outside, as a [target group](super::target_group) is. How long news take differs from time to time: the
//! span is data, and so is the seed that chooses within it, so that a run can be repeated. What Kubernetes documents and
//! what is assumed is told in `docs/pod-model.md`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Model;

/// A pod, by the number of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub u32);

/// A node, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// At least so long, and at most so long.
pub type Span = [Duration; 2];

/// How slow the news are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lags {
    /// From a change of a pod until the EndpointSlice shows it.
    pub slice: Span,
    /// From there until kube-proxy of a node has heard of it.
    pub heard: Span,
    /// How long kube-proxy takes to write its rules.
    pub write: Span,
    /// From the beginning of one writing to the next, at least: `minSyncPeriod` of kube-proxy.
    pub between: Duration,
}

impl Default for Lags {
    /// What was measured on a cluster of two nodes, with the default `minSyncPeriod` of a second.
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { slice: [ms(5), ms(30)], heard: [ms(1), ms(10)], write: [ms(30), ms(90)], between: ms(1000) }
    }
}

/// What an EndpointSlice says of a pod.
///
/// Kubernetes: EndpointSlices, "Conditions".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// Its readiness probe succeeds.
    pub serving: bool,
    /// It is deleted.
    pub terminating: bool,
}

impl Conditions {
    /// Whether it is to get new connections.
    pub fn ready(self) -> bool {
        self.serving && !self.terminating
    }
}

/// What happens to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// It has an address, and is not ready yet.
    Created(PodId),
    /// It is ready, or is not any more.
    Ready(PodId, bool),
    /// It is deleted.
    Deleted(PodId),
    /// It is no more.
    Gone(PodId),
}

/// What is so from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The EndpointSlice says this of a pod; nothing, where it is not there any more.
    Slice(PodId, Option<Conditions>),
    /// New connections that come in at this node go to these pods.
    Rules(NodeId, Vec<PodId>),
}

/// A Service, and the nodes at which its users come in.
#[derive(Debug)]
pub struct Service {
    lags: Lags,
    jitter: Jitter,
    now: Duration,
    pods: BTreeMap<PodId, Conditions>,
    slice: BTreeMap<PodId, Conditions>,
    /// When the EndpointSlice is to be written, where it is not up to date.
    slice_due: Option<Duration>,
    nodes: Vec<Node>,
    outbox: Vec<Output>,
}

/// kube-proxy of a node.
#[derive(Debug, Default)]
struct Node {
    /// What it has heard of, and when it hears of what comes after that.
    known: BTreeMap<PodId, Conditions>,
    hears: VecDeque<(Duration, BTreeMap<PodId, Conditions>)>,
    /// Whether it has heard of something that its rules do not say yet.
    stale: bool,
    /// When it may write its rules again.
    rested: Duration,
    /// The rules that are being written, and when they are there.
    writing: Option<(Duration, Vec<PodId>)>,
    /// The rules that hold.
    rules: Vec<PodId>,
}

impl Model for Service {
    type Input = Input;
    type Output = Output;

    fn apply(&mut self, now: Duration, input: Input) -> Vec<Output> {
        self.run_until(now);
        let before = self.pods.clone();
        match input {
            Input::Created(pod) => {
                self.pods.entry(pod).or_insert(Conditions { serving: false, terminating: false });
            }
            Input::Ready(pod, ready) => {
                if let Some(conditions) = self.pods.get_mut(&pod) {
                    conditions.serving = ready;
                }
            }
            Input::Deleted(pod) => {
                if let Some(conditions) = self.pods.get_mut(&pod) {
                    conditions.terminating = true;
                }
            }
            Input::Gone(pod) => drop(self.pods.remove(&pod)),
        }
        if self.pods != before && self.slice_due.is_none() {
            self.slice_due = Some(self.now.saturating_add(self.jitter.within(self.lags.slice)));
        }
        self.advance(now)
    }

    fn advance(&mut self, now: Duration) -> Vec<Output> {
        self.run_until(now);
        self.outbox.drain(..).collect()
    }

    fn next(&self) -> Option<Duration> {
        if self.outbox.is_empty() { self.due() } else { Some(self.now) }
    }
}

impl Service {
    /// A Service without pods.
    pub fn new(lags: Lags, nodes: usize, seed: u64) -> Self {
        let nodes = (0..nodes).map(|_| Node::default()).collect();
        let (pods, slice) = (BTreeMap::new(), BTreeMap::new());
        let jitter = Jitter(seed);
        Self { lags, jitter, now: Duration::ZERO, pods, slice, slice_due: None, nodes, outbox: Vec::new() }
    }

    /// Where new connections that come in at a node go.
    pub fn rules(&self, node: NodeId) -> &[PodId] {
        self.nodes.get(node.0).map_or(&[], |node| &node.rules)
    }

    fn due(&self) -> Option<Duration> {
        self.nodes.iter().filter_map(Node::due).chain(self.slice_due).min()
    }

    fn run_until(&mut self, now: Duration) {
        let now = now.max(self.now);
        while let Some(at) = self.due().filter(|at| *at <= now) {
            self.now = at.max(self.now);
            if self.slice_due.take_if(|due| *due <= self.now).is_some() {
                self.write_slice();
            }
            for id in 0..self.nodes.len() {
                let (now, lags) = (self.now, self.lags);
                let write = || self.jitter.within(lags.write);
                if let Some(rules) = self.nodes[id].step(now, lags.between, write) {
                    self.outbox.push(Output::Rules(NodeId(id), rules));
                }
            }
        }
        self.now = now;
    }

    fn write_slice(&mut self) {
        let gone = self.slice.keys().filter(|pod| !self.pods.contains_key(pod)).map(|pod| (*pod, None));
        let now = self.pods.iter().map(|(pod, conditions)| (*pod, Some(*conditions)));
        let changed = gone.chain(now).filter(|(pod, conditions)| self.slice.get(pod).copied() != *conditions);
        self.outbox.extend(changed.map(|(pod, conditions)| Output::Slice(pod, conditions)));
        self.slice.clone_from(&self.pods);
        for node in &mut self.nodes {
            // In order: nobody hears of the later news first.
            let last = node.hears.back().map_or(Duration::ZERO, |(at, _)| *at);
            let at = self.now.saturating_add(self.jitter.within(self.lags.heard)).max(last);
            node.hears.push_back((at, self.slice.clone()));
        }
    }
}

impl Node {
    fn due(&self) -> Option<Duration> {
        let hears = self.hears.front().map(|(at, _)| *at);
        let written = self.writing.as_ref().map(|(at, _)| *at);
        let begins = (self.stale && self.writing.is_none()).then_some(self.rested);
        hears.into_iter().chain(written).chain(begins).min()
    }

    /// Does what is due, and says the rules that hold from now on, where they change.
    fn step(&mut self, now: Duration, between: Duration, write: impl FnOnce() -> Duration) -> Option<Vec<PodId>> {
        while self.hears.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, known)) = self.hears.pop_front() else { break };
            self.stale |= known != self.known;
            self.known = known;
        }
        let written = self.writing.take_if(|(at, _)| *at <= now).map(|(_, rules)| rules);
        if self.stale && self.writing.is_none() && self.rested <= now {
            self.stale = false;
            self.rested = now.saturating_add(between);
            self.writing = Some((now.saturating_add(write()), backends(&self.known)));
        }
        let rules = written.filter(|rules| *rules != self.rules)?;
        self.rules.clone_from(&rules);
        Some(rules)
    }
}

/// Who gets new connections: the pods that are ready, and where none is, those that still serve while they end.
///
/// Kubernetes: Services, "Traffic to terminating endpoints" (KEP-1669).
fn backends(known: &BTreeMap<PodId, Conditions>) -> Vec<PodId> {
    let those = |wanted: fn(&Conditions) -> bool| -> Vec<PodId> {
        known.iter().filter(|(_, conditions)| wanted(conditions)).map(|(pod, _)| *pod).collect()
    };
    let ready = those(|conditions| conditions.ready());
    if ready.is_empty() { those(|conditions| conditions.serving && conditions.terminating) } else { ready }
}

/// Numbers that look like chance and follow from a seed (splitmix64).
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    fn within(&mut self, [least, most]: Span) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        least.saturating_add(most.saturating_sub(least).mul_f64(share))
    }
}
