//! `rollout --dry-run`: what would be done, and whether it may be.

use crate::cli::{CliError, Status};
use crate::cluster;
use crate::rollout::{Plan, RolloutError};
use crate::timeline::Strategy;

/// Says it. Nothing is asked of the target, and nothing is written to the cluster.
pub async fn tell(plan: &Plan) -> Result<Status, CliError> {
    let (rate, paths) = (plan.asking.rate, plan.asking.asks.len());
    let paths = if paths == 1 { String::new() } else { format!(", {paths} paths in turn") };
    say!(
        "would ask {} {rate} times a second{paths}: {} s before the deploy, meanwhile, and {} s after it",
        plan.target,
        plan.warm_up.as_secs(),
        plan.cool_down.as_secs()
    )?;
    if !plan.command.is_empty() {
        say!("would run: {}", plan.command.join(" "))?;
    }
    let Some(workload) = &plan.workload else { return Ok(Status::AsExpected) };
    let (name, cluster, spec) = (workload.name(), workload.cluster(), workload.spec());
    let how = match spec.strategy {
        Strategy::Rolling { max_unavailable, max_surge } => {
            format!("with at most {max_unavailable} missing and {max_surge} more")
        }
        Strategy::Recreate => "all old ones first (Recreate)".to_owned(),
        Strategy::OnDelete => "when somebody deletes them (OnDelete)".to_owned(),
    };
    let restart = plan.command.is_empty();
    let verb = if restart { "would restart" } else { "would then wait for" };
    say!(
        "{verb} {name} in namespace {} of {}: {} pods, replaced {how}",
        cluster.namespace(),
        cluster.url(),
        spec.replicas
    )?;
    let services = if spec.services.is_empty() { "none".to_owned() } else { spec.services.join(", ") };
    say!("Services that select its pods: {services}")?;
    if restart {
        workload.restartable().map_err(RolloutError::Cluster)?;
    }
    let rights = cluster::needed(name.kind, restart);
    let access = cluster::access(cluster, &rights).await.map_err(RolloutError::Cluster)?;
    say!("rights that it needs:")?;
    for one in &access {
        say!("  {:<40} {}", one.right.to_string(), if one.allowed { "granted" } else { "DENIED" })?;
    }
    if access.iter().all(|one| one.allowed) {
        return Ok(Status::AsExpected);
    }
    say!("k8s/rbac/rollout.yaml is a Role with all of them")?;
    Ok(Status::Environment)
}
