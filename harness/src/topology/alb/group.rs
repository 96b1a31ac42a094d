//! The model with a clock: one mutex around it, one task that wakes it, and what it wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pool::Link;
use super::{Refused, Seen, check};
use crate::model::target_group::{
    Check, Fault, Input, NodeId, Observer, Output, Settings, State, TargetGroup, TargetId,
};

/// The target group, as nodes and the API share it.
pub struct Group {
    /// The settings, as they were given.
    pub settings: Settings,
    /// Cancelled where the balancer is dropped.
    pub stop: CancellationToken,
    begun: Instant,
    runtime: Handle,
    members: Mutex<Members>,
    told: Box<dyn Fn(Seen) + Send + Sync>,
    /// The model wants to be woken at another time than before, perhaps.
    woken: Notify,
    /// Something is otherwise than before, perhaps.
    changed: watch::Sender<()>,
}

/// What changes.
pub struct Members {
    model: TargetGroup,
    addresses: BTreeMap<TargetId, SocketAddr>,
    /// Open connections to targets, by number.
    open: BTreeMap<u64, (NodeId, TargetId, Arc<Link>)>,
    opened: u64,
    completed: BTreeSet<(TargetId, NodeId)>,
}

impl Members {
    /// What an observer makes of a target.
    pub fn state(&self, observer: Observer, target: TargetId) -> State {
        self.model.state(observer, target)
    }

    /// On how many nodes deregistration of this target is complete.
    pub fn completed(&self, target: TargetId) -> usize {
        self.completed.iter().filter(|(of, _)| *of == target).count()
    }
}

/// An open connection to a target; dropping it says that it has ended.
pub struct Opened {
    group: Arc<Group>,
    number: u64,
}

impl Group {
    /// An empty group.
    pub fn new(settings: Settings, lags: &[Duration], told: Box<dyn Fn(Seen) + Send + Sync>) -> Self {
        let members = Members {
            model: TargetGroup::new(settings.clone(), lags),
            addresses: BTreeMap::new(),
            open: BTreeMap::new(),
            opened: 0,
            completed: BTreeSet::new(),
        };
        Self {
            settings,
            stop: CancellationToken::new(),
            begun: Instant::now(),
            runtime: Handle::current(),
            members: Mutex::new(members),
            told,
            woken: Notify::new(),
            changed: watch::Sender::new(()),
        }
    }

    /// Runs a task until it ends, or the balancer is dropped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.runtime.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// The time of the model.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Wakes the model when it wants to be woken.
    pub async fn drive(group: Arc<Self>) {
        loop {
            let next = group.lock().model.next();
            match next.map(|at| at.saturating_sub(group.now())) {
                Some(pause) => tokio::select! {
                    () = tokio::time::sleep(pause) => group.advance(),
                    () = group.woken.notified() => {}
                },
                None => group.woken.notified().await,
            }
        }
    }

    /// Tells the model what happens.
    pub fn apply(self: &Arc<Self>, input: Input) {
        let mut members = self.lock();
        self.apply_locked(&mut members, input);
    }

    /// Registers a target that listens there.
    pub fn register(self: &Arc<Self>, target: TargetId, address: SocketAddr) -> Result<(), Refused> {
        let mut members = self.lock();
        if members.state(Observer::Api, target).is_registered() {
            return Ok(());
        }
        let before = members.addresses.insert(target, address);
        if self.apply_locked(&mut members, Input::Register(target)) {
            if let Some(address) = before {
                members.addresses.insert(target, address);
            }
            return Err(Refused { target });
        }
        members.completed.retain(|(of, _)| *of != target);
        Ok(())
    }

    /// Where a node sends a request.
    pub fn choose(&self, node: NodeId) -> Option<(TargetId, SocketAddr)> {
        let (now, mut members) = (self.now(), self.lock());
        let target = members.model.choose(now, node)?.target;
        members.addresses.get(&target).map(|address| (target, *address))
    }

    /// Whether a node may send a request on a connection on which nothing has moved since `last_used`.
    pub fn may_reuse(&self, node: NodeId, target: TargetId, last_used: Duration) -> bool {
        let (now, mut members) = (self.now(), self.lock());
        members.model.may_reuse(now, node, target, last_used)
    }

    /// A node has opened a connection. Where the delay has passed meanwhile it is cut at once.
    pub fn opened(self: &Arc<Self>, node: NodeId, target: TargetId, link: Arc<Link>) -> Opened {
        let mut members = self.lock();
        members.opened += 1;
        let number = members.opened;
        members.open.insert(number, (node, target, link.clone()));
        members.completed.remove(&(target, node));
        self.apply_locked(&mut members, Input::Opened { node, target });
        if members.state(Observer::Node(node), target) == State::Unused {
            link.end(Fault::DelayElapsed);
        }
        Opened { group: self.clone(), number }
    }

    /// What an observer makes of a target now.
    pub fn state(self: &Arc<Self>, observer: Observer, target: TargetId) -> State {
        self.advance();
        self.lock().state(observer, target)
    }

    /// Waits until something is so; `false` where it is not within this time.
    pub async fn reached(&self, within: Duration, is_so: impl Fn(&Members) -> bool) -> bool {
        let mut changed = self.changed.subscribe();
        let wait = async {
            while !is_so(&self.lock()) {
                if changed.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(within, wait).await.unwrap_or(false)
    }

    fn advance(self: &Arc<Self>) {
        let mut members = self.lock();
        let outputs = members.model.advance(self.now());
        self.carry_out(&mut members, outputs);
    }

    /// Says whether a registration was refused.
    fn apply_locked(self: &Arc<Self>, members: &mut Members, input: Input) -> bool {
        let outputs = members.model.apply(self.now(), input);
        self.carry_out(members, outputs)
    }

    /// Does what the model says, under the lock, so that everybody hears it in order.
    fn carry_out(self: &Arc<Self>, members: &mut Members, outputs: Vec<(Duration, Output)>) -> bool {
        let mut refused = false;
        for (_, output) in outputs {
            match output {
                Output::State { observer, target, state, reason } => {
                    if !self.stop.is_cancelled() {
                        (self.told)(Seen { observer, target, state, reason });
                    }
                }
                Output::Refused { .. } => refused = true,
                Output::CheckDue { check } => {
                    if let Some(address) = members.addresses.get(&check.target) {
                        self.spawn(self.clone().check(check, *address));
                    }
                }
                Output::Completed { node, target } => {
                    members.completed.insert((target, node));
                }
                Output::Cut { node, target } => {
                    let cut = members.open.values().filter(|(at, to, _)| (*at, *to) == (node, target));
                    cut.for_each(|(_, _, link)| link.end(Fault::DelayElapsed));
                }
            }
        }
        self.woken.notify_one();
        self.changed.send_replace(());
        refused
    }

    async fn check(self: Arc<Self>, check: Check, address: SocketAddr) {
        let outcome = check::check(address, &self.settings).await;
        self.apply(Input::Checked { check, outcome });
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let mut members = self.group.lock();
        if let Some((node, target, _)) = members.open.remove(&self.number) {
            self.group.apply_locked(&mut members, Input::Closed { node, target });
        }
    }
}
