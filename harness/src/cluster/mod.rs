//! A Kubernetes cluster, as its API tells of it: what a workload is, what becomes of its pods and of their endpoints, as
//! small facts in the order in which they arrive. Nothing is written but what
//! [`Workload::restart`] sets; and where something is tried there, a namespace of its own, what is in it, and a cordon.
//!
//! Times are the reader's affair: whoever takes a [`Fact`] from the [`Watch`] notes when it came. Each also bears the
//! time that the cluster gives for it, by its own clock and mostly in whole seconds.

mod access;
mod connect;
mod deploy;
mod error;
mod facts;
mod follow;
mod logs;
mod spec;
mod watch;
mod watched;
mod workload;

pub use access::{Access, Right, access, needed};
pub use connect::{Choice, Cluster};
pub use deploy::mend;
pub use error::ClusterError;
pub use facts::{Endpoints, Fact, PodId, Pods, notice};
pub use spec::{BadName, Name, Rolls};
pub use watch::Watch;
pub use watched::{Told, Watched};
pub use workload::Workload;
