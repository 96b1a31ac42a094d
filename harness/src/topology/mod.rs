//! What stands between clients and instances: the real programs with the very files of `lb-configs`, a model, or nothing.
//!
//! It knows nothing of scenarios. It is told which instances there are, and which of them is about to be stopped.

pub mod alb;
mod configured;
mod direct;
mod driven;
mod haproxy;
mod kubernetes;
mod kustomize;
mod nginx;
mod pod;
mod probe;
mod tail;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::catalog::{Balancer, CatalogError, Topology};
use crate::client::Route;
use crate::cluster::ClusterError;
use crate::process::StartError;
use crate::recorder::Recorder;
use crate::timeline::ProcessId;
use alb::AlbFront;
use direct::Direct;
use haproxy::Haproxy;
use kubernetes::Deployed;
pub use kubernetes::Wanted;
use nginx::Nginx;
use pod::Pods;
pub use pod::{Act, Ending};

/// Where a balancer is started.
pub struct Stage<'s> {
    /// The timeline.
    pub recorder: &'s Recorder,
    /// A folder for its files, removed when the run is over.
    pub folder: &'s Path,
    /// The number of its process; the next one is that of a program beside it, where it has one.
    pub process: ProcessId,
}

/// An instance, as those before it know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its number in the timeline.
    pub process: ProcessId,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its admin port is, if it has one.
    pub admin: Option<SocketAddr>,
}

/// What stands before the instances. A closed list: each of them is driven in its own way.
pub enum Front {
    /// Nothing: a table of addresses.
    Direct(Direct),
    /// nginx.
    Nginx(Box<Nginx>),
    /// HAProxy.
    Haproxy(Box<Haproxy>),
    /// The model of an AWS Application Load Balancer.
    Alb(AlbFront),
    /// The model of pods and their Service.
    Pod(Pods),
    /// Pods of a real cluster.
    Cluster(Box<Deployed>),
}

/// What stands before the instances does not do its part.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// Its program is not installed.
    #[error("{program} is not installed: {install}")]
    Missing {
        /// The program.
        program: &'static str,
        /// How to get it.
        install: &'static str,
    },
    /// It does not take its configuration.
    #[error("{program} does not take {file}:\n    {}", said.join("\n    "))]
    Refused {
        /// The program.
        program: &'static str,
        /// The file that it was given.
        file: String,
        /// What it says.
        said: Vec<String>,
    },
    /// Its process does not start.
    #[error("{program} {source}")]
    Start {
        /// The program.
        program: &'static str,
        /// Why not.
        source: StartError,
    },
    /// Its Terraform, or its manifests, are not what they should be.
    #[error(transparent)]
    Files(CatalogError),
    /// It is played on a cluster, and none was named.
    #[error("it is played on a cluster: name its context by --context, or `--context ''` for the current one")]
    NoCluster,
    /// A node cannot be drained where there is no other.
    #[error("a node is to be drained, and the cluster has no other on which pods may run")]
    OneNode,
    /// The cluster does not do its part.
    #[error(transparent)]
    Cluster(Box<ClusterError>),
    /// Something did not come about in time.
    #[error("{what}: not within {} s", within.as_secs())]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
    },
    /// Its files, or its socket, cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Front {
    /// Puts this topology before these instances, the first of which is in the first place.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn start(topology: &Topology, stage: &Stage<'_>, members: &[Member]) -> Result<Self, FrontError> {
        match topology.balancer {
            Balancer::None => Ok(Self::Direct(Direct::new(stage, members))),
            Balancer::Nginx => Ok(Self::Nginx(Box::new(Nginx::start(topology, stage, members).await?))),
            Balancer::Haproxy => Ok(Self::Haproxy(Box::new(Haproxy::start(topology, stage, members).await?))),
            Balancer::Alb => Ok(Self::Alb(AlbFront::start(topology, stage, members).await?)),
            Balancer::Pod => Ok(Self::Pod(Pods::start(topology, stage, members).await?)),
            Balancer::Cluster => Err(FrontError::NoCluster),
        }
    }

    /// Deploys into the cluster of this topology: it starts the instances itself.
    ///
    /// # Errors
    /// When the cluster does not do its part, or none was named.
    pub async fn deploy(topology: &Topology, stage: &Stage<'_>, wanted: &Wanted<'_>) -> Result<Self, FrontError> {
        Ok(Self::Cluster(Box::new(Deployed::start(topology, stage, wanted).await?)))
    }

    /// Where clients find the instances.
    pub fn route(&self) -> Route {
        match self {
            Self::Direct(direct) => direct.route(),
            Self::Nginx(nginx) => nginx.route(),
            Self::Haproxy(haproxy) => haproxy.route(),
            Self::Alb(alb) => alb.route(),
            Self::Pod(pods) => pods.route(),
            Self::Cluster(deployed) => deployed.route(),
        }
    }

    /// The instance in this place, from 0, is about to be stopped. Returns when it may be.
    ///
    /// # Errors
    /// When the balancer does not do its part.
    pub async fn withdraw(&mut self, place: usize) -> Result<(), FrontError> {
        match self {
            Self::Direct(direct) => direct.withdraw(place),
            Self::Nginx(nginx) => nginx.withdraw(place).await?,
            Self::Haproxy(haproxy) => haproxy.withdraw(place).await?,
            Self::Alb(alb) => alb.withdraw(place).await?,
            // Nobody withdraws a pod: it is deleted, and whoever connects hears of that.
            Self::Pod(_) | Self::Cluster(_) => {}
        }
        Ok(())
    }

    /// This instance has taken a place, and is ready. Returns when it gets requests.
    ///
    /// # Errors
    /// When the balancer does not do its part.
    pub async fn admit(&mut self, place: usize, member: Member) -> Result<(), FrontError> {
        match self {
            Self::Direct(direct) => direct.admit(place, member),
            Self::Nginx(nginx) => nginx.admit(place, member).await?,
            Self::Haproxy(haproxy) => haproxy.admit(place, member).await?,
            Self::Alb(alb) => alb.admit(place, member).await?,
            Self::Pod(pods) => pods.admit(member).await?,
            Self::Cluster(_) => {}
        }
        Ok(())
    }

    /// Lets it read its configuration again, where it has one.
    ///
    /// # Errors
    /// When the balancer does not do its part.
    pub async fn reload(&mut self) -> Result<(), FrontError> {
        match self {
            Self::Direct(_) | Self::Alb(_) | Self::Pod(_) | Self::Cluster(_) => Ok(()),
            Self::Nginx(nginx) => nginx.reload().await,
            Self::Haproxy(haproxy) => haproxy.reload().await,
        }
    }

    /// Where instances are pods: this one is deleted, and what is to be done to its process is told.
    pub fn delete(&mut self, process: ProcessId) -> Option<Ending> {
        match self {
            Self::Pod(pods) => pods.delete(process),
            _ => None,
        }
    }

    /// Ends it.
    pub async fn stop(self) {
        match self {
            Self::Direct(_) | Self::Alb(_) | Self::Pod(_) => {}
            Self::Nginx(nginx) => nginx.stop().await,
            Self::Haproxy(haproxy) => haproxy.stop().await,
            Self::Cluster(deployed) => deployed.stop().await,
        }
    }
}

/// Variables of the instances that this topology has, and that nobody else sets.
///
/// # Errors
/// When its files cannot be read.
pub async fn environment(topology: &Topology) -> Result<BTreeMap<String, String>, FrontError> {
    if topology.balancer == Balancer::Pod { pod::environment(topology).await } else { Ok(BTreeMap::new()) }
}

/// An error of files or sockets, with what was done.
fn io(what: String) -> impl FnOnce(std::io::Error) -> FrontError {
    move |source| FrontError::Io { what, source }
}

/// The places of a configuration for which there is no instance.
fn spare_places(instances: &[SocketAddr], members: &[Member]) -> BTreeSet<usize> {
    (members.len()..instances.len()).collect()
}
