//! One health check.

use std::net::SocketAddr;

use crate::model::target_group::{Outcome, Settings};
use crate::topology::probe::{Probed, probe};

/// By which servers [tell the checks from the rest](https://docs.aws.amazon.com/elasticloadbalancing/latest/application/target-group-health-checks.html).
const USER_AGENT_OF_CHECKS: &str = "ELB-HealthChecker/2.0";

/// Checks a target once, and says what came of it.
pub async fn check(address: SocketAddr, settings: &Settings) -> Outcome {
    match probe(address, &settings.path, USER_AGENT_OF_CHECKS, settings.timeout).await {
        Probed::Answered(status) => Outcome::Answered(status),
        Probed::Failed => Outcome::Failed,
        Probed::TimedOut => Outcome::TimedOut,
    }
}
