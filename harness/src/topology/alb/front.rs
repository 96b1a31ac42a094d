//! The model of an ALB before a fleet: instances are registered, deregistered and waited for as ECS and Kubernetes do.

use std::sync::Arc;
use std::time::Duration;

use super::{Alb, Refused, Seen};
use crate::catalog::terraform::Terraform;
use crate::catalog::{Topology, Withdrawal};
use crate::client::{Route, Table};
use crate::model::target_group::{Observer, State, TargetId};
use crate::timeline::{EndpointState, Event};
use crate::topology::{FrontError, Member, Stage, io};

/// How long news is under way between the API and each node. Nobody promises a number: these are assumed, and as much
/// hurried as all else.
const LAGS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(9)];
/// How long a target may take to become healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);
/// How much longer than the deregistration delay a target may take to be drained.
const SLACK: Duration = Duration::from_secs(10);

/// An ALB before a fleet. Each instance is another target, as each task and each pod has an address of its own.
pub struct AlbFront {
    alb: Alb,
    withdraw: Withdrawal,
    drained_within: Duration,
    targets: Vec<TargetId>,
}

impl AlbFront {
    pub(crate) async fn start(topology: &Topology, stage: &Stage<'_>, members: &[Member]) -> Result<Self, FrontError> {
        let terraform = Terraform::load(&topology.folder).map_err(FrontError::Files)?;
        for line in terraform.notes {
            stage.recorder.record(Event::Log { process: stage.process, line });
        }
        let settings = terraform.settings.scaled(topology.pace());
        let drained_within = settings.deregistration_delay + SLACK;
        let lags = LAGS.map(|lag| lag.mul_f64(topology.pace()));
        let recorder = stage.recorder.clone();
        let told = move |seen: Seen| {
            let observer = match seen.observer {
                Observer::Api => "api".to_owned(),
                Observer::Node(node) => format!("node {}", node.0 + 1),
            };
            recorder.record(Event::Endpoint { observer, process: seen.target.0, state: state(seen.state) });
        };
        let alb = Alb::start(settings, &lags, told).await.map_err(io("starting the model of an ALB".to_owned()))?;
        let mut front =
            Self { alb, withdraw: topology.spec.withdraw, drained_within, targets: vec![TargetId(0); members.len()] };
        for (place, member) in members.iter().enumerate() {
            front.register(place, *member)?;
        }
        for place in 0..members.len() {
            front.is_healthy(place).await?;
        }
        Ok(front)
    }

    /// The name of a balancer resolves to all of its nodes.
    pub(crate) fn route(&self) -> Route {
        let table = Table::default();
        table.set(self.alb.addresses());
        Route::Table(Arc::new(table))
    }

    pub(crate) async fn withdraw(&mut self, place: usize) -> Result<(), FrontError> {
        let Some(target) = self.targets.get(place).copied() else { return Ok(()) };
        self.alb.deregister(target);
        match self.withdraw {
            Withdrawal::Deregister if !self.alb.drained(target, self.drained_within).await => {
                let what = format!("the target of instance {} is drained", place + 1);
                Err(FrontError::Late { what, within: self.drained_within })
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn admit(&mut self, place: usize, member: Member) -> Result<(), FrontError> {
        self.register(place, member)?;
        self.is_healthy(place).await
    }

    fn register(&mut self, place: usize, member: Member) -> Result<(), FrontError> {
        let target = TargetId(member.process);
        if let Some(own) = self.targets.get_mut(place) {
            *own = target;
        }
        let refused = |refused: Refused| io("registering a target".to_owned())(std::io::Error::other(refused));
        self.alb.register(target, member.address).map_err(refused)
    }

    async fn is_healthy(&self, place: usize) -> Result<(), FrontError> {
        let Some(target) = self.targets.get(place).copied() else { return Ok(()) };
        match self.alb.healthy(target, HEALTHY_WITHIN).await {
            true => Ok(()),
            false => {
                let what = format!("the target of instance {} is healthy", place + 1);
                Err(FrontError::Late { what, within: HEALTHY_WITHIN })
            }
        }
    }
}

fn state(state: State) -> EndpointState {
    match state {
        State::Initial => EndpointState::Starting,
        State::Healthy => EndpointState::Up,
        State::Unhealthy => EndpointState::Down,
        State::Draining => EndpointState::Draining,
        State::Unused => EndpointState::Gone,
    }
}
